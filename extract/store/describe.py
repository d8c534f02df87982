"""Describe a store, for people and programs."""

import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from extract.core.errors import count_of, quoted, show_bytes
from extract.core.row_block import DONE, FAILED, PENDING
from extract.core.views import ViewSpec
from extract.display.width import wrap
from extract.layouts.overview import count_images, format_counts
from extract.store.open import Store

# More lines would hide those above them; JSON has all classes.
_MOST_CLASSES = 40
# Below the texts that follow a name.
_INDENT = " " * 11


def describe(store: Store) -> dict[str, Any]:
    """Return the content of a store as a dict that JSON can hold.

    Args:
        store: An open store.

    Returns:
        ``images``, ``shards``, the number of files that hold them, ``status`` counts, ``layers``
        with shapes, ``viewed``, the images that have augmented views, ``counts`` by split and
        class, ``failed`` keys with reasons, ``bytes`` and all ``attributes``.
    """
    rows = zip(store.split.tolist(), store.labels.tolist(), strict=True)
    counts = count_images(store.class_names, rows)
    files = {store.path, *(shard.path for shard in store.shards)}
    attributes = {k: v for k, v in store.attributes.items() if k != "complete"}
    states = {"done": DONE, "failed": FAILED, "not_yet": PENDING}
    return {
        "file": str(store.path),
        "bytes": sum(path.stat().st_size for path in files),
        "modified": time.strftime(
            "%Y-%m-%d %H:%M", time.localtime(max(path.stat().st_mtime for path in files))
        ),
        "images": len(store.keys),
        "shards": len(store.shards),
        "complete": store.complete,
        "status": {name: int((store.status == state).sum()) for name, state in states.items()},
        "layers": {layer: list(shape) for layer, shape in store.shapes.items()},
        "viewed": len(store.view_rows),
        "counts": counts,
        "failed": {store.keys[failure.row]: failure.reason for failure in store.failures()},
        # What the file lacks has its default, as in every other command.
        "attributes": {**(store.spec.to_dict() if store.spec.trunk else {}), **attributes},
    }


def format_description(description: dict[str, Any], width: int | None = None) -> str:
    """Format the result of ``describe`` as lines of text, of at most ``width`` cells."""
    values, files = description["attributes"], description["shards"]
    noun = "image" if "trunk" in values else "row"
    shards = f" in {count_of(files, 'shard')}" if values.get("shards") else ""
    state = f"{description['status']['not_yet']} images still to do"
    lines = [
        f"{quoted(description['file'])}: {count_of(description['images'], noun)}{shards}, "
        f"{show_bytes(description['bytes'])}, {'complete' if description['complete'] else state}",
        "",
        *_format_trunk(values),
    ]
    pooling = f", pooling {values['pooling']}" if "pooling" in values else ""
    lines += [
        f"features   {quoted(layer)}: {' x '.join(map(str, shape))} {values['dtype']}{pooling}"
        for layer, shape in description["layers"].items()
    ]
    lines += _format_origin(description)
    if description["viewed"]:
        recipe = asdict(ViewSpec.from_dict(values))
        text = f"{recipe.pop('views')} of each of {description['viewed']} training images: "
        lines.append("views      " + text + ", ".join(f"{k} {v}" for k, v in recipe.items()))
    lines += ["", *format_counts(description["counts"], values["class_names"], _MOST_CLASSES)]
    if failed := description["failed"]:
        lines += ["", f"{count_of(len(failed), noun)} could not be read:"]
        lines += [f"  {quoted(key)}: {quoted(reason)}" for key, reason in failed.items()]
    return "\n".join(wrap(line, width, _INDENT) for line in lines)


def _format_trunk(values: Mapping[str, Any]) -> list[str]:
    """Format where the features come from: a trunk and its weights, or another program."""
    if "trunk" not in values:
        source = f" ({quoted(os.path.basename(values['source']))})" if values.get("source") else ""
        return [f"trunk      none: features of another program{source}"]
    height, width = values["image_size"]
    return [
        f"trunk      {quoted(values['trunk'])}, {width} x {height} pixels ({values['resize']}, "
        f"{values['interpolation']}, decoding {values['decoding']}), "
        f"preprocessing {values['preprocess']}{_normalization(values)}",
        f"weights    {quoted(values['weights'])}, SHA-256 {values['weights_sha256']}",
    ]


def _format_origin(description: Mapping[str, Any]) -> list[str]:
    """Format how, of what and when the features were computed."""
    values, lines = description["attributes"], []
    if "trunk" in values:
        engine = f", in {values['engine']}" if values.get("engine") else ""
        lines.append(f"precision  {values.get('precision', 'float32')}{engine}")
        lines.append(f"source     {quoted(str(values.get('source') or 'not recorded'))}")
    if versions := values.get("versions"):
        lines.append(f"versions   {quoted(', '.join(map(str, versions)))}")
    if command := values.get("command"):
        lines.append(f"command    {quoted(str(command))}")
    return [*lines, f"modified   {description['modified']}"]


def _normalization(values: Mapping[str, Any]) -> str:
    """Return the mean and the standard deviation that were given, if they were."""
    given = [f", {name} {values[name]}" for name in ("mean", "std") if values.get(name)]
    return "".join(given)

"""How a head came about: commands, versions, dates and digests of both stages, as settings."""

import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from classify.data.dataset import Dataset
from classify.report.summary import Name
from classify.search.leaderboard import Result
from classify.settings.head_spec import HeadSpec
from classify.stored.parts import MadeBy
from extract.core.errors import StoreError
from extract.images.remote import hide_secrets, hide_secrets_in
from extract.store.open import open_store

# Names of the command; any other is that of a program that calls the functions.
_SCRIPTS = ("train-head", "train-head.exe")
_PLAIN = {True: "on", False: "off", None: "none"}


class Setting(NamedTuple):
    """A line of the table of settings."""

    part: str
    name: str
    value: str


def describe_origin(dataset: Dataset) -> dict[str, Any]:
    """Return date and command of the training, and what each file of features says of itself.

    The dates are those of ``SOURCE_DATE_EPOCH`` where this variable is set, as by builds that are
    reproduced; nothing else in the files of a head depends on the clock.
    """
    name = Path(sys.argv[0]).name
    command = [name, *map(hide_secrets, sys.argv[1:])] if name in _SCRIPTS else []
    return {
        "date": _format_date(time.time()),
        "command": shlex.join(command).encode("utf-8", "replace").decode(),
        "features": [_describe_file(path) for path in dataset.paths if path is not None],
    }


def _format_date(seconds: float) -> str:
    """Return a time in UTC, at most that of ``SOURCE_DATE_EPOCH``."""
    latest = os.environ.get("SOURCE_DATE_EPOCH", "")
    if latest.isdecimal():
        seconds = min(seconds, int(latest))
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _describe_file(path: Path) -> dict[str, Any]:
    """Return what a file of features says of itself; little of one that is gone by now."""
    described: dict[str, Any] = {"file": str(path)}
    with suppress(StoreError, OSError), open_store(path) as store:
        values = store.attributes
        described["written"] = _format_date(path.stat().st_mtime)
        for key in ("command", "engine", "weights", "source"):
            described[key] = hide_secrets_in(str(values.get(key) or ""))
        described["versions"] = [str(one) for one in values.get("versions", ())]
    return described


def list_settings(dataset: Dataset, result: Result, described: Mapping[str, Any]) -> list[Setting]:
    """Return the lines of the table of settings.

    Args:
        dataset: The rows that were trained on.
        result: The result of the run.
        described: The content of ``result.json``; what it lacks is left out.
    """
    own = result.dataset or dataset
    lines = [
        *_of_head(result.best.spec, result),
        *_of_training(dataset, result, described),
        *_of_features(own.joined or (own,), own, described.get("features", [])),
    ]
    return [Setting(*line) for line in lines if line[2]]


def _of_head(spec: HeadSpec, result: Result) -> Iterator[tuple[str, str, str]]:
    for name, value in spec.to_dict().items():
        several = isinstance(value, list | tuple)
        text = " + ".join(map(str, value)) or "none" if several else str(value)
        shown = _PLAIN[value] if value is None or isinstance(value, bool) else text
        yield "head", name.replace("_", " "), Name(shown)
    if result.finetuned:
        rate = f"SGD, learning rate {result.finetuned.learning_rate:g}"
        yield "head", "fine-tuning", rate


def _of_training(
    dataset: Dataset, result: Result, described: Mapping[str, Any]
) -> Iterator[tuple[str, str, str]]:
    yield "training", "date", described.get("date", "")
    yield "training", "command", Name(described.get("command", ""))
    yield "training", "seed", str(result.seed)
    versions = described.get("versions", {})
    yield "training", "versions", ", ".join(f"{name} {number}" for name, number in versions.items())
    yield "training", "ranked by", result.metric.replace("_", " ")
    for table in dataset.labels:
        text = f"{table.path}, SHA-256 {table.sha256}" if table.sha256 else "those of the file"
        yield "training", "labels", Name(text)
    yield "training", "columns", Name(dataset.label_columns)
    yield "training", "classes", str(len(dataset.class_names))
    yield "training", "images", str(len(dataset.y))


def _of_features(
    makers: tuple[MadeBy | Dataset, ...], own: Dataset, files: list[Mapping[str, Any]]
) -> Iterator[tuple[str, str, str]]:
    shape = " \N{MULTIPLICATION SIGN} ".join(map(str, own.X.shape[1:]))
    yield "features", "layer", Name(f"{own.layer}, {shape}")
    for number, made_by in enumerate(makers):
        file = files[number] if number < len(files) else {}
        part = "features" if len(makers) == 1 else f"features {number + 1}"
        yield part, "file", Name(file.get("file", ""))
        yield part, "written", file.get("written", "")
        yield part, "command", Name(file.get("command", ""))
        yield part, "source", Name(file.get("source", ""))
        yield part, "versions", Name(", ".join(file.get("versions", ())))
        if not made_by.trunk.trunk:
            yield part, "trunk", "none: features of another program"
            yield part, "stored as", made_by.dtype
            continue
        yield part, "trunk", Name(made_by.trunk.trunk)
        yield part, "weights", Name(file.get("weights", ""))
        yield part, "weights SHA-256", made_by.weights_sha256
        yield (
            part,
            "image size",
            " \N{MULTIPLICATION SIGN} ".join(map(str, made_by.trunk.image_size)),
        )
        yield part, "engine", Name(file.get("engine", ""))
        yield part, "precision", f"{made_by.precision}, stored as {made_by.dtype}"

"""Complete the settings of a run from the existing file."""

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from extract.core.applications import FALLBACK
from extract.core.config import HUB, MODEL_ENDINGS, ExtractConfig, TrunkSpec
from extract.core.errors import SettingError, StoreError, quoted
from extract.core.views import ViewSpec
from extract.families.hub_presets import is_name
from extract.images.remote import check_local, hide_secrets, is_url
from extract.pipeline.compare import KEPT, find_differences, read_recipe
from extract.store.open import Store, open_store
from extract.store.shards import ShardLostError
from extract.store.update import find_lost

_NAMES = {field.name for kind in (TrunkSpec, ExtractConfig, ViewSpec) for field in fields(kind)}


class RunSettings(NamedTuple):
    """The complete settings of a run, and the existing file.

    Attributes:
        out: The file.
        spec: The trunk.
        config: How stage one runs.
        views: Augmented views of the training images.
        fallback: The trunk for a machine without weights; None if the caller has chosen one.
        existing: The file as it was read once, closed; None if there is none, or a shard is lost.
        lost: The shard that is lost, and replaced by ``overwrite``.
    """

    out: Path
    spec: TrunkSpec
    config: ExtractConfig
    views: ViewSpec
    fallback: TrunkSpec | None
    existing: Store | None
    lost: str


def complete_settings(out: Path, settings: Mapping[str, Any]) -> RunSettings:
    """Complete the given settings from the existing file, and refuse those that differ from it."""
    given = {name: _as_stored(name, value) for name, value in settings.items() if value is not None}
    if unknown := given.keys() - _NAMES:
        raise SettingError(f"{min(unknown)!r} is not a setting of extract_features")
    if given.get("shards"):
        given["shards"] = _below(out, given["shards"])
    _make_absolute(given)
    config = ExtractConfig.from_dict(given)
    existing, lost = _read_existing(out, config)
    if existing and not existing.spec.trunk and not config.overwrite:
        found = "found features of another program; expected those of a trunk"
        raise StoreError(f"{out}: {found}; choose another file, or use --overwrite")
    stored = read_recipe(existing.attributes) if existing and existing.spec.trunk else {}
    ignored = {"engine", "columns", "root"} if config.update else {"engine"}
    compared = {name: given[name] for name in stored if name in given.keys() - ignored}
    if "root" in compared:
        compared["root"] = hide_secrets(compared["root"])
    differences = find_differences(stored, compared)
    if differences and not config.overwrite:
        drop = f"drop the flag{'s' * (len(differences) > 1)} to continue"
        remedy = f"{drop}, choose another file, or use --overwrite"
        raise StoreError(f"{out} was made with {', '.join(differences)}; {remedy}")
    base = {} if differences else stored
    kept = {name: base[name] for name in KEPT if name in base and name not in given}
    chosen = base or {"trunk", "weights", "layer"} & given.keys()
    return RunSettings(
        out,
        TrunkSpec.from_dict({**base, **given}),
        replace(config, **kept),
        ViewSpec.from_dict({**base, **given}),
        None if chosen else TrunkSpec.from_dict({**given, "trunk": FALLBACK}),
        existing,
        lost,
    )


def _make_absolute(given: dict[str, Any]) -> None:
    """Make the paths in settings absolute: a store must find its files from any folder."""
    if given.get("weights") not in (None, "imagenet", "none"):
        given["weights"] = str(Path(given["weights"]).absolute())
    trunk = given.get("trunk", "")
    if trunk.startswith(HUB) and not is_name(trunk):
        given["trunk"] = f"{HUB}{Path(trunk.removeprefix(HUB)).absolute()}"
    elif trunk.endswith(MODEL_ENDINGS) and not trunk.startswith(HUB):
        given["trunk"] = str(Path(trunk).absolute())
    elif trunk:
        TrunkSpec(trunk)  # an unknown name is said before what the file was made with
    if given.get("root") and not is_url(given["root"]):
        given["root"] = str(Path(given["root"]).absolute())


def _as_stored(name: str, value: Any) -> Any:
    """Return a setting as a store has it: a path as text, a layer as one of several."""
    if name == "layer" and isinstance(value, str):
        return (value,)
    if name == "image_size" and isinstance(value, int):
        return value, value
    if isinstance(value, np.ndarray):
        return tuple(value.tolist())
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _read_existing(out: Path, config: ExtractConfig) -> tuple[Store | None, str]:
    """Read the existing file once; return it, or which shard is lost if it is to be replaced."""
    check_place(out)
    if not out.exists():
        return None, ""
    try:
        with open_store(find_lost(out)[1] if config.repair else out) as store:
            return store, ""
    except ShardLostError as error:
        if not config.overwrite:
            raise
        return None, error.problem


def check_place(out: Path) -> None:
    """Raise StoreError unless a path is free, or of a file or folder."""
    try:
        is_other = out.exists() and not out.is_file() and not out.is_dir()
    except OSError as error:
        problem = f"{error.strerror}; expected the path of a file; use a shorter one"
        raise StoreError(f"{out}: {problem}") from error
    check_local(out, StoreError)
    if is_other:
        raise StoreError(f"{out}: found a pipe or a device; expected a file; name another place")
    if out.is_symlink() and not out.exists():
        found = f"a link to {quoted(os.readlink(out))}, which does not exist"
        raise StoreError(f"{out}: {found}; expected a file; remove the link or name another place")


def _below(out: Path, folder: str) -> str:
    """Return a folder relative to the folder of the index, with which it may move."""
    out, place = Path(os.path.realpath(out)), Path(os.path.realpath(folder))
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise SettingError(f"shards: found {str(folder)!r}; expected a name in UTF-8") from None
    if os.path.islink(place):
        raise SettingError(
            f"shards: found {folder}, a link to itself; expected a folder; remove it"
        )
    if place == out or out.parent not in place.parents:
        raise SettingError(
            f"shards: found {folder}; expected a folder below {out.parent}, next to {out.name}"
        )
    return place.relative_to(out.parent).as_posix()

"""Complete the settings of a run from the existing file."""

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from extract.core.config import MODEL_ENDING, ExtractConfig, TrunkSpec, ViewSpec
from extract.core.errors import SettingError, StoreError
from extract.store.shards import find_lost, open_part

TRUNK_FIELDS = tuple(f.name for f in fields(TrunkSpec))

CONFIG_FIELDS = tuple(f.name for f in fields(ExtractConfig))

VIEW_FIELDS = tuple(f.name for f in fields(ViewSpec))

FIELDS = TRUNK_FIELDS + CONFIG_FIELDS + VIEW_FIELDS

# The running settings that decide the numbers.
_NUMBERS = ("dtype", "precision")

# Those that an existing file keeps.
_KEPT = (*_NUMBERS, "columns", "shards")


class RunSettings(NamedTuple):
    """Complete settings; ``given`` holds those that somebody has asked for."""

    spec: TrunkSpec
    config: ExtractConfig
    views: ViewSpec
    given: Mapping[str, Any]


def complete_settings(out: Path, settings: Mapping[str, Any]) -> RunSettings:
    """Complete the given settings from the existing file, and refuse those that differ from it."""
    given = {name: value for name, value in settings.items() if value is not None}
    for name in given:
        if name not in FIELDS:
            raise SettingError(f"{name!r} is no setting of extract_features")
    wanted, running, views = (
        {name: given[name] for name in names if name in given}
        for names in (TRUNK_FIELDS, CONFIG_FIELDS, VIEW_FIELDS)
    )
    if given.get("shards"):
        running["shards"] = given["shards"] = _below(out, given["shards"])
    config = ExtractConfig(**running)
    # A store must find its files from any folder.
    if wanted.get("weights") not in (None, "imagenet", "none"):
        wanted["weights"] = str(Path(wanted["weights"]).absolute())
    if wanted.get("trunk", "").endswith(MODEL_ENDING):
        wanted["trunk"] = str(Path(wanted["trunk"]).absolute())
    if not out.exists() or (config.overwrite and find_lost(out)):
        return RunSettings(TrunkSpec(**wanted), config, ViewSpec(**views), given)
    with open_part(out, find_lost(out) if config.repair else ()) as store:
        stored = {**store.spec.to_dict(), **asdict(store.view_spec)}
        stored |= {name: store.attributes.get(name, "") for name in _KEPT}
    asked = {**wanted, **views, **{name: given[name] for name in _KEPT if name in given}}
    differing = [
        f"{name} (stored {_show(stored[name])}, asked {_show(value)})"
        for name, value in asked.items()
        if not _is_digested(name, stored[name], value)
        and value != stored[name]
        and _show(value) != _show(stored[name])
        and not (name == "columns" and config.update)
    ]
    if differing and not config.overwrite:
        raise StoreError(
            f"{out}: made with other settings: {', '.join(differing)}; leave them out to continue "
            "this file, name another file, or give --overwrite"
        )
    if differing:
        return RunSettings(TrunkSpec(**wanted), config, ViewSpec(**views), given)
    spec = TrunkSpec.from_dict({**stored, **wanted})
    config = replace(config, **{name: given.get(name, stored[name]) for name in _KEPT})
    return RunSettings(spec, config, ViewSpec.from_dict(stored), {**given, "trunk": spec.trunk})


def _below(out: Path, folder: str) -> str:
    """Return a folder as it is seen from that of the index, with which it may move."""
    out, place = out.absolute().resolve(), Path(folder).absolute().resolve()
    here = out.parent
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise SettingError(f"shards: found {str(folder)!r}; expected a name in UTF-8") from None
    if place == out:
        raise SettingError(f"shards: found {folder}; expected a folder of its own, not the index")
    if here not in place.parents:
        raise SettingError(
            f"shards: found {folder}; expected a folder below {here}, where {out.name} is to be"
        )
    return place.relative_to(here).as_posix()


def _is_digested(name: str, stored: Any, now: Any) -> bool:
    """Say whether two values are compared by digest, once they are loaded, and may differ here."""
    files = str(stored).endswith(MODEL_ENDING) and str(now).endswith(MODEL_ENDING)
    return name == "weights" or (name == "trunk" and files)


def _show(value: Any) -> str:
    if value in (None, "", (), []):
        return "nothing"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

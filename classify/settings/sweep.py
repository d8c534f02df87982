"""From heads and sweeps to candidates: each head once, or one for every value of a sweep."""

import itertools
import math
import random
from argparse import ArgumentTypeError
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from classify.settings.head_spec import (
    DEFAULTS,
    KERAS_HEADS,
    SETTINGS,
    USUAL_HEADS,
    HeadSpec,
    no_effect,
)
from extract.core.errors import SettingError, quoted, unknown_name
from extract.core.flags import kind_of

# Settings of every head: a sweep of them needs no name of a head.
SHARED = ("transform", "views", "layer")
_MOST = 10_000

# (head or None for every head that has it, setting) -> the values to try.
Sweep = Mapping[tuple[str | None, str], Sequence[Any]]


def _parser(setting: str) -> Callable[[str], Any]:
    """Return the function that reads a value of a setting in a sweep."""
    declared = SETTINGS[setting]
    kind = kind_of(declared)
    if kind is bool:
        return {"on": True, "off": False}.__getitem__
    if kind is str and "choices" in declared.metadata:
        return lambda text: None if (setting, text) == ("class_weight", "none") else text
    parse: Callable[[str], Any] = declared.metadata.get("parse", kind)
    return parse


def parse_sweep(text: str) -> tuple[tuple[str | None, str], list[Any]]:
    """Read ``NAME=V,V``, ``HEAD.NAME=V,V`` or ``NAME=LOW:HIGH:COUNT`` (evenly in the logarithm).

    Args:
        text: As on the command line.

    Returns:
        Head (None where it was not named) and setting, and the values.

    Raises:
        SettingError: The text has another form, or a name is unknown.
    """
    name, equals, values = text.partition("=")
    head, dot, setting = name.rpartition(".")
    setting = setting.replace("-", "_")
    if dot and head not in DEFAULTS:
        raise SettingError(f"sweep: {unknown_name('head', head, DEFAULTS)}")
    if not equals or not values:
        raise SettingError(f"sweep: found {text!r}; expected NAME=V,V, as in dropout=0,0.2,0.5")
    if setting not in SETTINGS:
        raise SettingError(f"sweep: {unknown_name('setting', setting, SETTINGS)}")
    parse = _parser(setting)
    try:
        found = [parse(v) for v in _spread(values, parse)]
    except (ValueError, KeyError, ArgumentTypeError) as error:
        raise SettingError(f"sweep: {setting} cannot be {values!r}: {error}") from error
    if len(set(found)) != len(found):
        raise SettingError(f"sweep: found {text}; expected each value of {setting} once")
    return (head or None, setting), found


def _spread(values: str, parse: Callable[[str], Any]) -> list[str]:
    """Split a list of values, or spell a logarithmic range out."""
    if parse not in (int, float) or values.count(":") != 2:  # STEM:LAYER has colons, too
        return values.split(",")
    low, high, count = values.split(":")
    first, steps = float(low), int(count)
    if not (0 < first < float(high) and steps > 1):
        raise ValueError("expected LOW:HIGH:COUNT with 0 < LOW < HIGH and two steps or more")
    ratio = float(high) / first
    spread = [first * ratio ** (i / (steps - 1)) for i in range(steps)]
    if parse is int:
        return list(dict.fromkeys(str(round(value)) for value in spread))
    return [f"{value:.4g}" for value in spread]


def choose_heads(
    names: Sequence[str], settings: Mapping[str, Any], sweep: Sweep
) -> tuple[str, ...]:
    """Return the named heads or, without names, the heads that have the given settings.

    Args:
        names: Names of heads; may be empty.
        settings: Field of HeadSpec -> value; None stands for not given.
        sweep: The swept settings.

    Returns:
        Names of heads; ``USUAL_HEADS`` where nothing is given at all.
    """
    if names:
        return tuple(names)
    given = {name for name, value in settings.items() if value is not None}
    given |= {setting for head, setting in sweep if not head}
    given -= {*SHARED, "seed"}
    owners = [head for head in USUAL_HEADS if given & DEFAULTS[head].keys()]
    if given and not owners:
        owners = [head for head in DEFAULTS if given & DEFAULTS[head].keys()]
    return tuple(dict.fromkeys([head for head, _ in sweep if head] + owners)) or USUAL_HEADS


def make_candidates(
    heads: Iterable[str],
    settings: Mapping[str, Any],
    sweep: Sweep | None = None,
    trials: int | None = None,
    seed: int = 0,
) -> tuple[HeadSpec, ...]:
    """Make a head for every combination of swept values.

    Args:
        heads: Names of heads.
        settings: Field of HeadSpec -> value, for each head that has it; None stands for not given.
        sweep: The swept settings; see ``parse_sweep``.
        trials: Number of candidates to draw at random; None takes all.
        seed: Decides the draw.

    Returns:
        The candidates, head by head.

    Raises:
        SettingError: A name is unknown, a setting belongs to none of the heads or is swept for
            several without naming one, or there are too many or too few candidates.
    """
    names = list(dict.fromkeys(heads))
    for name in names:
        if name not in DEFAULTS:
            raise SettingError(unknown_name("head", name, DEFAULTS))
    given = {name: value for name, value in settings.items() if value is not None}
    for setting in given:
        if not any(_has(name, setting) for name in names):
            raise SettingError(no_effect(setting, names))
    candidates: dict[HeadSpec, None] = {}
    for name, axes in _axes(names, sweep or {}).items():
        own = {setting: value for setting, value in given.items() if _has(name, setting)}
        count = math.prod(map(len, axes.values()))
        if count > _MOST:
            raise SettingError(f"sweep: makes {count} of {name}; expected {_MOST} at most")
        for values in itertools.product(*axes.values()):
            candidates[HeadSpec(name, **own | dict(zip(axes, values, strict=True)))] = None
    return _draw(tuple(candidates), trials, seed)


def _has(head: str, setting: str) -> bool:
    return setting in SHARED or setting in DEFAULTS[head]


def _draw(candidates: tuple[HeadSpec, ...], trials: int | None, seed: int) -> tuple[HeadSpec, ...]:
    """Draw some of the candidates at random; they keep their order."""
    if trials is None:
        return candidates
    if not 0 < trials < len(candidates):
        most = len(candidates) - 1
        raise SettingError(f"trials: found {trials}; expected 1 to {most} of {most + 1} candidates")
    positions = random.Random(seed).sample(range(len(candidates)), trials)
    return tuple(candidates[position] for position in sorted(positions))


def _axes(heads: Sequence[str], sweep: Sweep) -> dict[str, dict[str, Sequence[Any]]]:
    """Return the swept values of each head by setting. A head's own sweep comes first."""
    axes: dict[str, dict[str, Sequence[Any]]] = {head: {} for head in heads}
    for (head, setting), values in sweep.items():
        if head and head not in heads:
            raise SettingError(f"sweep: {head}.{setting} has no effect without --head {head}")
        owners = [name for name in ([head] if head else heads) if _has(name, setting)]
        if not owners:
            raise SettingError(f"sweep: {no_effect(setting, [head] if head else heads)}")
        if len(owners) > 1 and setting not in SHARED:
            which = " or ".join(f"{owner}.{setting}" for owner in owners)
            raise SettingError(f"sweep: {setting} belongs to several heads; say {which}")
        for owner in owners:
            if head or (owner, setting) not in sweep:
                # Swept for all heads, random views are for those that have epochs.
                random_too = bool(head) or setting != "views" or owner in KERAS_HEADS
                axes[owner][setting] = [v for v in values if random_too or v != "random"]
    return axes


def parse_sweeps(texts: Iterable[str], settings: Mapping[str, Any]) -> Sweep:
    """Read several sweeps.

    Raises:
        SettingError: A setting is swept twice, or swept and given.
    """
    sweep: dict[tuple[str | None, str], list[Any]] = {}
    for text in texts:
        name, values = parse_sweep(text)
        if name in sweep or settings.get(name[1]) is not None:
            raise SettingError(f"sweep: found {text} and another {name[1]}; expected it once")
        sweep[name] = values
    return sweep


def label(spec: HeadSpec, varied: Collection[str] = ()) -> str:
    """Return a short name of a candidate: its head, and the settings that are not the default.

    Args:
        spec: The candidate.
        varied: Settings that are shown in any case.
    """
    usual = HeadSpec(spec.head)
    given = [
        f"{name}={_short(value)}"
        for name in SETTINGS
        if (value := getattr(spec, name)) != getattr(usual, name) or name in varied
    ]
    return " ".join([spec.head, *given])


def label_all(specs: Iterable[HeadSpec]) -> dict[HeadSpec, str]:
    """Return a short name of each candidate, with every setting that its head's others vary."""
    alike: dict[str, list[HeadSpec]] = {}
    for spec in specs:
        alike.setdefault(spec.head, []).append(spec)
    return {
        spec: label(spec, varied)
        for members in alike.values()
        for varied in [[n for n in SETTINGS if len({getattr(s, n) for s in members}) > 1]]
        for spec in members
    }


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return "+".join(quoted(str(part)) for part in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)

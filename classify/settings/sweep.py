"""What is asked for -> the heads to try: each head once, or one for every value of a sweep."""

import itertools
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from classify.settings.head_spec import DEFAULTS, KERAS_HEADS, USUAL_HEADS, HeadSpec, no_effect
from extract.core.errors import SettingError, unknown_name

# Settings that every head has: in a sweep they need no head's name.
SHARED = ("transform", "views", "layer")
_MOST = 10_000

# (head or None for every head that has it, setting) -> the values to try.
Sweep = Mapping[tuple[str | None, str], Sequence[Any]]


def parse_units(text: str) -> tuple[int, ...]:
    """Read widths of layers: ``512,128`` or, inside a sweep, ``512+128``."""
    return tuple(int(width) for width in text.replace("+", ",").split(","))


def parse_names(text: str) -> tuple[str, ...]:
    """Read names joined by ``+``; ``none`` is an empty list."""
    return () if text == "none" else tuple(text.split("+"))


def parse_switch(text: str) -> bool:
    """Read ``on`` or ``off``."""
    return {"on": True, "off": False}[text]


def parse_optional(text: str) -> str | None:
    """Read a word, with ``none`` for no word."""
    return None if text == "none" else text


# What turns the words of the command line into values, for what is no plain number or word.
PARSERS: Mapping[str, Callable[[str], Any]] = {
    "units": parse_units,
    "transform": parse_names,
    "layer": parse_names,
    "batch_normalisation": parse_switch,
    "nesterov": parse_switch,
    **dict.fromkeys(("activation", "optimizer", "kernel", "views"), str),
    "class_weight": parse_optional,
    **dict.fromkeys(
        ("epochs", "batch_size", "patience", "seed", "neighbours", "trees"),
        int,
    ),
}


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
    known = [field.name for field in fields(HeadSpec)[1:]]
    if dot and head not in DEFAULTS:
        raise SettingError(f"sweep: {unknown_name('head', head, DEFAULTS)}")
    if not equals or not values:
        raise SettingError(f"sweep: found {text!r}; expected NAME=V,V, as in dropout=0,0.2,0.5")
    if setting not in known:
        raise SettingError(f"sweep: {unknown_name('setting', setting, known)}")
    parse = PARSERS.get(setting, float)
    try:
        found = [parse(v) for v in _spread(values, parse)]
    except (ValueError, KeyError) as error:
        raise SettingError(f"sweep: {setting} cannot be {values!r}: {error}") from error
    if len(set(found)) != len(found):
        raise SettingError(f"sweep: found {text}; expected each value of {setting} once")
    return (head or None, setting), found


def _spread(values: str, parse: Callable[[str], Any]) -> list[str]:
    """Split a list of values, or spell a logarithmic range out."""
    if values.count(":") != 2:
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
    asked: Sequence[str], settings: Mapping[str, Any], sweep: Sweep
) -> tuple[str, ...]:
    """Return the heads asked for, or, with none asked for, those that the settings are about.

    Args:
        asked: Names of heads; may be empty.
        settings: Field of HeadSpec -> value; None stands for not given.
        sweep: What is swept.

    Returns:
        Names of heads: with nothing asked for at all, ``USUAL_HEADS``.
    """
    if asked:
        return tuple(asked)
    named = [head for head, _ in sweep if head]
    about = {name for name, value in settings.items() if value is not None}
    about |= {setting for head, setting in sweep if not head}
    about -= {*SHARED, "seed"}
    owners = [head for head in USUAL_HEADS if about & DEFAULTS[head].keys()]
    if about and not owners:
        owners = [head for head in DEFAULTS if about & DEFAULTS[head].keys()]
    return tuple(dict.fromkeys([*named, *owners])) or USUAL_HEADS


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
        sweep: What to vary; see ``parse_sweep``.
        trials: How many of the candidates to draw at random; None takes all.
        seed: Decides the draw.

    Returns:
        The candidates, head by head.

    Raises:
        SettingError: A name is unknown, a setting belongs to none of the heads or is swept for
            several without saying which, or there are too many or too few candidates.
    """
    names, sweep = list(dict.fromkeys(heads)), sweep or {}
    for name in names:
        if name not in DEFAULTS:
            raise SettingError(unknown_name("head", name, DEFAULTS))
    given = {field: value for field, value in settings.items() if value is not None}
    for field in given:
        if field not in SHARED and not any(field in DEFAULTS[name] for name in names):
            raise SettingError(no_effect(field, names))
    axes = _axes(names, sweep)
    made: list[HeadSpec] = []
    for name in names:
        own = {f: v for f, v in given.items() if f in SHARED or f in DEFAULTS[name]}
        varied = axes[name]
        count = math.prod(map(len, varied.values()))
        if count > _MOST:
            raise SettingError(f"sweep: makes {count} of {name}; expected {_MOST} at most")
        for values in itertools.product(*varied.values()):
            made.append(HeadSpec(name, **{**own, **dict(zip(varied, values, strict=True))}))
    made = list(dict.fromkeys(made))
    if trials is not None:
        if not 0 < trials < len(made):
            raise SettingError(
                f"trials: found {trials}; expected 1 to {len(made) - 1}, for there are "
                f"{len(made)} candidates"
            )
        drawn = sorted(random.Random(seed).sample(range(len(made)), trials))
        made = [made[position] for position in drawn]
    return tuple(made)


def _axes(heads: Sequence[str], sweep: Sweep) -> dict[str, dict[str, Sequence[Any]]]:
    """Say for each head what is varied: setting -> values. A head's own sweep comes first."""
    axes: dict[str, dict[str, Sequence[Any]]] = {head: {} for head in heads}
    for (head, setting), values in sweep.items():
        owners = [h for h in heads if setting in SHARED or setting in DEFAULTS[h]]
        if head and head not in heads:
            raise SettingError(f"sweep: {head}.{setting} has no effect without --head {head}")
        if head and head not in owners:
            raise SettingError(f"sweep: {no_effect(setting, [head])}")
        if not owners:
            raise SettingError(f"sweep: {no_effect(setting, heads)}")
        if not head and len(owners) > 1 and setting not in SHARED:
            which = " or ".join(f"{owner}.{setting}" for owner in owners)
            raise SettingError(f"sweep: {setting} belongs to several heads; say {which}")
        for owner in [head] if head else owners:
            if head or (owner, setting) not in sweep:
                # Asked of all heads, a draw for each epoch is asked of those that have epochs.
                random = bool(head) or setting != "views" or owner in KERAS_HEADS
                axes[owner][setting] = [v for v in values if random or v != "random"]
    return axes


def label(spec: HeadSpec) -> str:
    """Return a short name of a candidate: its head, and what sets it apart from the head untold."""
    usual = HeadSpec(spec.head)
    given = [
        f"{field.name}={_short(value)}"
        for field in fields(HeadSpec)[1:]
        if (value := getattr(spec, field.name)) != getattr(usual, field.name)
    ]
    return " ".join([spec.head, *given])


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return "+".join(str(part) for part in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)

"""Which settings vary among the candidates of a run, for each kind of head."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from classify.search.ranking import Entry
from classify.settings.head_spec import SETTINGS

LINEAR, LOG, CATEGORY = "linear", "log", "category"
# Positive values whose ends differ by this factor are spread evenly in their logarithm.
_DECADES = 30


class Axis(NamedTuple):
    """A setting that varies.

    Attributes:
        setting: Its name.
        values: Its distinct values: numbers increasing, others by their texts.
        scale: ``LINEAR`` or ``LOG`` for numbers, ``CATEGORY`` for all that has no distances.
    """

    setting: str
    values: tuple[Any, ...]
    scale: str

    def position(self, value: Any) -> float:
        """Return the place of a value: a category's number, or the number itself."""
        return float(self.values.index(value) if self.scale == CATEGORY else value)

    def share(self, value: Any) -> float:
        """Return how far along the axis a value is, 0 to 1."""
        low, high, place = map(
            math.log if self.scale == LOG else float,
            (self.position(v) for v in (self.values[0], self.values[-1], value)),
        )
        return (place - low) / (high - low)


class Sweep(NamedTuple):
    """Candidates that differ in the same settings.

    Attributes:
        heads: The kinds of head: several only where all of them vary the same single setting.
        axes: The settings that vary; the first one varies most.
        places: Positions of the candidates in the leaderboard, best first.
    """

    heads: tuple[str, ...]
    axes: tuple[Axis, ...]
    places: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return heads, settings with their values, and ranks of the candidates, for JSON."""
        settings = {axis.setting: list(axis.values) for axis in self.axes}
        ranks = [place + 1 for place in self.places]
        return {"heads": list(self.heads), "settings": settings, "ranks": ranks}


def find_sweeps(entries: Sequence[Entry]) -> list[Sweep]:
    """Return the candidates of each kind of head that vary, that of the best candidate first."""
    heads: dict[str, list[int]] = {}
    for place, entry in enumerate(entries):
        heads.setdefault(entry.spec.head, []).append(place)
    groups: dict[Any, list[str]] = {}
    for head, places in heads.items():
        varied = tuple(n for n in SETTINGS if len(_values(entries, places, n)) > 1)
        if varied:
            groups.setdefault(varied if len(varied) == 1 else (head, varied), []).append(head)
    sweeps = []
    for members in groups.values():
        places = sorted(place for head in members for place in heads[head])
        own = heads[members[0]]
        varied = tuple(n for n in SETTINGS if len(_values(entries, own, n)) > 1)
        axes = [_axis(name, _values(entries, places, name)) for name in varied]
        axes.sort(key=lambda axis: -len(axis.values))
        sweeps.append(Sweep(tuple(members), tuple(axes), tuple(places)))
    return sweeps


def value_text(value: Any) -> str:
    """Return a value of a setting in a few characters."""
    if isinstance(value, tuple):
        return "+".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _values(entries: Sequence[Entry], places: Iterable[int], setting: str) -> set[Any]:
    return {getattr(entries[place].spec, setting) for place in places}


def _axis(setting: str, found: set[Any]) -> Axis:
    """Return the axis of a setting with these values."""
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in found)
    if not numbers:
        return Axis(setting, tuple(sorted(found, key=_category_key)), CATEGORY)
    values = tuple(sorted(found))
    positive = [value for value in values if value > 0]
    if not positive or positive[-1] < _DECADES * positive[0]:
        return Axis(setting, values, LINEAR)
    # A logarithmic axis has no place for zero.
    return Axis(setting, values, LOG if len(positive) == len(values) else CATEGORY)


def _category_key(value: Any) -> tuple[Any, ...]:
    """Return the sort key of a value: none first, then numbers, then texts."""
    parts = value if isinstance(value, tuple) else () if value is None else (value,)
    is_text = any(isinstance(part, str) for part in parts)
    return is_text, [str(part) for part in parts] if is_text else parts

"""Settings declared once: the field of a dataclass is also the check and the flag.

``flag`` declares a field with its help text, its choices and its range. ``check_fields`` checks the
values of a dataclass, and ``add_flags`` turns its fields into flags of a command.
"""

import argparse
import inspect
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import Field, asdict, field, fields
from numbers import Integral, Real
from typing import Any, Self, TypeVar, get_args

from extract.core.errors import SettingError, unknown_name

T = TypeVar("T")


# The columns of a table; each has the name of its role unless told otherwise.
ROLES = ("path", "label", "split", "group")
# The columns of features that another program made, which has no images.
FEATURE_ROLES = ("features", "key")


def flag(default: Any, text: str = "", **how: Any) -> Any:
    """Declare a field of a settings dataclass.

    Args:
        default: Value of the field where it is not given.
        text: Help text; without one the field is no flag.
        **how: ``choices``; the range as ``low``, ``high`` (included), ``above``, ``below``
            (excluded); ``metavar``; ``parse``, a function of the text on the command line;
            ``repeat`` for a flag that may be given several times; ``usual``, the value that takes
            effect where the field is None; ``shown``, the default in the words of the help.
    """
    return field(default=default, metadata={"text": text, **how})


def documented(declared_in: type[T]) -> type[T]:
    """Add the fields of a settings dataclass, with help text and range, to its docstring."""
    lines = [f"    {name}: {text}" for name, text in describe(declared_in)]
    declared_in.__doc__ = "\n".join([inspect.getdoc(declared_in) or "", "", "Attributes:", *lines])
    return declared_in


def describe(declared_in: Any) -> Iterator[tuple[str, str]]:
    """Yield name and text of each field of a settings dataclass: help, choices, range, default."""
    for declared in fields(declared_in):
        how = declared.metadata
        choices = [f"one of {', '.join(how['choices'])}"] if "choices" in how else []
        limits = [_expected(declared)] if "low" in how or "above" in how else []
        text = "; ".join(filter(None, [how.get("text"), *choices, *limits]))
        if text:
            yield declared.name, text + _default_text(declared)


class Settings:
    """What the settings dataclasses have in common."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make settings from a mapping; keys that are not their fields are ignored."""
        names = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        given = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**{name: value for name, value in given.items() if name in names})

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        values = asdict(self)  # type: ignore[call-overload]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    def _set(self, **values: Any) -> None:
        """Set fields of a frozen dataclass while it is being made."""
        for name, value in values.items():
            object.__setattr__(self, name, value)


def check_fields(settings: Any) -> None:
    """Raise SettingError unless each value is the default, a choice, or in the range."""
    for declared in fields(settings):
        name, how = declared.name, declared.metadata
        value = getattr(settings, name)
        if value == declared.default:
            continue
        if "choices" in how:
            check_choice(name, value, how["choices"])
        if "low" in how or "above" in how:
            for number in value if isinstance(value, tuple) else (value,):
                if not _is_within(number, declared):
                    found = repr(number) if isinstance(number, str) else number
                    raise SettingError(f"{name}: found {found}; expected {_expected(declared)}")


def check_choice(name: str, value: str, known: Iterable[str]) -> None:
    """Raise SettingError unless ``value`` is one of ``known``."""
    if value not in known:
        raise SettingError(unknown_name(name, value, known))


def kind_of(declared: Field[Any]) -> type:
    """Return bool, int, float or str: the type of a field, or of the entries of its tuple."""
    kinds = get_args(declared.type) or (declared.type,)
    kinds = tuple(part for kind in kinds for part in get_args(kind) or (kind,))
    return next((kind for kind in (bool, int, float) if kind in kinds), str)


def _is_within(value: Any, declared: Field[Any]) -> bool:
    how = declared.metadata
    kind = Integral if kind_of(declared) is int else Real
    if isinstance(value, bool) or not isinstance(value, kind):
        return False
    return bool(
        how.get("low", value) <= value <= how.get("high", value)
        and how.get("above", -1) < value < how.get("below", math.inf)
    )


def _expected(declared: Field[Any]) -> str:
    how = declared.metadata
    if "above" in how:
        return f"above 0, at most {how['high']}" if "high" in how else "a number above 0"
    if "high" in how:
        return f"{how['low']} to {how['high']}"
    whole = "a whole number of " if how["low"] == 1 and kind_of(declared) is int else ""
    below = f" and below {how['below']}" if "below" in how else ""
    return f"{whole}{how['low']} or more{below}"


def add_flags(group: Any, declared_in: type, *names: str, **texts: str) -> None:
    """Add a flag for each field of a settings dataclass, in the order of the fields or names.

    A flag that is not given is None, so that a command can tell it from the default.

    Args:
        group: A parser, or a group of one.
        declared_in: The dataclass.
        *names: Fields to add; all that have a help text where none is named.
        **texts: Help texts for this command, by field.
    """
    known = {declared.name: declared for declared in fields(declared_in)}
    for name in names or [name for name, one in known.items() if one.metadata.get("text")]:
        how = known[name].metadata
        text = texts.get(name) or how["text"] + _default_text(known[name])
        group.add_argument(
            f"--{name.replace('_', '-')}", help=text.replace("%", "%%"), **_options(known[name])
        )


def given_settings(arguments: argparse.Namespace, *without: str) -> dict[str, Any]:
    """Return the parsed settings that were given, without the flags that every command has."""
    without = (*without, "quiet", "verbose", "log")
    return {k: v for k, v in vars(arguments).items() if v is not None and k not in without}


def _options(declared: Field[Any]) -> dict[str, Any]:
    """Return the options of ``add_argument`` that follow from a field."""
    how, kind = declared.metadata, kind_of(declared)
    if kind is bool and how.get("usual"):
        return {"action": argparse.BooleanOptionalAction}
    if kind is bool:
        return {"action": "store_true", "default": None}
    if "choices" in how:
        return {"choices": how["choices"]}
    repeat = {"action": "append"} if how.get("repeat") else {}
    metavar = how.get("metavar", {int: "N", float: "X"}.get(kind, "NAME"))
    return {"type": how.get("parse", kind), "metavar": metavar, **repeat}


def _default_text(declared: Field[Any]) -> str:
    how = declared.metadata
    shown = how.get("shown", how.get("usual", declared.default))
    if shown is None or shown is False or shown in ("", ()):
        return ""
    shown = f"{shown:g}" if isinstance(shown, float) else shown
    return f" (default: {'on' if shown is True else shown})"


def parse_image_size(text: str) -> tuple[int, int]:
    """Return height and width from ``150`` or ``150x200``."""
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if not match:
        raise argparse.ArgumentTypeError(
            f"found {text!r}; expected N or HxW, such as 150 or 150x200"
        )
    return int(match[1]), int(match[2] or match[1])


def parse_rgb(text: str) -> tuple[float, ...]:
    """Return the three numbers in ``0.485,0.456,0.406``."""
    try:
        red, green, blue = map(float, text.split(","))
    except ValueError:
        expected = "expected three numbers as in 0.485,0.456,0.406"
        raise argparse.ArgumentTypeError(f"found {text!r}; {expected}") from None
    return red, green, blue


def check_rgb(name: str, values: Iterable[float], low: float) -> tuple[float, ...]:
    """Return three numbers of ``low`` to 1, or none; raise SettingError for anything else."""
    try:
        numbers = tuple(map(float, values))
    except (TypeError, ValueError):
        numbers = (math.nan,)
    if numbers and (len(numbers) != 3 or not all(low <= number <= 1 for number in numbers)):
        expected = "expected three numbers of 0 to 1, as in 0.485,0.456,0.406"
        raise SettingError(f"{name}: found {values}; {expected}")
    return numbers


def parse_columns(text: str) -> dict[str, str]:
    """Return the column of each role in ``path=file,label=species``, or raise SettingError."""
    columns: dict[str, str] = {}
    for part in text.split(",") if text else ():
        role, equals, column = part.strip().partition("=")
        if not equals or not column:
            raise SettingError(
                f"columns: found {part!r}; expected ROLE=COLUMN, such as path=file,label=species"
            )
        check_choice("columns: role", role, (*ROLES, *FEATURE_ROLES))
        if role in columns:
            raise SettingError(f"columns: found {role} twice; expected one column for it")
        columns[role] = column
    return columns


def share_of(name: str, value: str, total: int) -> int:
    """Return a number, or the part of ``total`` that a percentage is."""
    match = re.fullmatch(r"(\d+)|(\d+\.?\d*|\.\d+)%", str(value).replace(" ", ""))
    if not match or float(match[2] or 0) > 100:
        raise SettingError(f"{name}: found {value!r}; expected a number or a share such as 1%")
    return int(match[1]) if match[1] else int(total * float(match[2]) / 100)

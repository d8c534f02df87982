"""Shares and metrics as people read them: one rule for the page, its figures and its sentences."""

import math

_NO_VALUE = "\N{EN DASH}"
# Fractions that are easy to picture; those of the second kind where none of the first is near,
# and further ones where all but few count, or few do.
_DENOMINATORS, _FURTHER, _FEW = ((2, 3, 4, 5, 10), (20,)), ((50,),), 0.05
# How far a share may be from its fraction, and how far in parts of the rarer side.
_NEAR, _RELATIVE = 0.02, 0.3


def metric_name(metric: str) -> str:
    """Return the name of a metric for people."""
    return metric.replace("_", " ").replace("f1", "F1").replace("roc auc", "ROC area")


def percent(share: float | None) -> str:
    """Return a share with a decimal: 100 % and 0 % only of all and none, as in ``page.js``."""
    return _NO_VALUE if share is None else f"{_hundredths(share)}\N{NO-BREAK SPACE}%"


def percent_range(low: float, high: float) -> str:
    """Return the ends of an interval of a share."""
    return f"{_hundredths(low)} to {percent(high)}"


def percentage_points(difference: float) -> str:
    """Return a difference of shares, with its sign."""
    # Of what is rounded to nothing the sign is a plus.
    return f"{round(100 * difference, 1) + 0.0:+.1f}".replace("-", "\N{MINUS SIGN}")


def share_in_words(share: float) -> str:
    """Return a share as a fraction that is easy to picture, such as "about 19 in 20".

    It is empty where no such fraction is near.
    """
    if share in (0, 1):
        return "all of them" if share else "none of them"
    rest = min(share, 1 - share)
    for wholes in (*_DENOMINATORS, *(_FURTHER if rest < _FEW else ())):
        parts = [(abs(round(share * n) / n - share), n, round(share * n)) for n in wholes]
        error, whole, part = min(parts)
        if 0 < part < whole and round(error, 9) <= min(_NEAR, _RELATIVE * rest):
            return "about half" if whole == 2 else f"about {part} in {whole}"
    hundredths = round(100 * share)
    if hundredths in (0, 100):
        return "more than 99 in 100" if share > 0.5 else "less than 1 in 100"
    return f"about {hundredths} in 100" if rest < _FEW else ""


def _hundredths(share: float) -> str:
    if share in (0, 1):
        return "100" if share else "0"
    # Rounded as in JavaScript: halves up.
    return f"{min(max(math.floor(1000 * share + 0.5), 1), 999) / 10:.1f}"

"""The trunk that made some features, opened again and compared by the digest of its weights."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from extract.core.config import HUB, TrunkSpec
from extract.core.errors import HeadstartError

_Opened = TypeVar("_Opened", bound=Any)


class Recorded(NamedTuple):
    """A trunk as a file of features or a head records it.

    Attributes:
        spec: The trunk.
        weights_sha256: The digest of its weights.
        remedy: What to do where the weights are gone or others.
        error: The error to raise then.
    """

    spec: TrunkSpec
    weights_sha256: str
    remedy: str
    error: type[HeadstartError]


def reopen(
    recorded: Recorded,
    weights: str | os.PathLike[str] | None,
    build: Callable[[TrunkSpec], _Opened],
) -> _Opened:
    """Build something with a recorded trunk, whose weights must be the same.

    Args:
        recorded: The trunk.
        weights: Where its weights, or its own file, are now; None is the recorded place.
        build: Builds it from the spec; the result has a ``weights_sha256``.

    Raises:
        HeadstartError: ``recorded.error``: the weights are missing or are others.
    """
    spec, is_hub = recorded.spec, recorded.spec.is_hub
    field = "trunk" if spec.is_file or is_hub else "weights"
    name = str(weights or getattr(spec, field))
    place = Path(name.removeprefix(HUB))
    is_path = place.is_absolute() if is_hub else name not in ("imagenet", "none")
    if not weights and is_path and not place.exists():
        expected = "expected the file that made the features"
        raise recorded.error(f"{field}: {name} is gone; {expected}; {recorded.remedy}")
    name = f"{HUB}{place}" if is_hub else name
    opened = build(TrunkSpec.from_dict(spec.to_dict() | {field: name}))
    if opened.weights_sha256 != recorded.weights_sha256:
        digests = f"SHA-256 {opened.weights_sha256[:12]}; expected {recorded.weights_sha256[:12]}"
        found = f"{field}: {name} has {digests}, which made the features"
        raise recorded.error(f"{found}; {recorded.remedy}")
    return opened

"""A complete model with its own classes: ImageNet's, or those of a ``.keras`` file.

``imagenet.txt`` holds the names of the 1,000 classes of the ILSVRC 2012 challenge, one per line, in
the order of the scores of every complete model that has a name.
"""

from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from extract.core.config import BEFORE, OUTPUT, PIXEL_SETTINGS, ExtractConfig, TrunkSpec
from extract.core.console import log
from extract.core.errors import TrunkError
from extract.engines.base import Engine
from extract.engines.select import open_engine
from extract.limits.unpacked import read_json


class CompleteModel(NamedTuple):
    """A complete model that is open, and its class names in the order of its scores."""

    engine: Engine
    class_names: tuple[str, ...]

    def score(self, features: Mapping[str, np.ndarray]) -> NDArray[np.floating]:
        """Turn the output into a score for each class.

        Args:
            features: (b, K) output of the one layer; (b, 1) for two classes.

        Returns:
            (b, K) scores, 0 to 1, each row summing to 1.

        Raises:
            TrunkError: The output is not such scores.
        """
        (scores,) = features.values()
        if scores.shape[1] == 1:
            scores = np.concatenate([1 - scores, scores], axis=1)
        if scores.min() < 0 or abs(scores.sum(axis=1) - 1).max() > 1e-3:
            found = f"gives {scores.min():.3g} to {scores.max():.3g} for an image"
            expected = "scores of 0 to 1 that add up to 1, as softmax or a sigmoid gives"
            raise TrunkError(f"{self.engine.spec.trunk}: {found}; expected {expected}")
        return np.asarray(scores)


def open_classifier(
    config: ExtractConfig, images: int | None = None, /, **settings: Any
) -> CompleteModel:
    """Open a complete model with its top.

    Args:
        config: Its ``batch_size`` is used.
        images: How many images there are: no batch is larger. None is any number.
        **settings: Fields of TrunkSpec other than ``layer`` and ``pooling``.

    Returns:
        The model. Its K class names are ImageNet's, the names that a ``.keras`` file was exported
        with, or else the numbers from 0 on.

    Raises:
        WeightsUnavailableError: ImageNet weights are not available.
        TrunkError: The model cannot be built, or does not give one score per class.
    """
    spec = TrunkSpec(layer=(OUTPUT,), pooling="none", **settings)
    if spec.is_hub:
        problem = "a backbone of KerasHub has no classes"
        remedy = "extract features with it, train a head on them and give its folder"
        raise TrunkError(f"{spec.trunk}: {problem}; {remedy}")
    if spec.is_file:
        held = read_metadata(Path(spec.trunk))
        held = BEFORE | held if held else held
        spec = replace(spec, **{name: held[name] for name in PIXEL_SETTINGS if name in held})
    engine = open_engine(spec, batch_size=config.batch_size, images=images)
    shape = engine.shapes[OUTPUT]
    if len(shape) != 1:
        raise TrunkError(f"{spec.trunk}: gives {shape} for an image; expected one score a class")
    if not spec.is_file:
        return CompleteModel(engine, imagenet_class_names())
    count = max(2, shape[0])  # a single output is the score of the second of two classes
    names = read_class_names(Path(spec.trunk))
    if len(names) != count:
        log.info("%s does not name its classes: labels are their numbers", spec.trunk)
        names = tuple(map(str, range(count)))
    return CompleteModel(engine, names)


def imagenet_class_names() -> tuple[str, ...]:
    """Return the names of ImageNet's 1,000 classes, in the order of the scores."""
    return tuple((files("classify.inference") / "imagenet.txt").read_text("utf-8").splitlines())


def read_class_names(path: Path) -> tuple[str, ...]:
    """Return the class names in an exported ``.keras`` file; none of any other model."""
    names = _read_held(path, "beta_initializer")
    try:
        "".join(names).encode()  # raises where a name is not valid text
    except (TypeError, ValueError):
        return ()
    return tuple(names) if isinstance(names, list) else ()


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata in an exported ``.keras`` file; none of any other model."""
    metadata = _read_held(path, "gamma_initializer")
    return metadata if isinstance(metadata, dict) else {}


def _read_held(path: Path, initializer: str) -> Any:
    """Return what the layer ``class_names`` of a ``.keras`` file holds in the place of a weight."""
    try:
        layers = read_json(path, "config.json")["config"]["layers"]
        configs = {layer["config"]["name"]: layer["config"] for layer in layers}
        return configs["class_names"][initializer]["config"]["value"]
    except Exception:  # a model from elsewhere, in a zip of any kind
        return None

"""A trained head and its trunk as one model, from pixels to scores, for programs without headstart.

Everything in it is a layer or an operation of Keras' own, so that it loads in safe mode.
"""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

from classify.data.dataset import Dataset, check_weights
from classify.data.preprocessing import Transform
from classify.heads.registry import LINEAR_HEADS
from classify.inference.bundle import TrainedHead, load_head
from classify.inference.model_formats import NAMES, _check_place, _write_onnx, _writer
from classify.search.leaderboard import Result
from classify.settings.head_spec import KERAS_HEADS, HeadSpec
from extract.core.atomic import atomic_write, check_writable
from extract.core.console import log
from extract.core.errors import HeadError, SettingError
from extract.trunks.backend import load_keras

if TYPE_CHECKING:
    from extract.trunks.trunk import Trunk

EXPORTABLE = (*KERAS_HEADS, *LINEAR_HEADS)


def check_targets(targets: Sequence[str], specs: Sequence[HeadSpec]) -> None:
    """Make sure, before anything is trained, that models can be written there.

    Args:
        targets: Files or folders, as behind ``--export``.
        specs: The heads that will be tried.

    Raises:
        SettingError: An ending is unknown, one place is named twice, or no head can be exported.
        HeadError: The place cannot be written or holds something else, or a library is lacking.
    """
    heads = list(dict.fromkeys(spec.head for spec in specs))
    if not set(heads) & set(EXPORTABLE):
        raise SettingError(
            f"export: found {', '.join(heads)}; expected one of {', '.join(EXPORTABLE)} among the "
            "heads; others are no layers"
        )
    places = [Path(target).absolute() for target in targets]
    for target, place in zip(targets, places, strict=True):
        if places.count(place) > 1:
            raise SettingError(f"export: found {target} twice; expected each place once")
        check_writable(Path(target), HeadError)
        _check_place(target, place)
        if _writer(target) is _write_onnx and not (find_spec("tf2onnx") and find_spec("onnx")):
            raise HeadError(
                f'{target}: needs tf2onnx and onnx; pip install "headstart[onnx]", or name a '
                ".keras file"
            )


def open_trunk(dataset: Dataset) -> "Trunk":
    """Build the trunk that made a dataset's features, and refuse any other.

    Args:
        dataset: The features.

    Returns:
        The trunk, in float32.

    Raises:
        HeadError: The weights are not those that made the features.
        TrunkError: The trunk cannot be built.
    """
    from extract.trunks.trunk import build_trunk

    trunk = build_trunk(dataset.trunk)
    check_weights(dataset, trunk.weights_sha256)
    if (dataset.precision, dataset.dtype) != ("float32", "float32"):
        log.warning(
            "export: the model computes in float32; the features were made in %s and kept in %s, "
            "so its scores differ from the head's by that rounding",
            *(dataset.precision, dataset.dtype),
        )
    return trunk


def can_export(result: Result) -> bool:
    """Say whether the best head can be exported."""
    return result.best.spec.head in EXPORTABLE


def check_head(result: Result) -> None:
    """Raise HeadError unless the best head can be exported; name the best one that can be."""
    if can_export(result):
        return
    other = next(entry for entry in result.entries if entry.spec.head in EXPORTABLE)
    raise HeadError(
        f"export: {result.best.spec.head} is no layer; expected one of {', '.join(EXPORTABLE)}; "
        f"of those tried here {other.spec.head} is best ({result.metric} "
        f"{other.scores[result.metric]:.4f}): ask for it alone with --head {other.spec.head}"
    )


def export_best(folder: Path, trunk: "Trunk", targets: Sequence[str]) -> None:
    """Export the best head as it was saved, and say so.

    Args:
        folder: Where the head was saved; ``can_export`` holds of it.
        trunk: Its trunk.
        targets: Files or folders that ``check_targets`` has passed.

    Raises:
        HeadError: A model cannot be written.
    """
    bundle = load_head(folder)
    for target in targets:
        export(bundle, trunk, target)
        log.info("%s: from pixels to scores of %s", target, ", ".join(bundle.class_names))


def export(bundle: TrainedHead, trunk: "Trunk", target: str) -> None:
    """Write one model from pixels to scores; all of it or nothing.

    Args:
        bundle: The trained head.
        trunk: Its trunk.
        target: A ``.keras`` or ``.onnx`` file, or a folder for a SavedModel.

    Raises:
        HeadError: It cannot be written.
    """
    write = _writer(target)
    with atomic_write(Path(target), HeadError) as beside:
        write(build_model(bundle, trunk), bundle.class_names, beside)


def build_model(bundle: TrainedHead, trunk: "Trunk") -> Any:
    """Put a head on its trunk.

    Args:
        bundle: The trained head.
        trunk: Its trunk.

    Returns:
        A ``keras.Model`` from (B, H, W, 3) uint8 RGB pixels to (B, K) float32 scores, 0 to 1, each
        row summing to 1.
    """
    from classify.heads.keras_head import DenseHead

    keras = load_keras()
    features = dict(zip(trunk.shapes, trunk.model.outputs, strict=True))
    joined = [bundle.layer] if bundle.layer in features else bundle.layer.split("+")
    x = features[joined[0]]
    if len(joined) > 1:
        x = keras.layers.Concatenate()([_flat(keras, features[name]) for name in joined])
    x = _transformed(keras, bundle.head.transform, x)
    if isinstance(bundle.head.head, DenseHead):
        scores = bundle.head.head.model(x)
        if scores.shape[1] == 1:
            scores = keras.ops.concatenate([1 - scores, scores], axis=-1)
    else:
        kernel, bias = bundle.head.head.softmax_weights()  # type: ignore[attr-defined]
        scores = _weighted(
            keras.layers.Dense(len(bias), activation="softmax"), _flat(keras, x), [kernel, bias]
        )
    scores = _named(keras, scores, bundle.class_names)
    return keras.Model(trunk.model.inputs[0], scores, name="pixels_to_scores")


def _flat(keras: Any, x: Any) -> Any:
    return x if len(x.shape) == 2 else keras.layers.Flatten()(x)


def _weighted(layer: Any, x: Any, weights: Sequence[Any]) -> Any:
    """Call a layer as it is in inference, give it its weights and keep them as they are."""
    output = layer(x, training=False) if "Normalization" in type(layer).__name__ else layer(x)
    layer.set_weights(weights)
    return output


def _affine(keras: Any, **settings: Any) -> Any:
    """Return a layer that computes (x - mean) * scale; variance and epsilon are to be 1 and 0."""
    return keras.layers.BatchNormalization(epsilon=0.0, center=False, trainable=False, **settings)


def _transformed(keras: Any, transform: Transform, x: Any) -> Any:
    """Do what a transform does."""
    for step, learnt in transform.learnt():
        x = _flat(keras, x)
        if step == "standardise":
            one = 0 * learnt["mean"] + 1
            x = _weighted(_affine(keras), x, [learnt["scale"], learnt["mean"], one])
        elif step == "sqrt":
            x = keras.ops.sign(x) * keras.ops.sqrt(keras.ops.abs(x))
        elif step == "l2":
            x = keras.layers.UnitNormalization()(x)
        else:
            axes = learnt["axes"]
            layer = keras.layers.Dense(axes.shape[1])
            x = _weighted(layer, x, [axes, -learnt["mean"] @ axes])
    return x


def _named(keras: Any, scores: Any, class_names: Sequence[str]) -> Any:
    """Pass scores on through a layer whose configuration holds the class names.

    No built-in layer is made to hold strings. This one has no ``beta``, so its initial value is
    never asked for, but is saved, loaded and within reach as ``beta_initializer.value``.
    """
    holder = keras.initializers.Constant(list(class_names))
    layer = _affine(keras, scale=False, beta_initializer=holder, name=NAMES)
    return layer(scores, training=False)  # its mean is 0 and its variance 1 from the start


def read_class_names(path: Path) -> tuple[str, ...]:
    """Return the names that an exported ``.keras`` file holds; none of any other model.

    Args:
        path: A file that Keras can load.
    """
    try:
        with ZipFile(path) as archive:
            layers = json.loads(archive.read("config.json"))["config"]["layers"]
        (named,) = [layer["config"] for layer in layers if layer["config"]["name"] == NAMES]
        names = named["beta_initializer"]["config"]["value"]
        "".join(names).encode()  # what is no text raises, and could not be printed
    except (KeyError, TypeError, ValueError):  # somebody else's
        return ()
    return tuple(names) if isinstance(names, list) else ()

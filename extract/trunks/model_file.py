"""A ``.keras`` file as the trunk: its input size, its layers and its digest.

Layers of a nested model, such as an application behind a Rescaling, have dotted names:
``mobilenet.conv_pw_13_relu``.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import current_thread
from typing import Any, NamedTuple

from extract.core.config import TrunkSpec
from extract.core.errors import TrunkError, first_line, quoted
from extract.images.remote import check_local
from extract.limits.unpacked import check_bytes, check_weights, most_bytes, read_json
from extract.trunks.backend import takes_name
from extract.trunks.keras_import import keras


class Cut(NamedTuple):
    """A layer that a model can be cut at.

    Attributes:
        shape: Shape of its output, batch first; None where it depends on the image.
        output: Returns the symbolic output.
    """

    shape: tuple[int | None, ...]
    output: Callable[[], Any]


def open_model_file(spec: TrunkSpec, precision: str) -> tuple[TrunkSpec, Any, dict[str, Cut]]:
    """Load a Keras model, without running code from its file, and find its cuts.

    Args:
        spec: A trunk that is a file.
        precision: Precision of the layers' computation.

    Returns:
        The spec with the model's image size and layer, the symbolic input, and the cuts by name.

    Raises:
        TrunkError: The file is missing or damaged, contains custom code, has another input than one
            image or another size, or has no layers.
    """
    model = set_precision(_load(Path(spec.trunk)), precision)
    spec = replace(spec, image_size=_resolve_size(spec, model))
    # Floats, whatever type the model takes, because preprocessing may come before it.
    entry = keras.Input((*spec.image_size, 3), dtype="float32")
    cuts = _find_cuts(model, entry)
    if not cuts:
        raise TrunkError(f"{spec.trunk}: found no layer to cut at; expected a model with layers")
    # The last feature map, else the layer before the last. A map of one position is a vector.
    maps = [n for n, cut in cuts.items() if len(cut.shape) == 4 and cut.shape[1:3] != (1, 1)]
    layer = maps[-1] if maps else list(cuts)[-2:][0]
    return replace(spec, layer=spec.layer or (layer,)), entry, cuts


def _load(path: Path) -> Any:
    expected = "expected a model of Keras' own layers, as model.save writes it"
    check_local(path, TrunkError)
    if not path.is_file():
        raise TrunkError(f"{path}: no such file; {expected}; check --trunk")
    try:
        model = load_model(path)
        shapes = [tuple(tensor.shape) for tensor in model.inputs]
    except Exception as error:  # a wrong file can make Keras raise anything
        reason = first_line(error)[:200]
        if custom := re.search(r"Could not locate \w+ '([^']+)'|(Lambda)", str(error)):
            reason = f"found custom code, {custom[1] or 'a Lambda layer'}, which is not run"
        raise TrunkError(f"{path}: {reason}; {expected}") from error
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][-1] != 3:
        found = ", ".join(map(str, shapes))
        raise TrunkError(f"{path}: its input is {found}; expected one of (batch, height, width, 3)")
    return model


def load_model(path: Path, most: int | None = None) -> Any:
    """Load a Keras model, without running code from its file.

    Args:
        path: The file.
        most: Bytes that its weights may have; a multiple of its size by default.

    Raises:
        ValueError: Its weights would be far larger than the file. Keras raises other errors, too.
    """
    read_json(path, "config.json")
    check_weights(path, most)
    with bounded_weights(path, most):
        return keras.saving.load_model(path, compile=False, safe_mode=True)


@contextmanager
def bounded_weights(path: Path, most: int | None = None, least: int = 0) -> Iterator[None]:
    """Refuse layers whose weights are larger than the file can be, before they take memory.

    Keras creates the weights of all layers as the configuration of a model says, and reads their
    values from the file after that.

    Args:
        path: The file.
        most: Bytes that its weights may have; a multiple of its size by default.
        least: Bytes that a weight counts at least.
    """
    size, total, me = path.stat().st_size, 0, current_thread()
    add, refused = keras.Layer.add_weight, list[ValueError]()

    def add_weight(layer: Any, *args: Any, **settings: Any) -> Any:
        nonlocal total
        if current_thread() is me:
            total += max(least, 4 * math.prod(settings.get("shape") or (*args, ())[0]))
            try:
                check_bytes(total, size, most_bytes(size) if most is None else most)
            except ValueError as error:
                refused.append(error)
                raise
        return add(layer, *args, **settings)

    keras.Layer.add_weight = add_weight
    try:
        yield
    except Exception as error:  # Keras may raise its own about what it could not build
        raise (*refused, error)[0] from error
    finally:
        keras.Layer.add_weight = add


@contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """Let layers that are built meanwhile compute in ``precision``; their weights are float32."""
    former = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision if precision == "float32" else f"mixed_{precision}")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(former)


def set_precision(model: Any, precision: str) -> Any:
    """Return a model whose layers compute in ``precision``; its weights stay float32."""
    if precision == "float32":
        return model

    def copy(layer: Any) -> Any:
        config = layer.get_config()
        if "dtype" in config:
            config["dtype"] = f"mixed_{precision}"
        return type(layer).from_config(config)

    converted = keras.models.clone_model(model, clone_function=copy, recursive=True)
    converted.set_weights(model.get_weights())
    return converted


def check_names(spec: TrunkSpec, model: Any) -> None:
    """Raise TrunkError for a layer whose name the backend does not take."""
    for layer in model.layers:
        if not takes_name(layer.name):
            found = f"found the layer {quoted(layer.name)}"
            expected = "expected names of letters, digits and . _ - as TensorFlow takes them"
            remedy = "rename the layer, or set KERAS_BACKEND=jax"
            raise TrunkError(f"{spec.trunk}: {found}; {expected}; {remedy}")
        if hasattr(layer, "layers"):
            check_names(spec, layer)


def _resolve_size(spec: TrunkSpec, model: Any) -> tuple[int, int]:
    """Return the height and width of the images, from the model or else from the spec."""
    asked = spec.image_size
    sides = zip(model.inputs[0].shape[1:3], asked, strict=True)
    height, width = (fixed or given for fixed, given in sides)
    if not height or not width:
        raise TrunkError(f"{spec.trunk}: takes images of any size; give --image-size")
    if asked not in ((0, 0), (height, width)):
        problem = f"takes {width} x {height} pixels, found {asked[1]} x {asked[0]}"
        raise TrunkError(f"{spec.trunk}: {problem}; leave --image-size out")
    return height, width


def _find_cuts(model: Any, entry: Any) -> dict[str, Cut]:
    """Run a model symbolically and return its cuts by dotted name, in the order of running.

    A nested model comes after its layers.
    """
    cuts: dict[str, Cut] = {}
    calls: Counter[str] = Counter()

    def call(layer: Any, *arguments: Any, **options: Any) -> Any:
        output = layer(*arguments, **options)
        calls[layer.name] += 1
        is_nested = getattr(layer, "layers", None) and len(getattr(layer, "inputs", ())) == 1
        if is_nested and calls[layer.name] == 1:
            cuts.update(_find_nested_cuts(layer, arguments[0]))
        if hasattr(output, "shape"):
            cuts[layer.name] = Cut(tuple(output.shape), lambda: output)
        return output

    functional = keras.Model(model.inputs, model.outputs)  # even if the model is sequential
    keras.models.clone_model(functional, [entry], lambda layer: layer, call)
    # A layer that is called several times has several outputs, so its name is ambiguous.
    repeated = tuple(f"{name}." for name, times in calls.items() if times > 1)
    return {name: cut for name, cut in cuts.items() if not f"{name}.".startswith(repeated)}


def _find_nested_cuts(nested: Any, given: Any) -> dict[str, Cut]:
    """Return the cuts of a nested model, each of which builds that part again on its input."""
    entry = keras.Input(given.shape[1:], dtype=given.dtype)

    def build_output(cut: Cut) -> Any:
        return keras.Model(entry, cut.output())(given)

    return {
        f"{nested.name}.{name}": Cut(cut.shape, partial(build_output, cut))
        for name, cut in _find_cuts(nested, entry).items()
    }


def digest_model_file(path: str, weights_sha256: str) -> str:
    """Return the SHA-256, as hex digits, of a file's architecture and its weights' digest.

    The file's own bytes contain a date, so they differ between two files of the same model.
    """
    config = read_json(Path(path), "config.json")["config"]
    text = json.dumps(config, sort_keys=True) + weights_sha256
    return hashlib.sha256(text.encode()).hexdigest()

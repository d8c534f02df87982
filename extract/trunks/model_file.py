"""A model of one's own as trunk: a ``.keras`` file, its input size, its layers and its digest.

Layers of a nested model, such as an application behind a Rescaling, have dotted names:
``mobilenet.conv_pw_13_relu``.
"""

import hashlib
import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from extract.core.config import TrunkSpec
from extract.core.errors import TrunkError
from extract.trunks.backend import load_keras


class Cut(NamedTuple):
    """A place where a model can be cut.

    Attributes:
        shape: Of the output there, batch first; None where it depends on the image.
        output: Gives the symbolic tensor.
    """

    shape: tuple[int | None, ...]
    output: Callable[[], Any]


def load_model_file(path: Path, precision: str) -> Any:
    """Load a model without running code of its own.

    Args:
        path: A file that ``model.save`` has written.
        precision: What its layers compute in.

    Returns:
        The Keras model, of one image as input.

    Raises:
        TrunkError: There is no such file, it is damaged, has code of its own, or takes something
            else than one image.
    """
    keras = load_keras()
    expected = "expected a model of Keras' own layers, as model.save writes it"
    if not path.is_file():
        raise TrunkError(f"{path}: no such file; {expected}; check --trunk")
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        shapes = [tuple(tensor.shape) for tensor in model.inputs]
    except Exception as error:  # Keras raises whatever a wrong file makes it meet
        raise TrunkError(f"{path}: {_reason(error)}; {expected}") from error
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][-1] != 3:
        raise TrunkError(
            f"{path}: its input is {', '.join(map(str, shapes))}; expected one of (batch, height, "
            "width, 3)"
        )
    return model if precision == "float32" else _computing_in(keras, model, precision)


def _reason(error: Exception) -> str:
    """Say in a few words what Keras says in pages."""
    text = str(error).strip()
    own = re.search(r"Could not locate \w+ '([^']+)'", text)
    if own or "Lambda" in text:
        return f"found code of its own, {own[1] if own else 'a Lambda layer'}, which is not run"
    return (text.splitlines() or [type(error).__name__])[0][:200].rstrip(".")


def _computing_in(keras: Any, model: Any, precision: str) -> Any:
    """Copy a model so that its layers compute in another precision."""

    def copy(layer: Any) -> Any:
        config = layer.get_config()
        if "dtype" in config:
            config["dtype"] = f"mixed_{precision}"
        return type(layer).from_config(config)

    other = keras.models.clone_model(model, clone_function=copy, recursive=True)
    other.set_weights(model.get_weights())
    return other


def resolve_size(spec: TrunkSpec, model: Any) -> tuple[int, int]:
    """Return height and width of the images: what the model takes, or what was asked for.

    Raises:
        TrunkError: The model takes another size, or any size and none was asked for.
    """
    fixed = tuple(model.inputs[0].shape[1:3])
    if spec.image_size == (0, 0):
        if None in fixed:
            raise TrunkError(f"{spec.trunk}: takes images of any size; give --image-size")
        return fixed[0], fixed[1]
    if any(side not in (None, asked) for side, asked in zip(fixed, spec.image_size, strict=True)):
        raise TrunkError(
            f"{spec.trunk}: takes {fixed[1]} x {fixed[0]} pixels, found {spec.image_size[1]} x "
            f"{spec.image_size[0]}; leave --image-size out"
        )
    return spec.image_size


def find_cuts(model: Any, entry: Any) -> dict[str, Cut]:
    """Run a model symbolically and keep what every layer gives, with those of nested models.

    Args:
        model: A functional or sequential model with one input.
        entry: The symbolic image that it is run on.

    Returns:
        By dotted name, in the order of running. A nested model comes after its layers.
    """
    keras = load_keras()
    cuts: dict[str, Cut] = {}
    seen: Counter[str] = Counter()

    def call(layer: Any, *arguments: Any, **options: Any) -> Any:
        output = layer(*arguments, **options)
        seen[layer.name] += 1
        if _is_nested(layer) and not seen[layer.name] > 1:
            cuts.update(_inner_cuts(keras, layer, arguments[0]))
        if hasattr(output, "shape"):
            cuts[layer.name] = Cut(tuple(output.shape), lambda: output)
        return output

    if isinstance(model, keras.Sequential):
        output = entry
        for layer in model.layers:
            output = call(layer, output)
    else:
        keras.models.clone_model(
            model,
            input_tensors=keras.tree.pack_sequence_as(model.input, [entry]),
            clone_function=lambda layer: layer,
            call_function=call,
        )
    several = {name for name, times in seen.items() if times > 1}
    # A layer that is used several times has several outputs: none of them is meant for sure.
    return {
        name: cut
        for name, cut in cuts.items()
        if not any(name == twice or name.startswith(f"{twice}.") for twice in several)
    }


def _is_nested(layer: Any) -> bool:
    return bool(getattr(layer, "layers", None)) and len(getattr(layer, "inputs", ())) == 1


def _inner_cuts(keras: Any, nested: Any, given: Any) -> dict[str, Cut]:
    """Return the cuts of a nested model, each of which makes that part anew on what it is given."""
    entry = keras.Input(given.shape[1:], dtype=given.dtype)

    def part(cut: Cut) -> Callable[[], Any]:
        return lambda: keras.Model(entry, cut.output())(given)

    return {
        f"{nested.name}.{name}": Cut(cut.shape, part(cut))
        for name, cut in find_cuts(nested, entry).items()
    }


def choose_layer(cuts: dict[str, Cut]) -> str:
    """Return the last feature map's name, else that of what the last layer is given."""
    names = list(cuts)
    # A map of one position is a vector that kept its axes.
    maps = [
        name for name in names if len(cuts[name].shape) == 4 and cuts[name].shape[1:3] != (1, 1)
    ]
    return maps[-1] if maps else names[-2:][0]


def digest_model_file(path: Path, weights_sha256: str) -> str:
    """Return the SHA-256, as hex digits, of a file's architecture and of weights loaded from it.

    The bytes of the file hold a date besides, and differ between two that hold the same model.
    """
    with zipfile.ZipFile(path) as archive:
        described = json.loads(archive.read("config.json"))["config"]
    text = json.dumps(described, sort_keys=True) + weights_sha256
    return hashlib.sha256(text.encode()).hexdigest()

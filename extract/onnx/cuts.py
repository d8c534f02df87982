"""The image that an ONNX model takes, and the outputs that it can be cut at, by name."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from extract.core.applications import ListedLayer
from extract.core.config import OUTPUT, TrunkSpec
from extract.core.errors import TrunkError, listed, unknown_name
from extract.onnx.model_file import read_model

# OpenVINO's name of the type of pixels that nothing prepares.
UINT8 = "u8"
_LONGEST_NAME = 250
_Shape = tuple[int | None, ...]


class ImageModel(NamedTuple):
    """An ONNX model whose input has the size of the images.

    Attributes:
        model: An ``openvino.Model``.
        image_size: Height and width.
        channels_first: Whether its images are (B, 3, H, W) and not (B, H, W, 3).
        batch: The number of images that it takes; None for any.
        sha256: SHA-256 of the file.
    """

    model: Any
    image_size: tuple[int, int]
    channels_first: bool
    batch: int | None
    sha256: str

    def find_cuts(self) -> dict[str, Any]:
        """Return the outputs that depend on the image, by name, in the order of running.

        A slash in a name is a dot, as in names of layers of nested models of Keras: names are also
        those of datasets in HDF5. What two outputs would be called cannot be chosen.
        """
        named = [
            (_dotted(name), output)
            for node in _depending_nodes(self.model)
            for output in node.outputs()
            if len(shape_of(output)) > 1 and output.element_type.is_real()
            for name in sorted(output.get_names())
        ]
        times = Counter(name for name, _ in named)
        return {name: cut for name, cut in named if times[name] == 1 and _is_name(name)}

    def choose(self, spec: TrunkSpec, cuts: Mapping[str, Any], name: str) -> Any:
        """Return the output of that name, or of the node of that name."""
        if name in cuts:
            return cuts[name]
        if name == OUTPUT:
            return self._first_source()
        nodes = {
            _dotted(cut.get_node().friendly_name): cut for cut in reversed(list(cuts.values()))
        }
        if name not in nodes:
            problem = unknown_name("layer", name, cuts)
            raise TrunkError(f"{spec.trunk}: {problem}; see --list-layers --trunk {spec.trunk}")
        return nodes[name]

    @property
    def first_output(self) -> str:
        """Name of the first output of the model: features, or the scores of a classifier."""
        names = map(_dotted, self._first_source().get_names())
        return min(filter(self.find_cuts().__contains__, names), default=OUTPUT)

    def _first_source(self) -> Any:
        return self.model.outputs[0].get_node().input_value(0)


def open_image_model(spec: TrunkSpec) -> ImageModel:
    """Read an ONNX model and give its input the size of the images.

    Raises:
        TrunkError: The file cannot be read, or takes something else than one image of this size.
    """
    model, digest = read_model(Path(spec.trunk))
    channels_first, shape = _find_image(spec, model)
    sides = shape[2:] if channels_first else shape[1:3]
    height, width = size = _resolve_size(spec, sides)
    image = [3, height, width] if channels_first else [height, width, 3]
    try:
        model.reshape([shape[0] or -1, *image])
    except RuntimeError as error:
        problem = f"cannot take images of {width} x {height} pixels"
        raise TrunkError(f"{spec.trunk}: {problem}; use another --image-size") from error
    return ImageModel(model, size, channels_first, shape[0], digest)


def list_cuts(spec: TrunkSpec) -> list[ListedLayer]:
    """List the outputs with the batch first, where an ONNX model can be cut."""
    image = open_image_model(spec)
    shapes = {name: shape_of(cut) for name, cut in image.find_cuts().items()}
    whole = {name: shape[1:] for name, shape in shapes.items() if shape[0] == image.batch}
    return [ListedLayer(i, name, (None, *shape)) for i, (name, shape) in enumerate(whole.items())]


def _find_image(spec: TrunkSpec, model: Any) -> tuple[bool, _Shape]:
    """Return whether the channels come first in the input, and its shape."""
    inputs = {value.get_any_name(): shape_of(value) for value in model.inputs}
    found = ", ".join(f"{name} {show(shape)}" for name, shape in inputs.items()) or "none"
    expected = "expected one image, (batch, 3, height, width) or (batch, height, width, 3)"
    shape = next(iter(inputs.values()), ())
    if len(inputs) != 1 or len(shape) != 4 or 3 not in (shape[1], shape[3]):
        found = listed(inputs, "input") if len(inputs) > 4 else found
        raise TrunkError(f"{spec.trunk}: its input is {found}; {expected}")
    element, kind = model.inputs[0].element_type, model.inputs[0].element_type.get_type_name()
    if not element.is_real() and kind != UINT8:
        expected = "expected floats, or u8 (0..255) with --preprocess none"
        raise TrunkError(f"{spec.trunk}: its input has the type {kind}; {expected}")
    if kind == UINT8 and spec.preprocess != "none":
        problem = f"takes 0..255, so --preprocess {spec.preprocess} can have no effect"
        raise TrunkError(f"{spec.trunk}: {problem}; use --preprocess none")
    return shape[1] == 3, shape


def _resolve_size(spec: TrunkSpec, sides: Sequence[int | None]) -> tuple[int, int]:
    """Return the height and width of the images, from the model or else from the spec."""
    height, width = (fixed or given for fixed, given in zip(sides, spec.image_size, strict=True))
    if not height or not width:
        raise TrunkError(f"{spec.trunk}: takes images of any size; give --image-size")
    if spec.image_size not in ((0, 0), (height, width)):
        problem = f"takes {width} x {height} pixels, found {spec.image_size[1]} x "
        problem += f"{spec.image_size[0]}"
        raise TrunkError(f"{spec.trunk}: {problem}; leave --image-size out")
    return height, width


def _depending_nodes(model: Any) -> Iterator[Any]:
    """Yield the nodes whose values depend on the values of the image, not on its size alone."""
    depending: set[str] = set()
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        sources = {value.get_node().get_name() for value in node.input_values()}
        if kind == "Parameter" or (kind != "ShapeOf" and sources & depending):
            depending.add(node.get_name())
            if kind not in ("Parameter", "Result"):
                yield node


def shape_of(output: Any) -> _Shape:
    """Return the shape of an output, None for a side that is not fixed; empty without a rank."""
    shape = output.get_partial_shape()
    if shape.rank.is_dynamic:
        return ()
    return tuple(side.get_length() if side.is_static else None for side in shape)


def _dotted(name: str) -> str:
    return name.strip("/").replace("/", ".")


def _is_name(name: str) -> bool:
    """Return whether a file of features can keep a layer of that name."""
    return bool(name.strip(".")) and name.isprintable() and len(name) <= _LONGEST_NAME


def show(shape: _Shape) -> str:
    """Return a shape as messages have it."""
    return f"({', '.join('any' if side is None else str(side) for side in shape)})"

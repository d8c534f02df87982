"""Read an ONNX file into OpenVINO, after checks that it is a model, is alone and is no trap.

OpenVINO would read a file that the model names as the place of its weights. Whether there is such a
file is seen here first, and the model is then read from memory.
"""

import hashlib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from extract.core.errors import TrunkError, quoted
from extract.images.remote import check_local
from extract.limits.unpacked import check_bytes, most_bytes
from extract.trunks.backend import load_openvino

# Operators of a loop, whose end the file decides.
_LOOPS = ("Loop", "Scan")
_EXPECTED = "expected a model in ONNX with one image as input"


def read_model(path: Path) -> tuple[Any, str]:
    """Read an ONNX model.

    Args:
        path: The file.

    Returns:
        An ``openvino.Model``, and the SHA-256 of the file as hex digits.

    Raises:
        TrunkError: The file is missing, damaged or no ONNX, needs another file or operators of
            another program, or OpenVINO cannot read it.
    """
    check_local(path, TrunkError)
    if not path.is_file():
        raise TrunkError(f"{path}: no such file; {_EXPECTED}; check --trunk")
    try:
        content = path.read_bytes()
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise TrunkError(f"{path}: {problem}; {_EXPECTED}; check its rights and disk") from error
    try:
        _check(_parse(content), len(content))
        model = load_openvino().Core().read_model(content)
    except ImportError:
        raise TrunkError(f'{path}: needs onnx; pip install "headstart[onnx]"') from None
    except (ValueError, RuntimeError) as error:  # the latter are OpenVINO's
        raise TrunkError(f"{path}: {_reason(error)}; {_EXPECTED}") from error
    return model, hashlib.sha256(content).hexdigest()


def _reason(error: Exception) -> str:
    """Return what OpenVINO says about operators that it cannot convert, else the first line."""
    operators = re.search(r"operations: (.+)|failed for: (.+)", str(error))
    if isinstance(error, RuntimeError) and operators:
        names = quoted((operators[1] or operators[2]).strip())
        return f"OpenVINO cannot convert these operators, or their inputs: {names}"[:200]
    lines = [line for line in str(error).splitlines() if not line.startswith("Exception from")]
    return "".join(lines[:1])[:200] or type(error).__name__


def _parse(content: bytes) -> Any:
    """Return the ``onnx.ModelProto`` in a file."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise ValueError("damaged, truncated or no ONNX") from error
    if not model.graph.node or not model.graph.output:
        raise ValueError("found no graph, so it is damaged or no ONNX")
    return model


def _check(model: Any, size: int) -> None:
    """Raise ValueError for what a model from a stranger must not have."""
    if model.functions:
        remedy = "write its functions into its graph with onnx.inliner.inline_local_functions"
        raise ValueError(f"found the function {quoted(model.functions[0].name)}; {remedy}")
    declared = 0
    for tensor in _tensors(model.graph):
        if tensor.external_data or tensor.data_location:
            places = [entry.value for entry in tensor.external_data if entry.key == "location"]
            found = f"weights in another file, {quoted(places[0])}" if places else "external data"
            remedy = (
                "join them with onnx.save(onnx.load(FILE), NEW), or export with external_data=False"
            )
            raise ValueError(f"found {found}, which is not read; {remedy}")
        if min(tensor.dims, default=0) < 0:
            raise ValueError(f"found weights of the shape {tuple(tensor.dims)}")
        declared += 4 * math.prod(tensor.dims)  # of float32
    check_bytes(declared, size, most_bytes(size))


def _tensors(graph: Any) -> Iterator[Any]:
    """Yield every tensor of a graph and of the graphs in it; check its operators."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        if node.domain not in ("", "ai.onnx"):
            name = quoted(f"{node.domain}.{node.op_type}")
            raise ValueError(f"found the operator {name} of another program, which is not run")
        if node.op_type in _LOOPS:
            raise ValueError(f"found a loop, {node.op_type}, which is not run")
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)

"""Tensors in PyTorch's old format: what is read, and pickles that would run code."""

import pickle
from collections import OrderedDict
from io import BytesIO
from typing import Any, ClassVar

import numpy as np
import pytest

from extract.families.torch_file import read_tensors


class _Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *given: Any) -> None:
        self.call = function, given

    def __reduce__(self) -> Any:
        return self.call


class _Name:
    """Pickles as the name of something that is not installed."""

    def __init__(self, name: str) -> None:
        self.name = name


# The pickler of Python's own code, whose methods can be replaced.
Pickler: Any = vars(pickle)["_Pickler"]


class _Pickler(Pickler):
    """Writes names and storages as PyTorch does."""

    dispatch: ClassVar[dict[type, Any]] = {**Pickler.dispatch}

    def persistent_id(self, value: Any) -> Any:
        return value if isinstance(value, tuple) and value[:1] == ("storage",) else None

    def save_name(self, value: _Name) -> None:
        module, _, name = value.name.rpartition(".")
        self.write(f"c{module}\n{name}\n".encode())

    def save_rebuilt(self, value: Any) -> None:
        self.save_name(_Name("torch._utils._rebuild_tensor_v2"))
        self.save(value.given)
        self.write(pickle.REDUCE)


class _Tensor:
    """Pickles as a tensor: key, type, number of values of the storage, offset, shape, strides."""

    def __init__(self, key: str, kind: str, count: int, *view: Any) -> None:
        storage = ("storage", _Name(f"torch.{kind}"), key, "cpu", count, None)
        self.given = storage, *view, False, OrderedDict()


_Pickler.dispatch |= {_Name: _Pickler.save_name, _Tensor: _Pickler.save_rebuilt}


def write(
    tensors: Any, storages: dict[str, np.ndarray], header: Any = 0x1950A86A20F9469CFC6C
) -> bytes:
    """Write a file in PyTorch's old format."""
    file = BytesIO()
    for part in (header, 1001, {"little_endian": True}, tensors, list(storages)):
        _Pickler(file, 2).dump(part)
    for values in storages.values():
        file.write(len(values).to_bytes(8, "little") + values.tobytes())
    return file.getvalue()


def test_tensors_are_read_by_name_with_their_strides() -> None:
    values, count = np.arange(12, dtype="<f4"), np.array([7], "<i8")
    tensors = OrderedDict(
        plain=_Tensor("1", "FloatStorage", 12, 0, (3, 4), (4, 1)),
        turned=_Tensor("1", "FloatStorage", 12, 2, (2, 3), (1, 2)),
        count=_Tensor("2", "LongStorage", 1, 0, (), ()),
    )
    read = read_tensors(write(tensors, {"1": values, "2": count}))
    assert list(read) == ["plain", "turned", "count"]
    np.testing.assert_array_equal(read["plain"], values.reshape(3, 4))
    np.testing.assert_array_equal(read["turned"], [[2, 4, 6], [3, 5, 7]])
    assert read["count"] == 7


@pytest.mark.parametrize("in_header", [True, False])
@pytest.mark.parametrize(
    ("function", "given"),
    [(eval, ("1 / 0",)), (OrderedDict.fromkeys, ("ab",)), (pickle.loads, (b"",))],
)
def test_a_pickle_calls_nothing(function: Any, given: tuple[Any, ...], in_header: bool) -> None:
    call = _Call(function, *given)
    content = write({}, {}, call) if in_header else write({"a": call}, {})
    with pytest.raises(pickle.UnpicklingError, match=r"found the name [\w.]+, which is not read"):
        read_tensors(content)


def test_a_pickle_names_nothing_else() -> None:
    for name in ("torch.load", "os.system", "collections.OrderedDict.fromkeys", "torch._utils.os"):
        with pytest.raises(pickle.UnpicklingError, match=f"found the name {name}, which"):
            read_tensors(write({"a": _Name(name)}, {}))


def test_types_are_no_functions() -> None:
    # A call of a type of storages: its name, an empty tuple, REDUCE.
    content = write({"a": _Name("torch.FloatStorage")}, {})
    hostile = content.replace(b"ctorch\nFloatStorage\n", b"ctorch\nFloatStorage\n)R")
    with pytest.raises(TypeError, match="not callable"):
        read_tensors(hostile)


def test_a_tensor_lies_within_its_storage() -> None:
    values = {"1": np.zeros(4, "<f4")}
    for view in (0, (5,), (1,)), (1, (4,), (1,)), (0, (2,), (4,)), (0, (2,), (-1,)):
        tensors = OrderedDict(a=_Tensor("1", "FloatStorage", 4, *view))
        with pytest.raises((ValueError, TypeError)):
            read_tensors(write(tensors, values))

"""Images in TFRecord files of tf.train.Example, read without TensorFlow."""

import os
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any

from extract.core.errors import ImageError, SourceError, quoted, unknown_name
from extract.images.item import Records

# TensorFlow Datasets counts the shards behind the ending.
_NAME = re.compile(r"\.tfrecords?(-\d+-of-\d+)?$", re.IGNORECASE)
# What a role is called, by TensorFlow's own examples and by TensorFlow Datasets.
_USUAL = {
    "path": ("image/encoded", "image", "image_raw"),
    "label": ("image/class/text", "image/class/label", "label"),
    "split": ("split",),
    "group": ("group",),
    "name": ("image/filename", "file_name", "filename"),
}


def is_tfrecord(name: str) -> bool:
    """Whether a file is one of these by its name."""
    return _NAME.search(name) is not None


def open_tfrecord(path: str, named: Mapping[str, str]) -> Records:
    """Open a TFRecord file; it is read through once, for what it says of its images.

    Args:
        path: The file, not compressed.
        named: The features that have a name of their own, by role.

    Returns:
        Its images; a name is that of the file it was made from.

    Raises:
        SourceError: It cannot be read, is damaged, or its records lack a feature.
    """
    places: list[tuple[int, int]] = []
    names: list[str | None] = []
    cells: list[list[Any]] = []
    try:
        for start, content in _records(path):
            features = _features(content)
            where = f"{quoted(path)}: record {len(places)}"
            chosen = {role: _choose(where, role, features, named) for role in _USUAL}
            places.append((start, len(content)))
            names.append(_value(features, chosen["name"]))
            roles = ("label", "split", "group")
            cells.append([_value(features, chosen[role]) for role in roles])
    except (OSError, ValueError) as error:
        if isinstance(error, SourceError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceError(
            f"{quoted(path)}: record {len(places)} cannot be read: {reason}; expected a whole, "
            "uncompressed TFRecord file of tf.train.Example"
        ) from error
    return Records(names, cells, partial(_read, path, places, named))


def _records(path: str) -> Iterator[tuple[int, bytes]]:
    """Yield where each record begins, and its content.

    Source: the format as TensorFlow's guide "TFRecord and tf.train.Example" gives it.
    """
    at, size = 0, os.path.getsize(path)
    with open(path, "rb") as file:
        while head := file.read(12):
            if len(head) < 12:
                raise ValueError("is cut off")
            length, check = struct.unpack("<QI", head)
            if check != _masked(head[:8]):
                raise ValueError("the checksum of its length is wrong")
            if at + 16 + length > size:
                raise ValueError("is cut off")
            content = file.read(length)
            if struct.unpack("<I", file.read(4))[0] != _masked(content):
                raise ValueError("its checksum is wrong")
            yield at + 12, content
            at += 16 + length


def _masked(content: bytes) -> int:
    try:
        from google_crc32c import value
    except ImportError as error:
        raise SourceError(
            'TFRecord needs google-crc32c and protobuf; pip install "headstart[tfrecord]"'
        ) from error
    check = int(value(content))
    return ((check >> 15 | check << 17) + 0xA282EAD8) & 0xFFFFFFFF


@cache
def _example() -> Any:
    """Return the message class of tf.train.Example. Source: its .proto files."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="own", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto

    def add(message: Any, name: str, number: int, kind: int, repeated: int, of: str = "") -> Any:
        label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
        own = {"type_name": f".own.{of}"} if of else {}
        return message.field.add(name=name, number=number, type=kind, label=label, **own)

    lists = (
        ("BytesList", kinds.TYPE_BYTES),
        ("FloatList", kinds.TYPE_FLOAT),
        ("Int64List", kinds.TYPE_INT64),
    )
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, kind) in enumerate(lists, 1):
        add(file.message_type.add(name=name), "value", 1, kind, True)
        field = add(
            feature, name.lower().replace("list", "_list"), number, kinds.TYPE_MESSAGE, 0, name
        )
        field.oneof_index = 0
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    add(entry, "key", 1, kinds.TYPE_STRING, False)
    add(entry, "value", 2, kinds.TYPE_MESSAGE, False, "Feature")
    add(features, "feature", 1, kinds.TYPE_MESSAGE, True, "Features.FeatureEntry")
    example = file.message_type.add(name="Example")
    add(example, "features", 1, kinds.TYPE_MESSAGE, False, "Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("own.Example"))


def _features(content: bytes) -> Mapping[str, Sequence[Any]]:
    """Return the values of each feature of a record."""
    from google.protobuf.message import DecodeError

    try:
        found = _example().FromString(content).features.feature
    except DecodeError as error:
        raise ValueError(f"it is no tf.train.Example: {error}") from error
    return {
        name: getattr(feature, feature.WhichOneof("kind")).value
        if feature.WhichOneof("kind")
        else ()
        for name, feature in found.items()
    }


def _choose(
    where: str, role: str, features: Mapping[str, Any], named: Mapping[str, str]
) -> str | None:
    name = named.get(role) or next((name for name in _USUAL[role] if name in features), None)
    if name in features or (name is None and role != "path"):
        return name
    what = unknown_name("feature", name or _USUAL["path"][0], features)
    raise SourceError(f"{where}: {what}; say which one is the {role} with --columns {role}=NAME")


def _value(features: Mapping[str, Sequence[Any]], name: str | None) -> Any:
    """Return the first value of a feature as text or a number; None where there is none."""
    values = features[name] if name else ()
    if not values:
        return None
    return values[0].decode("utf-8", "replace") if isinstance(values[0], bytes) else values[0]


def _read(
    path: str, places: Sequence[tuple[int, int]], named: Mapping[str, str], row: int
) -> bytes:
    start, length = places[row]
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            features = _features(file.read(length))
        content = features[_choose(path, "path", features, named) or ""][0]
    except (OSError, ValueError, IndexError) as error:
        raise ImageError(f"cannot be read from its record: {str(error)[:80]}") from error
    if not isinstance(content, bytes):
        raise ImageError("its record holds numbers; expected the bytes of an image")
    return content

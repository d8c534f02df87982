"""Images in TFRecord files of tf.train.Example, read without TensorFlow."""

import os
import re
import struct
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import count
from typing import Any, BinaryIO

from extract.core.errors import ImageError, quoted
from extract.images.item import read_part, reading
from extract.layouts.image_table import Named, Records, choose_columns

# TensorFlow Datasets writes the number of the shard behind the ending.
_NAME = re.compile(r"\.tfrecords?(-\d+-of-\d+)?$", re.IGNORECASE)
# The names of features in TensorFlow's own examples and in TensorFlow Datasets.
_USUAL = {
    "path": ("image/encoded", "image", "image_raw"),
    "name": ("image/filename", "file_name", "filename"),
    "label": ("image/class/text", "image/class/label", "label"),
    "split": ("split",),
    "group": ("group",),
}
# tf.train.Example, by its .proto files. On disk a map is a repeated message of key and value, and
# a oneof is one of several fields.
_EXAMPLE = """
name: "example.proto" package: "tf.train" syntax: "proto3"
message_type { name: "BytesList" field { name: "value" number: 1 LIST type: TYPE_BYTES } }
message_type { name: "FloatList" field { name: "value" number: 1 LIST type: TYPE_FLOAT } }
message_type { name: "Int64List" field { name: "value" number: 1 LIST type: TYPE_INT64 } }
message_type { name: "Feature" field { name: "bytes_list" number: 1 type_name: "BytesList" }
                               field { name: "float_list" number: 2 type_name: "FloatList" }
                               field { name: "int64_list" number: 3 type_name: "Int64List" } }
message_type { name: "Entry" field { name: "key" number: 1 type: TYPE_STRING }
                             field { name: "value" number: 2 type_name: "Feature" } }
message_type { name: "Features" field { name: "feature" number: 1 LIST type_name: "Entry" } }
message_type { name: "Example" field { name: "features" number: 1 type_name: "Features" } }
""".replace("LIST", "label: LABEL_REPEATED")


def is_tfrecord(name: str) -> bool:
    """Whether a file is a TFRecord file by its name."""
    return _NAME.search(name) is not None


def open_tfrecord(path: str, named: Named) -> Records:
    """Open a TFRecord file and read the names, labels, splits and groups of its images.

    Args:
        path: The file, not compressed.
        named: The features that the user has named, by role.

    Returns:
        Its images; their names are those of the original files.

    Raises:
        SourceError: The file cannot be read, is damaged, or its records lack a feature.
    """
    rows, places = [], []
    records = _records(path)
    for number in count():
        where = f"{path}: record {number}"
        with reading(where, "an uncompressed TFRecord file of tf.train.Example", "tfrecord"):
            if (record := next(records, None)) is None:
                break
            features = _features(record[1])
            image, *columns = choose_columns(quoted(where), features, named, _USUAL, "feature")
            values = [features[column] if column else () for column in columns]
            name, *cells = (value[0] if value else None for value in values)
            rows.append(
                (name.decode(errors="replace") if isinstance(name, bytes) else None, *cells)
            )
            places.append((record[0], len(record[1]), image or ""))

    def read(row: int) -> bytes:
        start, size, feature = places[row]
        image = _features(read_part(path, size, start))[feature][0]
        if not isinstance(image, bytes):
            raise ImageError("its record holds numbers; expected the bytes of an image")
        return image

    return Records(rows, read)


def _records(path: str) -> Iterator[tuple[int, bytes]]:
    """Yield the offset of each record and its content.

    Source: TensorFlow's guide "TFRecord and tf.train.Example".
    """
    with open(path, "rb") as file:
        while file.peek(1):
            (size,) = struct.unpack("<Q", _read_checked(file, 8, "size"))
            yield file.tell(), _read_checked(file, size, "content")


def _read_checked(file: BinaryIO, size: int, what: str) -> bytes:
    """Read bytes and the checksum behind them."""
    from google_crc32c import value

    if file.tell() + size + 4 > os.fstat(file.fileno()).st_size:
        raise ValueError("is cut off")
    content = file.read(size)
    check = value(content)
    masked = ((check >> 15 | check << 17) + 0xA282EAD8) & 0xFFFFFFFF
    if file.read(4) != struct.pack("<I", masked):
        raise ValueError(f"the checksum of its {what} is wrong")
    return content


@cache
def _example() -> Any:
    """Return the message class of tf.train.Example."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

    file = text_format.Parse(_EXAMPLE, descriptor_pb2.FileDescriptorProto())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tf.train.Example"))


def _features(content: bytes) -> dict[str, Sequence[Any]]:
    """Return the values of each feature of a record."""
    entries = _example().FromString(content).features.feature
    lists = [(e.key, (e.value.bytes_list, e.value.float_list, e.value.int64_list)) for e in entries]
    return {key: next((each.value for each in kinds if each.value), ()) for key, kinds in lists}

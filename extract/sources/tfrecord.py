"""Images in TFRecord files of tf.train.Example, read without TensorFlow."""

import os
import re
import shlex
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import count
from typing import Any, BinaryIO, NamedTuple

from extract.core.errors import ImageError, SourceError, quoted
from extract.images.item import read_part, reading
from extract.images.unpack import refuse_pointer
from extract.layouts.class_names import to_nfc
from extract.layouts.image_folder import Named
from extract.layouts.image_table import Records, Said, choose_columns, explain_columns
from extract.limits.image_size import MOST_BYTES, claim_bytes

# TensorFlow Datasets writes the number of the shard behind the ending. Other files are recognised
# by their content.
_NAME = re.compile(r"\.tfrec(ord)?s?(-\d+-of-\d+)?(\.gz)?$", re.IGNORECASE)
_SHARD = re.compile(r"-\d+-of-\d+$")
# The names of features in TensorFlow's own examples and in TensorFlow Datasets.
_USUAL = {
    "path": ("image/encoded", "image", "image_raw"),
    "name": ("image/filename", "file_name", "filename"),
    "label": ("image/class/label", "image/class/text", "label", "class"),
    "split": ("split",),
    "group": ("group",),
}
_TEXT = "image/class/text"
# Compressed by TensorFlow: kind -> pattern of the first bytes, command.
_PACKED = {
    "gzip": (rb"\x1f\x8b", "gunzip"),
    "zlib": (
        rb"\x78[\x01\x5e\x9c\xda]",
        "python -c 'import sys, zlib; i, o = sys.stdin.buffer, sys.stdout.buffer; "
        "o.write(zlib.decompress(i.read()))'",
    ),
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


class ClassLabel(NamedTuple):
    """The number of a class and its text, None or empty where there is none."""

    number: int | None
    text: str | None


def is_tfrecord(path: str) -> bool:
    """Whether a file is a TFRecord file, by its name or else by its first record.

    Raises:
        SourceError: It is compressed.
    """
    named = _NAME.search(path) is not None
    if not os.path.isfile(path):
        return named
    head = read_part(path, 64, 0)
    if named or _SHARD.search(path):
        refuse_pointer(path, head)
        for kind, (pattern, command) in _PACKED.items():
            if re.match(pattern, head):
                plain = shlex.quote(re.sub(r"\.gz$", "", path, flags=re.IGNORECASE) + "-unpacked")
                problem = f"is compressed with {kind}; unpack it with: {command}"
                raise SourceError(f"{quoted(path)}: {problem} < {shlex.quote(path)} > {plain}")
    if ".tfevents." in path:  # the logs of TensorBoard are TFRecord files
        return False
    return named or (len(head) > 12 and _masked(_crc32c(head[:8])) == head[8:12])


def open_tfrecord(path: str, named: Named) -> Records:
    """Open a TFRecord file and read the names, labels, splits and groups of its images.

    Args:
        path: The file, not compressed.
        named: The features that the user has named, by role.

    Returns:
        Its images; their names are those of the original files. Their labels are ``ClassLabel``
        where the records, or a file ``label.labels.txt`` as TensorFlow Datasets writes it, name
        the classes.

    Raises:
        SourceError: The file cannot be read, is damaged, or its records lack a feature.
    """
    rows, places = [], []
    text = _TEXT if "label" not in named else None
    chosen: dict[tuple[str, ...], list[str | None]] = {}  # most records have the same features
    records, class_names = _records(path), cache(partial(_class_names, os.path.dirname(path)))
    for number in count():
        where = f"{path}: record {number}"
        with reading(where, "an uncompressed TFRecord file of tf.train.Example", "tfrecord"):
            if (record := next(records, None)) is None:
                break
            features = _features(record[1])
            if (keys := tuple(features)) not in chosen:
                chosen[keys] = choose_columns(quoted(where), keys, named, _USUAL, "feature")
            image, name, label, split, group = chosen[keys]
            label = None if label == text else label
            values = [_value(where, features, each) for each in (label, text, split, group)]
            names = class_names(label) if label else ()
            cell = _label(where, values[0], values[1], names)
            rows.append((_name(features, name), cell, *values[2:]))
            places.append((record[0], len(record[1]), image or ""))
    return Records(rows, partial(_read, path, places), _explain(chosen, text))


def _explain(
    chosen: Mapping[tuple[str, ...], Sequence[str | None]], text: str | None
) -> Said | None:
    """Say which features of all records have a role."""
    if not chosen:
        return None
    columns = [
        next((each for each in role if each), None) for role in zip(*chosen.values(), strict=True)
    ]
    image, name, *others = columns
    known = dict.fromkeys(each for keys in chosen for each in keys if each not in (name, text))
    return explain_columns(known, [image, *others])


def _read(path: str, places: Sequence[tuple[int, int, str]], row: int) -> bytes:
    start, size, feature = places[row]
    claim_bytes(size)
    images = _features(read_part(path, size, start))[feature]
    if len(images) != 1:
        raise ImageError(f"its record holds {len(images)} images; expected one")
    if not isinstance(images[0], bytes):
        raise ImageError("its record holds numbers; expected the bytes of an image")
    return images[0]


def _value(where: str, features: Mapping[str, Sequence[Any]], name: str | None) -> Any:
    """Return the only value of a feature, None without one."""
    values = features.get(name or "", ())
    if len(values) > 1:
        problem = f"feature {name} holds {len(values)} values; expected one for each image"
        raise SourceError(f"{quoted(where)}: {problem}")
    return values[0] if values else None


def _name(features: Mapping[str, Sequence[Any]], name: str | None) -> str | None:
    values = features.get(name or "", ())
    is_text = len(values) == 1 and isinstance(values[0], bytes)
    return values[0].decode(errors="replace") if is_text else None


def _label(where: str, cell: Any, text: Any, names: Sequence[str]) -> Any:
    """Return the label of a record: a cell, or a ``ClassLabel`` where its class has a name."""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    if isinstance(cell, int) and names:
        if cell < 0:
            return ClassLabel(cell, None)
        if cell >= len(names):
            problem = (
                f"found label {cell}; expected less than {len(names)}, the classes in its list"
            )
            raise SourceError(f"{quoted(where)}: {problem}")
        return ClassLabel(cell, names[cell])
    if isinstance(text, bytes) and (cell is None or isinstance(cell, int)):
        return ClassLabel(cell, text.decode(errors="backslashreplace"))
    return cell


def name_classes(labels: Sequence[Any], where: str) -> list[Any]:
    """Return the label of each image, with the text of a class where no other class has it.

    Classes with the same text have their numbers too, as in ``crane (135)``. A class without a text
    has its number. The number -1 is no label.

    Raises:
        SourceError: One number has several texts, or two classes would have one name.
    """
    text_of: dict[int, str] = {}
    for label in dict.fromkeys(label for label in labels if isinstance(label, ClassLabel)):
        text = to_nfc((label.text or "").strip())
        if label.number is not None and label.number >= 0:
            other = text_of.setdefault(label.number, text) or text
            if text and text != other:
                problem = (
                    f"class {label.number} is called {other!r} and {text!r}; expected one name"
                )
                raise SourceError(f"{where}: {problem}, or --columns label=NAME")
            text_of[label.number] = other
    if not any(text_of.values()):
        return [label.number if isinstance(label, ClassLabel) else label for label in labels]
    names = {number: text or str(number) for number, text in text_of.items()}
    sizes = Counter(names.values())
    names = {n: f"{name} ({n})" if sizes[name] > 1 else name for n, name in names.items()}

    def name_of(label: Any) -> Any:
        if not isinstance(label, ClassLabel):
            return label
        if label.number is not None:
            return names.get(label.number)
        if sizes[to_nfc((label.text or "").strip())] > 1:
            problem = f"found the name {label.text!r} without a number, beside classes of this name"
            raise SourceError(f"{where}: {problem}; use the numbers: --columns label=NAME")
        return label.text

    return [name_of(label) for label in labels]


def _class_names(folder: str, feature: str) -> tuple[str, ...]:
    """Return the names of classes that TensorFlow Datasets writes next to its files."""
    path = os.path.join(folder, f"{feature.replace('/', '.')}.labels.txt")
    if not os.path.isfile(path):
        return ()
    with reading(path, "the name of a class on each line"), open(path, encoding="utf-8") as file:
        claim_bytes(os.path.getsize(path))
        return tuple(file.read().removesuffix("\n").split("\n"))


def _crc32c(content: bytes) -> int:
    """Return the checksum of a few bytes; the library for many is an optional one."""
    check = 0xFFFFFFFF
    for byte in content:
        check ^= byte
        for _ in range(8):
            check = check >> 1 ^ 0x82F63B78 * (check & 1)
    return check ^ 0xFFFFFFFF


def _masked(check: int) -> bytes:
    return struct.pack("<I", ((check >> 15 | check << 17) + 0xA282EAD8) & 0xFFFFFFFF)


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

    if size > MOST_BYTES:  # a smaller limit is of the image, which is a failed row
        claim_bytes(size)
    if file.tell() + size + 4 > os.fstat(file.fileno()).st_size:
        raise ValueError("is cut off")
    content = file.read(size)
    if file.read(4) != _masked(value(content)):
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

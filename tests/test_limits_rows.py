"""Files of images and tables that would fill the memory."""

import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import h5py
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from extract.core.errors import ImageError
from extract.images.item import read_item
from extract.limits import image_size as limits
from extract.limits.arrow_buffers import unpacked_size
from extract.limits.image_size import set_limits
from extract.sources.listing import list_source
from tests.conftest import ROOT
from tests.test_limits_unpacked import LARGE, add_zeros
from tests.test_sources_records import CONTENTS, example, write_stream, write_tfrecord

LIST = """
import sys
from pathlib import Path
from extract.core.errors import HeadstartError
from extract.images.item import read_item
from extract.sources.listing import list_source
for path in sys.argv[1:]:
    try:
        read_item(list_source(path).items[0])
        print("read")
    except HeadstartError as error:
        print(str(error))
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@pytest.fixture
def small_limit() -> Iterator[None]:
    set_limits(60, limits.MOST_PIXELS)
    yield
    set_limits(limits.MOST_BYTES, limits.MOST_PIXELS)


def _arrow(path: Path) -> None:
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = [{"bytes": CONTENTS[0], "path": None}, {"bytes": b"x", "path": None}, None]
    write_stream(path, pa.table({"image": pa.array(rows, kind)}))


def _parquet(path: Path) -> None:
    parquet.write_table(pa.table({"image": [CONTENTS[0], b"x"]}), path)


def _tfrecord(path: Path) -> None:
    write_tfrecord(path, [example(image=CONTENTS[0]), example(image=b"x")])


def _h5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros((2, 8, 8, 3), np.uint8)


def _npy(path: Path) -> None:
    np.save(path, np.zeros((2, 8, 8), np.uint8))


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize("write", [_arrow, _parquet, _tfrecord, _h5, _npy])
def test_a_row_above_the_limit_is_a_failed_row(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / f"a.{write.__name__[1:]}"
    write(path)
    items = list_source(path).items
    with pytest.raises(ImageError, match=r"at most 60 are read; see --max-image-bytes"):
        read_item(items[0])
    if write not in (_h5, _npy):
        assert read_item(items[1]) == b"x"


def large_record(path: Path) -> None:
    """Declare a record that a sparse file has."""
    size = struct.pack("<Q", LARGE * 3)
    check = google_crc32c.value(size)
    masked = ((check >> 15 | check << 17) + 0xA282EAD8) & 0xFFFFFFFF
    path.write_bytes(size + struct.pack("<I", masked))
    with path.open("r+b") as file:
        file.truncate(LARGE * 3 + 64)


def zeros(path: Path) -> None:
    np.savez(path, y=np.zeros(2))
    add_zeros(path, "x.npy")


def sparse(path: Path) -> None:
    path.write_text("path,label\n")
    with path.open("r+b") as file:
        file.truncate(3 * LARGE)


def many_rows(path: Path) -> None:
    cells = pa.array(["a.jpg"]).take(pa.array(np.zeros(5_000_000, np.int32)))
    parquet.write_table(pa.table({"path": cells}), path)


def many_images(path: Path) -> None:
    cells = pa.array([b"x"]).take(pa.array(np.zeros(5_000_000, np.int32)))
    parquet.write_table(pa.table({"image": cells}), path)


def one_image_often(path: Path) -> None:
    image, rows = pa.array([bytes(2**22)]), pa.array(np.zeros(400, np.int32))
    content = pa.table({"image": pa.DictionaryArray.from_arrays(rows, image)})
    parquet.write_table(content, path, dictionary_pagesize_limit=2**30, store_schema=False)
    assert path.stat().st_size < 2**20


def unpacked_buffers(path: Path) -> None:
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    content = pa.table({"image": [bytes(LARGE)]})
    with pa.OSFile(str(path), "wb") as file:
        kind = pa.ipc.new_file if path.stem == "a" else pa.ipc.new_stream
        with kind(file, content.schema, options=options) as out:
            out.write_table(content)


@pytest.mark.parametrize("compression", ["zstd", "lz4", None])
@pytest.mark.parametrize("form", [pa.ipc.new_file, pa.ipc.new_stream])
def test_the_size_of_compressed_buffers_is_known_before(
    form: Any, compression: str | None, tmp_path: Path
) -> None:
    words = pa.array(["a" * 500, "b" * 700] * 300).dictionary_encode()
    content = pa.table({"image": [bytes(1000 + i) for i in range(600)], "word": words})
    out = pa.BufferOutputStream()
    with form(out, content.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as to:
        to.write_table(content, max_chunksize=250)
    size = unpacked_size(out.getvalue())
    assert content.nbytes <= size < 1.1 * content.nbytes if compression else size == 0


def many_values(path: Path) -> None:
    path.write_bytes(b'{"path": "a.jpg", "boxes": [' + b"[]," * 12_000_000 + b"0]}")


def long_label(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.jpg", b"x")
        archive.writestr("1.cls", bytes(2**25))


def many_labels(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(40):
            archive.writestr(f"{i}.jpg", b"x")
            archive.writestr(f"{i}.cls", b"%d" % i + b" " * 2**23 + b"x")


FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a.tfrecord": (
        large_record,
        "is 1,610,612,736 bytes; at most 1,073,741,824 are read; see --max",
    ),
    "a.npz": (zeros, "found 536,8"),
    "a.csv": (
        sparse,
        "is 1,610,612,736 bytes; at most 1,073,741,824 are read; see --max-image-bytes",
    ),
    "a.parquet": (many_rows, "found 5,000,000 rows in"),
    "b.parquet": (many_images, "found 5,000,000 rows in"),
    "a.arrow": (unpacked_buffers, "found 536,8"),
    "b.arrow": (unpacked_buffers, "found 536,8"),
    "c.parquet": (one_image_often, "bytes in a file of"),
    "a.jsonl": (many_values, "row 1: cannot be read: found 24,0"),
    "a.zip": (
        long_label,
        "1.cls: cannot be read: found 33,554,432 bytes; expected at most 16,777,216",
    ),
    "b.zip": (many_labels, "found 335,5"),
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs the peak of memory")
def test_small_files_take_little_memory(tmp_path: Path) -> None:
    for name, (write, _) in FILES.items():
        write(tmp_path / name)
    command = [sys.executable, "-c", LIST, *(str(tmp_path / name) for name in FILES)]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    *said, peak = child.stdout.splitlines()
    for line, (name, (_, problem)) in zip(said, FILES.items(), strict=True):
        assert name in line or name == "c.parquet", line  # it is listed
        assert problem in line, line
    assert int(peak) < 800 * 2**10

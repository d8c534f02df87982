"""Small files and endless answers that would fill the memory."""

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from extract.core.errors import ImageError
from extract.images.item import read_file
from extract.images.remote import read_url
from extract.limits import image_size as limits
from extract.limits.image_size import BYTES, PIXELS, set_limits, under_way
from extract.pipeline.run import run_extraction as extract_features
from extract.pixels.decode import decode
from tests.conftest import QUICK, ROOT, serving

WEBP = """
import resource, sys
import numpy as np
from extract.core.config import TrunkSpec
from extract.core.views import ViewSpec
from extract.images.item import Item
from extract.pipeline.stream import decode_ahead
spec = TrunkSpec("mobilenet", weights="none", image_size=(32, 32))
items = [Item(str(i), sys.argv[1], -1, 0) for i in range(4)]
for pixels, _ in decode_ahead(items, np.arange(4), spec, ViewSpec(), int(sys.argv[2]), 4):
    assert not pixels.reason, pixels.reason
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.fixture(autouse=True)
def usual_limits() -> Iterator[None]:
    yield
    set_limits(limits.MOST_BYTES, limits.MOST_PIXELS)


def test_a_file_larger_than_the_limit_is_never_read(images: Path, tmp_path: Path) -> None:
    sparse = images / "train" / "cat" / "0.png"
    with sparse.open("r+b") as file:
        file.truncate(6 * 2**30)
    reason = "is 6,442,450,944 bytes; at most 1,073,741,824 are read; see --max-image-bytes"
    summary = extract_features(images, tmp_path / "out.h5", **QUICK, max_bad="1")
    assert summary.failed == [("train/cat/0.png", reason)]
    with pytest.raises(ImageError, match="is a device, not a regular file"):
        read_file("/dev/zero")


def test_the_limits_are_settings(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    failed = extract_features(images, out, **QUICK, max_image_pixels=600, max_bad="8").failed
    reason = "is 30 x 21 pixels; at most 600 are read; see --max-image-pixels"
    assert failed == [
        (f"{split}/{name}/1.png", reason)
        for split in ("train", "validation")
        for name in ("cat", "dog")
    ]
    assert extract_features(images, out).failed == []  # the default, which is no part of the file
    out.unlink()
    failed = extract_features(images, out, **QUICK, max_image_bytes=99, max_bad="8").failed
    assert len(failed) == 8
    assert all("at most 99 are read; see --max-image-bytes" in reason for _, reason in failed)


class Endless(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            while True:
                self.wfile.write(bytes(2**16))
        except OSError:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_an_endless_answer_is_refused_at_the_limit(tmp_path: Path) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    server.daemon_threads = True
    set_limits(10**6, limits.MOST_PIXELS)
    with serving(server), pytest.raises(ImageError, match=r"at most 1,000,000 .*--max-image-bytes"):
        read_url(f"http://127.0.0.1:{server.server_port}/a.png")


def large_webp() -> bytes:
    out = BytesIO()
    Image.new("RGB", (16383, 8191)).save(out, "WEBP", lossless=True, quality=0, method=0)
    return out.getvalue()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs the peak of memory")
def test_the_pixels_under_way_do_not_grow_with_the_workers(tmp_path: Path) -> None:
    path = tmp_path / "a.webp"
    path.write_bytes(large_webp())
    assert path.stat().st_size < 100
    peaks = []
    for workers in "13":
        command = [sys.executable, "-c", WEBP, str(path), workers]
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        peaks.append(int(said.stdout))
    assert peaks[1] < 1.2 * peaks[0]


@pytest.mark.parametrize("form", [{"lossless": True}, {"quality": 50}, {"exif": b"Exif\0\0MM\0*"}])
def test_the_size_of_a_webp_is_checked_before_its_plugin_takes_memory(form: dict[str, Any]) -> None:
    out = BytesIO()
    Image.new("RGB", (50, 41)).save(out, "WEBP", **form)
    set_limits(limits.MOST_BYTES, 2049)
    with pytest.raises(ImageError, match=r"is 50 x 41 pixels; at most 2,049"):
        decode(out.getvalue()[:40], (8, 8))


def test_an_image_waits_for_those_under_way() -> None:
    started, done = threading.Event(), threading.Event()

    def work() -> None:
        with under_way():
            started.set()
            PIXELS.claim(60)
            done.set()

    set_limits(limits.MOST_BYTES, 100)
    thread = threading.Thread(target=work)
    with under_way():
        PIXELS.claim(30)
        PIXELS.claim(50)
        thread.start()
        started.wait()
        assert not done.wait(0.2)
        assert BYTES.most == limits.MOST_BYTES
    thread.join()
    assert done.is_set()

"""Real servers on this machine as sources, with connections that are cut or go silent."""

import functools
import http.server
import os
import pwd
import shutil
import signal
import socket
import socketserver
import subprocess
import tarfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fsspec.config import conf
from PIL import Image

from extract.core.errors import ImageError, SourceError
from extract.images import remote
from extract.images.item import read_item
from extract.images.remote import read_url
from extract.images.unpack import fetch_command
from extract.limits.image_size import BYTES
from extract.pipeline.run import run_extraction as extract_features
from extract.sources.listing import list_source
from extract.store.open import open_store
from tests.conftest import QUICK, serving

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
BUCKET = "images"


class Proxy(socketserver.ThreadingTCPServer):
    """Passes connections on to ``target``, and ends some in the middle.

    Attributes:
        left: After how many more bytes from the target a connection ends, then the next.
        silent: Whether such a connection stays open, and says nothing more.
        ended: How many have ended so.
        made: How many there were.
    """

    daemon_threads = True

    def __init__(self, target: int) -> None:
        super().__init__(("127.0.0.1", 0), Passage)
        self.target = target
        self.port = self.server_address[1]
        self.left: list[int] = []
        self.silent = False
        self.ended = self.made = 0
        self.lock = threading.Lock()

    def spend(self, piece: bytes) -> tuple[bytes, bool]:
        """Return what of a piece is to be passed on, and whether that is the end."""
        with self.lock:
            if not self.left or len(piece) < self.left[0]:
                self.left[:1] = [room - len(piece) for room in self.left[:1]]
                return piece, False
            self.ended += 1
            return piece[: self.left.pop(0)], True


class Passage(socketserver.BaseRequestHandler):
    server: Proxy

    def handle(self) -> None:
        self.server.made += 1
        with socket.create_connection(("127.0.0.1", self.server.target)) as target:
            up = threading.Thread(target=self.ask, args=(target,))
            up.start()
            with suppress(OSError):
                ended = False
                while not ended and (piece := target.recv(2**14)):
                    piece, ended = self.server.spend(piece)
                    self.request.sendall(piece)
                if ended and self.server.silent:
                    time.sleep(3.0)
            for end in (self.request, target):
                with suppress(OSError):  # the other side was first
                    end.shutdown(socket.SHUT_RDWR)
            up.join()

    def ask(self, target: socket.socket) -> None:
        with suppress(OSError):
            while piece := self.request.recv(2**14):
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)


@contextmanager
def proxied(port: int) -> Iterator[Proxy]:
    proxy = Proxy(port)
    with serving(proxy):
        yield proxy


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve images of noise, of 30 kB each: a connection can be cut within one."""
    generator = np.random.default_rng(0)
    root = tmp_path / "photos"
    for number in range(12):
        path = root / ("train", "validation")[number % 2] / f"kind {number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (100, 100, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return root


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_PAUSE_SECONDS", 0.01)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens at {port}")


@pytest.fixture
def sftp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """OpenSSH with a key of its own, behind a proxy; fsspec's configuration has our key."""
    pytest.importorskip("paramiko", exc_type=ImportError)
    if SSHD is None:
        pytest.skip("OpenSSH's server is not installed")
    for name in ("host", "mine"):
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)]
        subprocess.run(make, check=True)
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # asked for where root starts it
    port = free_port()
    lines = [
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {tmp_path / 'host'}",
        f"AuthorizedKeysFile {tmp_path / 'mine.pub'}",
        "PidFile none",
        "StrictModes no",
        "UsePAM no",
        "PasswordAuthentication no",
        "Subsystem sftp internal-sftp",
    ]
    ready = tmp_path / "sshd_config"
    ready.write_text("\n".join(lines) + "\n")
    command = [SSHD, "-D", "-e", "-f", str(ready)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as server:
        wait_for(port, server)
        user = pwd.getpwuid(os.getuid()).pw_name
        own = {"username": user, "key_filename": str(tmp_path / "mine"), "look_for_keys": False}
        monkeypatch.setitem(conf, "sftp", {**own, "allow_agent": False})
        with proxied(port) as proxy:
            yield proxy
            fsspec.get_filesystem_class("sftp").clear_instance_cache()
        os.killpg(server.pid, signal.SIGTERM)


@pytest.fixture
def s3(photos: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Moto's S3 with the photos in a bucket, behind a proxy."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    # What is in its buckets outlives a server of the same process.
    ask = urllib.request.Request(f"http://127.0.0.1:{port}/moto-api/reset", method="POST")
    urllib.request.urlopen(ask).close()
    with proxied(port) as proxy:
        own = {"key": "me", "secret": "hush", "endpoint_url": f"http://127.0.0.1:{proxy.port}"}
        monkeypatch.setitem(conf, "s3", own)
        files = fsspec.filesystem("s3")
        files.mkdir(BUCKET)
        files.put(str(photos), f"{BUCKET}/set", recursive=True)
        yield proxy
        type(files).clear_instance_cache()
    server.stop()


def same_store(path: Path, photos: Path) -> None:
    """Check that a store is what the folder gives."""
    wanted = path.with_name("wanted.h5")
    extract_features(photos, wanted, **QUICK)
    with open_store(path) as a, open_store(wanted) as b:
        assert (a.keys, a.class_names) == (b.keys, b.class_names)
        for column in ("labels", "split", "status"):
            np.testing.assert_array_equal(getattr(a, column), getattr(b, column))
        np.testing.assert_array_equal(a.digests(), b.digests())
        np.testing.assert_array_equal(
            a.read("conv1_relu", slice(None)), b.read("conv1_relu", slice(None))
        )


@pytest.fixture(params=["sftp", "s3"])
def far(request: pytest.FixtureRequest, photos: Path) -> tuple[Proxy, str]:
    """A server, and the address of the photos on it."""
    proxy: Proxy = request.getfixturevalue(request.param)
    at = f"127.0.0.1:{proxy.port}{photos}" if request.param == "sftp" else f"{BUCKET}/set"
    return proxy, f"{request.param}://{at}"


def test_with_connections_cut_in_the_middle(
    far: tuple[Proxy, str], photos: Path, tmp_path: Path
) -> None:
    proxy, url = far
    list_source(url)
    proxy.left = [100_000, 100_000]
    summary = extract_features(url, tmp_path / "out.h5", **QUICK, workers=2)
    assert (summary.images, summary.failed) == (12, [])
    assert proxy.ended == 2
    same_store(tmp_path / "out.h5", photos)


def test_a_server_that_falls_silent_is_left(
    far: tuple[Proxy, str], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, url = far
    monkeypatch.setattr(remote, "_TIMEOUT_SECONDS", 1.0)
    proxy.left, proxy.silent = [20_000], True
    key = "train/kind 0/0.png"
    assert read_url(f"{url}/{key}") == (photos / key).read_bytes()
    assert proxy.ended == 1


def test_a_listing_over_sftp_that_breaks_is_begun_again(sftp: Proxy, photos: Path) -> None:
    url, items = f"sftp://127.0.0.1:{sftp.port}{photos}", list_source(photos).items
    list_source(url)
    sftp.left = [500]
    found = list_source(url).items
    assert (sftp.ended, sftp.made) == (1, 2)
    assert [(item.key, item.label, item.split) for item in found] == [
        (item.key, item.label, item.split) for item in items
    ]


def test_a_table_names_images_on_an_sftp_server(sftp: Proxy, photos: Path) -> None:
    url = f"sftp://127.0.0.1:{sftp.port}{photos}"
    (photos / "table.csv").write_text(f"path\ntrain/kind 0/0.png\n{url}/train/kind 1/4.png\n")
    wanted = [(photos / "train" / name).read_bytes() for name in ("kind 1/4.png", "kind 0/0.png")]
    assert [read_item(item) for item in list_source(f"{url}/table.csv").items] == wanted
    with pytest.raises(ImageError, match="there is nothing at this address"):
        read_url(f"{url}/none.png")


def test_a_key_that_an_sftp_server_refuses_is_shown_once(
    sftp: Proxy, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.pub").write_text("")
    with pytest.raises(SourceError, match="cannot be listed: Authentication failed"):
        list_source(f"sftp://127.0.0.1:{sftp.port}{photos}")
    assert sftp.made == 1


def test_an_object_on_s3_is_not_read_beyond_the_limit(
    s3: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = fsspec.filesystem("s3")
    files.pipe({f"{BUCKET}/large.png": bytes(2**25), f"{BUCKET}/empty.png": b""})
    monkeypatch.setattr(BYTES, "most", 10**6)
    s3.left = [2**23]  # a download of all of it would end here
    with pytest.raises(ImageError, match=r"is 1,000,001 bytes; at most 1,000,000 are read"):
        read_url(f"s3://{BUCKET}/large.png")
    assert s3.ended == 0
    assert read_url(f"s3://{BUCKET}/empty.png") == b""


def test_what_is_not_on_s3(s3: Proxy) -> None:
    with pytest.raises(ImageError, match="there is nothing at this address"):
        read_url(f"s3://{BUCKET}/set/none.png")
    with pytest.raises(SourceError, match="there is nothing at this address"):
        list_source("s3://no-such-bucket/set")


def pack_photos(photos: Path, name: str) -> Path:
    """Write an archive of the photos next to them, with a label file for each."""
    path = photos / name
    if name.endswith(".zip"):
        shutil.make_archive(str(photos.parent / "made"), "zip", photos)
    else:
        with tarfile.open(photos.parent / "made.tar", "w") as file:
            for image in sorted(photos.rglob("*.png")):
                file.add(image, f"{image.name}")
                image.with_suffix(".cls").write_text(image.parent.name)
                file.add(image.with_suffix(".cls"), f"{image.stem}.cls")
    (photos.parent / f"made{path.suffix}").rename(path)
    return path


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_an_archive_on_a_server_is_read_in_place(
    far: tuple[Proxy, str], photos: Path, tmp_path: Path, name: str
) -> None:
    proxy, url = far
    path = pack_photos(photos, name)
    if url.startswith("s3"):
        fsspec.filesystem("s3").put(str(path), f"{BUCKET}/set/{name}")
    wanted, found = list_source(path), list_source(f"{url}/{name}")
    assert found.class_names == wanted.class_names == ("kind 0", "kind 1", "kind 2")
    assert [item[2:5] for item in found.items] == [item[2:5] for item in wanted.items]
    assert [read_item(item) for item in found.items] == [read_item(item) for item in wanted.items]
    proxy.left = [20_000]
    assert read_item(found.items[0]) == read_item(wanted.items[0])
    assert proxy.ended == 1
    with pytest.raises(SourceError, match=r"none\.zip: there is nothing at this address"):
        list_source(f"{url}/none.zip")


@pytest.fixture
def web(photos: Path) -> Iterator[tuple[str, list[int]]]:
    """Flask, which serves parts of files, and how many bytes each answer has."""
    flask, serving_of = pytest.importorskip("flask"), pytest.importorskip("werkzeug.serving")
    app, sizes = flask.Flask("photos"), list[int]()

    @app.get("/<path:name>")
    def send(name: str) -> object:
        answer = flask.send_from_directory(photos, name, conditional=True)
        sizes.append(answer.content_length)
        return answer

    server = serving_of.make_server("127.0.0.1", 0, app, threaded=True)
    with serving(server):
        yield f"http://127.0.0.1:{server.server_port}", sizes


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_an_archive_on_the_web_is_read_in_place(
    web: tuple[str, list[int]], photos: Path, tmp_path: Path, name: str
) -> None:
    url, sizes = web
    path = pack_photos(photos, name)
    items = list_source(f"{url}/{name}?token=hush").items
    assert [item.key for item in items] == [item.key for item in list_source(path).items]
    del sizes[:]
    assert read_item(items[0])[:4] == b"\x89PNG"
    assert sum(sizes) < 35_000 < path.stat().st_size  # one image
    summary = extract_features(f"{url}/{name}?token=hush", tmp_path / "out.h5", **QUICK)
    assert (summary.images, summary.failed) == (12, [])
    with open_store(tmp_path / "out.h5") as store:
        assert "hush" not in str(dict(store.attributes))


def test_shards_on_the_web(web: tuple[str, list[int]], photos: Path) -> None:
    for shard in range(2):
        pack_photos(photos, "a.tar").rename(photos / f"a-{shard}.tar")
    source = list_source(f"{web[0]}/a-{{0..1}}.tar")
    assert len(source.items) == 24
    assert source.items[12].key == "a-1/0.png"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.tar.gz", r"cannot be read in place; fetch it with: curl -LO http://127\S*/a\.tar\.gz$"),
        (
            "a.tar.zst",
            r"fetch it with: curl -LO \S*/a\.tar\.zst and unpack it with: zstd -d a\.tar",
        ),
        (
            "a.7z",
            r"is packed with 7-Zip; fetch it with: curl -LO \S*/a\.7z and unpack .* 7z x a\.7z",
        ),
        ("a.tfrecord", r"a remote file of records; fetch it with: curl -LO \S*/a\.tfrecord$"),
        ("a.h5", r"a remote file of records; fetch it with: curl -LO \S*/a\.h5$"),
        ("bad.zip", r"is no complete archive: File is not a zip file"),
        ("none.zip", r"there is nothing at this address"),
    ],
)
def test_what_cannot_be_read_on_the_web_is_refused_with_the_command(
    web: tuple[str, list[int]], photos: Path, name: str, message: str
) -> None:
    (photos / "bad.zip").write_bytes(bytes(1000))
    with pytest.raises(SourceError, match=message):
        list_source(f"{web[0]}/{name}")


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_a_server_that_sends_whole_files_only(photos: Path, name: str) -> None:
    """Such as ``python -m http.server``."""
    pack_photos(photos, name)
    handler = functools.partial(QuietHandler, directory=str(photos))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    with serving(server):
        url = f"http://127.0.0.1:{server.server_port}/{name}"
        with pytest.raises(SourceError, match=rf"cannot be read in place: .*: curl -LO {url}$"):
            list_source(url)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("https://me:hush@host/a b.zip?x=1", "curl -LO 'https://host/a b.zip'"),
        ("s3://bucket/a.tar.gz", "aws s3 cp s3://bucket/a.tar.gz ."),
        ("gs://bucket/a.h5", "gcloud storage cp gs://bucket/a.h5 ."),
        ("sftp://me@host/set/a.h5", "scp host:/set/a.h5 ."),
        ("sftp://host:2222/set/a.h5", "scp -P 2222 host:/set/a.h5 ."),
        (
            "hf://datasets/me/set/a.npz",
            "hf download me/set a.npz --repo-type dataset --local-dir .",
        ),
    ],
)
def test_the_command_that_fetches_a_file(url: str, wanted: str) -> None:
    assert fetch_command(url) == wanted

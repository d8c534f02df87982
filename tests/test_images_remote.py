import functools
import http.server
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from classify.cli import main as train_head
from classify.predict_cli import main as predict_images
from extract.cli import main as extract_command
from extract.core.errors import ImageError, SettingError, SourceError
from extract.images import remote
from extract.images.item import read_item
from extract.images.remote import explain, hide_secrets, hide_secrets_in, is_url, read_url
from extract.pipeline.run import run_extraction as extract_features
from extract.show_cli import main as show_features
from extract.sources.listing import list_source, open_reader
from extract.store.open import open_store
from tests.conftest import QUICK, serving


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder; ``broken`` names how many answers of a path are cut in the middle."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        self.broken: Counter[str] = Counter()
        self.slow: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked[path] += 1
        if self.server.slow[path]:
            self.server.slow[path] -= 1
            time.sleep(1.0)
        if not self.server.broken[path]:
            return super().do_GET()
        self.server.broken[path] -= 1
        content = Path(self.translate_path(path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        self.close_connection = True
        return None

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server(images: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(remote, "_PAUSE_SECONDS", 0.01)
    server = Server(images)
    with serving(server):
        yield server


@pytest.fixture
def memory(images: Path) -> Iterator[str]:
    files = fsspec.filesystem("memory")
    for path in images.rglob("*.png"):
        files.pipe(f"/set/{path.relative_to(images)}", path.read_bytes())
    yield "memory://set"
    files.rm("/set", recursive=True)


def test_a_remote_folder_gives_what_the_local_one_gives(
    server: Server, memory: str, images: Path
) -> None:
    folder = list_source(images)
    for url in (memory, f"{memory}/", server.url, f"{server.url}/"):
        source = list_source(url)
        assert (source.class_names, source.root) == (folder.class_names, url)
        for item, local in zip(source.items, folder.items, strict=True):
            assert (item.key, item.label, item.split) == (local.key, local.label, local.split)
            assert read_item(item) == read_item(local)


def test_a_connection_that_is_cut_is_made_again(
    server: Server, images: Path, tmp_path: Path
) -> None:
    cut, lost = "/train/cat/0.png", "/train/dog/1.png"
    server.broken.update({cut: 2, lost: 99})
    summary = extract_features(server.url, tmp_path / "remote.h5", **QUICK)
    assert server.asked[cut] == server.asked[lost] == 3
    ((key, reason),) = summary.failed
    assert key == lost[1:]
    assert reason
    server.broken.clear()
    assert extract_features(server.url, tmp_path / "remote.h5").failed == []
    extract_features(images, tmp_path / "local.h5", **QUICK)
    with open_store(tmp_path / "remote.h5") as a, open_store(tmp_path / "local.h5") as b:
        assert a.keys == b.keys
        np.testing.assert_array_equal(a.digests(), b.digests())
        np.testing.assert_array_equal(
            a.read("conv1_relu", slice(None)), b.read("conv1_relu", slice(None))
        )


def test_a_server_that_hangs_is_asked_again(
    server: Server, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_TIMEOUT_SECONDS", 0.3)
    server.slow["/train/cat/0.png"] = 1
    wanted = (images / "train/cat/0.png").read_bytes()
    assert read_url(f"{server.url}/train/cat/0.png") == wanted
    assert server.asked["/train/cat/0.png"] == 2


def test_what_is_not_there_is_asked_for_once(server: Server) -> None:
    with pytest.raises(ImageError, match="there is nothing at this address"):
        read_url(f"{server.url}/none.png")
    assert server.asked["/none.png"] == 1


def test_names_are_keys_as_people_write_them(server: Server, images: Path) -> None:
    (images / "train" / "cat").rename(images / "train" / "big cat")
    (images / "validation" / "cat").rename(images / "validation" / "big cat")
    source = list_source(server.url)
    assert source.class_names == ("big cat", "dog")
    assert source.items[0].key == "train/big cat/0.png"
    assert read_item(source.items[0]) == (images / source.items[0].key).read_bytes()


def test_one_remote_image(server: Server, memory: str, images: Path) -> None:
    for url in (f"{server.url}/train/cat/0.png?token=x", f"{memory}/train/cat/0.png"):
        (item,) = list_source(url).items
        assert item.key == "0.png"
        assert read_item(item) == (images / "train/cat/0.png").read_bytes()


def test_tables_name_urls_and_are_remote_themselves(
    server: Server, images: Path, tmp_path: Path
) -> None:
    rows = ["path,label", "train/cat/0.png,cat", f"{server.url}/train/dog/0.png?sig=x,dog"]
    (images / "table.csv").write_text("\n".join(rows))
    wanted = [(images / f"train/{name}/0.png").read_bytes() for name in ("dog", "cat")]
    for table in (f"{server.url}/table.csv", images / "table.csv"):
        items = list_source(table).items
        assert [item.key for item in items] == [f"{server.url}/train/dog/0.png", "train/cat/0.png"]
        assert [read_item(item) for item in items] == wanted
    server.broken["/table.csv"] = 1
    assert len(list_source(f"{server.url}/table.csv").items) == 2
    with pytest.raises(SourceError, match=r"none\.csv: cannot be read: there is nothing"):
        list_source(f"{server.url}/none.csv")


def test_the_columns_of_a_remote_table_may_be_named(memory: str) -> None:
    fsspec.filesystem("memory").pipe("/set/table.csv", b"file,kind\ntrain/cat/0.png,cat\n")
    source = list_source(f"{memory}/table.csv", "path=file,label=kind")
    assert [item.key for item in source.items] == ["train/cat/0.png"]
    assert source.class_names == ("cat",)


def test_no_secret_is_stored(server: Server, images: Path, tmp_path: Path) -> None:
    host = server.url.removeprefix("http://")
    rows = [f"http://me:hush@{host}/train/{name}/0.png?X-Amz-Signature=hush" for name in "ab"]
    (images / "table.csv").write_text("\n".join(["path", *rows]))
    url = f"http://me:hush@{host}/table.csv?token=hush"
    summary = extract_features(url, tmp_path / "out.h5", **QUICK, max_bad="2")
    assert len(summary.failed) == 2
    assert b"hush" not in (tmp_path / "out.h5").read_bytes()
    with open_store(tmp_path / "out.h5") as store:
        assert store.attributes["source"] == f"{server.url}/table.csv"
    with pytest.raises(SourceError) as caught:
        list_source(f"http://me:hush@{host}/none?sig=hush")
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "query",
    [
        "?pwd=hush",
        "?auth=hush",
        "?jwt=hush",
        "?code=hush",
        "?sv=2024&sr=c&sas=hush",  # Azure
        "?GoogleAccessId=me&Expires=1&Signature=hush",
        "?OSSAccessKeyId=me&Signature=hush",  # Alibaba
        "?q-sign-algorithm=sha1&q-ak=me&q-signature=hush",  # Tencent
        "?Policy=hush&Key-Pair-Id=me",  # CloudFront
        "?hush",
        "#hush",
        "#token=hush",
        "?a'b=hush",
        '?a"b hush',
    ],
)
@pytest.mark.parametrize(
    "user", ["", "me:hush@", "hush@", "me:pa'hush@", "me:p?a#hush@", "me:p/hush@"]
)
def test_nothing_but_scheme_host_and_path_of_a_url_is_kept(user: str, query: str) -> None:
    url = f"https://{user}host:8080/it's/a b@c.png"
    assert hide_secrets(url + query) == "https://host:8080/it's/a b@c.png"
    assert hide_secrets(f"--source={url}{query}") == "--source=https://host:8080/it's/a b@c.png"
    said = f"cannot fetch 'https://{user}host/a@b.png{query}', url='https://{user}host/c{query}'"
    assert "hush" not in explain(ValueError(said.replace("b hush", "b=hush")))


def test_rows_that_differ_in_their_query_have_a_key_each(tmp_path: Path) -> None:
    same = [f"https://host/a.png?id={number}&pwd=hush" for number in (5, 6)]
    rows = ["path,label", f"{same[0]},cat", f"{same[1]},dog", "https://host/b.png?pwd=hush,cat"]
    (tmp_path / "table.csv").write_text("\n".join(rows))
    items = list_source(tmp_path / "table.csv").items
    assert sorted(item.path for item in items) == sorted([*same, "https://host/b.png?pwd=hush"])
    keys = {item.path: item.key for item in items}
    assert keys["https://host/b.png?pwd=hush"] == "https://host/b.png"
    assert keys[same[0]] != keys[same[1]]
    assert all(re.fullmatch(r"https://host/a\.png#[0-9a-f]{12}", keys[path]) for path in same)
    # The key does not depend on the other rows, or their order.
    (tmp_path / "other.csv").write_text("\n".join([rows[0], rows[2], rows[1]]))
    assert {item.path: item.key for item in list_source(tmp_path / "other.csv").items} == {
        path: keys[path] for path in same
    }
    (tmp_path / "twice.csv").write_text("\n".join([*rows, rows[1].replace("://", "://me@")]))
    with pytest.raises(SourceError, match="in row 1 and 4; remove one"):
        list_source(tmp_path / "twice.csv")


def test_a_root_and_a_path_in_a_record_keep_no_secret(
    server: Server, images: Path, tmp_path: Path
) -> None:
    host = server.url.removeprefix("http://")
    root, out = f"http://me:hush@{host}/train/", tmp_path / "out.h5"
    (images / "table.csv").write_text("path\ncat/0.png\ncat/gone.png\n")
    for _ in range(2):  # the second run continues the first
        extract_features(images / "table.csv", out, **QUICK, root=root, max_bad="1")
    assert b"hush" not in out.read_bytes()
    with open_store(out) as store:
        assert store.attributes["root"] == f"http://{host}/train/"
    gone = f"http://me:hush@{host}/gone.png?pwd=hush"
    table = pyarrow.table({"image": pyarrow.array([{"bytes": None, "path": gone}])})
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ImageError) as caught:
        read_item(list_source(tmp_path / "a.parquet").items[0])
    assert "gone.png" in str(caught.value)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("sftp://me:pw@host/a.png", "sftp://host/a.png"),
        ("https://h/a.png?se=1&sig=abc", "https://h/a.png"),
        ("https://h/a.png?id=5", "https://h/a.png"),
        ("http://[::1]:80/a@b.png", "http://[::1]:80/a@b.png"),
        ("s3://bucket/a@b.png", "s3://bucket/a@b.png"),
        ("folder/a.png", "folder/a.png"),
        ("zip://a.png::https://me:pw@h/b.zip?sig=x", "zip://a.png::https://h/b.zip"),
        ("zip://a::simplecache::s3://key:pw@b/c", "zip://a::simplecache::s3://b/c"),
        ("simplecache::s3://key:pw@b/c", "simplecache::s3://b/c"),
        ("https://h/a?b=::https://me:pw@h/c", "https://h/a::https://h/c"),
    ],
)
def test_secrets_are_hidden(text: str, wanted: str) -> None:
    assert hide_secrets(text) == wanted


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("https://me:pw@h/a,https://me:pw@h/b", "https://h/a,https://h/b"),
        ("('https://me:pw@h/a?sig=pw','https://b')", "('https://h/a','https://b')"),
        ('{"url":"https://me:pw@h/a?pw","see":"https://b"}', '{"url":"https://h/a":"https://b"}'),
    ],
)
def test_urls_without_a_space_between_them_keep_no_secret(said: str, wanted: str) -> None:
    assert explain(ValueError(said)) == wanted


@pytest.mark.parametrize("url", ["https://me:hush@h/a.h5?sig=hush", "zip://a::s3://k:hush@h/a.h5"])
def test_a_url_in_the_place_of_a_file_keeps_no_secret(
    url: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, folder, flags = str(tmp_path / "out.h5"), str(images), ["--image-size", "32"]
    for main, words in (
        (extract_command, [folder, url, *flags]),
        (extract_command, [folder, out, *flags, "--trunk", "mobilenet", "--weights", url]),
        (extract_command, [folder, out, *flags, "--trunk", f"{url.partition('?')[0]}.keras"]),
        (train_head, [url]),
        (show_features, [url]),
        (predict_images, [url, folder]),
    ):
        assert main(words) == 1, words
        said = capsys.readouterr().err
        assert "hush" not in said
        assert "a URL; expected a path on this machine" in said


def test_the_text_around_a_url_is_kept() -> None:
    said = "403, url='https://me@h/a?Signature=x', next='s3://b/c', (ftp://u:p@h/d#e)."
    wanted = "403, url='https://h/a', next='s3://b/c', (ftp://h/d)."
    assert explain(ValueError(said)) == wanted


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:9/", "cannot be listed"),
        ("nothing://host/folder", "Protocol not known"),
        ("memory://no-such-folder", "nothing at this address"),
        ("http://127.0.0.1:9/a.zip", "there is nothing at this address"),
        ("http://127.0.0.1:9/a.npz", "a remote file of records; fetch it with: curl -LO http"),
    ],
)
def test_other_addresses_are_refused(
    url: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_PAUSE_SECONDS", 0.01)
    with pytest.raises(SourceError, match=message):
        list_source(url)


def test_a_folder_that_cannot_be_listed_is_not_left_out(server: Server, images: Path) -> None:
    (images / "train" / "dog").rename(images / "train" / "gone")
    (images / "train" / "index.html").write_text('<a href="cat/">c</a> <a href="dog/">d</a>')
    with pytest.raises(SourceError, match="cannot be listed"):
        list_source(server.url)


def test_remote_settings(memory: str) -> None:
    with pytest.raises(SettingError, match="columns: has no effect"):
        list_source(memory, "label=kind")
    with pytest.raises(SourceError, match="is remote"):
        open_reader(memory)
    assert not is_url("C:/images")
    assert not is_url("folder/a:b.png")


@pytest.mark.parametrize(
    ("url", "lacking", "message"),
    [
        ("s3://bucket/images", "fsspec.core", r'needs fsspec; pip install "headstart\[s3\]"$'),
        ("http://host/images", "fsspec.core", r'fsspec; pip install "headstart\[remote\]"$'),
        ("s3://bucket/images", "s3fs", "Install s3fs to access S3$"),
    ],
)
def test_a_library_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, url: str, lacking: str, message: str
) -> None:
    if known := sys.modules.get("fsspec.registry"):  # another test may have loaded the library
        monkeypatch.delitem(known._registry, "s3", raising=False)
    monkeypatch.setitem(sys.modules, lacking, None)
    with pytest.raises(SourceError, match=message):
        list_source(url)


def test_a_recorded_command_has_no_secrets() -> None:
    command = "extract-features 'https://user:hunter2@host/a.zip?sig=X' s3://key:secret@b/c out.h5"
    assert hide_secrets_in(command) == "extract-features 'https://host/a.zip' s3://b/c out.h5"

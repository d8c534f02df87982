"""Names that are odd or hostile, through the real commands."""

import csv
import json
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from classify.cli import main as train_head
from classify.predict_cli import main as predict_images
from extract import cli, show_cli
from extract.trunks.backend import load_keras
from tests.conftest import MakeStore
from tests.test_cli import QUICK_FLAGS

FORMULA = "=cmd|' calc'!A0"
CLASSES = (FORMULA, "<img src=x onerror=alert(1)>", "x\\..\\..\\y", "\u202egnp")
ODD = ("new\nline.png", "\x1b[31mred.png", "\u202egnp.exe.png", "+1.png", "@x.png", "a'\"b,c.png")

# It would name the window, return to the start of the line, colour, turn around, and forge a line.
ESCAPES = "\x1b]0;title\x07\rowned\x9b31m\u202e\nforged"


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def draw_deep(root: Path, characters: int) -> str:
    """Put an image where its key has so many characters."""
    image = (root / "0.png").read_bytes()
    names = ["d" * 200] * ((characters - 7) // 201)
    names.append("d" * (characters - 6 - 201 * len(names)))
    before = Path.cwd()
    os.chdir(root)
    try:
        for name in names:
            Path(name).mkdir()
            os.chdir(name)
        Path("9.png").write_bytes(image)
    finally:
        os.chdir(before)
    return "/".join([*names, "9.png"])


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere such names cannot be given")
def test_odd_names_pass_through_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "source", tmp_path / "out.h5"
    for label, name in enumerate(CLASSES):
        for i in range(4):
            draw(source / name / f"{i}.png", 4 * label + i)
    for i, name in enumerate(ODD):
        draw(source / CLASSES[1] / name, 100 + i)
    (source / CLASSES[0] / "bad\nname.png").touch()
    raw = os.fsencode(source / CLASSES[0]) + b"/\xff.png"
    os.link(source / CLASSES[0] / "0.png", raw)
    long = draw_deep(source / CLASSES[2], 3600 - len(CLASSES[2]) - 1)
    assert len(f"{CLASSES[2]}/{long}") == 3600
    flags = [*QUICK_FLAGS, "--max-bad", "1"]
    assert cli.main([str(source), str(out), *flags]) == 0
    said = capsys.readouterr().err
    assert f"warning: {f'{FORMULA}/bad' + chr(10) + 'name.png'!r}: is empty" in said
    assert show_cli.main([str(out), "--verify"]) == 0
    shown = capsys.readouterr().out
    assert all(line.isprintable() for line in shown.splitlines())
    assert show_cli.main([str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["attributes"]["class_names"] == sorted(CLASSES)
    assert train_head([str(out), "--head", "knn", "-q"]) == 0
    page = (tmp_path / "out_head/report.html").read_text()
    assert "<img src=x" not in page
    capsys.readouterr()
    check_predictions(tmp_path, source, {f"{CLASSES[2]}/{long}", f"{FORMULA}/\\xff.png"})


def check_predictions(folder: Path, source: Path, keys: set[str]) -> None:
    table, lines = folder / "p.csv", folder / "p.jsonl"
    words = [str(folder / "out_head"), str(source), "--max-bad", "1", "-q"]
    assert predict_images([*words, "-o", str(table)]) == 0
    assert predict_images([*words, "-o", str(lines), "--format", "json"]) == 0
    exact = [json.loads(line) for line in lines.read_text().splitlines()]
    assert keys <= {found["key"] for found in exact}
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(exact) == 25
    for row, found in zip(rows, exact, strict=True):
        for name in ("key", "label"):
            assert row[name].removeprefix("'") == (found[name] or "").removeprefix("'")
            assert not row[name].startswith(("=", "+", "-", "@"))
    assert any(row["label"] == f"'{FORMULA}" for row in rows)


def on_terminal(command: Callable[[list[str]], int], *words: str | Path) -> str:
    """Run a command on a real terminal, check that no name moves its cursor, return the output."""
    tty = pytest.importorskip("tty")
    reader, writer = os.openpty()
    tty.setraw(writer)
    received = bytearray()

    def read() -> None:
        while not received.endswith(b"\0"):
            received.extend(os.read(reader, 2**16))

    thread = threading.Thread(target=read)
    thread.start()
    with pytest.MonkeyPatch.context() as patch, os.fdopen(writer, "w", encoding="utf-8") as file:
        assert file.isatty()
        patch.setattr(sys, "stdout", file)
        patch.setattr(sys, "stderr", file)
        try:
            with suppress(SystemExit):  # a word that is no flag
                command(list(map(str, words)))
        finally:
            file.write("\0")
            file.flush()
            thread.join()
    os.close(reader)
    shown = received[:-1].decode()
    moved = {c for c in shown.replace("\x1b[A", "") if not c.isprintable()}  # the bars go up
    assert moved <= {"\r", "\n"}
    assert not any(line.startswith(("owned", "forged")) for line in shown.splitlines())
    return shown


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere such names cannot be given")
def test_no_name_moves_the_cursor_of_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out, other = tmp_path / "source", tmp_path / "out.h5", tmp_path / ESCAPES
    for label, name in enumerate(("cat", ESCAPES)):
        for i in range(4):
            draw(source / name / f"{ESCAPES}{i}.png", 4 * label + i)
    (source / "cat" / f"{ESCAPES}5.png").touch()
    flags = [*QUICK_FLAGS, "--max-bad", "1"]
    assert "is empty" in on_terminal(cli.main, source, out, *flags)
    assert "complete" in on_terminal(show_cli.main, out, "--verify")
    assert json.loads(on_terminal(show_cli.main, out, "--json"))["failed"]
    assert "best: " in on_terminal(train_head, out, "--head", "knn", "-o", other)
    table = on_terminal(predict_images, other, source, "--max-bad", "1")
    assert "true class" in table
    assert r"\nforged" in table
    on_terminal(predict_images, other, source, "--max-bad", "1", "--format", "json")
    capsys.readouterr()
    for form, ending in (("csv", ".csv"), ("json", ".jsonl")):  # a pipe and a file get every byte
        words = [str(other), str(source), "--max-bad", "1", "-q", "--format", form]
        assert predict_images(words) == predict_images([*words, "-o", f"{out}{ending}"]) == 0
        written = Path(f"{out}{ending}").read_bytes().decode()
        assert capsys.readouterr().out == written
        assert "\u202e" in written


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere such names cannot be given")
def test_no_setting_of_a_stranger_moves_the_cursor(
    tmp_path: Path, make_store: MakeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = {ESCAPES: np.random.default_rng(0).random((12, 3), np.float32)}
    path = make_store(layers, [0, 1] * 6, class_names=("cat", ESCAPES))
    path = path.rename(tmp_path / f"{ESCAPES}.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["weights"] = ESCAPES
    assert "complete" in on_terminal(show_cli.main, path)
    assert "best: " in on_terminal(train_head, path, "--head", "ridge", "--layer", ESCAPES, "-v")
    capsys.readouterr()
    assert show_cli.main([str(path)]) == 0
    assert all(line.isprintable() for line in capsys.readouterr().out.split("\n"))
    assert show_cli.main([str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["attributes"]["weights"] == ESCAPES


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere such names cannot be given")
def test_no_layer_of_a_stranger_moves_the_cursor(images: Path, tmp_path: Path) -> None:
    keras, trunk = load_keras(), tmp_path / f"{ESCAPES}.keras"
    convolution = keras.layers.Conv2D(2, 3, name=ESCAPES)
    keras.Sequential([keras.Input((32, 32, 3), name=f"{ESCAPES}0"), convolution]).save(trunk)
    shown = on_terminal(cli.main, "--list-layers", "--trunk", trunk)
    assert r"\nforged" in shown
    words = (images, tmp_path / "out.h5", "--trunk", trunk, "--layer")
    assert "is unknown" in on_terminal(cli.main, *words, f"{ESCAPES}1")
    assert "expected names of letters, digits" in on_terminal(cli.main, *words, ESCAPES)


@pytest.mark.parametrize(
    "words",
    [
        (cli.main, ESCAPES, "out.h5"),
        (cli.main, "--list-layers", "--trunk", ESCAPES),
        (cli.main, "a", "b", f"--{ESCAPES}"),
        (show_cli.main, ESCAPES),
        (train_head, ESCAPES),
        (train_head, "out.h5", "--head", ESCAPES),
        (predict_images, "out_head", ESCAPES),
    ],
)
def test_no_word_moves_the_cursor(
    words: tuple[Callable[[list[str]], int], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "owned" in on_terminal(*words)

"""Names that are odd or hostile, through the real commands."""

import csv
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from classify.cli import main as train_head
from classify.predict_cli import main as predict_images
from extract import cli, show_cli
from tests.test_cli import QUICK_FLAGS

FORMULA = "=cmd|' calc'!A0"
CLASSES = (FORMULA, "<img src=x onerror=alert(1)>", "x\\..\\..\\y", "\u202egnp")
ODD = ("new\nline.png", "\x1b[31mred.png", "\u202egnp.exe.png", "+1.png", "@x.png", "a'\"b,c.png")


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

"""Where the head looked: on the right pixels, by the head that answered, or with a reason."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classify import train_heads
from classify.activation import explain, scored_by
from classify.activation import overlay as drawing
from classify.activation.explain import Explained, explain_mistakes
from classify.activation.images import read_pixels
from classify.activation.nearest import find_nearest
from classify.data.dataset import Dataset, load_dataset
from classify.diagnosis.analysis import analyse
from classify.diagnosis.diagnostics import describe_mistakes
from classify.report.report import write_report
from classify.search.leaderboard import Result
from classify.search.search import run
from classify.settings.config import TrainConfig
from classify.settings.head_spec import HeadSpec
from extract import write_features
from extract.gallery.originals import Originals
from extract.limits import prefetch
from extract.pipeline.run import run_extraction
from tests.conftest import QUICK

quick: Any = QUICK
COLOURS = {"red": (230, 30, 20), "blue": (20, 40, 230)}
# Where the square is in an image of 60 x 120: the middle of it, as shares of width and height.
PLACES = [(0.4, 0.25), (0.6, 0.75), (0.6, 0.25), (0.4, 0.75)]


def make_squares(folder: Path, count: int = 12) -> None:
    """Dark images with a red or a blue square; some validation images have the wrong label."""
    generator = np.random.default_rng(0)
    for split in ("train", "validation"):
        for name, colour in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 12, (60, 120, 3), dtype=np.uint8)
                x, y = PLACES[i % 4]
                other = COLOURS["blue" if name == "red" else "red"]
                wrong = split == "validation" and i < 4
                left, top = round(x * 120) - 12, round(y * 60) - 12
                pixels[top : top + 24, left : left + 24] = other if wrong else colour
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("squares") / "images"
    make_squares(folder)
    return folder


@pytest.fixture(scope="module")
def store(squares: Path) -> Path:
    path = squares.parent / "out.h5"
    run_extraction(squares, path, **quick)
    return path


def explained(
    made: Dataset, spec: HeadSpec | None = None, folds: int | None = None, overlays: str = "auto"
) -> tuple[Result, Explained]:
    result = run(made, TrainConfig((spec or HeadSpec("logistic"),), folds))
    return result, explain_mistakes(result, mistakes_of(result), overlays)


def mistakes_of(result: Result) -> Any:
    assert result.dataset is not None
    assert result.scores is not None
    return describe_mistakes(result.dataset, result.validation_rows, result.scores, 30)


def place_of_square(path: Path, size: tuple[int, int], resize: str) -> np.ndarray:
    """Where the square is in the pixels of the trunk, by Pillow and not by our own decoding."""
    image = Image.open(path).convert("RGB")
    scale = {"stretch": None, "crop": max, "pad": min}[resize]
    if scale:
        factor = scale(size[1] / image.width, size[0] / image.height)
        image = image.resize((round(image.width * factor), round(image.height * factor)))
        left, top = (image.width - size[1]) // 2, (image.height - size[0]) // 2
        image = image.crop((left, top, left + size[1], top + size[0]))
    else:
        image = image.resize(size[::-1])
    values = np.asarray(image, int)
    coloured = np.abs(values[:, :, 0] - values[:, :, 2]) > 100
    return np.asarray(np.argwhere(coloured).mean(axis=0) / size)


def assert_on_the_squares(found: Explained, made: Dataset, resize: str) -> None:
    assert found.reason == ""
    assert len(found.overlays) == len(found.rows) > 4
    hits = []
    for row, overlay in zip(found.rows, found.overlays, strict=True):
        assert overlay.image.startswith("data:image/webp;base64,")
        positions = np.array(overlay.positions)
        assert positions.shape == found.grid
        strength = np.maximum(positions, 0)
        grid = np.indices(positions.shape) + 0.5
        middle = (grid * strength).sum(axis=(1, 2)) / strength.sum() / positions.shape
        best = (np.argwhere(positions == positions.max())[0] + 0.5) / positions.shape
        real = place_of_square(Path(made.source) / made.keys[row], made.trunk.image_size, resize)
        assert np.abs(middle - 0.5).max() < 0.5
        hits.append(np.abs(best - real).max() < 0.3)
    assert np.mean(hits) == 1


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_the_map_lies_on_the_right_pixels(resize: str, squares: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.h5"
    run_extraction(squares, path, **quick, resize=resize)
    made = load_dataset(path)
    result, found = explained(made)
    assert (found.method, found.pooling, found.grid) == ("exact", "avg", (16, 16))
    assert_on_the_squares(found, made, resize)
    assert_sums(result, found)


def assert_sums(result: Result, found: Explained) -> None:
    """Positions and constant add up to the log of the ratio of the scores of the report."""
    own = result.dataset
    assert own is not None
    assert result.scores is not None
    for row, overlay in zip(found.rows, found.overlays, strict=True):
        scores = result.scores[np.searchsorted(result.validation_rows, row)].astype(float)
        odds = np.log(scores.max() / scores[own.y[row]])
        assert np.sum(overlay.positions) + overlay.constant == pytest.approx(odds, abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["max", "none"])
def test_other_poolings_have_overlays(pooling: str, squares: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.h5"
    run_extraction(squares, path, **quick, pooling=pooling)
    made = load_dataset(path)
    result, found = explained(made)
    assert (found.method, found.pooling, found.grid) == ("exact", pooling, (16, 16))
    if pooling == "max":  # a head on flattened maps has weights for each place
        assert_on_the_squares(found, made, "stretch")
    assert_sums(result, found)


def test_heads_of_folds_are_those_that_answered(store: Path) -> None:
    made = load_dataset(store)
    result, found = explained(made, HeadSpec("lda"), folds=3)
    assert found.method == "exact"
    assert_sums(result, found)
    for row, nearest in zip(found.rows, found.nearest, strict=True):
        (split,) = (s for s in result.splits if row in s.validation)
        assert {n.row for n in nearest} <= set(split.train.tolist())


def test_measured_seconds_do_not_decide_about_overlays(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = load_dataset(store)
    result = run(made, TrainConfig((HeadSpec("lda"),), 3))
    (entry,) = result.entries
    slow = entry._replace(evaluation=replace(entry.evaluation, seconds=1e6))
    found = explain_mistakes(replace(result, entries=[slow]), mistakes_of(result))
    assert found.method == "exact"
    monkeypatch.setattr(scored_by, "_MOST_SECONDS", 1e-6)  # of the usual machine
    found = explain_mistakes(result, mistakes_of(result))
    assert found.method == ""
    assert found.reason.endswith("are not kept, and training them again takes too long")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs fifos")
def test_an_image_that_hangs_takes_no_other_with_it(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, fifo = load_dataset(store), tmp_path / "fifo"
    os.mkfifo(fifo)
    read = Originals.read

    def hang(self: Originals, image: Any) -> bytes:
        return fifo.read_bytes() if image.key == made.keys[9] else read(self, image)

    monkeypatch.setattr(Originals, "read", hang)
    monkeypatch.setattr(prefetch, "LIMIT_SECONDS", 0.5)
    pixels = read_pixels(made, range(6, 14), made.trunk)
    fifo.open("wb").close()  # ends the thread
    assert pixels[3] == "took longer than 0.5 s to read"
    assert {np.shape(one) for i, one in enumerate(pixels) if i != 3} == {
        (*made.trunk.image_size, 3)
    }


def test_neighbours_are_the_nearest_by_brute_force(store: Path) -> None:
    generator = np.random.default_rng(5)
    X = generator.normal(size=(60, 3, 2, 4)).astype(np.float32)
    X[7] = 0
    trained = np.sort(generator.permutation(60)[:40])
    rows = [3, 50, 3, 7, int(trained[0])]
    found = find_nearest(X, rows, [trained] * len(rows))
    flat = X.reshape(60, -1).astype(np.float64)
    for row, nearest in zip(rows, found, strict=True):
        with np.errstate(invalid="ignore"):
            lengths = np.linalg.norm(flat[trained], axis=1) * np.linalg.norm(flat[row])
            cosines = np.nan_to_num(flat[trained] @ flat[row] / lengths)
        expected = np.sort(cosines)[::-1][:3]
        assert [n.cosine for n in nearest] == pytest.approx(expected.tolist(), abs=1e-5)
        assert {n.row for n in nearest} <= set(trained.tolist())
    small = load_dataset(store, memory=1e-9)
    assert not isinstance(small.X, np.ndarray)
    whole = load_dataset(store)
    heads = [np.arange(15), np.arange(10, 24)]
    assert find_nearest(small.X, [30, 20], heads) == find_nearest(whole.X, [30, 20], heads)


def test_the_features_of_all_folds_are_read_once(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, whole = load_dataset(store, memory=1e-9), load_dataset(store)
    rows, count = [3, 30, 20, 4], len(whole.y)
    heads = [np.flatnonzero(np.arange(count) % 3 != fold) for fold in range(3)]
    trained = [heads[0], heads[1], heads[2], heads[0]]
    stored: Any = small.X
    asked, read = list[int](), type(stored).read

    def spy(self: Any, own: Any) -> Any:
        asked.extend(own)
        return read(self, own)

    monkeypatch.setattr(type(stored), "read", spy)
    found = find_nearest(stored, rows, trained)
    assert len(asked) <= count + len(rows) * 10
    flat = whole.X.reshape(count, -1).astype(np.float64)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    for row, own, nearest in zip(rows, trained, found, strict=True):
        expected = np.sort(flat[own] @ flat[row])[::-1][:3]
        assert [n.cosine for n in nearest] == pytest.approx(expected.tolist(), abs=1e-5)
        assert {n.row for n in nearest} <= set(own.tolist())


# Where there can be none, the reason is said.


def reason_of(made: Dataset, **how: Any) -> str:
    result, found = explained(made, **how)
    assert found.reason
    assert not any(overlay.image for overlay in found.overlays)
    assert found.method == ""
    assert all(len(nearest) == 3 for nearest in found.nearest)
    assert result.accuracy < 1
    return found.reason


def test_it_can_be_left_out(store: Path) -> None:
    assert "--overlays never" in reason_of(load_dataset(store), overlays="never")


def test_features_of_another_program_have_none(store: Path, tmp_path: Path) -> None:
    made = load_dataset(store)
    names = [made.class_names[label] for label in made.y]
    split = [("train", "validation")[side] for side in made.split]
    write_features(tmp_path / "own.h5", made.X, keys=made.keys, labels=names, split=split)
    assert "another program" in reason_of(load_dataset(tmp_path / "own.h5"))


def test_a_trunk_that_is_not_in_the_cache_is_not_built(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    said = reason_of(load_dataset(store))
    assert "not in the cache of this machine" in said
    assert "--overlays always" in said
    _, found = explained(load_dataset(store), overlays="always")
    assert found.method == "exact"

    def build(*_: Any) -> None:
        raise AssertionError("built again, perhaps in Keras")

    monkeypatch.setattr("extract.engines.select.open_engine", build)
    _, found = explained(load_dataset(store), overlays="auto")  # it is in the cache
    assert found.method == "exact"


def test_other_features_are_not_explained(store: Path, tmp_path: Path) -> None:
    made = load_dataset(store)
    other = replace(made, X=made.X[:, ::-1].copy())
    said = reason_of(other)
    assert said == "the trunk gives other features now than when they were extracted"
    # The page says why, and does not describe overlays that are not there.
    result, found = explained(other)
    analysis = analyse(other, result)
    write_report(tmp_path / "report.html", other, result, analysis, "out.h5", found)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"no overlays of where the head looked: {said}." in page
    assert 'id="hide-overlays"' not in page


@pytest.mark.filterwarnings("error")
def test_features_that_are_all_zero_are_compared(store: Path) -> None:
    zeros, ones = np.zeros((2, 4), np.float32), np.ones((2, 4), np.float32)
    maps = np.zeros((2, 3, 3, 4), np.float32)
    assert drawing._compare(maps, zeros, "avg", "float32") == ["", ""]
    assert all(drawing._compare(maps, ones, "avg", "float32"))
    assert all(drawing._compare(maps + 1, zeros, "avg", "float32"))


def test_a_vector_or_tokens_or_a_class_token_have_no_positions(store: Path) -> None:
    made = replace(load_dataset(store), store=None)
    vector = replace(made, trunk=replace(made.trunk, pooling="none"))
    assert "vector" in reason_of(vector)
    tokens = replace(vector, X=made.X.reshape(len(made.y), 8, -1))
    assert "tokens" in reason_of(tokens)


def test_images_that_are_gone_are_named(store: Path, squares: Path, tmp_path: Path) -> None:
    made = load_dataset(store)
    assert reason_of(replace(made, moved_to=str(tmp_path))) == "image not found"
    result = run(made, TrainConfig((HeadSpec("logistic"),)))
    listed = mistakes_of(result)
    assert made.digests is not None
    digests = made.digests.copy()
    own = replace(made, digests=digests)
    digests[listed[1].row] = 0
    found = explain_mistakes(replace(result, dataset=own), listed)
    assert "changed" in found.overlays[1].reason
    assert found.overlays[0].image
    assert found.overlays[2].image
    assert found.reason == ""


# The command.


def test_numbers_and_overlays_are_written(store: Path, tmp_path: Path) -> None:
    train_heads(store, output=tmp_path / "head", head="logistic", quiet=True)
    described = json.loads((tmp_path / "head/result.json").read_bytes())
    numbers = described["best"]["mistakes"]["explained"]
    assert numbers["method"] == "exact"
    assert np.shape(numbers["images"][0]["positions"]) == (16, 16)
    assert len(numbers["images"][0]["nearest"]) == 3
    page = (tmp_path / "head/report.html").read_text(encoding="utf-8")
    assert page.count('class="overlay"') == len(numbers["images"])
    assert "16 \N{MULTIPLICATION SIGN} 16 positions" in page


def test_ctrl_c_leaves_head_and_report(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(explain, "read_pixels", interrupt)
    with pytest.raises(KeyboardInterrupt, match="report, without overlays"):
        train_heads(store, output=tmp_path / "head", head="logistic", quiet=True)
    page = (tmp_path / "head/report.html").read_text(encoding="utf-8")
    assert "where the head looked: interrupted" in page
    described = json.loads((tmp_path / "head/result.json").read_bytes())
    numbers = described["best"]["mistakes"]["explained"]
    assert numbers["reason"] == "interrupted"
    assert all(len(image["nearest"]) == 3 for image in numbers["images"])  # found before
    assert 'class="nearest"' in page


@pytest.mark.parametrize("name", ["list_near_leaks", "find_nearest"])
def test_no_failure_loses_the_report(
    name: str, store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(explain, name, fail)
    _, found = explained(load_dataset(store))
    assert found.method == "exact"
    assert all(bool(near) == (name != "find_nearest") for near in found.nearest)
    noun = {"list_near_leaks": "near-duplicates", "find_nearest": "neighbours"}[name]
    assert f"no {noun}: MemoryError" in caplog.text


def test_no_memory_is_a_reason(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(explain, "run_maps", fail)
    assert reason_of(load_dataset(store)) == "MemoryError"


def test_an_error_of_ours_does_not_lose_the_report(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("WEBP")

    monkeypatch.setattr(drawing, "draw_overlay", fail)
    train_heads(store, output=tmp_path / "head", head="logistic", quiet=True)
    page = (tmp_path / "head/report.html").read_text(encoding="utf-8")
    assert "where the head looked: KeyError" in page


def test_tensorflow_is_not_loaded(store: Path, tmp_path: Path) -> None:
    import subprocess

    code = (
        "import sys; from classify import train_heads; "
        f"train_heads({str(store)!r}, output={str(tmp_path / 'head')!r}, head='logistic'); "
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    page = (tmp_path / "head/report.html").read_text(encoding="utf-8")
    assert 'class="overlay"' in page

"""Near-duplicates: all pairs against NumPy and scikit-learn, the threshold, groups and output."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from extract import find_near_duplicates, write_features
from extract.core.errors import SettingError, StoreError
from extract.pipeline.run import run_extraction as extract_features
from extract.show_cli import main as show
from extract.similarity import near_pairs
from extract.similarity.directions import Directions, to_units
from extract.similarity.near_duplicates import group_near
from extract.similarity.near_pairs import find_pairs
from extract.similarity.threshold import SAMPLE, TOO_FEW, choose_threshold
from extract.store.open import open_store
from tests.conftest import QUICK, MakeStore


def clusters(count: int, width: int, seed: int, spread: float = 0.5) -> np.ndarray:
    """Features in ten clusters, as of a trunk: positive, and zero in a part."""
    random = np.random.default_rng(seed)
    centres, mixing = random.standard_normal((10, 12)), random.standard_normal((12, width))
    hidden = centres[random.integers(0, 10, count)] + spread * random.standard_normal((count, 12))
    return np.maximum(hidden @ mixing + random.standard_normal((count, width)), 0).astype("f")


def directions_of(X: np.ndarray) -> Directions:
    return Directions(lambda rows: X[rows], np.arange(len(X)), X[0].nbytes)


def brute_force(X: np.ndarray) -> np.ndarray:
    """All cosines in float64."""
    rows = X.reshape(len(X), -1, X.shape[-1]).mean(axis=1).astype(float)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows @ rows.T)


def expected_parts(cosines: np.ndarray, threshold: float) -> list[set[int]]:
    """The groups of two rows or more, by following links one after the other."""
    left, parts = set(range(len(cosines))), []
    while left:
        part, new = set[int](), {min(left)}
        while new:
            part |= new
            new = {j for i in new for j in np.flatnonzero(cosines[i] >= threshold).tolist()} - part
        left -= part
        parts += [part] if len(part) > 1 else []
    return parts


@pytest.mark.parametrize(("count", "width"), [(300, 40), (SAMPLE + 200, 160), (SAMPLE + 200, 50)])
def test_pairs_are_those_of_all_products(count: int, width: int) -> None:
    X = clusters(count, width, 0)
    random = np.random.default_rng(1)
    copied, rows = random.permutation(count)[:120].reshape(2, 60)
    X[rows] = X[copied] * (1 + 0.05 * random.standard_normal((60, width)))
    cosines = brute_force(X)
    threshold = float(np.sort(cosines[np.triu_indices(count, 1)])[-20_000])
    pairs = find_pairs(directions_of(X), threshold)
    # Rounding decides about a pair at the threshold.
    sure, most = (
        set(zip(*np.nonzero(np.triu(cosines >= threshold + rest, 1)), strict=True))
        for rest in (3e-6, -3e-6)
    )
    assert sure <= set(zip(pairs.first, pairs.second, strict=True)) <= most
    assert len(pairs.first) == len(set(zip(pairs.first, pairs.second, strict=True)))
    np.testing.assert_allclose(pairs.cosine, cosines[pairs.first, pairs.second], atol=2e-6)


@pytest.mark.parametrize("quantile", [0.9, 0.999, 0.99999])
def test_features_of_a_high_rank_are_compared_block_by_block(
    quantile: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pairs and cosines are bit by bit those of pairs that are compared one by one."""
    random = np.random.default_rng(0)
    X = random.standard_normal((SAMPLE + 200, 150)) @ random.standard_normal((150, 200))
    X[-100:] = X[:100] + 0.1 * random.standard_normal((100, 200))
    cosines = brute_force(X[:, None])
    above = np.sort(cosines[np.triu_indices(len(X), 1)])
    threshold = float(above[int(quantile * len(above))])
    directions, blocks = directions_of(X.astype("f")), list[int]()
    are_near = near_pairs._are_near

    def count(*block: Any) -> np.ndarray:
        blocks.append(1)
        return are_near(*block)

    monkeypatch.setattr(near_pairs, "_are_near", count)
    pairs = find_pairs(directions, threshold)
    assert blocks
    monkeypatch.setattr(near_pairs, "_DENSE", 1)
    for found, wanted in zip(pairs, find_pairs(directions, threshold), strict=True):
        np.testing.assert_array_equal(found, wanted)
    least, most = ((above >= threshold + rest).sum() for rest in (3e-6, -3e-6))
    assert least <= len(pairs.first) <= most


def test_no_pair_is_missed_that_differs_outside_of_the_projection() -> None:
    random = np.random.default_rng(0)
    count = SAMPLE + 100
    X = random.standard_normal((count, 20)) @ random.standard_normal((20, 160))
    copied, rows = np.arange(0, 30), np.arange(100, 130)
    X[rows] = X[copied]
    X[rows, random.integers(0, 160, 30)] += 0.3 * np.linalg.norm(X[rows], axis=1)
    pairs = find_pairs(directions_of(X.astype("f")), 0.93)
    assert set(zip(copied, rows, strict=True)) <= set(zip(pairs.first, pairs.second, strict=True))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 40), threshold=st.floats(0.2, 0.999))
def test_groups_are_the_connected_parts(seed: int, count: int, threshold: float) -> None:
    X = clusters(count, 6, seed)
    X = X[X.any(axis=1)]
    if not len(X):
        return
    cosines = brute_force(X)
    if (np.abs(cosines - threshold) < 3e-6).any():
        return
    parts, _ = group_near(directions_of(X), threshold)
    found = [set(np.flatnonzero(parts == part)) for part in range(parts.max() + 1)]
    assert [part for part in found if len(part) > 1] == expected_parts(cosines, threshold)


def test_the_nearest_image_is_that_of_scikit_learn(make_store: MakeStore) -> None:
    X = clusters(80, 30, 3)
    found = find_near_duplicates(make_store(X, [0, 1] * 40), 0.8)
    distance, nearest = NearestNeighbors(n_neighbors=2, metric="cosine").fit(X).kneighbors(X)
    assert len(found) > 20
    for image, row in zip(found, found.rows, strict=True):
        assert image.nearest == f"{nearest[row, 1]:06d}.png"
        assert image.cosine == pytest.approx(1 - distance[row, 1], abs=2e-6)
    assert {row for row in range(80) if distance[row, 1] <= 0.2} == set(found.rows)


def test_nothing_is_found_among_images_that_are_no_copies() -> None:
    false = 0
    for seed in range(40):
        X = clusters((60, 120, 400)[seed % 3], 64, seed)
        directions = directions_of(X)
        threshold = choose_threshold(directions)
        assert threshold.cosine < 1 - 1e-4
        false += len(find_pairs(directions, threshold.cosine).first)
    # A tenth of a pair is expected in each.
    assert false <= 10


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("share", [0.05, 1.0])
def test_copies_are_found_of_a_few_images_and_of_all(copies: int, share: float) -> None:
    X, random = clusters(200, 64, 5), np.random.default_rng(5)
    copied = np.repeat(random.permutation(200)[: int(200 * share)], copies)
    noisy = X[copied] * (1 + 0.03 * random.standard_normal((len(copied), 64)))
    joined = np.concatenate([X, noisy.astype("f")])
    directions = directions_of(joined)
    parts, _ = group_near(directions, choose_threshold(directions).cosine)
    origins = np.concatenate([np.arange(200), copied])
    assert len(np.unique(parts)) == 200
    assert all(len(np.unique(parts[origins == origin])) == 1 for origin in range(200))


def test_the_threshold_of_many_images_comes_from_a_sample() -> None:
    threshold = choose_threshold(directions_of(clusters(SAMPLE + 100, 16, 0)))
    assert threshold.origin == f"from the cosines of a sample of {SAMPLE:,} images"
    assert 0.9 < threshold.cosine < 1


def test_of_too_few_images_only_the_same_features_are_near(make_store: MakeStore) -> None:
    X = clusters(9, 32, 0)
    X[5], X[7] = X[2], X[2]
    X[6] = X[1] * 1.02 + 0.02
    found = find_near_duplicates(make_store(X, [0, 1, 0] * 3))
    assert (found.origin, found.rows) == (TOO_FEW, (2, 5, 7))
    assert [image.nearest for image in found] == ["000005.png", "000002.png", "000002.png"]
    assert find_near_duplicates(make_store(X[:1], [0], name="one.h5")).images == ()


def test_rows_without_a_direction_are_left_out(
    make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    X = clusters(30, 16, 0)
    X[3] = X[4] = 0
    X[5, 2], X[6, 1] = np.nan, np.inf
    X[9] = X[8]
    found = find_near_duplicates(make_store(X, [0, 1] * 15, failed=(7,)))
    assert found.rows == (8, 9)
    assert found.compared == 25
    assert "left out: 4 images whose features are all zero or not finite" in caplog.text


def test_rows_that_are_still_to_do_are_left_out(
    make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    X = clusters(30, 16, 0)
    X[9] = X[8]
    path = make_store(X, [0, 1] * 15)
    with open_store(path, write=True) as store:
        store.forget(np.array([2, 8]))
    assert find_near_duplicates(path).rows == ()
    assert "2 images still to do are left out" in caplog.text


def test_all_rows_alike_are_one_group(
    make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    found = find_near_duplicates(make_store(np.ones((70, 8), "f"), [0, 1] * 35))
    assert [len(group) for group in found.groups] == [70]
    assert "near: one group holds 70 of 70 images, perhaps linked by a chain; look" in caplog.text
    assert "35 with different" not in found.summary()
    assert "1 with different labels" in found.summary()
    zeros = find_near_duplicates(make_store(np.zeros((70, 8), "f"), [0, 1] * 35, name="zero.h5"))
    assert (len(zeros), zeros.compared) == (0, 0)


def test_huge_numbers_do_not_overflow() -> None:
    X = clusters(40, 16, 0)
    np.testing.assert_allclose(to_units(X * np.float32(1e37)), to_units(X), atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_maps_are_averaged(make_store: MakeStore, dtype: str) -> None:
    maps = np.random.default_rng(0).random((60, 3, 3, 20)).astype(dtype)
    maps[11] = maps[50][::-1, ::-1]  # shifted to other positions
    found = find_near_duplicates(make_store(maps, [0, 1] * 30), 0.999)
    cosines = brute_force(maps)
    assert found.rows == (11, 50)
    assert found[0].cosine == pytest.approx(cosines[11, 50], abs=1e-5)


def test_the_layer_is_named_of_several(make_store: MakeStore) -> None:
    X = {"conv1_relu": clusters(50, 8, 0), "conv_pw_1": clusters(50, 8, 1)}
    X["conv_pw_1"][20] = X["conv_pw_1"][10]
    path = make_store(X, [0, 1] * 25)
    assert find_near_duplicates(path, 0.99999, layer="conv_pw_1").rows == (10, 20)
    assert find_near_duplicates(path, 0.99999, layer="conv1_relu").rows == ()
    with pytest.raises(SettingError, match="holds conv1_relu, conv_pw_1; name one"):
        find_near_duplicates(path)
    with pytest.raises(SettingError, match="'conv_pw' is unknown; nearest: conv_pw_1"):
        find_near_duplicates(path, layer="conv_pw")


def test_images_of_several_files_are_compared(images: Path, tmp_path: Path) -> None:
    name = images / "train/cat/0.png"
    (images / "validation/dog/copy.png").write_bytes(name.read_bytes())
    whole, parts = tmp_path / "whole.h5", tmp_path / "parts.h5"
    extract_features(images, whole, **QUICK)
    extract_features(images, parts, **{**QUICK, "shards": tmp_path / "shards"})
    found = find_near_duplicates(parts)
    assert [image.key for image in found] == ["train/cat/0.png", "validation/dog/copy.png"]
    assert found.images == find_near_duplicates(whole).images


def test_too_many_pairs_are_refused() -> None:
    X = 1 + 0.1 * clusters(3300, 8, 0)
    with pytest.raises(SettingError, match="found more than 5,000,000 pairs"):
        find_pairs(directions_of(X), 0.1)


def test_the_command_prints_groups_and_a_summary(
    make_store: MakeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    X = clusters(60, 32, 2)
    X[31], X[45] = X[4], X[4]
    X[40] = X[20]
    keys = [f"{i:02d}.png" for i in range(60)]
    keys[40] = "=cmd.png"
    split = [0] * 40 + [1] * 20
    path = str(make_store(X, [0] * 35 + [1] * 25, split, keys))
    assert show([path, "--near"]) == 0
    out, err = capsys.readouterr()
    rows = list(csv.reader(io.StringIO(out)))
    assert rows == [
        ["group", "key", "label", "split", "nearest", "cosine"],
        ["1", "04.png", "cat", "train", "31.png", "1.0"],
        ["1", "31.png", "cat", "train", "04.png", "1.0"],
        ["1", "45.png", "dog", "validation", "04.png", "1.0"],
        ["2", "20.png", "cat", "train", "'=cmd.png", "1.0"],
        ["2", "'=cmd.png", "dog", "validation", "20.png", "1.0"],
    ]
    assert "2 groups of 5 near-duplicates among 60 images, the largest of 3; 2 in several" in err
    assert "splits, 2 with different labels; near is a cosine of 0.9" in err
    assert "(from the cosines of all images)" in err
    assert show([path, "--near", "1", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["key"] for line in lines] == ["04.png", "31.png", "45.png", "20.png", "=cmd.png"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--near", "1.5"], "found '1.5'; expected a cosine above 0, at most 1"),
        (["--near", "--verify"], "--near and --verify cannot be combined; choose one"),
        (["--near", "--export", "a.csv"], "--export and --near cannot be combined; choose one"),
        (["--near", "--limit", "3"], "--near and --limit cannot be combined; choose one"),
        (["--page", "a.html"], "page: has no effect without --near"),
        (["--near", "--source", "a"], "source: has no effect without a page"),
        (["--near", "--split", "train"], "split: has no effect without --export"),
        (["--outliers", "0"], "found '0'; expected a whole number above 0"),
        (["--like", "a", "--outliers", "3"], "--like and --outliers cannot be combined"),
        (["--top", "3"], "top: has no effect without --like"),
        (["--near", "--weights", "a"], "weights: has no effect without --like"),
    ],
)
def test_flags_that_do_not_go_together_are_named(
    make_store: MakeStore, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    path = make_store(clusters(5, 8, 0), [0, 1, 0, 1, 0])
    try:
        code = show([str(path), *flags])
    except SystemExit as ended:
        code = int(str(ended.code))
    assert code == 2
    assert message in capsys.readouterr().err


def test_the_page_shows_the_images_of_each_group(images: Path, tmp_path: Path) -> None:
    pixels = Image.open(images / "train/cat/0.png").convert("RGB")
    pixels.save(images / "train/dog/again.jpg", quality=95)
    out, page = tmp_path / "out.h5", tmp_path / "near.html"
    extract_features(images, out, **QUICK)
    find_near_duplicates(out, 0.98, page=page)
    text = page.read_text(encoding="utf-8")
    assert "Group 1: " in text
    assert text.count("data:image/webp;base64") >= 2
    assert "train/dog/again.jpg" in text
    with pytest.raises(StoreError, match=r"out\.h5: found the ending '\.h5'; expected \.html"):
        find_near_duplicates(out, page=out)
    moved = images.rename(tmp_path / "moved")
    find_near_duplicates(out, 0.98, page=page)
    assert "data:image/webp;base64" not in page.read_text(encoding="utf-8")
    find_near_duplicates(out, 0.98, page=page, source=moved)
    assert page.read_text(encoding="utf-8") == text


def test_features_of_another_program_have_no_page(tmp_path: Path) -> None:
    X = clusters(50, 8, 0)
    X[9] = X[3]
    path = tmp_path / "out.h5"
    write_features(path, X, labels=["cat", "dog"] * 25, quiet=True)
    assert find_near_duplicates(path).rows == (3, 9)
    with pytest.raises(SettingError, match="features of another program, without images"):
        find_near_duplicates(path, page=tmp_path / "near.html")
    assert not (tmp_path / "near.html").exists()

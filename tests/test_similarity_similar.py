"""Similar images and outliers: against scikit-learn, photos through the recorded trunk, output."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from extract import find_outliers, find_similar, write_features
from extract.core.errors import SettingError, StoreError
from extract.pipeline.run import run_extraction as extract_features
from extract.show_cli import main as show
from extract.similarity import similar
from extract.store.open import open_store
from tests.conftest import QUICK, MakeStore
from tests.test_similarity_near_duplicates import clusters


def test_similar_images_are_those_of_scikit_learn(make_store: MakeStore) -> None:
    X = clusters(90, 30, 0)
    split = [row % 3 for row in range(90)]
    path = make_store(X, [0, 1, -1] * 30, split, failed=(50,))
    rows = [row for row in range(90) if row != 50]
    model = NearestNeighbors(n_neighbors=8, metric="cosine").fit(X[rows])
    distance, place = model.kneighbors(X[7:8])
    found = find_similar(path, "000007.png", 7)
    assert found.rows == tuple(rows[one] for one in place[0, 1:])
    np.testing.assert_allclose([one.cosine for one in found], 1 - distance[0, 1:], atol=2e-6)
    assert found[0].label == ("cat", "dog", "")[found.rows[0] % 3]
    assert found[0].split == ("train", "validation", "test")[found.rows[0] % 3]
    assert len(find_similar(path, "000007.png", 500)) == 88
    assert "000007.png" not in [one.key for one in find_similar(path, "000007.png", 500)]


@pytest.mark.parametrize("references", [5000, 40])
def test_outliers_have_the_lowest_mean_cosine(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, references: int
) -> None:
    monkeypatch.setattr(similar, "_REFERENCES", references)
    X = clusters(90, 30, 1)
    X[33] = np.random.default_rng(0).random(30) * (np.arange(30) % 7 == 0)
    found = find_outliers(make_store(X, [0, 1] * 45), 90)
    chosen = np.arange(90)
    if references < 90:
        chosen = np.sort(np.random.default_rng(0).choice(90, references, replace=False))
    units = X.astype(float) / np.linalg.norm(X, axis=1, keepdims=True)
    cosines = units @ units[chosen].T
    cosines[chosen, np.arange(len(chosen))] = -2
    means = np.sort(cosines, axis=1)[:, -10:].mean(axis=1)
    np.testing.assert_allclose([one.cosine for one in found], np.sort(means), atol=1e-5)
    np.testing.assert_allclose(means[list(found.rows)], np.sort(means), atol=1e-5)
    assert found[0].key == "000033.png"
    assert found.references == min(references, 90)


def test_few_rows_have_few_neighbours(make_store: MakeStore, tmp_path: Path) -> None:
    X = clusters(3, 8, 0)
    one = find_outliers(make_store(X[:1], [0], name="one.h5"), 5)
    assert [image.cosine for image in one] == [0.0]
    assert len(find_outliers(make_store(X, [0, 1, 0], name="three.h5"), 5)) == 3
    assert len(find_similar(tmp_path / "one.h5", "000000.png")) == 0


def test_a_photo_goes_through_the_recorded_trunk(images: Path, tmp_path: Path) -> None:
    out, other, photo = tmp_path / "out.h5", tmp_path / "other.h5", tmp_path / "photo.jpg"
    extract_features(images, out, **QUICK)
    pixels = np.random.default_rng(5).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photo)
    found = find_similar(out, photo, 8)
    extract_features(photo, other, **QUICK)
    with open_store(out) as store, open_store(other) as alone:
        X, y = (one.read("conv1_relu", slice(None)).astype(float) for one in (store, alone))
        keys = store.keys
    cosines = (X @ y[0]) / np.linalg.norm(X, axis=1) / np.linalg.norm(y[0])
    assert [one.key for one in found] == [keys[row] for row in np.argsort(-cosines)]
    np.testing.assert_allclose([one.cosine for one in found], np.sort(cosines)[::-1], atol=1e-5)


def test_a_photo_that_is_in_the_file_needs_no_trunk(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, photo = tmp_path / "out.h5", tmp_path / "photo.png"
    extract_features(images, out, **QUICK)
    photo.write_bytes((images / "train/dog/1.png").read_bytes())
    monkeypatch.setattr(similar, "_run_trunk", None)
    found = find_similar(out, photo, 2)
    assert (found[0].key, found[0].cosine) == ("train/dog/1.png", pytest.approx(1))


def test_another_trunk_is_refused(images: Path, tmp_path: Path) -> None:
    import keras

    model = keras.Sequential(
        [keras.Input((32, 32, 3)), keras.layers.Conv2D(4, 3, name="low", activation="relu")]
    )
    mine, photo, out = tmp_path / "mine.keras", tmp_path / "photo.jpg", tmp_path / "out.h5"
    model.save(mine)
    extract_features(images, out, trunk=str(mine), preprocess="none", layer=("low",))
    Image.new("RGB", (40, 40), (9, 90, 200)).save(photo)
    assert len(find_similar(out, photo)) == 8
    moved = mine.rename(tmp_path / "moved.keras")
    with pytest.raises(StoreError, match=r"mine\.keras is gone.*--weights FILE"):
        find_similar(out, photo)
    assert len(find_similar(out, photo, weights=moved)) == 8
    model.layers[0].set_weights([weight + 1 for weight in model.layers[0].get_weights()])
    model.save(moved)
    with pytest.raises(StoreError, match=r"has SHA-256 .* which made the features"):
        find_similar(out, photo, weights=moved)


@pytest.mark.parametrize(
    ("like", "message"),
    [
        (
            "cat/1.png",
            r"is no key of .* and no file; nearest: (train|validation)/cat/1.png, (t|v)\w+/cat/1",
        ),
        ("train/cat/11.png", "nearest: train/cat/1.png"),
        ("", "is no key of .* and no file"),
        (".", "is a folder; expected a key or one photo"),
        ("broken.png", "broken.png: is not an image"),
        ("empty.png", "empty.png: .*expected a photo"),
    ],
)
def test_what_is_no_image_is_named(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, like: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.png").write_text("no image")
    Path("empty.png").touch()
    extract_features(images, tmp_path / "out.h5", **QUICK)
    with pytest.raises(SettingError, match=message):
        find_similar(tmp_path / "out.h5", like)


def test_features_without_a_trunk_are_compared_by_key(
    make_store: MakeStore, tmp_path: Path
) -> None:
    X, path, photo = clusters(20, 8, 0), tmp_path / "out.h5", tmp_path / "a.jpg"
    write_features(path, X, quiet=True)
    Image.new("RGB", (8, 8)).save(photo)
    assert len(find_similar(path, "000000003", 4)) == 4
    with pytest.raises(SettingError, match=r"features of another program.*name a key"):
        find_similar(path, photo)
    X[3] = 0
    failed = make_store(X, [0, 1] * 10, failed=(5,))
    with pytest.raises(StoreError, match=r"000003\.png are all zero or not finite"):
        find_similar(failed, "000003.png")
    with pytest.raises(StoreError, match=r"000005\.png has no features"):
        find_similar(failed, "000005.png")


def test_the_commands_print_images_and_write_pages(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = str(tmp_path / "out.h5"), tmp_path / "page.html"
    extract_features(images, tmp_path / "out.h5", **QUICK)
    flags = ["--like", "train/cat/0.png", "--top", "3", "--page", str(page)]
    assert show([out, *flags]) == 0
    text, err = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(text)))
    expected = find_similar(out, "train/cat/0.png", 3)
    assert [row["key"] for row in rows] == [one.key for one in expected]
    assert list(rows[0]) == ["key", "label", "split", "cosine"]
    assert "the 3 most similar to train/cat/0.png of 8 images" in err
    html = page.read_text(encoding="utf-8")
    assert html.count("data:image/webp;base64") == 4
    assert "Asked for" in html
    assert show([out, "--outliers", "2", "--page", str(page)]) == 0
    text, err = capsys.readouterr()
    assert [line.split(",")[0] for line in text.splitlines()[1:]] == [
        one.key for one in find_outliers(out, 2)
    ]
    assert "the 2 of 8 images with the lowest mean cosine" in err
    assert page.read_text(encoding="utf-8").count("data:image/webp;base64") == 2

"""A file that is replaced while heads are trained on it is an error, never another file's rows."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classify import sweep
from classify.data.dataset import Dataset, budget_for_layer, load_dataset
from classify.stored.out_of_core import iter_chunks
from extract.core.errors import StoreError
from extract.pipeline.run import run_extraction as extract_features
from tests.conftest import QUICK, MakeStore

# GB: no room for anything.
NONE = 1e-9
LAYERS = ("conv1_relu", "conv_pw_1_relu")
CHANGED = "out.h5: changed while it was read; expected the same file all the time; run the same"


def read_layer(dataset: Dataset) -> Any:
    return sweep(dataset, "layer=conv1_relu,conv_pw_1_relu", head="lda").entries


def read_views(dataset: Dataset) -> Any:
    assert dataset.views is not None
    return dataset.views.of(np.arange(3)).features


def read_rows(dataset: Dataset) -> Any:
    return np.concatenate([rows for _, rows in iter_chunks(dataset.X)])


def plan_layer(dataset: Dataset) -> Any:
    return budget_for_layer(dataset, "conv_pw_1_relu").shape


Again = Callable[[Dataset], Any]


def datasets(path: Path) -> list[tuple[Dataset, Again]]:
    """Return datasets of a store, each with what reads it again."""
    held, left = load_dataset(path, LAYERS[0]), load_dataset(path, LAYERS[0], memory=NONE)
    return [(held, read_layer), (held, read_views), (left, read_rows), (held, plan_layer)]


def test_a_store_that_is_updated_or_replaced_is_not_read_on(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    settings: dict[str, Any] = {**QUICK, "layer": LAYERS, "pooling": "avg", "views": 1}
    extract_features(images, out, **settings)
    first = datasets(out)
    before = [again(dataset) for dataset, again in first]
    # The same command touches the file and changes nothing.
    touched = out.stat().st_mtime_ns
    extract_features(images, out, **settings)
    assert out.stat().st_mtime_ns != touched
    for (dataset, again), known in zip(first, before, strict=True):
        assert str(again(dataset)) == str(known)
    pixels = np.random.default_rng(5).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for how in ("update", "overwrite"):
        # The first in the order of the file: every row moves.
        Image.fromarray(pixels).save(images / "train" / "cat" / f"0 {how}.png")
        made = datasets(out)
        extract_features(images, out, **settings, **{how: True})
        for dataset, again in made:
            with pytest.raises(StoreError, match=CHANGED):
                again(dataset)
    out.unlink()
    with pytest.raises(StoreError, match="no such file"):
        datasets(out)


def test_shards_that_are_replaced_are_not_read_on(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    settings: dict[str, Any] = {**QUICK, "pooling": "avg", "shards": str(tmp_path / "parts")}
    extract_features(images, out, **settings)
    left = load_dataset(out, memory=NONE)
    whole = read_rows(left)
    extract_features(images, out, **settings)
    np.testing.assert_array_equal(read_rows(left), whole)
    part = tmp_path / "parts" / "shard-00000.h5"
    former = part.read_bytes()
    (images / "train" / "cat" / "0.png").rename(images / "train" / "cat" / "9.png")
    extract_features(images, out, **settings, overwrite=True)
    with pytest.raises(StoreError, match=CHANGED):
        read_rows(left)
    # One of its files alone.
    left = load_dataset(out, memory=NONE)
    part.write_bytes(former)
    with pytest.raises(StoreError, match="shard-00000"):
        read_rows(left)


@pytest.mark.parametrize(
    "replaced_by", [os.replace, lambda new, old: old.write_bytes(new.read_bytes())]
)
def test_other_features_of_the_same_images_are_a_change(
    replaced_by: Callable[[Path, Path], Any], make_store: MakeStore
) -> None:
    X = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    labels = [0, 1] * 20
    out, other = (
        make_store(values, labels, name=name) for values, name in ((X, "out.h5"), (-X, "other.h5"))
    )
    left = load_dataset(out, memory=NONE)
    np.testing.assert_array_equal(read_rows(left), X)
    replaced_by(other, out)
    with pytest.raises(StoreError, match=CHANGED):
        read_rows(left)

"""Features for other programs: the forms, what opens them, the way back, what is refused."""

import csv
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars
import pytest
from pyarrow import parquet

from extract import SettingError, StoreError, export_features, extract_features, write_features
from extract.exchange import feature_table
from extract.show_cli import main as show
from extract.store.open import open_store

FORMS = ["parquet", "npz", "csv"]
KEYS = ["b/é.png", "=a.png", "'=a.png", "''-d.png"]
X = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)


def content(path: Path, layer: str | None = None) -> tuple[Any, ...]:
    with open_store(path) as store:
        layer = layer or next(iter(store.shapes))
        values = store.read(layer, slice(None))
        columns = (store.keys, store.labels.tolist(), store.split.tolist(), store.groups)
        return (*columns, store.class_names, store.shapes[layer], store.dtype, values.tobytes())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_export_becomes_the_same_store_again(
    form: str, dtype: str, make_store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_table, "BLOCK_BYTES", 40)  # one or two rows at a time
    maps = X.reshape(4, 1, 2, 3).astype(dtype)
    path = make_store(
        {"low": maps, "a+b": X.astype(dtype)},
        [1, 0, -1, 1],
        split=[0, 1, 2, 0],
        keys=KEYS,
        groups=["p1", "", "=p2", "p1"],
        class_names=("+cat", "dog"),
    )
    for layer in ("low", "a+b"):
        out, again = tmp_path / f"{layer}.{form}", tmp_path / f"{layer}.h5"
        assert export_features(path, out, layer=layer) == out
        extract_features(out, again, dtype=dtype, quiet=True)
        assert content(again) == content(path, layer)
        assert extract_features(out, again).computed == 0
        export_features(again, out)  # an earlier export is replaced
        extract_features(out, again, update=True)
        assert content(again) == content(path, layer)


@pytest.mark.parametrize("form", ["parquet", "npz"])
def test_the_order_of_the_classes_and_odd_names_stay(form: str, tmp_path: Path) -> None:
    names = ["dog", " cat", "NA", "empty", "10", "9"]
    write_features(tmp_path / "a.h5", X, labels=[2, 1, 4, 5], class_names=names)
    export_features(tmp_path / "a.h5", tmp_path / f"a.{form}")
    extract_features(tmp_path / f"a.{form}", tmp_path / "b.h5")
    assert content(tmp_path / "a.h5") == content(tmp_path / "b.h5")


def test_a_csv_warns_of_classes_that_it_does_not_keep(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_features(tmp_path / "a.h5", X, labels=[0, 1, 1, 0], class_names=["b", "a"])
    export_features(tmp_path / "a.h5", tmp_path / "a.csv")
    assert "CSV does not keep empty classes, the order of classes" in caplog.text


def test_pandas_and_plain_numpy_open_it(tmp_path: Path) -> None:
    labels, split = ["dog", "=cat", "", "dog"], ["train", "test", "test", "train"]
    write_features(tmp_path / "a.h5", X, labels=labels, keys=KEYS, split=split)
    export_features(tmp_path / "a.h5", tmp_path / "a.parquet", split="test")
    frame = pd.read_parquet(tmp_path / "a.parquet")
    assert list(frame) == ["key", "label", "split", "features"]
    assert frame[["key", "label", "split"]].to_numpy().tolist() == [
        ["=a.png", "=cat", "test"],
        ["'=a.png", "", "test"],
    ]
    assert np.stack(frame["features"].tolist()).tobytes() == X[1:3].tobytes()
    assert parquet.read_schema(tmp_path / "a.parquet").field("features").type.list_size == 6
    export_features(tmp_path / "a.h5", tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"keys", "labels", "split", "class_names", "features"}
        assert arrays["features"].tobytes() == X.tobytes()
        assert arrays["labels"].tolist() == labels
        assert arrays["class_names"].tolist() == ["=cat", "dog"]
    export_features(tmp_path / "a.h5", tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["key", "label", "split", *(f"feature_{i}" for i in range(6))]
    assert rows[2][:3] == ["'=a.png", "'=cat", "test"]


def test_polars_and_duckdb_open_it(tmp_path: Path) -> None:
    labels = ["dog", "=cat", "", "dog"]
    write_features(tmp_path / "a.h5", X, labels=labels, keys=KEYS)
    path = tmp_path / "a.parquet"
    export_features(tmp_path / "a.h5", path)
    frame = polars.read_parquet(path)
    assert frame.select("key", "label").rows() == list(zip(KEYS, labels, strict=True))
    assert frame["features"].to_numpy().tobytes() == X.tobytes()
    rows = duckdb.sql(f"select key, label, features from '{path}'").fetchall()
    assert [row[:2] for row in rows] == list(zip(KEYS, labels, strict=True))
    assert np.array([row[2] for row in rows], "float32").tobytes() == X.tobytes()


def test_only_finished_rows_are_exported(
    make_store: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = make_store(X, [0, 1, 0, 1], failed=[2])
    export_features(path, tmp_path / "a.npz")
    assert "left out: 1 row that could not be read" in caplog.text
    with np.load(tmp_path / "a.npz") as arrays:
        assert arrays["keys"].tolist() == ["000000.png", "000001.png", "000003.png"]
    with open_store(path, write=True) as store:
        store.forget(np.array([0]))
    with pytest.raises(StoreError, match="1 of 4 rows have no features yet; run the same extract"):
        export_features(path, tmp_path / "a.npz")


def test_what_an_export_refuses(make_store: Any, tmp_path: Path) -> None:
    path = make_store({"low": X, "high": X}, [0, 1, 0, 1])
    table = tmp_path / "a.parquet"
    with pytest.raises(SettingError, match="holds low, high; name one with --layer"):
        export_features(path, table)
    with pytest.raises(SettingError, match="layer 'hih' is unknown; nearest: high"):
        export_features(path, table, layer="hih")
    with pytest.raises(SettingError, match=r"found the ending '.txt' in .*; expected .parquet, "):
        export_features(path, tmp_path / "a.txt", layer="low")
    with pytest.raises(StoreError, match="found no finished row in test"):
        export_features(path, table, layer="low", split="test")
    pd.DataFrame({"mine": [1]}).to_parquet(table)
    for form in ("npz", "csv"):
        (tmp_path / f"a.{form}").write_text("mine\n", newline="\n")
    for form in FORMS:
        before = (tmp_path / f"a.{form}").read_bytes()
        with pytest.raises(StoreError, match="holds something else; expected an export of show-"):
            export_features(path, tmp_path / f"a.{form}", layer="low")
        assert (tmp_path / f"a.{form}").read_bytes() == before
    own = tmp_path / "vectors.csv"
    for heading in ("group,notes", "notes,feature_0", "feature_0,notes", "feature_x"):
        own.write_text(f"key,label,split,{heading}\n", newline="\n")
        with pytest.raises(StoreError, match="holds something else"):
            export_features(path, own, layer="low")
    np.save(tmp_path / "q.npy", X)
    extract_features(tmp_path / "q.npy", tmp_path / "q.h5")
    with pytest.raises(StoreError, match="has the place of the table that describes the rows of"):
        export_features(tmp_path / "q.h5", tmp_path / "q.csv")
    assert not (tmp_path / "q.csv").exists()
    link = tmp_path / "link.csv"
    link.symlink_to(path)
    with pytest.raises(StoreError, match="is read by this command; name another"):
        export_features(path, link, layer="low")


def test_the_command(make_store: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = str(make_store(X, [0, 1, 0, 1], split=[0, 0, 1, 1])), str(tmp_path / "a.npz")
    assert show([path, "--export", out, "--split", "validation", "--layer", "conv1_relu"]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert f"{out}: 2 rows of 6 features" in said.err
    assert show([path, "--layer", "conv1_relu"]) == 2
    assert "layer: has no effect without --export" in capsys.readouterr().err
    assert show([path, "--export", out, "--verify"]) == 2
    assert "--export and --verify cannot be combined" in capsys.readouterr().err

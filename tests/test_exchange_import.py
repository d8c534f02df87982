"""Features that another program made become a file of features: forms, refusals, reruns."""

import doctest
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import feather, parquet
from scipy.sparse import csr_matrix

from extract import SettingError, SourceError, StoreError, extract_features, write_features
from extract.cli import main
from extract.display.tables import csv_text, from_csv_text
from extract.exchange import feature_table
from extract.limits import unpacked
from extract.show_cli import main as show
from extract.store.open import Store, open_store
from extract.store.verify import verify

KEYS = ["b", "a", "c d", "é"]
LABELS = ["dog", "=cat", "dog", ""]
SPLIT = ["train", "validation", "test", "train"]
GROUPS = ["p1", "p2", "", "p1"]
X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
TEXTS = {"key": KEYS, "label": LABELS, "split": SPLIT, "group": GROUPS}


def read(path: Path) -> Store:
    with open_store(path) as store:
        assert verify(store) == []
        return store


def features_of(path: Path) -> np.ndarray:
    with open_store(path) as store:
        return store.read(next(iter(store.shapes)), slice(None))


def make_npz(folder: Path) -> Path:
    columns: dict[str, Any] = {f"{role}s": np.array(values) for role, values in TEXTS.items()}
    np.savez(folder / "v.npz", features=X, **columns)
    return folder / "v.npz"


def make_compressed(folder: Path) -> Path:
    columns: dict[str, Any] = {"ids": KEYS, "labels": LABELS, "split": SPLIT, "group": GROUPS}
    np.savez_compressed(folder / "v.npz", embeddings=np.asfortranarray(X), **columns)
    return folder / "v.npz"


def make_npy(folder: Path) -> Path:
    np.save(folder / "v.npy", X)
    pd.DataFrame(TEXTS).to_csv(folder / "v.csv", index=False)
    return folder / "v.npy"


def make_hdf5(folder: Path) -> Path:
    with h5py.File(folder / "v.h5", "w") as file:
        file.create_dataset("features", data=X, chunks=(2, 3), compression="gzip")
        for name, values in TEXTS.items():
            file[name] = values
    return folder / "v.h5"


def make_parquet(folder: Path) -> Path:
    frame = pd.DataFrame({**TEXTS, "embedding": list(X)})
    frame.to_parquet(folder / "v.parquet", row_group_size=3)
    return folder / "v.parquet"


def make_arrow(folder: Path) -> Path:
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), 3)
    table = pa.table({**TEXTS, "vector": fixed})
    with pa.ipc.new_file(folder / "v.arrow", table.schema) as file:
        file.write_table(table)
    return folder / "v.arrow"


def make_feather(folder: Path) -> Path:
    feather.write_feather(pa.table({**TEXTS, "vector": list(X)}), folder / "v.feather")
    return folder / "v.feather"


def test_arrays_of_splits_are_joined(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"X_train": X[:2], "X_test": X[2:], "y_train": LABELS[:2]}
    arrays["y_test"] = ["dog", "=cat"]
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.update(arrays)
    np.savez(tmp_path / "v.npz", **arrays)
    for ending in ("npz", "h5"):
        extract_features(tmp_path / f"v.{ending}", out := tmp_path / f"{ending}-out.h5")
        store = read(out)
        assert (store.class_names, store.labels.tolist()) == (("=cat", "dog"), [1, 0, 1, 0])
        order = np.argsort(store.split, kind="stable")  # HDF5 has the arrays by name
        assert store.split[order].tolist() == [0, 0, 2, 2]
        assert features_of(out)[order].tobytes() == X.tobytes()
    np.savez(tmp_path / "v.npz", **{**arrays, "X_test": X[2:, :2]})
    with pytest.raises(SourceError, match=r"found X_train of \(3,\) .* and X_test of \(2,\) "):
        extract_features(tmp_path / "v.npz", out)
    np.savez(tmp_path / "v.npz", **{**arrays, "y_train": LABELS[:1]})
    with pytest.raises(SourceError, match=r"found y_train of shape \(1,\) beside 2 rows"):
        extract_features(tmp_path / "v.npz", out)
    extract_features(tmp_path / "v.npz", out, columns="features=X_test", overwrite=True)
    assert features_of(out).tobytes() == X[2:].tobytes()
    pixels: dict[str, Any] = {
        f"x_{split}": np.zeros((2, 5, 5), np.float32) for split in ("train", "test")
    }
    np.savez(tmp_path / "v.npz", y_train=np.eye(2), **pixels)
    with pytest.raises(SourceError, match=r"x_train has values of 0 to 0; store"):
        extract_features(tmp_path / "v.npz", tmp_path / "new.h5")


@pytest.mark.parametrize(
    "names", ["X_{} y_{} groups_{} ids_{}", "{} {}_labels {}_group {}_keys", "x_{} {}_targets"]
)
def test_arrays_of_splits_keep_classes_groups_and_keys(
    names: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = X, np.array([1, 0, 1, -1]), np.array(GROUPS), np.array(KEYS)
    parts = {"train": slice(2), "val": slice(2, 3), "test": slice(3, 4)}
    arrays: dict[str, Any] = {
        name.format(split): each[rows]
        for name, each in zip(names.split(), values, strict=False)
        for split, rows in parts.items()
    }
    np.savez(tmp_path / "v.npz", class_names=["wolf", "ant"], notes_train=KEYS[:2], **arrays)
    extract_features(tmp_path / "v.npz", out := tmp_path / "out.h5")
    store = read(out)
    assert (store.class_names, store.labels.tolist()) == (("wolf", "ant"), [1, 0, 1, -1])
    assert store.split.tolist() == [0, 0, 1, 2]
    whole = len(names.split()) == 4
    assert store.groups == (GROUPS if whole else None)
    assert store.keys == (KEYS if whole else [f"{row:09d}" for row in range(4)])
    assert "ignored 1 array (notes_train); expected names such as y_train" in caplog.text


def make_csv(folder: Path) -> Path:
    columns = {f"feature_{i}": [f"{value:.9g}" for value in X[:, i]] for i in range(3)}
    pd.DataFrame({**TEXTS, **columns}).to_csv(folder / "v.csv", index=False)
    return folder / "v.csv"


FORMS = [
    make_npz,
    make_compressed,
    make_npy,
    make_hdf5,
    make_parquet,
    make_arrow,
    make_feather,
    make_csv,
]


@pytest.mark.parametrize("make", FORMS)
def test_each_form_gives_the_same_store(
    make: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_table, "BLOCK_BYTES", 24)  # two rows at a time
    summary = extract_features(make(tmp_path), out := tmp_path / "out.h5", quiet=True)
    assert (summary.images, summary.computed, summary.failed) == (4, 4, [])
    store = read(out)
    assert (store.keys, store.groups) == (KEYS, GROUPS)  # in the order of the file
    assert store.class_names == ("=cat", "dog")
    assert store.labels.tolist() == [1, 0, 1, -1]
    assert store.split.tolist() == [0, 1, 2, 0]
    assert features_of(out).tobytes() == X.tobytes()
    with h5py.File(out) as file:
        assert file.attrs["format_version"] == 3
        assert not {"trunk", "weights_sha256", "image_size"} & set(file.attrs)


def test_arrays_in_memory_and_what_show_features_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.h5"
    maps = np.arange(48, dtype=np.float64).reshape(4, 2, 2, 3)
    names = ["dog", "bird", "cat"]
    write_features(out, maps, labels=[2, 0, -1, 0], class_names=names, dtype="float16")
    store = read(out)
    assert store.class_names == tuple(names)
    assert store.labels.tolist() == [2, 0, -1, 0]
    assert store.keys == [f"{row:09d}" for row in range(4)]
    assert (store.dtype, store.shapes) == ("float16", {"features": (2, 2, 3)})
    assert features_of(out).tolist() == maps.tolist()
    assert "none: features of another program" in repr(store)
    assert show([str(out)]) == 0
    assert "trunk      none: features of another program\n" in capsys.readouterr().out
    extract_features(make_npz(tmp_path), tmp_path / "npz.h5", quiet=True)
    assert show([str(tmp_path / "npz.h5"), "--verify"]) == 0
    assert "none: features of another program (v.npz)\n" in capsys.readouterr().out
    assert show([str(out), "--json"]) == 0
    attributes = json.loads(capsys.readouterr().out)["attributes"]
    wanted = "class_names columns command dtype format format_version layer max_bad source versions"
    assert {*attributes} == {*wanted.split()}


def test_the_example_of_the_docstring_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runner, text = doctest.DocTestRunner(), write_features.__doc__ or ""
    runner.run(doctest.DocTestParser().get_doctest(text, {}, "write_features", None, None))
    assert runner.summarize() == (0, 4)


def test_numbers_are_classes_in_their_order(tmp_path: Path) -> None:
    write_features(tmp_path / "out.h5", X, labels=np.array([10.0, 2, np.nan, 2]))
    store = read(tmp_path / "out.h5")
    assert (store.class_names, store.labels.tolist()) == (("2", "10"), [1, 0, -1, 0])


@pytest.mark.parametrize(
    "labels",
    [
        pd.array([1, None, 0, 1], "Int64"),
        ["1", pd.NA, "0", "1"],
        [np.int64(1), np.nan, 0, 1],
        np.ma.array([1, 5, 0, 1], mask=[False, True, False, False]),
    ],
)
def test_labels_that_are_missing_in_pandas_and_numpy(labels: Any, tmp_path: Path) -> None:
    write_features(tmp_path / "out.h5", X, labels=labels)
    store = read(tmp_path / "out.h5")
    assert (store.class_names, store.labels.tolist()) == (("0", "1"), [1, -1, 0, 1])


def test_masked_features_are_missing(tmp_path: Path) -> None:
    masked = np.ma.array(X, mask=np.isin(X, X[1, 2]))
    summary = write_features(tmp_path / "out.h5", masked, max_bad=1)
    assert summary.failed == [("000000001", "has NaN or infinity in 1 of 3 features")]
    assert features_of(tmp_path / "out.h5")[[0, 2, 3]].tobytes() == X[[0, 2, 3]].tobytes()


@pytest.mark.parametrize("rows", [4, 3, 1])
def test_with_class_names_numbers_are_indices_and_texts_are_names(
    rows: int, tmp_path: Path
) -> None:
    names, indices = ["2", "0", "1"], np.array([1, 0, 1, 2])[:rows]
    for labels in (indices, indices.astype(float), np.array(names)[indices]):
        write_features(
            tmp_path / "out.h5", X[:rows], labels=labels, class_names=names, overwrite=True
        )
        assert read(tmp_path / "out.h5").labels.tolist() == indices.tolist()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"X": X.astype(int)}, "X has whole numbers (int64); store astype('float32')"),
        ({"X": X.astype(complex)}, "X is complex128; store it as float16"),
        ({"X": X.astype(object)}, "X holds Python objects, which are never loaded"),
        ({"X": csr_matrix(X)}, "X is sparse (csr_matrix); expected an array; give X.toarray()"),
        ({"X": X[:, :, None]}, "X has the shape (4, 3, 1); expected (N, D) of vectors or (N, h, w"),
        ({"X": X[0]}, "X has the shape (3,); expected (N, D)"),
        ({"X": X[:0]}, "found no rows"),
        ({"X": X[:, :0]}, "X has the shape (4, 0); expected a value in each row"),
        ({"labels": ["a", "b"]}, "found 2 values of label beside 4 rows"),
        ({"keys": ["a", "b", "a", "c"]}, "found the key a in row 1 and 3; remove one"),
        ({"keys": ["a", "", "c", "d"]}, "row 2: found '' in key; expected the key"),
        ({"split": ["train", "dev2", "test", "test"]}, "row 2: found 'dev2' in column split"),
        ({"split": ["train", None, "test", "test"]}, "found a split for 3 of 4 rows"),
        ({"labels": ["a", "b", "a", "z"], "class_names": "ab"}, "found the label z; expected one"),
        ({"labels": ["0"] * 4, "class_names": "ab"}, "found the label 0; expected one of the 2 cl"),
        ({"labels": [0, 1, 2, 0], "class_names": "ab"}, "found the label 2; expected one"),
        ({"class_names": ["a", "a"]}, "found a name twice in class_names"),
    ],
)
def test_what_cannot_be_features_is_refused(
    given: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SourceError) as caught:
        write_features(tmp_path / "out.h5", **{"X": X, **given})
    assert message in str(caught.value)
    assert not [*tmp_path.iterdir()]


def test_rows_that_are_not_finite_fail_and_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = np.ones((4, 3))
    values[1, 2], values[3] = np.nan, 1e9
    np.savez(tmp_path / "v.npz", X=values, y=[0, 1, 0, 1])
    words = [str(tmp_path / "v.npz"), str(tmp_path / "out.h5"), "--dtype", "float16"]
    assert main([*words, "--max-bad", "1"]) == 4
    said = capsys.readouterr().err
    assert "float64 is stored as float16, of 3 digits" in said
    assert "000000001: has NaN or infinity in 1 of 3 features" in said
    assert "000000003: has a feature that float16 cannot hold; use --dtype float32" in said
    assert "2 of 4 rows cannot be used (1 tolerated)" in said
    assert main([*words, "--max-bad", "50%"]) == 0  # as the finished file says
    assert "done before: it holds the 4 rows" in capsys.readouterr().err
    assert read(tmp_path / "out.h5").status.tolist() == [1, 2, 1, 2]


def test_a_value_that_no_type_holds_is_to_be_rescaled(tmp_path: Path) -> None:
    write_features(tmp_path / "out.h5", np.array([[1.0], [1e300]]), max_bad=1)
    with open_store(tmp_path / "out.h5") as store:
        assert store.failures()[0].reason == "has a feature that float32 cannot hold; rescale it"


def test_a_rerun_is_done_and_a_changed_file_is_refused_until_update(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, out = tmp_path / "v.npz", tmp_path / "out.h5"
    Z = X[:3] * [[1], [2], [1]]
    np.savez(source, features=X, ids=np.array(KEYS), species=np.array(LABELS))
    extract_features(source, out, columns="label=species", dtype="float16")
    before = out.read_bytes()
    assert extract_features(source, out).computed == 0  # takes the columns and type of the file
    np.savez(source, features=Z, ids=np.array(KEYS[:3]), species=LABELS[:3])
    with pytest.raises(StoreError, match=r"1 row \(é\) missing; use --update to take the new rows"):
        extract_features(source, out)
    with pytest.raises(StoreError, match=r"lacks 1 row \(é\) of 4; expected at most 10%"):
        extract_features(source, out, update=True)
    extract_features(source, out, update=True, max_removed="50%", dry_run=True)
    assert out.read_bytes() == before
    assert extract_features(source, out, update=True, max_removed=1).computed == 3
    assert features_of(out).tolist() == Z.astype("float16").tolist()
    np.savez(source, features=X[:3], ids=np.array(KEYS[:3]), species=LABELS[:3])
    with pytest.raises(StoreError, match=r"1 row \(a\) changed"):
        extract_features(source, out)
    with pytest.raises(StoreError, match="made with --dtype float16, not float32; choose another"):
        extract_features(source, out, dtype="float32", update=True)
    extract_features(source, out, dtype="float32", overwrite=True)
    assert features_of(out).tobytes() == X[:3].tobytes()
    with pytest.raises(StoreError, match="has the rows in another order"):
        write_features(out, X[:3], keys=["c d", "a", "b"], labels=LABELS[:3])


def test_renamed_rows_are_not_counted_as_removed(tmp_path: Path) -> None:
    source, out = tmp_path / "v.npz", tmp_path / "out.h5"
    np.savez(source, features=X[:3], ids=np.array(KEYS[:3]), species=LABELS[:3])
    extract_features(source, out, columns="label=species")
    np.savez(source, features=X[1:3], ids=np.array(["x", "y"]), species=LABELS[:2])
    with pytest.raises(StoreError, match=rf"lacks 1 row \({KEYS[0]}\) of 3; expected at most 10%"):
        extract_features(source, out, update=True)
    np.savez(source, features=X[:3], ids=np.array(["x", "y", "z"]), species=LABELS[:3])
    assert extract_features(source, out, update=True).images == 3


def test_images_and_features_never_replace_each_other(
    images: Path, make_store: Any, tmp_path: Path
) -> None:
    write_features(out := tmp_path / "out.h5", X, labels=LABELS)
    with pytest.raises(StoreError, match="found features of another program; expected those"):
        extract_features(images, out)
    stored = make_store(np.ones((2, 3), np.float32), [0, 1])
    with pytest.raises(StoreError, match="made of images with --trunk mobilenet, not of features"):
        write_features(stored, X, labels=LABELS)
    with pytest.raises(SourceError, match="found features of extract-features; give them to train"):
        extract_features(stored, tmp_path / "new.h5")
    remedy = "give them to train-head, .* show-features OUT.h5 --export OUT.npz; expected"
    with pytest.raises(SourceError, match=f"found features of extract-features; {remedy}"):
        extract_features(out, tmp_path / "new.h5")
    np.savez(tmp_path / "v.npz", X=X)
    with pytest.raises(StoreError, match=r"if it holds features: extract-features v\.npz OUT"):
        read(tmp_path / "v.npz")


@pytest.mark.parametrize(
    "setting",
    [
        {"trunk": "vgg16"},
        {"image_size": 100},
        {"views": 2},
        {"cluster": "local"},
        {"workers": 2},
        {"shards": "parts"},
        {"repair": True},
        {"layer": "conv1"},
    ],
)
def test_settings_of_images_and_trunks_are_refused(setting: Any, tmp_path: Path) -> None:
    name = next(iter(setting))
    with pytest.raises(SettingError, match=f"{name}: has no effect on .*, which holds features"):
        extract_features(make_npz(tmp_path), tmp_path / "out.h5", **setting)


def test_images_beside_features_are_ambiguous_until_columns_decide(tmp_path: Path) -> None:
    pixels, out = np.zeros((4, 8, 8, 3), np.uint8), tmp_path / "out.h5"
    np.savez(tmp_path / "v.npz", images=pixels, embeddings=X, boxes=X)
    with pytest.raises(SourceError, match="say which with --columns path=images or --columns feat"):
        extract_features(tmp_path / "v.npz", out)
    extract_features(tmp_path / "v.npz", out, columns="features=embeddings")
    assert features_of(out).tobytes() == X.tobytes()
    out.unlink()  # from which options that are left out are taken
    np.savez(tmp_path / "v.npz", a=X, b=X)
    with pytest.raises(SourceError, match="found a, b, which may all be features; say which with"):
        extract_features(tmp_path / "v.npz", out)
    frame = pd.DataFrame({"path": KEYS, "embedding": list(X)})
    frame.to_parquet(tmp_path / "v.parquet")
    with pytest.raises(SourceError, match="path=path or --columns features=embedding"):
        extract_features(tmp_path / "v.parquet", out)
    wide = pd.DataFrame({"path": KEYS, "feature_0": X[:, 0]})
    wide.to_csv(tmp_path / "v.csv", index=False)
    with pytest.raises(SourceError, match="path=path or --columns features=feature_"):
        extract_features(tmp_path / "v.csv", out)
    wide.rename(columns={"feature_0": "f0"}).to_csv(tmp_path / "v.csv", index=False)
    frame = pd.DataFrame({"id": [1, 1], "f0": X[:2, 0]})
    frame.to_csv(tmp_path / "w.csv", index=False)
    with pytest.raises(
        SourceError, match="or columns f0, f1 of features with --columns features=f"
    ):
        extract_features(tmp_path / "w.csv", tmp_path / "new.h5")
    with pytest.raises(SourceError, match="or name other keys with --columns key=NAME"):
        extract_features(tmp_path / "w.csv", tmp_path / "new.h5", columns="features=f")
    extract_features(tmp_path / "v.csv", out, columns="features=f,key=path", overwrite=True)
    assert read(out).keys == KEYS
    with pytest.raises(SettingError, match="features has no effect on"):
        extract_features(tmp_path, tmp_path / "new.h5", columns="features=f")


def test_images_of_floats_are_features_only_by_name(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.full((6, 8, 8, 3), 0.5, np.float32))
    with pytest.raises(SourceError, match=r"values of 0.5 to 0.5; store .* \* 255\)"):
        extract_features(tmp_path / "v.npy", tmp_path / "out.h5")
    extract_features(tmp_path / "v.npy", tmp_path / "out.h5", columns="features=features")
    assert read(tmp_path / "out.h5").shapes == {"features": (8, 8, 3)}
    np.save(tmp_path / "v.npy", np.zeros((6, 2, 2, 5), np.float32))
    extract_features(tmp_path / "v.npy", tmp_path / "maps.h5")
    assert read(tmp_path / "maps.h5").shapes == {"features": (2, 2, 5)}


def ragged(folder: Path) -> Path:
    parquet.write_table(pa.table({"features": [[1.0, 2.0], [1.0]]}), folder / "v.parquet")
    return folder / "v.parquet"


def whole_numbers(folder: Path) -> Path:
    parquet.write_table(pa.table({"features": [[1, 2], [1, 2]]}), folder / "v.parquet")
    return folder / "v.parquet"


class Evil:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.write_text, (Path("evil"), "")


def pickled(folder: Path) -> Path:
    np.save(folder / "v.npy", np.array([Evil(), None]), allow_pickle=True)
    assert b"write_text" in (folder / "v.npy").read_bytes()
    assert pickle.dumps(Evil())
    return folder / "v.npy"


def pickled_labels(folder: Path) -> Path:
    labels = np.array([Evil()] * 4)
    np.savez(folder / "v.npz", features=X, labels=labels, allow_pickle=True)
    return folder / "v.npz"


def bomb(folder: Path) -> Path:
    np.savez_compressed(folder / "v.npz", features=np.zeros((2**12, 2**10), np.float32))
    return folder / "v.npz"


def short_member(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "v.npz", "w") as archive, archive.open("X.npy", "w") as file:
        header = {"descr": "<f4", "fortran_order": True, "shape": (10**6, 10**6)}
        np.lib.format.write_array_header_1_0(file, header)
    return folder / "v.npz"


def negative(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "v.npz", "w") as archive, archive.open("X.npy", "w") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (-1, 4)}
        np.lib.format.write_array_header_1_0(file, header)
    return folder / "v.npz"


def cut(folder: Path) -> Path:
    np.save(folder / "v.npy", X)
    (folder / "v.npy").write_bytes((folder / "v.npy").read_bytes()[:-4])
    return folder / "v.npy"


def other_length(folder: Path) -> Path:
    np.savez(folder / "v.npz", features=X, labels=np.array([0, 1]))
    return folder / "v.npz"


def table_of_other_length(folder: Path) -> Path:
    np.save(folder / "v.npy", X)
    (folder / "v.csv").write_text("label\ncat\n", newline="\n")
    return folder / "v.npy"


def gap(folder: Path) -> Path:
    (folder / "v.csv").write_text("key,feature_0,feature_2\na,1,2\n", newline="\n")
    return folder / "v.csv"


def far(folder: Path) -> Path:
    (folder / "v.csv").write_text(f"key,feature_{'9' * 7}_{'9' * 7}\na,1\n", newline="\n")
    return folder / "v.csv"


def text_as_number(folder: Path) -> Path:
    (folder / "v.csv").write_text("key,feature_0\na,1\nb,NA\n", newline="\n")
    return folder / "v.csv"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (ragged, "row 2: found 1 values in features; expected 2, as in the first row"),
        (whole_numbers, "features has whole numbers (int64); store astype('float32')"),
        (pickled, "holds Python objects, which are never loaded"),
        (pickled_labels, "labels holds Python objects, which are never loaded"),
        (bomb, "bytes in a file of"),
        (cut, "found 44 bytes for (4, 3) float32; expected more; write it again"),
        (short_member, "found 0 bytes for (1000000, 1000000) float32; expected more; write it"),
        (negative, "found 0 bytes for (-1, 4) float32; expected more; write it again"),
        (other_length, "found labels of shape (2,) beside 4 rows; expected one value for each"),
        (table_of_other_length, "found 1 values of label beside 4 rows"),
        (gap, "found 2 columns feature_N, the last feature_2; expected each number once"),
        (far, "found 1 columns feature_N, the last feature_9999999_9999999; expected each"),
        (text_as_number, "row 2: found 'NA' in feature_0; expected a number"),
    ],
)
def test_hostile_and_damaged_files_are_refused(
    make: Callable[[Path], Path],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(unpacked, "_FLOOR", 2**20)
    source = make(tmp_path)
    assert main([str(source), "out.h5"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert message in said
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "out.h5").exists()


def test_null_rows_and_values_of_parquet_are_failed_rows(tmp_path: Path) -> None:
    rows = pa.array([[1.0, 2.0], None, [None, 1.0], [3.0, 4.0]], pa.list_(pa.float32()))
    parquet.write_table(pa.table({"key": KEYS, "features": rows}), tmp_path / "v.parquet")
    summary = extract_features(tmp_path / "v.parquet", tmp_path / "out.h5")
    assert summary.failed == [
        ("a", "has NaN or infinity in 2 of 2 features"),
        ("c d", "has NaN or infinity in 1 of 2 features"),
    ]
    assert features_of(tmp_path / "out.h5")[[0, 3]].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("shape", [[], [3, -1, -1], [2, 2], "abc", [3.0], [1, 3, 1]])
def test_a_wrong_shape_in_the_metadata_of_parquet_has_no_effect(shape: Any, tmp_path: Path) -> None:
    metadata = {"headstart": json.dumps({"shape": shape})}
    table = pa.table({"features": list(X)}).replace_schema_metadata(metadata)
    parquet.write_table(table, tmp_path / "v.parquet")
    extract_features(tmp_path / "v.parquet", tmp_path / "out.h5")
    wanted = (1, 3, 1) if shape == [1, 3, 1] else (3,)
    assert read(tmp_path / "out.h5").shapes == {"features": wanted}


def test_a_file_of_a_stranger_has_no_trunk_and_no_views(tmp_path: Path) -> None:
    write_features(out := tmp_path / "out.h5", X)
    with h5py.File(out, "r+") as file:
        file.attrs["weights_sha256"] = "0" * 64
    with pytest.raises(StoreError, match="has weights_sha256, and features without a trunk"):
        read(out)
    with h5py.File(out, "r+") as file:
        del file.attrs["weights_sha256"], file.attrs["layer"]
    with pytest.raises(StoreError, match="lacks layer"):
        read(out)


@given(st.text("'=+-@\t\ra", max_size=5))
def test_text_of_a_csv_file_is_as_it_was(text: str) -> None:
    assert from_csv_text(csv_text(text)) == text

"""The identity of a file is read once, and named in a few lines."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from extract.core.errors import StoreError
from extract.pipeline import plan, run
from extract.pipeline.run import run_extraction as extract_features
from extract.store.open import open_store
from tests.conftest import QUICK, MakeStore


@pytest.mark.parametrize("finished", [True, False])
def test_a_plain_rerun_opens_the_file_twice_before_the_first_row(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    out = tmp_path / "out.h5"
    extract_features(images, out, **QUICK)
    if not finished:
        with open_store(out, write=True) as store:
            store.forget(np.array([1, 3]))
    modes: list[str] = []
    before: list[int] = []
    real_file, stream = h5py.File, "extract.pipeline.run.stream_features"

    class CountedFile(real_file):  # type: ignore[misc, valid-type]
        def __init__(self, name: Any, mode: str = "r", **given: Any) -> None:
            modes.append(mode)
            super().__init__(name, mode, **given)

    def streamed(*given: Any) -> Any:
        before.append(len(modes))
        return real_stream(*given)

    from extract.pipeline.stream import stream_features as real_stream

    monkeypatch.setattr(h5py, "File", CountedFile)
    monkeypatch.setattr(stream, streamed)
    assert extract_features(images, out).computed == (0 if finished else 2)
    assert before == [2]
    assert modes == ["r", "r+"]


@pytest.mark.parametrize("change", [{"pooling": "max"}, {"columns": "label=kind"}])
def test_a_file_that_another_run_replaces_meanwhile_is_not_written_to(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    table, out, other = images / "table.csv", tmp_path / "out.h5", tmp_path / "other.h5"
    table.write_text("path,label,kind\ntrain/cat/0.png,a,c\ntrain/dog/0.png,b,d\n")
    extract_features(table, out, **QUICK)
    extract_features(table, other, **{**QUICK, **change})
    content = other.read_bytes()
    choose = plan._choose_action

    def overtaken(*given: Any) -> tuple[str, str]:
        action = choose(*given)
        other.rename(out)
        return action

    monkeypatch.setattr(plan, "_choose_action", overtaken)
    with pytest.raises(StoreError, match=r"out.h5: another run replaced it; run the same command"):
        extract_features(table, out)
    assert out.read_bytes() == content


@pytest.mark.parametrize("action", ["update", "overwrite"])
@pytest.mark.parametrize("change", [{"preprocess": "rescale"}, {}], ids=str)
def test_a_file_that_changes_while_the_engine_opens_is_compared_again(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    action: str,
    change: dict[str, Any],
) -> None:
    out, other = tmp_path / "out.h5", tmp_path / "other.h5"
    extract_features(images, out, **QUICK)
    wanted: dict[str, Any] = {**QUICK, "pooling": "avg" if action == "update" else "max"}
    if action == "update":
        (images / "train/cat/0.png").unlink()
        Image.new("RGB", (9, 9)).save(images / "train/cat/9.png")
    extract_features(images, other, **wanted | change)
    content, open_engine = other.read_bytes(), run._open_engine

    def overtaken(*given: Any) -> Any:
        other.rename(out)  # another run has finished meanwhile
        return open_engine(*given)

    monkeypatch.setattr(run, "_open_engine", overtaken)
    if action == "update" and change:
        with pytest.raises(StoreError, match="made with --preprocess rescale, not auto"):
            extract_features(images, out, **wanted, update=True, max_removed="100%")
        assert out.read_bytes() == content
        return
    more = {"max_removed": "100%"} if action == "update" else {}
    summary = extract_features(images, out, **wanted, **{action: True}, **more)
    assert summary.computed == (8 if change else 0)
    with open_store(out) as store:
        assert (store.spec.preprocess, store.spec.pooling) == ("auto", wanted["pooling"])


def test_a_store_is_shown_in_a_few_lines(make_store: MakeStore, tmp_path: Path) -> None:
    layers = {"conv1_relu": np.ones((3, 2, 2, 4), "f2"), "conv_pw_1_relu": np.ones((3, 5), "f2")}
    path = make_store(layers, [0, 1, 1], class_names=("<cat>", "dog"))
    with open_store(path, write=True) as store:
        assert repr(store).splitlines() == [
            "Store",
            f"  file            {path}",
            "  images          3, complete",
            "  classes         2 names (<cat>, dog)",
            "  trunk           mobilenet at 32 x 32 pixels",
            "  conv1_relu      (2, 2, 4) float16",
            "  conv_pw_1_relu  (5,) float16",
        ]
        table = store._repr_html_()
        assert table.startswith("<table><tr><td>file</td>")
        assert "<td>2 names (&lt;cat&gt;, dog)</td>" in table
        store.forget(np.array([0, 2]))
        assert "  images          3, 2 to do" in repr(store)


def test_a_summary_is_shown_in_a_few_lines(images: Path, tmp_path: Path) -> None:
    (images / "train/cat/bad.png").touch()
    summary = extract_features(images, tmp_path / "out.h5", **QUICK)
    lines = repr(summary).splitlines()
    assert lines[:5] == [
        "Summary",
        f"  file        {tmp_path / 'out.h5'}",
        "  images      9, 9 new, 1 failed",
        "  classes     2 names (cat, dog)",
        "  conv1_relu  (32,)",
    ]
    assert lines[5].startswith("  seconds     ")
    assert "<tr><td>images</td><td>9, 9 new, 1 failed</td></tr>" in summary._repr_html_()

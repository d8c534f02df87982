"""The folder of a trained head: written whole or not at all, read with suspicion."""

import json
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classify.activation.explain import Explained
from classify.data.dataset import Dataset
from classify.diagnosis.analysis import Analysis, analyse
from classify.export.export import check_targets
from classify.inference.bundle import TrainedHead, load_head, save_head, save_report
from classify.inference.complete_model import read_metadata
from classify.inference.head_folder import FIGURES, FILES, check_target
from classify.search.leaderboard import Result
from classify.search.search import run
from classify.settings.config import TrainConfig
from classify.settings.head_spec import DEFAULTS, HeadSpec
from extract.core.config import TrunkSpec
from extract.core.errors import HeadError

DENSE = HeadSpec("dense", units=(4,), epochs=2, learning_rate=0.01)
LOGISTIC = HeadSpec("logistic")
KNN = HeadSpec("knn")


def dataset() -> Dataset:
    generator = np.random.default_rng(0)
    y = np.arange(30) % 2
    X = generator.normal(size=(30, 2, 2, 3)).astype(np.float32)
    X[:, 0, 0, 0] += 3 * y
    split = np.repeat([0, 1, 2], [18, 6, 6]).astype(np.int8)
    keys = [f"{row}.jpg" for row in range(30)]
    spec = TrunkSpec("mobilenet", weights="none", pooling="none", image_size=(32, 32))
    return Dataset(X, y, keys, None, split, ("Käse", "<b>"), spec.layer[0], spec, "ab", "float16")


def run_of(*specs: HeadSpec) -> Result:
    return run(dataset(), TrainConfig(specs))


# Looking closely trains a head three times more, so each run is looked at once.
_ANALYSES: list[tuple[Any, Analysis]] = []


def save(folder: Path, made: Dataset, result: Result, store: str, timing: dict[str, float]) -> None:
    save_head(folder, made, result, store)
    known = [analysis for scores, analysis in _ANALYSES if scores is result.scores]
    if not known:
        known = [analyse(made, result)]
        _ANALYSES.append((result.scores, known[0]))
    explained = Explained.left_out(known[0].mistakes, "")
    save_report(folder, made, result, known[0], explained, timing)


@pytest.fixture(scope="module")
def dense_run() -> Result:
    return run_of(DENSE)


@pytest.fixture
def dense(dense_run: Result, tmp_path: Path) -> Path:
    save(tmp_path / "head", dataset(), dense_run, "out.h5", {"read": 0.1})
    return tmp_path / "head"


@pytest.fixture
def knn(tmp_path: Path) -> Path:
    save(tmp_path / "head", dataset(), run_of(KNN), "out.h5", {"read": 0.1})
    return tmp_path / "head"


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_what_is_written_is_read_back(dense: Path, dense_run: Result) -> None:
    assert names(dense) == {
        "bundle.json",
        "head.keras",
        "transform.npz",
        "result.json",
        "result.csv",
        "predictions.csv",
        "label_issues.csv",
        "timing.json",
        "training_images.npy",
        "report.html",
    }
    made, loaded = dataset(), load_head(dense)
    expected = TrainedHead(
        "dense",
        loaded.head,
        ("Käse", "<b>"),
        made.trunk,
        weights_sha256="ab",
        dtype="float16",
        precision="float32",
        calibration_sha256="",
        layer=made.layer,
        shape=(2, 2, 3),
    )
    assert loaded == expected
    assert dense_run.head is not None
    wanted = dense_run.head.predict_proba(made.X)
    np.testing.assert_array_equal(loaded.head.predict_proba(made.X), wanted)


@pytest.mark.parametrize(("spec", "file"), [(KNN, "head.skops"), (LOGISTIC, "head.npz")], ids=str)
def test_a_head_of_scikit_learn(spec: HeadSpec, file: str, tmp_path: Path) -> None:
    folder = tmp_path / "head"
    save(folder, dataset(), run_of(spec), "out.h5", {"read": 0.1})
    parts = {"bundle.json", "transform.npz", "result.json", "result.csv", "timing.json"}
    parts |= {"predictions.csv", "label_issues.csv", "training_images.npy"}
    assert names(folder) == {*parts, file, "report.html"}
    assert load_head(folder).class_names == ("Käse", "<b>")


def test_the_record_holds_every_setting_and_number(tmp_path: Path) -> None:
    result = run_of(DENSE, LOGISTIC)
    save(tmp_path / "head", dataset(), result, "some/out.h5", {"read": 0.12345})
    found = json.loads((tmp_path / "head" / "result.json").read_text(encoding="utf-8"))
    assert found["store"] == "some/out.h5"
    assert found["trunk"]["image_size"] == [32, 32]
    assert found["split"] == {
        "origin": "store",
        "folds": None,
        "repeats": 1,
        "train": 18,
        "train_scored": 18,
        "validation": 6,
        "test": 6,
        "groups": None,
    }
    assert found["settings"] == result.best.spec.to_dict()
    assert found["fingerprint"] == dataset().fingerprint
    for candidate, entry in zip(found["candidates"], result.entries, strict=True):
        assert candidate["settings"] == entry.spec.to_dict()
        assert candidate["scores"] == {k: round(v, 6) for k, v in entry.scores.items()}
        assert candidate["interval"] == [end and round(end, 6) for end in (entry.low, entry.high)]
        curves = entry.evaluation.history.items()
        assert candidate["history"] == {k: [round(v, 6) for v in curve] for k, curve in curves}
        assert sum(map(sum, candidate["confusion"])) == 6
    assert found["best"]["mistakes"].pop("explained")["images"]
    assert found["best"] == analyse(dataset(), result).to_dict(dataset().keys)
    assert result.test is not None
    test = result.test._asdict()
    assert found["test"] == {k: v if k == "confusion" else round(v, 6) for k, v in test.items()}
    assert {"headstart", "numpy", "scikit-learn", "keras"} <= set(found["versions"])
    timing = json.loads((tmp_path / "head" / "timing.json").read_text())
    seconds = [round(entry.evaluation.seconds, 3) for entry in result.entries]
    assert timing == {"read": 0.123, "candidates": seconds}


def without_seconds(folder: Path) -> str:
    """The report of fewer than three candidates without its last column, the seconds."""
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert 'id="sweeps"' not in text
    before, board, after = re.split(r'(<section id="leaderboard">.*?</section>)', text, flags=re.S)
    board, count = re.subn(r"data-value=.\d+\.\d+.>\d+\.\d\d(?=</td>\s*</tr>)", "", board)
    assert count == len(json.loads((folder / "timing.json").read_text())["candidates"]) > 0
    return before + board + after


def test_the_same_seed_gives_the_same_bytes(dense: Path, tmp_path: Path) -> None:
    save(tmp_path / "again", dataset(), run_of(DENSE), "out.h5", {"read": 9.9})
    assert (tmp_path / "again/result.json").read_bytes() == (dense / "result.json").read_bytes()
    pages = [without_seconds(folder) for folder in (dense, tmp_path / "again")]
    assert pages[0] == pages[1]
    save(tmp_path / "other", dataset(), run_of(replace(DENSE, seed=1)), "out.h5", {"read": 9.9})
    assert (tmp_path / "other/result.json").read_bytes() != (dense / "result.json").read_bytes()


def test_every_head_is_the_same_again(tmp_path: Path) -> None:
    short: dict[str, dict[str, Any]] = {
        "dense": {"units": (4,), "epochs": 2},
        "linear": {"epochs": 2},
        "forest": {"trees": 5},
        "boosting": {"trees": 5},
    }
    specs = [HeadSpec(name, **short.get(name, {})) for name in DEFAULTS]
    for name in ("a", "b"):
        save(tmp_path / name, dataset(), run_of(*specs), "out.h5", {})
    results = [(tmp_path / name / "result.json").read_bytes() for name in ("a", "b")]
    assert results[0] == results[1]


# What may stand where a bundle is to be written.


def _nothing(folder: Path) -> None: ...


def _empty(folder: Path) -> None:
    folder.mkdir()


def _bundle(folder: Path) -> None:
    folder.mkdir()
    for name in FILES - {FIGURES}:
        (folder / name).write_text("old")


def _file(folder: Path) -> None:
    folder.write_text("mine")


def _loop(folder: Path) -> None:
    folder.symlink_to(folder.name)


def _foreign(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")


def _bundle_and_more(folder: Path) -> None:
    _bundle(folder)
    (folder / "notes.txt").write_text("mine")


def _no_bundle_json(folder: Path) -> None:
    folder.mkdir()
    (folder / "result.json").write_text("mine")


@pytest.mark.parametrize("there", [_nothing, _empty, _bundle])
def test_a_bundle_takes_the_place_of_nothing_or_a_bundle(
    there: Callable[[Path], None], dense_run: Result, tmp_path: Path
) -> None:
    there(tmp_path / "head")
    save(tmp_path / "head", dataset(), dense_run, "out.h5", {})
    assert "head.skops" not in names(tmp_path / "head")
    assert load_head(tmp_path / "head").class_names == ("Käse", "<b>")
    # Nothing is left beside it.
    assert names(tmp_path) == {"head"}


@pytest.mark.parametrize(
    ("there", "message"),
    [
        (_file, "found a file"),
        (_loop, "found a link to head, which does not exist"),
        (_foreign, "found thesis.tex"),
        (_bundle_and_more, "found notes.txt"),
        (_no_bundle_json, "found an unfinished head"),
    ],
)
def test_what_is_no_bundle_stays_as_it_is(
    there: Callable[[Path], None], message: str, dense_run: Result, tmp_path: Path
) -> None:
    folder = tmp_path / "head"
    there(folder)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(HeadError, match=message):
        check_target(folder)
    with pytest.raises(HeadError, match=message):
        save(folder, dataset(), dense_run, "out.h5", {})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(HeadError, match="expected one; make it"):
        check_target(tmp_path / "none" / "head")


@pytest.mark.parametrize("interruption", [OSError("disk full"), KeyboardInterrupt()])
def test_a_save_that_fails_leaves_the_former_head(
    dense: Path, dense_run: Result, tmp_path: Path, interruption: BaseException
) -> None:
    class Failing:
        def save(self, folder: Path) -> None:
            (folder / "head.keras").write_text("half")
            raise interruption

    before = (dense / "bundle.json").read_bytes()
    head: Any = Failing()
    with pytest.raises((HeadError, KeyboardInterrupt)):
        save(dense, dataset(), replace(dense_run, head=head), "out.h5", {})
    assert (dense / "bundle.json").read_bytes() == before
    assert names(tmp_path) == {"head"}
    load_head(dense)


def test_a_link_is_followed(dense: Path, dense_run: Result, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(dense)
    save(tmp_path / "link", dataset(), dense_run, "new.h5", {})
    assert (tmp_path / "link").is_symlink()
    assert json.loads((dense / "result.json").read_text())["store"] == "new.h5"


# Damage.


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _change(folder: Path, **values: Any) -> None:
    path = folder / "bundle.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def _without(folder: Path, name: str) -> None:
    path = folder / "bundle.json"
    described = json.loads(path.read_text())
    del described[name]
    path.write_text(json.dumps(described))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "no such folder; expected one that train-head wrote"),
        (lambda f: (f / "bundle.json").unlink(), "no readable bundle.json"),
        (lambda f: (f / "bundle.json").write_bytes(b"\xff\xfe"), "not JSON"),
        (lambda f: _truncate(f / "bundle.json"), "not JSON"),
        (lambda f: (f / "bundle.json").write_text("[1]"), "from another program"),
        (lambda f: _change(f, format="other"), "from another program"),
        (lambda f: _change(f, format_version=4), "format 4; expected 1 to 3"),
        (lambda f: _change(f, format_version=3), "damaged"),
        (lambda f: _without(f, "layer"), "damaged"),
        (lambda f: _change(f, settings={"head": "oracle"}), "damaged"),
        (lambda f: _change(f, settings=[]), "cannot be read"),
        (lambda f: _change(f, trunk={"trunk": "vgg61"}), "nearest: vgg19, vgg16"),
        (lambda f: _change(f, class_names=["a", "b", "c"]), "does not take"),
        (lambda f: _change(f, class_names=[1, 2]), "cannot be read"),
        (lambda f: _change(f, class_names=["a", "\ud800"]), "cannot be read"),
        (lambda f: _change(f, shape=[5]), "does not take"),
        (lambda f: _truncate(f / "head.keras"), "cannot be read"),
        (lambda f: (f / "head.keras").unlink(), "cannot be read"),
        (lambda f: (f / "head.keras").write_text("no"), "cannot be read"),
    ],
)
def test_a_damaged_bundle_is_refused_in_one_line(
    dense: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(dense)
    with pytest.raises(HeadError, match=message) as raised:
        load_head(dense)
    assert "\n" not in str(raised.value)


def _ask_for_a_later_zip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 6] = 84  # the version that reads it, times ten
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        *(_truncate, _ask_for_a_later_zip, lambda path: path.unlink()),
        lambda path: path.write_bytes(b""),
    ],
)
def test_a_damaged_scikit_learn_head_is_refused(knn: Path, damage: Callable[[Path], None]) -> None:
    for name in ("head.skops", "transform.npz"):
        damage(knn / name)
        with pytest.raises(HeadError, match="cannot be read"):
            load_head(knn)


@pytest.mark.parametrize("recorded", ["bundle.json", "result.json"])
@pytest.mark.parametrize(
    ("spec", "library", "file"),
    [(KNN, "scikit-learn", "head.skops"), (DENSE, "keras", "head.keras")],
    ids=lambda value: str(getattr(value, "head", value)),
)
def test_a_head_that_another_version_cannot_read_is_told_by_its_version(
    spec: HeadSpec, library: str, file: str, recorded: str, tmp_path: Path
) -> None:
    folder = tmp_path / "head"
    save(folder, dataset(), run_of(spec), "out.h5", {})
    whole = (folder / file).read_bytes()
    _truncate(folder / file)
    described = json.loads((folder / "bundle.json").read_text())
    assert described["versions"] == {library: version(library)}
    _change(folder, versions={library: "0.1"})
    if recorded == "result.json":  # as an earlier headstart wrote it
        (folder / "result.json").write_bytes((folder / "bundle.json").read_bytes())
        _without(folder, "versions")
    with pytest.raises(HeadError, match="damaged"):
        load_head(folder)  # a truncated file is damaged, whoever wrote it
    (folder / file).write_bytes(whole)
    _add_setting(folder / file)
    expected = f"trained with {library} 0.1, which {version(library)} cannot read"
    with pytest.raises(HeadError, match=f"^{folder}: {expected}; train the head again$"):
        load_head(folder)


def _add_setting(file: Path) -> None:
    """Give the saved head a part that only another version knows."""
    with zipfile.ZipFile(file) as saved:
        parts = {name: saved.read(name) for name in saved.namelist()}
    if "config.json" in parts:
        config = json.loads(parts["config.json"])
        config["config"]["layers"][-1]["config"]["another"] = 1
        parts["config.json"] = json.dumps(config).encode()
    else:
        parts["schema.json"] = parts["schema.json"].replace(b"KNeighbors", b"Another")
    with zipfile.ZipFile(file, "w") as saved:
        for name, content in parts.items():
            saved.writestr(name, content)


def test_a_head_that_would_run_code_is_refused(dense: Path) -> None:
    import keras

    model = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Lambda(lambda x: x)])
    model.save(dense / "head.keras")
    with pytest.raises(HeadError, match="cannot be read"):
        load_head(dense)


@pytest.mark.parametrize("later", [False, True])
def test_a_zip_that_is_no_model_is_told_from_one(tmp_path: Path, later: bool) -> None:
    path = tmp_path / "a.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "[]")
    if later:
        _ask_for_a_later_zip(path)
    assert read_metadata(path) == {}
    with pytest.raises(HeadError, match="holds something else than a model of train-head"):
        check_targets([str(path)], [HeadSpec("logistic")])

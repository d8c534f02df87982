"""Heads without Keras: their scores are probabilities, and files of theirs run no code."""

import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classify.heads.linear_head import fit_linear, score_linear
from classify.heads.registry import head_class
from classify.heads.sklearn_head import FILE, SklearnHead
from classify.scores.metrics import log_loss, measure
from classify.settings.head_spec import DEFAULTS, KERAS_HEADS, HeadSpec
from classify.solvers import naive_bayes
from classify.stored.views import FoldData

QUICK: dict[str, dict[str, Any]] = {"forest": {"trees": 20}, "boosting": {"trees": 10}}
SPECS = [HeadSpec(name, **QUICK.get(name, {})) for name in DEFAULTS if name not in KERAS_HEADS]
SPECS.append(HeadSpec("svm", kernel="linear"))
SHAPES = [(2, (8,)), (3, (2, 2, 3)), (3, (300,))]


def rows_of(
    classes: int, shape: tuple[int, ...], count: int = 90, seed: int = 0, apart: float = 4
) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    y = np.arange(count) % classes
    X = generator.normal(size=(count, int(np.prod(shape)))).astype(np.float32)
    X[np.arange(count), y] += apart
    return X.reshape(count, *shape), y


@pytest.mark.parametrize(("classes", "shape"), SHAPES, ids=str)
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.head}-{spec.kernel}")
def test_contract(spec: HeadSpec, classes: int, shape: tuple[int, ...], tmp_path: Path) -> None:
    X, y = rows_of(classes, shape, apart=8)
    new, truth = rows_of(classes, shape, count=40, seed=2, apart=8)
    before = X.copy()
    head = head_class(spec.head)(spec).fit(FoldData(X, y, new, truth))
    scores = head.predict_proba(new)
    assert scores.shape == (40, classes)
    assert (scores >= 0).all()
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)
    assert measure(truth, scores).accuracy > 0.8
    np.testing.assert_array_equal(X, before)
    assert head.history == {}
    head.save(tmp_path)
    loaded = head_class(spec.head).load(tmp_path, spec.head)
    np.testing.assert_array_equal(loaded.predict_proba(new), scores)
    for found in (head, loaded):
        assert found.fits(shape, classes)
        assert not found.fits((*shape, 2), classes)
        assert not found.fits(shape, classes + 1)
    again = head_class(spec.head)(spec).fit(FoldData(X, y, new, truth))
    np.testing.assert_array_equal(again.predict_proba(new), scores)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.head}-{spec.kernel}")
def test_scores_are_no_worse_than_knowing_nothing(spec: HeadSpec) -> None:
    # Classes that overlap: whoever is sure of every answer is found out by the loss.
    X, y = rows_of(3, (40,), count=240, apart=1)
    new, truth = rows_of(3, (40,), count=240, seed=1, apart=1)
    scores = head_class(spec.head)(spec).fit(FoldData(X, y, new, truth)).predict_proba(new)
    bound = 1.35 if spec.head in ("lda", "boosting", "knn") else np.log(3)
    assert log_loss(truth, scores) < bound


def test_heads_judged_together_score_as_each_alone() -> None:
    X, y = rows_of(3, (2, 6))
    specs = [
        HeadSpec("logistic", C=0.1),
        HeadSpec("lda", shrinkage=0.3),
        HeadSpec("ridge", alpha=300),
    ]
    fitted = fit_linear(specs, X, y)
    for head, scores in zip(fitted, score_linear(fitted, X), strict=True):
        np.testing.assert_allclose(scores, head.predict_proba(X), atol=1e-6)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_the_svm_answers_as_scikit_learns(kernel: str) -> None:
    from sklearn.svm import SVC

    X, y = rows_of(3, (20,), apart=1)
    new, truth = rows_of(3, (20,), seed=1, apart=1)
    gamma = 0.03 if kernel == "rbf" else None
    head = SklearnHead(HeadSpec("svm", kernel=kernel, C=2.0, gamma=gamma)).fit(
        FoldData(X, y, new, truth)
    )
    direct = SVC(kernel=kernel, C=2.0, gamma=gamma or "scale").fit(X, y)
    wanted = direct.decision_function(new).argmax(axis=1)
    assert (head.predict_proba(new).argmax(axis=1) == wanted).mean() > 0.98


def test_a_class_with_one_row_is_no_obstacle() -> None:
    X, y = rows_of(2, (8,), count=20)
    y = np.where(np.arange(20) == 7, 2, y)
    for spec in SPECS:
        scores = head_class(spec.head)(spec).fit(FoldData(X, y, X, y)).predict_proba(X)
        assert np.isfinite(scores).all(), spec.head


@pytest.mark.parametrize("width", [4, 30])
def test_rows_that_are_all_the_same_are_no_obstacle(width: int) -> None:
    X, y = np.ones((20, width), np.float32), np.arange(20) % 2
    for spec in SPECS:
        scores = head_class(spec.head)(spec).fit(FoldData(X, y, X, y)).predict_proba(X)
        np.testing.assert_allclose(scores, 0.5, atol=0.1, err_msg=spec.head)


def test_the_file_is_not_a_pickle_and_foreign_types_are_refused(tmp_path: Path) -> None:
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

    X, y = rows_of(2, (8,))
    SklearnHead(HeadSpec("forest", trees=3)).fit(FoldData(X, y, X, y)).save(tmp_path)
    assert zipfile.is_zipfile(tmp_path / FILE)
    skops.io.dump(subprocess.Popen, tmp_path / FILE)
    for head in ("svm", "forest", "boosting"):
        with pytest.raises(UntrustedTypesFoundException):
            SklearnHead.load(tmp_path, head)


def test_keras_is_never_loaded(tmp_path: Path) -> None:
    script = """
import numpy, pathlib, sys
import classify.inference.bundle, classify.inference.predict
import classify.cli, classify.finetune.finetune, classify.search.search
from classify.stored.views import FoldData
from classify.heads.registry import head_class
from classify.settings.head_spec import HeadSpec
X, y = numpy.eye(4, dtype="float32"), numpy.array([0, 1, 0, 1])
for name in ("logistic", "knn"):
    head_class(name)(HeadSpec(name)).fit(FoldData(X, y, X, y)).save(pathlib.Path(sys.argv[1]))
    head_class(name).load(pathlib.Path(sys.argv[1]), name).predict_proba(X)
print([name for name in ("keras", "tensorflow", "jax", "torch") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_generator_whose_pool_could_be_of_any_size_is_refused(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    X, y = random.normal(size=(60, 4)).astype("f4"), np.arange(60) % 2
    head = SklearnHead(HeadSpec("boosting", trees=3)).fit(FoldData(X, y, X, y))
    head.save(tmp_path)
    loaded = SklearnHead.load(tmp_path, "boosting")
    assert np.array_equal(loaded.predict_proba(X), head.predict_proba(X))
    head._parts["estimator"].other = random
    head.save(tmp_path)
    with pytest.raises(ValueError, match="a random number generator"):
        SklearnHead.load(tmp_path, "boosting")


def _wide(parts: dict[str, Any]) -> None:
    parts["estimator"].estimators_[0].tree_.feature[0] = 10**6


def _circle(parts: dict[str, Any]) -> None:
    parts["estimator"].estimators_[0].tree_.children_left[0] = 0


def _far(parts: dict[str, Any]) -> None:
    parts["estimator"]._predictors[0][0].nodes["right"][0] = 10**6


def _categories(parts: dict[str, Any]) -> None:
    parts["estimator"]._predictors[0][0].nodes["is_categorical"][0] = 1


def _other_row(parts: dict[str, Any]) -> None:
    parts["estimator"].support_[0] = 10**6


def _more_vectors(parts: dict[str, Any]) -> None:
    parts["estimator"]._n_support[0] += 9


def _no_rows(parts: dict[str, Any]) -> None:
    parts["estimator"]._fit_X = parts["estimator"]._fit_X[:0]


def _more_rows(parts: dict[str, Any]) -> None:
    parts["estimator"]._fit_X = np.tile(parts["estimator"]._fit_X, (3, 1))


def _narrow_rows(parts: dict[str, Any]) -> None:
    parts["estimator"]._fit_X = parts["estimator"]._fit_X[:, :1].copy()


def _other_class(parts: dict[str, Any]) -> None:
    parts["estimator"]._y[0] = 2


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(("forest", _wide), ("forest", _circle), ("boosting", _far), ("boosting", _categories)),
        *(("svm", _other_row), ("svm", _more_vectors), ("knn", _no_rows), ("knn", _more_rows)),
        *(("knn", _narrow_rows), ("knn", _other_class)),
    ],
)
def test_indices_that_lead_outside_are_refused(
    name: str, damage: Callable[[dict[str, Any]], None], tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    X, y = random.normal(size=(60, 4)).astype("f4"), np.arange(60) % 2
    head = SklearnHead(HeadSpec(name)).fit(FoldData(X, y, X, y))
    head.save(tmp_path)
    SklearnHead.load(tmp_path, name)
    damage(head._parts)
    head.save(tmp_path)
    with pytest.raises(ValueError, match=f"{name} with indices outside"):
        SklearnHead.load(tmp_path, name)


def rare_rows(classes: int, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Standardised features, of which nearly all are zero in nearly all rows."""
    generator = np.random.default_rng(seed)
    y = np.arange(count) % classes
    X = np.maximum(generator.normal(size=(count, 300)) - 2.5, 0)
    X[:, :40] += np.random.default_rng(9).normal(size=(classes, 40))[y]
    X[:, :40] += generator.normal(size=(count, 40))
    return X, y


@pytest.mark.parametrize("smoothing", [1e-9, 0.1])
@pytest.mark.parametrize("classes", [2, 300])
def test_naive_bayes_answers_as_in_float64(classes: int, smoothing: float) -> None:
    from sklearn.naive_bayes import GaussianNB

    X, y = rare_rows(classes, 4 * classes + 40)
    new, _ = rare_rows(classes, 200, seed=1)
    mean, spread = X.mean(axis=0), np.maximum(X.std(axis=0), 1e-3)
    X, new = (((rows - mean) / spread).astype(np.float32) for rows in (X, new))
    spec = HeadSpec("naive_bayes", var_smoothing=smoothing)
    head = SklearnHead(spec).fit(FoldData(X, y, new, y))
    direct = GaussianNB(var_smoothing=smoothing).fit(X.astype(np.float64), y)
    wanted = direct.predict_joint_log_proba(new.astype(np.float64))
    np.testing.assert_array_equal(head.predict_proba(new).argmax(axis=1), wanted.argmax(axis=1))
    logits = naive_bayes.logits(head._parts["estimator"], new)
    np.testing.assert_allclose(logits, wanted, rtol=1e-9, atol=1e-5)
    np.testing.assert_allclose(head._parts["estimator"].theta_, direct.theta_)
    np.testing.assert_allclose(head._parts["estimator"].var_, direct.var_)


def test_wide_rows_of_naive_bayes_are_fitted_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = rows_of(3, (300,))
    spec = HeadSpec("naive_bayes")
    wanted = SklearnHead(spec).fit(FoldData(X, y, X, y)).predict_proba(X)
    monkeypatch.setattr("classify.solvers.naive_bayes._COLUMNS", 7)
    monkeypatch.setattr("classify.solvers.naive_bayes._VALUES", 1000)
    found = SklearnHead(spec).fit(FoldData(X, y, X, y)).predict_proba(X)
    np.testing.assert_allclose(found, wanted)


@pytest.mark.parametrize("images", [1, 2, 3])
def test_neighbours_of_few_images_vote_by_their_distance(images: int) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    # The first class has ten times the images of the others.
    y = np.concatenate([np.zeros(10 * images, int), np.repeat(np.arange(1, 20), images)])
    generator = np.random.default_rng(0)
    centres = 0.5 * generator.normal(size=(20, 30))
    X, new = ((centres[y] + generator.normal(size=(len(y), 30))).astype("f4") for _ in "ab")
    new = np.concatenate([new, X[::3]])  # some at a distance of zero
    head = SklearnHead(HeadSpec("knn")).fit(FoldData(X, y, new, y))
    scores = head.predict_proba(new)
    with warnings.catch_warnings(action="ignore"):  # there are many classes for so few rows
        # Of a tree, equal rows have a distance of zero, not one of rounding.
        direct = KNeighborsClassifier(weights="distance", algorithm="kd_tree").fit(X, y)
    wanted = direct.predict_proba(new)
    np.testing.assert_array_equal(scores.argmax(axis=1), wanted.argmax(axis=1))
    np.testing.assert_allclose(scores, (5 * wanted + 1 / 20) / 6)
    np.testing.assert_allclose(scores.sum(axis=1), 1)
    assert scores.min() > 0
    np.testing.assert_array_equal(scores[len(y) :].argmax(axis=1), y[::3])
    assert scores[len(y) :].max(axis=1) == pytest.approx(5.05 / 6)


def test_a_class_with_one_image_does_not_stop_the_others_from_scaling() -> None:
    X, y = rows_of(3, (8,), apart=2)
    new, truth = rows_of(3, (8,), seed=1, apart=2)
    y = np.where(np.arange(90) == 7, 3, y)
    for name in ("svm", "naive_bayes", "lda"):
        scores = head_class(name)(HeadSpec(name)).fit(FoldData(X, y, new, truth)).predict_proba(new)
        assert log_loss(truth, scores) < 0.8, name


@pytest.mark.parametrize("name", ["svm", "knn", "forest", "boosting", "naive_bayes"])
def test_a_head_of_another_scikit_learn_predicts_the_same_or_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = rows_of(3, (8,))
    head = SklearnHead(HeadSpec(name, **QUICK.get(name, {}))).fit(FoldData(X, y, X, y))
    with monkeypatch.context() as patch:
        patch.setattr("sklearn.base.__version__", "1.0")
        head.save(tmp_path)
        # No warning of scikit-learn comes through: here it would be an error.
        with patch.context() as inner:
            inner.setattr("sklearn.base.__version__", "2.0")
            loaded = SklearnHead.load(tmp_path, name)
        # Not to the last digit: where arrays begin in memory decides how sums are rounded.
        np.testing.assert_allclose(loaded.predict_proba(X), head.predict_proba(X), rtol=1e-6)
        head._parts["example_scores"] = head._parts["example_scores"][::-1]
        head.save(tmp_path)
    with pytest.raises(ValueError, match="found other scores than those of the version"):
        SklearnHead.load(tmp_path, name)

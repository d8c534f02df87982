"""The svm of many rows: its machines, its scale, its file, and the exact one beside it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from classify.heads.sklearn_head import SklearnHead
from classify.scores.calibration import deal_folds, fit_logit_scale
from classify.scores.metrics import measure
from classify.settings.head_spec import HeadSpec
from classify.solvers import kernel_machine
from classify.solvers.kernel_machine import fit_svm, kernel
from classify.stored.views import FoldData

Pair = tuple[np.ndarray, np.ndarray]


def rows_of(classes: int, count: int, seed: int = 0) -> Pair:
    """Classes of two clusters each, of which the first has more rows than the others."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(2 * classes, 10))
    cluster = generator.integers(0, 2 * classes, count)
    X = (centres[cluster] + 0.7 * generator.normal(size=(count, 10))).astype(np.float32)
    return X, np.where(np.arange(count) % 9, cluster % classes, 0)


def wide_rows(classes: int, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of 60 features around a mean of each class."""
    generator, y = np.random.default_rng(seed), np.arange(count) % classes
    means = np.random.default_rng(9).normal(size=(classes, 60))
    return (0.4 * means[y] + generator.normal(size=(count, 60))).astype(np.float32), y


def dual_logits(
    spec: HeadSpec, X: np.ndarray, y: np.ndarray, new: np.ndarray, gamma: float, weights: np.ndarray
) -> np.ndarray:
    """The least-squares machines of all rows, from their dual with the intercept as multiplier."""
    targets = np.eye(y.max() + 1)[y][:, 1 if y.max() == 1 else 0 :] * 2 - 1
    n, own = len(y), kernel(X, X, gamma) + np.diag(1 / ((spec.C or 1) * weights))
    border = np.ones((n, 1))
    system = np.block([[np.zeros((1, 1)), border.T], [border, own]])
    found = np.linalg.solve(system, np.vstack([np.zeros((1, targets.shape[1])), targets]))
    return np.asarray(kernel(new, X, gamma) @ found[1:] + found[0])


@pytest.mark.parametrize("weight", [None, "balanced"])
@pytest.mark.parametrize("classes", [2, 5])
def test_with_all_rows_as_landmarks_it_is_the_least_squares_machine(
    classes: int, weight: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_machine, "_VALUES", 150 * 40)  # several blocks
    (X, y), (new, _) = rows_of(classes, 150), rows_of(classes, 60, seed=1)
    spec, gamma = HeadSpec("svm", C=2, class_weight=weight), 0.05
    counts = np.bincount(y)
    weights = (len(y) / classes / counts if weight else np.ones(classes))[y]
    parts = fit_svm(spec, X, y, gamma)
    found = parts["estimator"].decision_function(kernel(new, parts["rows"], gamma))
    wanted = dual_logits(spec, X, y, new, gamma, weights)
    np.testing.assert_allclose(found.reshape(60, -1), wanted, atol=1e-3)
    # The scale is that of the logits of rows that a fit has not seen.
    fold = deal_folds(y)
    rest, out = zip(*((np.flatnonzero(fold != k), fold == k) for k in range(3)), strict=True)
    unseen = [
        dual_logits(spec, X[a], y[a], X[b], gamma, weights[a])
        for a, b in zip(rest, out, strict=True)
    ]
    scale = fit_logit_scale(np.concatenate(unseen), np.concatenate([y[b] for b in out]))
    assert parts["scale"] == pytest.approx(scale, rel=1e-2)


@pytest.mark.parametrize("kernel_name", ["rbf", "linear"])
def test_of_many_rows_the_svm_is_about_as_good_as_the_exact_one(kernel_name: str) -> None:
    # Several clusters of a class in few dimensions are nothing for a linear machine.
    make = rows_of if kernel_name == "rbf" else wide_rows
    rows = FoldData(*make(6, 900), *make(6, 2000, seed=1))
    spec = HeadSpec("svm", kernel=kernel_name)
    exact = SklearnHead(spec).fit(rows).predict_proba(rows.X_validation)
    fast = SklearnHead(replace(spec, landmarks=300)).fit(rows).predict_proba(rows.X_validation)
    assert not np.array_equal(fast, exact)
    one, other = (measure(rows.y_validation, scores) for scores in (fast, exact))
    assert one.accuracy > other.accuracy - 0.01
    assert one.loss < other.loss + 0.1


def test_its_file_has_landmarks_and_is_checked(tmp_path: Path) -> None:
    X, y = rows_of(3, 200)
    head = SklearnHead(HeadSpec("svm", landmarks=40)).fit(FoldData(X, y, X, y))
    head.save(tmp_path)
    loaded = SklearnHead.load(tmp_path, "svm")
    np.testing.assert_array_equal(loaded.predict_proba(X), head.predict_proba(X))
    assert loaded.fits((10,), 3)
    assert loaded._parts["rows"].shape == (40, 10)
    head._parts["estimator"].coef_ = head._parts["estimator"].coef_[:, 1:]
    head.save(tmp_path)
    with pytest.raises(ValueError, match="svm with indices outside"):
        SklearnHead.load(tmp_path, "svm")


def test_where_no_group_can_be_left_out_its_scores_are_nearly_even() -> None:
    X, y = rows_of(3, 200)
    rows = FoldData(X, y, X, y, groups=y)
    scores = SklearnHead(HeadSpec("svm", landmarks=100)).fit(rows).predict_proba(X)
    np.testing.assert_allclose(scores, 1 / 3, atol=0.15)

"""Heads solved in the row space are those of the direct fit."""

import logging

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import (
    LeaveOneGroupOut,
    LeaveOneOut,
    PredefinedSplit,
    cross_val_predict,
)

from classify.heads.linear_head import fit_linear
from classify.scores.calibration import deal_folds, fit_logit_scale, probabilities
from classify.scores.metrics import log_loss
from classify.settings.head_spec import HeadSpec
from classify.solvers import logistic
from classify.solvers.linear_solvers import LinearModel, RowSpace

Pair = tuple[np.ndarray, np.ndarray]
SHAPES = [(60, 8), (60, 200), (40, 700)]


def rows_of(classes: int, count: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    y = np.arange(count) % classes
    X = generator.normal(size=(count, width)).astype(np.float32) + 3
    X[np.arange(count), y] += 2
    return X, y


def lda(X: np.ndarray, y: np.ndarray, shrinkage: float = 0.3) -> LinearModel:
    (head,) = fit_linear([HeadSpec("lda", shrinkage=shrinkage)], X, y)
    return LinearModel(*head._model)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("classes", [2, 3])
def test_the_whole_path_is_the_direct_fit(classes: int, shape: tuple[int, int]) -> None:
    X, y = rows_of(classes, *shape)
    new, _ = rows_of(classes, *shape, seed=1)
    penalties = [1.0, 0.001, 0.03]
    specs = [HeadSpec("logistic", C=C) for C in penalties]
    for C, model in zip(penalties, RowSpace(X).logistic_path(y, specs), strict=True):
        direct = LogisticRegression(C=C, tol=1e-10, solver="newton-cholesky")
        wanted = direct.fit(X.astype(np.float64), y).predict_proba(new.astype(np.float64))
        np.testing.assert_allclose(probabilities(model.logits(new)), wanted, atol=1e-5)


@pytest.mark.parametrize("C", [0.03, 1.0])
def test_a_feature_of_huge_spread_hides_no_other(C: float) -> None:
    X, y = rows_of(2, 200, 6)
    X[:, 5] *= 1e7
    (model,) = RowSpace(X).logistic_path(y, [HeadSpec("logistic", C=C)])
    # The spread of the last feature makes its coefficient zero, for the solver here and there.
    direct = LogisticRegression(C=C, tol=1e-12, max_iter=10_000).fit(X[:, :5], y)
    found = probabilities(model.logits(X)).argmax(axis=1)
    assert (found == direct.predict(X[:, :5])).mean() > 0.97


def test_very_wide_rows_of_which_some_are_twice_there() -> None:
    X, y = rows_of(3, 60, 5000)
    X, y = np.concatenate([X, X[:6]]), np.concatenate([y, y[:6]])
    new, _ = rows_of(3, 60, 5000, seed=1)
    penalties = [0.001, 10.0]
    specs = [HeadSpec("logistic", C=C) for C in penalties]
    for C, model in zip(penalties, RowSpace(X).logistic_path(y, specs), strict=True):
        # Without its mean the direct fit settles.
        mean = X.mean(axis=0, dtype=np.float64)
        direct = LogisticRegression(C=C, tol=1e-12, max_iter=10_000).fit(X - mean, y)
        wanted = direct.predict_proba(new - mean)
        np.testing.assert_allclose(probabilities(model.logits(new)), wanted, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("classes", [2, 3])
def test_ridge_and_what_each_row_gets_without_itself(classes: int, shape: tuple[int, int]) -> None:
    X, y = rows_of(classes, *shape)
    new, _ = rows_of(classes, *shape, seed=1)
    specs = [HeadSpec("ridge", alpha=alpha) for alpha in (100.0, 3.0)]
    for spec, (model, alone) in zip(specs, RowSpace(X).ridge_path(y, specs), strict=True):
        direct = RidgeClassifier(alpha=spec.alpha).fit(X.astype(np.float64), y)
        wanted = direct.decision_function(new.astype(np.float64)).reshape(len(new), -1)
        np.testing.assert_allclose(model.logits(new), wanted, atol=1e-5)
        if shape[1] < 500:
            left_out = cross_val_predict(
                RidgeClassifier(alpha=spec.alpha),
                X.astype(np.float64),
                y,
                cv=LeaveOneOut(),
                method="decision_function",
            )
            np.testing.assert_allclose(alone, left_out.reshape(len(y), -1), atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
def test_heads_are_the_same_alone_and_together(shape: tuple[int, int]) -> None:
    X, y = rows_of(3, *shape)
    specs = [HeadSpec(name) for name in ("logistic", "ridge", "lda")]
    for together, spec in zip(fit_linear(specs, X, y), specs, strict=True):
        (alone,) = fit_linear([spec], X, y)
        np.testing.assert_allclose(together.predict_proba(X), alone.predict_proba(X), atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("shrinkage", [0.1, 1.0])
def test_discriminant_analysis(shrinkage: float, classes: int, shape: tuple[int, int]) -> None:
    X, y = rows_of(classes, *shape)
    direct = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
    direct.fit(X.astype(np.float64), y)
    found = lda(X, y, shrinkage).logits(X)
    wanted = direct.decision_function(X.astype(np.float64)).reshape(found.shape)
    if classes > 2:  # logits are free up to a number a row
        found, wanted = (z - z.mean(axis=1, keepdims=True) for z in (found, wanted))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_fit_that_does_not_settle_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logistic, "MAX_ITERATIONS", 1)
    X, y = rows_of(2, 60, 5)
    with caplog.at_level(logging.WARNING, "headstart"):
        list(RowSpace(X).logistic_path(y, [HeadSpec("logistic")]))
    assert "not converged in 1 steps" in caplog.text


@pytest.mark.parametrize("width", [3, 200])
@pytest.mark.parametrize("copies", [1, 3])
def test_rows_that_are_their_class_are_told_by_the_nearest(copies: int, width: int) -> None:
    means, y = rows_of(3, 3, width)
    X, y = np.repeat(means, copies, axis=0), np.repeat(y, copies)
    new = means[np.arange(30) % 3] + rows_of(3, 30, width, seed=1)[0] / 9
    nearest = ((new[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    found = probabilities(lda(X, y).logits(new))
    np.testing.assert_array_equal(found.argmax(axis=1), nearest)
    np.testing.assert_allclose(found.sum(axis=1), 1)


@pytest.mark.parametrize("alpha", [3.0, 1e-3])
@pytest.mark.parametrize("width", [4, 200])
def test_a_ridge_without_each_group_is_the_direct_fit(width: int, alpha: float) -> None:
    X, y = rows_of(3, 60, width)
    # Some rows alone, and groups of fewer and of more rows than there are features.
    groups = np.concatenate([np.arange(20), np.repeat([20, 21], 3), np.full(34, 22)])
    _, alone = next(RowSpace(X).ridge_path(y, [HeadSpec("ridge", alpha=alpha)], groups))
    direct = cross_val_predict(
        RidgeClassifier(alpha=alpha),
        X.astype(np.float64),
        y,
        groups=groups,
        cv=LeaveOneGroupOut(),
        method="decision_function",
    )
    np.testing.assert_allclose(alone, direct, atol=1e-3)


def sparse_rows(classes: int, count: int, width: int, seed: int = 0) -> Pair:
    """Rows like pooled activations: not negative, many zeros."""
    generator = np.random.default_rng(seed)
    means = np.random.default_rng(9).normal(size=(classes, width)) * 0.4
    y = np.arange(count) % classes
    X = np.maximum(means[y] + generator.normal(size=(count, width)) - 0.5, 0)
    return X.astype(np.float32), y


@pytest.mark.parametrize("classes", [2, 20])
def test_a_weak_penalty_gives_one_answer_alone_and_in_a_sweep(classes: int) -> None:
    X, y = sparse_rows(classes, 92, 2048)
    new, _ = sparse_rows(classes, 300, 2048, seed=1)
    penalties = [1.0, 1e4]
    specs = [HeadSpec("logistic", C=C) for C in penalties]
    for spec, model in zip(specs, RowSpace(X).logistic_path(y, specs), strict=True):
        solver = "newton-cholesky" if classes == 2 else "newton-cg"
        direct = LogisticRegression(C=spec.C, solver=solver, tol=1e-12, max_iter=1000)
        # The rows of a fit without a mean, in the space that they span.
        mean = X.mean(axis=0, dtype=np.float64)
        basis = np.linalg.svd(X - mean, full_matrices=False)[2].T
        wanted = direct.fit((X - mean) @ basis, y).predict_proba((new - mean) @ basis)
        (alone,) = RowSpace(X).logistic_path(y, [spec])
        for found in (model, alone):
            scores = probabilities(found.logits(new))
            np.testing.assert_allclose(scores, wanted, atol=1e-4, err_msg=str(spec.C))
            np.testing.assert_array_equal(scores.argmax(axis=1), wanted.argmax(axis=1))


@pytest.mark.parametrize("shape", [(60, 8), (60, 200)], ids=str)
@pytest.mark.parametrize("classes", [2, 3])
def test_the_scale_of_lda_is_fitted_on_groups_that_are_left_out(
    classes: int, shape: tuple[int, int]
) -> None:
    X, y = rows_of(classes, *shape)
    groups = np.arange(60) // (2 * classes) * classes + y  # pairs of rows of one class
    fold = deal_folds(y, groups)
    assert all(len(np.unique(fold[groups == group])) == 1 for group in np.unique(groups))
    direct = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3)
    wanted = cross_val_predict(
        direct, X.astype(np.float64), y, cv=PredefinedSplit(fold), method="decision_function"
    )
    (head,) = fit_linear([HeadSpec("lda", shrinkage=0.3)], X, y, groups)
    assert head._scale == pytest.approx(fit_logit_scale(wanted.reshape(60, -1), y), rel=1e-3)
    (rows_alone,) = fit_linear([HeadSpec("lda", shrinkage=0.3)], X, y)
    assert head._scale != rows_alone._scale


@pytest.mark.parametrize("classes", [2, 20])
@pytest.mark.parametrize("images", [1, 2, 20])
def test_lda_of_wide_rows_is_no_surer_than_it_is_right(classes: int, images: int) -> None:
    X, y = sparse_rows(classes, images * classes, 2048)
    new, truth = sparse_rows(classes, 200, 2048, seed=1)
    (head,) = fit_linear([HeadSpec("lda")], X, y)
    assert log_loss(truth, head.predict_proba(new)) < np.log(classes)


def test_folds_leave_every_class_in_each_fit() -> None:
    y = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2])
    groups = np.array([0, 0, 1, 2, 3, 3, 4, 5, 5])
    assert deal_folds(y, groups).tolist() == [0, 0, 1, 2, -1, -1, 0, 1, 1]
    assert deal_folds(y).tolist() == [0, 1, 2, 0, 0, 1, 0, 1, 2]


def test_a_scale_without_rows_left_out_is_careful() -> None:
    z = np.random.default_rng(0).normal(size=(30, 3)) * 1e6
    nothing = fit_logit_scale(z, np.array([], np.int64))
    np.testing.assert_allclose(probabilities(z, nothing), 1 / 3, atol=0.15)
    # All answers are right: the scores are still no certainty.
    y = z.argmax(axis=1)
    assert 0.8 < probabilities(z, fit_logit_scale(z, y)).max(axis=1).mean() < 0.99
    # One logit is far out, and wrong.
    z[0, (y[0] + 1) % 3] = 1e12
    true = probabilities(z, fit_logit_scale(z, y))[np.arange(30), y]
    assert -np.log(true).mean() == pytest.approx(np.log(3), abs=1e-3)

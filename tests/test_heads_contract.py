"""One contract for every head, and what is the dense head's own."""

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier, RidgeCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from sklearn.utils.class_weight import compute_class_weight

from classify.data.preprocessing import Transform
from classify.heads.keras_head import PREDICT_ROWS, DenseHead, build_model
from classify.heads.parallel_heads import build_stack
from classify.heads.registry import FILES, Head, head_class
from classify.scores.metrics import log_loss, measure
from classify.settings.head_spec import DEFAULTS, HeadSpec
from classify.stored.views import FoldData
from extract.core.errors import HeadError

QUICK: dict[str, dict[str, Any]] = {
    "dense": {"units": (16,), "epochs": 5, "learning_rate": 0.03},
    "linear": {"epochs": 5, "learning_rate": 0.1},
}
SHAPES = [(2, (8,)), (3, (2, 2, 3))]
Pair = tuple[np.ndarray, np.ndarray]


def rows_of(classes: int, shape: tuple[int, ...], count: int = 90, seed: int = 0) -> Pair:
    """Rows whose class shows in as many features as there are classes."""
    generator = np.random.default_rng(seed)
    y = np.arange(count) % classes
    X = generator.normal(size=(count, int(np.prod(shape)))).astype(np.float32)
    X[np.arange(count), y] += 4
    return X.reshape(count, *shape), y


def fit(kind: str, classes: int, shape: tuple[int, ...], **settings: Any) -> Head:
    spec = HeadSpec(kind, **{**QUICK.get(kind, {}), **settings})
    return head_class(kind)(spec).fit(
        FoldData(*rows_of(classes, shape), *rows_of(classes, shape, count=30, seed=1))
    )


@pytest.mark.parametrize(("classes", "shape"), SHAPES, ids=str)
@pytest.mark.parametrize("kind", DEFAULTS)
def test_contract(kind: str, classes: int, shape: tuple[int, ...], tmp_path: Path) -> None:
    X, y = rows_of(classes, shape, count=40, seed=2)
    before = X.copy()
    head = fit(kind, classes, shape)
    scores = head.predict_proba(X)
    assert scores.shape == (40, classes)
    assert (scores >= 0).all()
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)
    assert measure(y, scores).accuracy > 0.9
    # What was given is left as it was.
    np.testing.assert_array_equal(X, before)
    # Saved and loaded it is the same head.
    head.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} < FILES
    loaded = head_class(kind).load(tmp_path, kind)
    np.testing.assert_array_equal(loaded.predict_proba(X), scores)
    # It knows what it takes.
    for found in (head, loaded):
        assert found.fits(shape, classes)
        assert not found.fits((*shape, 2), classes)
        assert not found.fits(shape, classes + 1)
    # A second fit with the same settings gives the same numbers.
    again = fit(kind, classes, shape)
    np.testing.assert_array_equal(again.predict_proba(X), scores)
    assert again.history == head.history


def test_another_seed_gives_another_head() -> None:
    X, _ = rows_of(2, (8,), seed=2)
    zero, one = (fit("dense", 2, (8,), seed=seed, epochs=1).predict_proba(X) for seed in (0, 1))
    assert not np.array_equal(zero, one)


def test_more_rows_than_one_call_takes() -> None:
    X, _ = rows_of(3, (8,), count=2 * PREDICT_ROWS + 1)
    head = fit("dense", 3, (8,))
    alone = head.predict_proba(X[PREDICT_ROWS : PREDICT_ROWS + 1])
    np.testing.assert_allclose(head.predict_proba(X)[[PREDICT_ROWS]], alone, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_curves_end_where_the_head_is(classes: int) -> None:
    head = fit("dense", classes, (8,))
    X, y = rows_of(classes, (8,), count=30, seed=1)
    found = measure(y, head.predict_proba(X))
    assert set(head.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert {len(values) for values in head.history.values()} == {QUICK["dense"]["epochs"]}
    assert head.history["val_loss"][-1] == pytest.approx(found.loss, rel=1e-3)
    assert head.history["val_accuracy"][-1] == pytest.approx(found.accuracy)


def test_the_layers_are_those_of_the_course() -> None:
    spec = HeadSpec(units=(16,), dropout=0.3)
    for classes, activation, units in ((2, "sigmoid", 1), (3, "softmax", 3)):
        layers = build_model(spec, (2, 2, 3), classes).layers
        assert [type(layer).__name__ for layer in layers] == [
            "Flatten",
            "Dense",
            "Dropout",
            "Dense",
        ]
        assert (layers[1].units, layers[1].activation.__name__) == (16, "relu")
        assert layers[2].rate == 0.3
        assert (layers[3].units, layers[3].activation.__name__) == (units, activation)


@pytest.mark.parametrize(
    ("settings", "name", "wanted"),
    [
        ({"optimizer": "rmsprop"}, "RMSprop", {"momentum": 0.0}),
        ({"optimizer": "rmsprop", "momentum": 0.5}, "RMSprop", {"momentum": 0.5}),
        ({"optimizer": "adam"}, "Adam", {}),
        ({"optimizer": "sgd"}, "SGD", {"momentum": 0.0, "nesterov": False}),
        (
            {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
            "SGD",
            {"momentum": 0.9, "nesterov": True},
        ),
    ],
    ids=str,
)
def test_the_optimizer_is_told_what_was_asked(
    settings: dict[str, Any], name: str, wanted: dict[str, Any]
) -> None:
    spec = HeadSpec(learning_rate=0.02, **settings)
    rows = FoldData(*rows_of(2, (8,)), *rows_of(2, (8,)))
    optimizer = build_stack([spec], rows).optimizer
    assert type(optimizer).__name__ == name
    found = optimizer.get_config()
    assert found["learning_rate"] == pytest.approx(0.02)
    assert {setting: found[setting] for setting in wanted} == wanted


def test_patience_stops_early_and_takes_the_best_epoch() -> None:
    # The labels of the validation rows are wrong on purpose: the more is learnt, the worse.
    X, y = rows_of(2, (8,))
    spec = HeadSpec("dense", units=(16,), epochs=50, learning_rate=0.03, patience=2)
    head = DenseHead(spec).fit(FoldData(X, y, X, 1 - y))
    losses = head.history["val_loss"]
    assert len(losses) == int(np.argmin(losses)) + 1 + 2
    assert measure(1 - y, head.predict_proba(X)).loss == pytest.approx(min(losses), rel=1e-3)


def test_a_loss_that_is_no_number_is_an_error_at_once() -> None:
    with pytest.raises(
        HeadError, match=r"dense .*: the loss is nan in epoch \d; .*--learning-rate"
    ):
        fit("dense", 3, (8,), optimizer="sgd", learning_rate=1e30, epochs=50)


# Every head against scikit-learn or Keras, straight on the same transformed rows.

AGAINST: dict[str, dict[str, Any]] = {
    # All rows in each batch: the order of the rows has no effect.
    "dense": {"units": (16,), "dropout": 0.0, "epochs": 20, "batch_size": 1000},
    "linear": {"epochs": 20, "batch_size": 1000},
    "logistic": {"C": 0.3},
    "forest": {"trees": 60},
    "boosting": {"trees": 2},
}
for keras_head in ("dense", "linear"):
    AGAINST[keras_head] |= {"optimizer": "adam", "learning_rate": 0.02}
# Rows and features of each number of classes.
FORMS = {
    (2, "narrow"): (120, 12),
    (2, "wide"): (60, 150),
    (20, "narrow"): (200, 40),
    (20, "wide"): (100, 300),
    (300, "narrow"): (900, 60),
    (300, "wide"): (620, 700),
}
Reference = Callable[[HeadSpec, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def activations(classes: int, count: int, width: int, seed: int) -> Pair:
    """Rows like pooled activations; the first classes have more rows than the others."""
    generator = np.random.default_rng(seed)
    y = np.sort(np.arange(count) % classes)
    y[np.unique(y, return_index=True)[1][1:4:2] + 1] = 0  # from others that keep a row
    means = np.random.default_rng(9).normal(size=(classes, width))
    X = np.maximum(means[y] + generator.normal(size=(count, width)), 0)
    return X.astype(np.float32), y


def trained(
    kind: str, classes: int, form: str, **settings: Any
) -> tuple[Head, HeadSpec, Pair, Pair]:
    """Fit a head on transformed rows, and return it with them and with others."""
    count, width = FORMS[classes, form]
    (X, y), (new, truth) = (activations(classes, count, width, seed) for seed in (0, 1))
    spec = HeadSpec(kind, **AGAINST.get(kind, {}), **settings)
    transform = Transform(spec.transform or ())
    X, new = transform.fit_apply(X), transform.apply(new)
    head = head_class(kind)(spec).fit(FoldData(X, y, new, truth))
    return head, spec, (X, y), (new, truth)


def by_keras(spec: HeadSpec, X: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The scores of a plain Keras model that ``fit`` trains from the same first weights."""
    model = build_model(spec, X.shape[1:], int(y.max()) + 1)
    model.set_weights(build_stack([spec], FoldData(X, y, X, y)).head_weights([0])[0])
    loss = "binary_crossentropy" if y.max() == 1 else "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.Adam(spec.learning_rate), loss)
    weights = compute_class_weight(spec.class_weight, classes=np.unique(y), y=y)
    steps = {"batch_size": spec.batch_size, "epochs": spec.epochs, "shuffle": False, "verbose": 0}
    model.fit(X, y, class_weight=dict(enumerate(weights)), **steps)
    scores = np.asarray(model(new), np.float64)
    return np.hstack([1 - scores, scores]) if y.max() == 1 else scores


def by_logistic(spec: HeadSpec, X: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    # The solution lies in the row space; there and without a mean the direct fit is fast.
    mean = X.mean(axis=0, dtype=np.float64)
    basis = np.linalg.svd(X - mean, full_matrices=False)[2].T
    direct = LogisticRegression(C=spec.C, tol=1e-10, solver="newton-cg", max_iter=1000)
    direct.set_params(class_weight=spec.class_weight)
    scores: np.ndarray = direct.fit((X - mean) @ basis, y).predict_proba((new - mean) @ basis)
    return scores


def by_votes(spec: HeadSpec, X: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    classes = int(y.max()) + 1
    if spec.head == "knn":
        direct, votes = KNeighborsClassifier(weights="distance", algorithm="brute"), 5
    else:
        direct, votes = RandomForestClassifier(spec.trees, random_state=spec.seed), spec.trees or 0
        direct.set_params(class_weight=spec.class_weight)
    return np.asarray((votes * direct.fit(X, y).predict_proba(new) + 1 / classes) / (votes + 1))


def by_boosting(spec: HeadSpec, X: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    direct = HistGradientBoostingClassifier(max_iter=spec.trees, early_stopping=False)
    direct.set_params(class_weight=spec.class_weight)
    return np.asarray(direct.fit(X, y).predict_proba(new))


def by_scaled_logits(spec: HeadSpec, X: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The logits are scaled as the logits of rows that a fit has not seen are most likely."""
    svm = {"kernel": spec.kernel, "class_weight": spec.class_weight}

    def fit_logits(train: np.ndarray, rows: np.ndarray) -> np.ndarray:
        direct = {
            "svm": SVC(C=spec.C, gamma=1 / X.var(axis=0).sum(), tol=1e-8, **svm),
            "lda": LinearDiscriminantAnalysis(solver="lsqr", shrinkage=spec.shrinkage),
            "ridge": RidgeClassifier(alpha=spec.alpha),
            "naive_bayes": GaussianNB(var_smoothing=spec.var_smoothing),
        }[spec.head].fit(X[train], y[train])
        of_bayes = spec.head == "naive_bayes"
        z = direct.predict_joint_log_proba(rows) if of_bayes else direct.decision_function(rows)
        return np.stack([0 * z, z], axis=1) if z.ndim == 1 else np.asarray(z)

    if spec.head == "ridge":
        targets = np.eye(y.max() + 1)[y] * 2 - 1
        direct = RidgeCV([spec.alpha], scoring="r2", store_cv_results=True).fit(X, targets)
        # Of two classes the logit is that of the second alone.
        unseen, truth = direct.cv_results_[:, :, 0] * (0.5 if y.max() == 1 else 1), y
    else:
        # Every third row of a class is left out, unless it is the only one.
        fold = np.array([np.sum(y[:row] == label) % 3 for row, label in enumerate(y)])
        fold[np.bincount(y)[y] == 1] = -1
        out = [np.flatnonzero(fold == k) for k in range(3)]
        unseen = np.concatenate(
            [fit_logits(np.flatnonzero(fold != k), X[out[k]]) for k in range(3)]
        )
        truth = y[np.concatenate(out)]

    def loss(log_scale: float) -> float:
        scores = log_softmax(np.exp(log_scale) * unseen, axis=1)
        return -float(scores[np.arange(len(truth)), truth].sum() + scores.mean())

    spread = np.log(unseen.std())
    scale = np.exp(minimize_scalar(loss, bounds=(-9 - spread, 9 - spread)).x)
    return np.asarray(softmax(scale * fit_logits(np.arange(len(y)), new), axis=1))


REFERENCES: dict[str, Reference] = {
    **{"dense": by_keras, "linear": by_keras, "logistic": by_logistic, "knn": by_votes},
    **{"forest": by_votes, "boosting": by_boosting, "svm": by_scaled_logits},
    **{"ridge": by_scaled_logits, "lda": by_scaled_logits, "naive_bayes": by_scaled_logits},
}


def compare(kind: str, classes: int, form: str, **settings: Any) -> tuple[float, int, float, float]:
    """Return the greatest difference of the scores from the reference, the number of answers that
    differ, the loss of the other rows, and that of the shares of the classes.
    """
    head, spec, (X, y), (new, truth) = trained(kind, classes, form, **settings)
    scores = head.predict_proba(new)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    assert scores.min() >= 0
    assert scores.max() <= 1
    with warnings.catch_warnings():  # there are many classes for so few rows
        warnings.filterwarnings("ignore", "The number of unique classes")
        warnings.filterwarnings("ignore", "Only one sample available")
        wanted = REFERENCES[kind](spec, X.astype(np.float64), y, new.astype(np.float64))
    # Equal scores have no single answer.
    answers = np.take_along_axis(wanted, scores.argmax(axis=1)[:, None], axis=1)[:, 0]
    other_answers = int((wanted.max(axis=1) > answers * (1 + 1e-5)).sum())
    shares = np.bincount(y) / len(y)
    losses = log_loss(truth, scores), log_loss(truth, np.tile(shares, (len(new), 1)))
    return float(np.abs(scores - wanted).max()), other_answers, *losses


@pytest.mark.parametrize(
    ("classes", "form"),
    [pytest.param(*case, marks=[pytest.mark.slow] if 300 in case else []) for case in FORMS],
)
@pytest.mark.parametrize("kind", DEFAULTS)
def test_answers_and_scores_are_those_of_scikit_learn_or_keras(
    kind: str, classes: int, form: str
) -> None:
    difference, other_answers, loss, loss_of_shares = compare(kind, classes, form)
    # Of 300 classes some svm votes are as close as the rounding of float32.
    assert difference < (5e-3 if (kind, classes) == ("svm", 300) else 1e-3)
    assert other_answers == 0
    assert loss < loss_of_shares


WEIGHTED = [
    (kind, {"class_weight": "balanced"}) for kind in DEFAULTS if "class_weight" in DEFAULTS[kind]
]


@pytest.mark.parametrize("form", ["narrow", "wide"])
@pytest.mark.parametrize(("kind", "settings"), [*WEIGHTED, ("svm", {"kernel": "linear"})], ids=str)
def test_settings_are_those_of_scikit_learn_or_keras(
    kind: str, settings: dict[str, Any], form: str
) -> None:
    difference, other_answers, loss, loss_of_shares = compare(kind, 20, form, **settings)
    assert difference < 1e-3
    assert other_answers == 0
    assert loss < loss_of_shares


_OTHER_BACKEND = """
import numpy as np, pathlib, sys
from tests.test_heads_contract import fit, rows_of
from classify.heads.keras_head import DenseHead
X, y = rows_of(3, (2, 2, 3), seed=2)
head = fit("dense", 3, (2, 2, 3))
scores = head.predict_proba(X)
assert (scores.argmax(axis=1) == y).mean() > 0.9
folder = pathlib.Path(sys.argv[1])
head.save(folder)
assert np.array_equal(DenseHead.load(folder).predict_proba(X), scores)
assert np.array_equal(fit("dense", 3, (2, 2, 3)).predict_proba(X), scores)
import keras
print(keras.backend.backend())
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends(backend: str, tmp_path: Path) -> None:
    pytest.importorskip(backend)
    done = subprocess.run(
        [sys.executable, "-c", _OTHER_BACKEND, str(tmp_path)],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == [backend], done.stderr


def test_many_models_in_one_process_are_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    for width in range(4, 11):
        fit("linear", 2, (width,), epochs=1)
    assert "retracing" not in caplog.text

"""What is the scikit-learn head's own; the contract is in test_heads.py."""

import logging
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from classify import estimators
from classify.config import HeadSpec
from classify.estimators import FILE, LogisticHead


def rows_of(count: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    X = generator.normal(size=(count, width)).astype(np.float32)
    return X * 100 + 7, (X[:, 0] + generator.normal(size=count) > 0).astype(np.int64)


@pytest.mark.parametrize("C", [0.01, 1.0])
def test_it_is_logistic_regression_on_standardised_features(C: float) -> None:
    X, y = rows_of(60, 5)
    scaled = StandardScaler().fit_transform(X)
    wanted = LogisticRegression(C=C, max_iter=1000).fit(scaled, y).predict_proba(scaled)
    head = LogisticHead(HeadSpec("logistic", C=C)).fit(X, y, X, y)
    np.testing.assert_allclose(head.predict_proba(X), wanted, atol=1e-6)


def test_a_feature_that_never_changes_does_no_harm() -> None:
    X, y = rows_of(60, 5)
    X[:, 3] = 0
    head = LogisticHead().fit(X, y, X, y)
    assert np.isfinite(head.predict_proba(X)).all()


def test_flattened_maps_of_the_course_fit_in_seconds() -> None:
    X, y = rows_of(100, 7 * 7 * 768)
    maps = X.reshape(100, 7, 7, 768)
    head = LogisticHead().fit(maps, y, maps, y)
    assert head.predict_proba(maps).argmax(axis=1).tolist() == y.tolist()


def test_a_fit_that_does_not_settle_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(estimators, "MAX_ITERATIONS", 1)
    X, y = rows_of(60, 5)
    with caplog.at_level(logging.WARNING, "headstart"):
        LogisticHead().fit(X, y, X, y)
    assert "not settled after 1 steps" in caplog.text


def test_the_file_is_not_a_pickle_and_foreign_types_are_refused(tmp_path: Path) -> None:
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

    X, y = rows_of(60, 5)
    LogisticHead().fit(X, y, X, y).save(tmp_path)
    assert zipfile.is_zipfile(tmp_path / FILE)
    skops.io.dump(subprocess.Popen, tmp_path / FILE)
    with pytest.raises(UntrustedTypesFoundException):
        LogisticHead.load(tmp_path)


def test_keras_is_never_loaded(tmp_path: Path) -> None:
    script = """
import numpy, pathlib, sys
import classify.bundle, classify.predict, classify.cli
from classify.estimators import LogisticHead
X, y = numpy.eye(4, dtype="float32"), numpy.array([0, 1, 0, 1])
head = LogisticHead().fit(X, y, X, y)
head.save(pathlib.Path(sys.argv[1]))
LogisticHead.load(pathlib.Path(sys.argv[1])).predict_proba(X)
print([name for name in ("keras", "tensorflow", "jax", "torch") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"

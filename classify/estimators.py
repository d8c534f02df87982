"""Heads of scikit-learn. Keras and its backend are never loaded here."""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.config import HeadSpec
from extract.console import log

FILE = "head.skops"
MAX_ITERATIONS = 1000


class LogisticHead:
    """Logistic regression on standardised features; multinomial for more than two classes.

    Attributes:
        spec: The settings; a head that was loaded has none.
        history: Empty: there are no epochs.
    """

    def __init__(self, spec: HeadSpec | None = None, pipeline: Any = None) -> None:
        self.spec = spec or HeadSpec("logistic")
        self.history: dict[str, list[float]] = {}
        self._pipeline = pipeline

    def fit(
        self,
        X: NDArray[np.float32],
        y: NDArray[np.int64],
        X_validation: NDArray[np.float32],
        y_validation: NDArray[np.int64],
    ) -> "LogisticHead":
        """Fit the scaling and the regression on (X, y); the validation rows are not looked at.

        Args:
            X: (A, *shape) float32 features, vectors or feature maps.
            y: (A,) int64 classes 0 to K - 1, each with a row.
            X_validation: (B, *shape) float32, unused.
            y_validation: (B,) int64, unused.

        Returns:
            The head itself.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        self._pipeline = make_pipeline(
            StandardScaler(), LogisticRegression(C=self.spec.C, max_iter=MAX_ITERATIONS)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # said below, in one line
            self._pipeline.fit(_flat(X), y)
        if self._pipeline[-1].n_iter_.max() >= MAX_ITERATIONS:
            log.warning("logistic: not settled after %d steps; a lower --C helps", MAX_ITERATIONS)
        return self

    def predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.floating]:
        """Score each class for each row.

        Args:
            X: (N, *shape) float32 features.

        Returns:
            (N, K) scores, 0 to 1; each row sums to 1.
        """
        return np.asarray(self._pipeline.predict_proba(_flat(X)))

    def fits(self, shape: tuple[int, ...], classes: int) -> bool:
        """Say whether the head takes rows of this shape and scores this many classes."""
        wide: int = self._pipeline.n_features_in_
        return wide == math.prod(shape) and len(self._pipeline.classes_) == classes

    def save(self, folder: Path) -> None:
        """Write the head into a folder, as ``head.skops``."""
        import skops.io

        skops.io.dump(self._pipeline, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> "LogisticHead":
        """Read what ``save`` wrote. No type outside skops' own list is made, so no code is run."""
        import skops.io

        return cls(pipeline=skops.io.load(folder / FILE, trusted=[]))


def _flat(X: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return feature maps as vectors, (N, D); a view."""
    return X.reshape(len(X), -1)

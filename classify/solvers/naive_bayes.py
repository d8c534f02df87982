"""Gaussian naive Bayes in float64, block by block."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.stored.out_of_core import Labels, Rows

# Columns, or values, in float64 at a time.
_COLUMNS, _VALUES = 4096, 1 << 22


def fit(X: Rows, y: Labels, smoothing: float) -> Any:
    """Fit Gaussian naive Bayes in float64.

    A feature that is constant in the images of a class has no variance there. With scikit-learn's
    own smoothing of 1e-9 it then outweighs all others: its log-likelihoods of -1e10 have no digit
    left for them in float32.

    Args:
        X: (N, D) rows.
        y: (N,) classes.
        smoothing: Share of the largest variance of a feature that is added to every variance.
    """
    from sklearn.naive_bayes import GaussianNB

    means, variances, largest = [], [], 0.0
    for start in range(0, X.shape[1], _COLUMNS):
        block = X[:, start : start + _COLUMNS].astype(np.float64)
        bayes = GaussianNB(var_smoothing=0.0).fit(block, y)
        means.append(bayes.theta_)
        variances.append(bayes.var_)
        largest = max(largest, float(block.var(axis=0).max()))
    # Where all features are constant: no division by zero.
    bayes.theta_, bayes.var_ = np.hstack(means), np.hstack(variances) + (smoothing * largest or 1)
    bayes.n_features_in_ = X.shape[1]
    return bayes


def logits(bayes: Any, X: Rows) -> NDArray[np.float64]:
    """Return (N, K) logits: ``predict_joint_log_proba`` of scikit-learn, in two products.

    Args:
        bayes: The fitted estimator.
        X: (N, D) rows.
    """
    means, precisions = bayes.theta_, 1 / bayes.var_
    # The sum over the features of (x - mean)^2 / variance has a part without x.
    fixed = (means**2 * precisions + np.log(2 * np.pi * bayes.var_)).sum(axis=1)
    fixed -= 2 * np.log(bayes.class_prior_)
    parts, step = [], max(1, _VALUES // X.shape[1])
    for start in range(0, len(X), step):
        rows = X[start : start + step].astype(np.float64)
        products = rows @ (2 * means * precisions).T
        parts.append((products - rows**2 @ precisions.T - fixed) / 2)
    return np.concatenate(parts)

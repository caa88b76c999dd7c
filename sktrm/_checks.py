"""Checks that both estimators make of labels, validation rows and weights."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import _check_sample_weight


def check_y_is_given(estimator: BaseEstimator, y: Any) -> None:
    """Raise ValueError, in scikit-learn's words, without ``y``."""
    if y is None:
        raise ValueError(
            f"This {type(estimator).__name__} estimator requires y to be passed, but "
            f"the target y is None."
        )


def check_validation_rows(X_val: Any, y_val: Any, **others: Any) -> None:
    """Raise ValueError where rows to validate on are given in part."""
    if (X_val is None) != (y_val is None):
        raise ValueError("X_val and y_val must be given together.")
    for name, value in others.items():
        if X_val is None and value is not None:
            raise ValueError(f"{name} must be None without X_val and y_val.")


def check_weights(sample_weight: Any, rows: Any, of: str = "") -> np.ndarray:
    """Return the weight of each of ``rows``; ``of`` ends the parameter's name."""
    if sample_weight is not None and not np.asarray(sample_weight).any():
        raise ValueError(
            f"sample_weight{of} must contain at least one non-zero number, got zeros "
            f"only."
        )
    weights: np.ndarray = _check_sample_weight(
        sample_weight, rows, ensure_non_negative=True
    )
    return within_range(weights)


def within_range(weights: np.ndarray) -> np.ndarray:
    """Return weights whose sums and products float32 can hold; shares stay."""
    largest = weights.max(initial=0)
    if largest == 0 or 2.0**-60 < largest < 2.0**60:
        return weights
    return weights / largest

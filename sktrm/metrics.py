"""Scores for answers that are whole grids or sequences."""

from typing import Any

import numpy as np
from sklearn.metrics import make_scorer

from sktrm._encoding import as_grids
from sktrm.datasets import is_shortest_path

__all__ = [
    "cell_accuracy_score",
    "cell_accuracy_scorer",
    "exact_match_score",
    "exact_match_scorer",
    "expected_calibration_error",
    "valid_shortest_path_score",
    "valid_shortest_path_scorer",
]


def exact_match_score(
    y_true: Any, y_pred: Any, *, sample_weight: Any = None, ignore_value: Any = None
) -> float:
    """Share of rows whose every scored cell is right.

    Parameters
    ----------
    y_true : array-like of shape (n,), (n, L) or (n, H, W), or list of n grids
        Right answers.
    y_pred : of the same form
        Predicted answers. A grid of another size than the right one is wrong.
    sample_weight : array-like of shape (n,), default=None
        Weights of the rows.
    ignore_value : object, default=None
        Cells of ``y_true`` with this value are not scored.

    Returns
    -------
    score : float
        Between 0 and 1.

    Examples
    --------
    >>> from sktrm.metrics import exact_match_score
    >>> exact_match_score([[1, 2], [3, 4]], [[1, 2], [3, 3]])
    0.5
    """
    right = _cells_right(y_true, y_pred, ignore_value)
    rows = [bool(np.all(row)) for row in right]
    return float(np.average(rows, weights=sample_weight))


def cell_accuracy_score(
    y_true: Any, y_pred: Any, *, sample_weight: Any = None, ignore_value: Any = None
) -> float:
    """Mean over the rows of the share of scored cells that are right.

    Parameters
    ----------
    y_true : array-like of shape (n,), (n, L) or (n, H, W), or list of n grids
        Right answers.
    y_pred : of the same form
        Predicted answers. A grid of another size than the right one scores 0.
    sample_weight : array-like of shape (n,), default=None
        Weights of the rows.
    ignore_value : object, default=None
        Cells of ``y_true`` with this value are not scored.

    Returns
    -------
    score : float
        Between 0 and 1.

    Examples
    --------
    >>> from sktrm.metrics import cell_accuracy_score
    >>> cell_accuracy_score([[1, 2], [3, 4]], [[1, 2], [3, 3]])
    0.75
    """
    right = _cells_right(y_true, y_pred, ignore_value)
    rows = [np.mean(row) if np.size(row) else 1.0 for row in right]
    return float(np.average(rows, weights=sample_weight))


def _cells_right(y_true: Any, y_pred: Any, ignore_value: Any) -> list[np.ndarray]:
    """Tell of every scored cell of every row whether it is right."""
    truth, answers = as_grids(y_true, "y_true"), as_grids(y_pred, "y_pred")
    if len(truth) != len(answers):
        raise ValueError(
            f"y_true and y_pred must have the same number of rows, got {len(truth)} "
            f"and {len(answers)}."
        )
    return [
        _row_right(np.asarray(a), np.asarray(b), ignore_value)
        for a, b in zip(truth, answers, strict=True)
    ]


def _row_right(truth: np.ndarray, answer: np.ndarray, ignore_value: Any) -> np.ndarray:
    if truth.shape != answer.shape:
        return np.array([False])
    right: np.ndarray = truth == answer
    return right if ignore_value is None else right[truth != ignore_value]


def valid_shortest_path_score(
    X: Any, y_pred: Any, *, sample_weight: Any = None
) -> float:
    """Share of mazes whose answer is a valid and shortest path from start to goal.

    A maze often has many shortest paths and one label, so this says more than the
    exact match. Walls, start and goal must be where the question has them; the cells
    marked ``o`` must be exactly those between the ends of one shortest path.

    Parameters
    ----------
    X : array-like of shape (n, H, W) or (n, side * side), or list of n grids
        Mazes: ``#`` wall, `` `` free, ``S`` start, ``G`` goal.
    y_pred : of the same form
        The mazes with ``o`` on a path.
    sample_weight : array-like of shape (n,), default=None
        Weights of the mazes.

    Returns
    -------
    score : float
        Between 0 and 1.

    Examples
    --------
    >>> from sktrm.metrics import valid_shortest_path_score
    >>> maze = [["S", " "], [" ", "G"]]
    >>> valid_shortest_path_score([maze], [[["S", "o"], [" ", "G"]]])
    1.0
    """
    mazes, answers = as_grids(X, "X"), as_grids(y_pred, "y_pred")
    if len(mazes) != len(answers):
        raise ValueError(
            f"X and y_pred must have the same number of mazes, got {len(mazes)} and "
            f"{len(answers)}."
        )
    pairs = zip(mazes, answers, strict=True)
    valid = [is_shortest_path(maze, answer) for maze, answer in pairs]
    return float(np.average(valid, weights=sample_weight))


def valid_shortest_path_scorer(estimator: Any, X: Any, y: Any = None) -> float:
    """Score ``estimator.predict(X)`` by :func:`valid_shortest_path_score`.

    A scorer for ``cross_val_score(..., scoring=valid_shortest_path_scorer)``.

    Parameters
    ----------
    estimator : object with ``predict``
        Fitted on mazes.
    X : array-like of shape (n, H, W) or list of n grids
        Mazes.
    y : ignored
        Present for the scorer protocol.

    Returns
    -------
    score : float
        Between 0 and 1.
    """
    return valid_shortest_path_score(X, estimator.predict(X))


def expected_calibration_error(
    y_true: Any,
    y_proba: Any,
    *,
    classes: Any = None,
    n_bins: int = 10,
    sample_weight: Any = None,
) -> float:
    """Mean gap between how probable a classifier finds its labels and its accuracy.

    Rows are put into bins of equal width by the probability of their likeliest class.
    The gap of a bin, between mean probability and accuracy, counts by its weight.

    Parameters
    ----------
    y_true : array-like of shape (n,)
        Right labels.
    y_proba : array-like of shape (n, n_classes)
        Predicted probabilities.
    classes : array-like of shape (n_classes,), default=None
        Labels that the columns of ``y_proba`` stand for, such as a classifier's
        ``classes_``; None takes the sorted labels of ``y_true``.
    n_bins : int, default=10
        Number of bins between 0 and 1.
    sample_weight : array-like of shape (n,), default=None
        Weights of the rows.

    Returns
    -------
    error : float
        Between 0 and 1; 0 is best.

    References
    ----------
    C. Guo et al., "On Calibration of Modern Neural Networks", arXiv:1706.04599, eq. 3.

    Examples
    --------
    >>> from sktrm.metrics import expected_calibration_error
    >>> expected_calibration_error([0, 1], [[0.75, 0.25], [0.75, 0.25]])
    0.25
    """
    truth, proba = np.asarray(y_true), np.asarray(y_proba, dtype=float)
    labels = np.unique(truth) if classes is None else np.asarray(classes)
    if proba.shape != (len(truth), len(labels)):
        raise ValueError(
            f"y_proba must be of shape (n, n_classes), {(len(truth), len(labels))} "
            f"here, got {proba.shape}."
        )
    weights = np.ones(len(truth)) if sample_weight is None else sample_weight
    confidence = proba.max(axis=1)
    gap = (labels[proba.argmax(axis=1)] == truth) - confidence
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    gaps = np.bincount(bins, weights=weights * gap, minlength=n_bins)
    return float(np.abs(gaps).sum() / np.sum(weights))


exact_match_scorer = make_scorer(exact_match_score)
cell_accuracy_scorer = make_scorer(cell_accuracy_score)

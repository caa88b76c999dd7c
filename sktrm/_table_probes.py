"""Whether lines or bins of their own suit a table: both tried on rows held out."""

import math
import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sktrm._progress import without_callbacks
from sktrm._table_task import Labelled

# Of fewer rows too few can be held out to tell.
_LEAST_ROWS = 100
_SHARE_HELD_OUT = 0.25
# Of the epochs that "auto" takes where each value has a knot, and of those to come.
_SHARE_OF_EPOCHS = (0.25, 0.5)


def choose_smooth(model: Any, rows: Labelled, held_out: Labelled | None) -> bool:
    """Return ``smooth_numbers`` of a classifier, or what stands for "auto".

    ``held_out`` are rows to validate on, if the fit has any.
    """
    if model.smooth_numbers != "auto":
        return bool(model.smooth_numbers)
    n_rows, n_classes = len(rows.labels), len(model.classes_)
    can_split = n_classes > 1 and np.bincount(rows.labels).max() > 1
    if n_rows < _LEAST_ROWS or not can_split:
        return False
    probe = _without_course(model)
    probe._learn_columns(rows, smooth=True)
    if not probe._encoder.share_between:
        return False
    n_epochs = _epochs(probe, n_rows)
    if held_out is None or len(held_out.labels) < _SHARE_HELD_OUT * _LEAST_ROWS:
        kept, others = probe._choose_held_out(n_rows, rows.labels)
        rows, held_out = rows.take(kept), rows.take(others)
    smooth, free = (
        _log_loss(_without_course(model), rows, held_out, way, n_epochs)
        for way in (True, False)
    )
    if model.verbose:
        print(
            f"log loss of {len(held_out.labels)} rows held out after {n_epochs} epochs"
            f": {smooth:.4f} with smooth numbers, {free:.4f} without",
            flush=True,
        )
    return smooth < free


def _without_course(model: Any) -> Any:
    """Return a copy to train that nobody watches, cuts short or compiles."""
    probe = without_callbacks(model)
    given = {"callbacks": None, "compile": False, "verbose": 0, "early_stopping": False}
    # Not set_params: a subclass may have other parameters.
    vars(probe).update(given, validation_fraction=_SHARE_HELD_OUT)
    if model.max_time is not None:
        probe.max_time = model.max_time / 8
    return probe


def _epochs(probe: Any, n_rows: int) -> int:
    """Return for how many epochs to try."""
    planned = min(
        _SHARE_OF_EPOCHS[0] * probe._auto_epochs(n_rows),
        _SHARE_OF_EPOCHS[1] * probe._n_epochs(n_rows),
    )
    return math.ceil(planned)


def _log_loss(
    probe: Any, rows: Labelled, held_out: Labelled, smooth: bool, n_epochs: int
) -> float:
    """Train ``probe`` and return the log loss of ``held_out``."""
    probe._learn_columns(rows, smooth)
    probe._begin_training(rows)
    with warnings.catch_warnings():
        # The fit to come warns of its own loss, if that is not finite.
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe._fit_rows(rows, None, n_epochs, None, None, None)
    log_proba = probe._log_proba(probe._encode(held_out.table))
    right = np.take_along_axis(log_proba, held_out.labels[:, None], axis=1)[:, 0]
    weights = held_out.weights * probe._class_weight[held_out.labels]
    return float(-np.average(right, weights=weights))

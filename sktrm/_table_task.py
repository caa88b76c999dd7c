"""What a classifier learns of its table before it trains: labels, columns, sizes."""

import math
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.utils import column_or_1d, compute_class_weight
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_consistent_length

from sktrm._base import BaseTRM
from sktrm._checks import check_validation_rows, check_weights, check_y_is_given
from sktrm._slots import Rows, Slots
from sktrm._tables import Table, TableEncoder, as_counts, is_missing
from sktrm._training import DeepSupervisionNet
from sktrm.nn import TinyRecursionModel, build_table_model

# On a CPU, products of so few columns gain nothing from bfloat16, and sums in
# float32 hardly show how many threads made them.
_NARROW = 16
_ROWS_STARTED = 120_000  # by max_epochs="auto", over all epochs
_COLUMNS = 24  # of more, so many fewer rows: a step takes as long as a row is wide
_EPOCHS = (20, 400)  # its limits
# What is left of epochs and rate if all columns have values between their knots, lest
# these be learned by heart.
_BETWEEN = 0.5
_ROWS_DECAYED_BY_ONE = 450  # weight_decay="auto" is 1 for so many
_DECAY = (0.5, 3.0)  # its limits
# Where labels are noise: how many times more, from what noise on, and never above. From
# rules of benchmarks/noisy_labels.py, seed 0.
_NOISE_DECAYED = 3.0
_FULL_NOISE = 0.02
_MOST_DECAY = 4.0
# Labels without noise that are added to those seen: a pair or two show little.
_PRIOR_LABELS = 100
# How much a bin bends the line of a column at first with smooth_numbers and, since the
# optimiser moves all weights alike, how fast it learns to. From benchmarks/curves.py.
_BEND = 0.05


class TableTask(BaseTRM):
    """From tables and parameters to encoded rows and the sizes of a model.

    The host class, :class:`~sktrm.TRMClassifier`, has the parameters.
    """

    _parameter_constraints: dict[str, Any] = {
        **BaseTRM._parameter_constraints,
        "categorical_features": ["array-like", StrOptions({"from_dtype"}), None],
        "n_knots": [Interval(Integral, 2, None, closed="left")],
        "smooth_numbers": ["boolean", StrOptions({"auto"})],
        "min_frequency": [Interval(Integral, 1, None, closed="left")],
        "max_categories": [Interval(Integral, 1, None, closed="left")],
        "hidden_size": [Interval(Integral, 1, None, closed="left")],
        "weight_decay": [Interval(Real, 0, None, closed="left"), StrOptions({"auto"})],
        "max_epochs": [
            Interval(Integral, 1, None, closed="left"),
            StrOptions({"auto"}),
        ],
        "early_stopping": ["boolean", StrOptions({"auto"})],
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    n_knots: int
    smooth_numbers: bool | str
    min_frequency: int
    max_categories: int
    max_epochs: int | str
    weight_decay: float | str
    class_weight: Any
    classes_: np.ndarray
    is_categorical_: np.ndarray
    _check_X: Any
    _check_X_val: Any
    _encode: Any
    weight_decay_: float

    def _split(
        self, rows: "Labelled", X_val: Any, y_val: Any, sample_weight_val: Any
    ) -> tuple["Labelled", "Labelled | None"]:
        """Return the rows to train on and those to validate on, if any."""
        check_validation_rows(X_val, y_val, sample_weight_val=sample_weight_val)
        if X_val is not None:
            checked = self._check_rows(
                X_val, y_val, sample_weight_val, reset=False, of="_val"
            )
            return rows, self._label(*checked, of="_val")
        n_rows = len(rows.labels)
        if self._stops_early(n_rows, held_out=False):
            kept, held_out = self._choose_held_out(n_rows, rows.labels)
            return rows.take(kept), rows.take(held_out)
        return rows, None

    def _check_rows(
        self, X: Any, y: Any, sample_weight: Any, *, reset: bool, of: str = ""
    ) -> tuple[Table, np.ndarray, np.ndarray]:
        """Check labelled rows; ``of`` ends the names of the parameters they are."""
        check_y_is_given(self, y)
        table = self._check_X_val(X) if of else self._check_X(X, reset=reset)
        y = _check_labels(y, f"y{of}")
        check_consistent_length(table.columns[0], y)
        return table, y, check_weights(sample_weight, y, of)

    def _label(
        self, table: Table, y: np.ndarray, weights: np.ndarray, of: str = ""
    ) -> "Labelled":
        """Code the labels of checked rows; those of weight zero are left out."""
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(
                f"y{of} holds {unknown[:1].tolist()[0]!r}, which is none of the "
                f"classes {self.classes_.tolist()}."
            )
        labels = np.searchsorted(self.classes_, y)
        kept = np.flatnonzero(weights * self._class_weight[labels])
        if not len(kept):
            raise ValueError(
                f"class_weight must leave a row of y{of} with a positive "
                f"sample_weight{of} some weight, got {self.class_weight!r}."
            )
        return Labelled(table, labels, weights).take(kept)

    def _weigh_classes(self, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the weight of each class in the loss, (n_classes,)."""
        of_class = np.ones(len(self.classes_))
        if isinstance(self.class_weight, dict):
            for label, weight in self.class_weight.items():
                if (
                    not isinstance(weight, int | float | np.number)
                    or not 0 <= weight < np.inf
                ):
                    raise ValueError(
                        f"class_weight must hold finite numbers of at least 0, got "
                        f"{weight!r} for class {label!r}."
                    )
            of_class = compute_class_weight(
                self.class_weight, classes=self.classes_, y=self.classes_
            )
        elif self.class_weight == "balanced":
            labels = np.searchsorted(self.classes_, y)
            total = np.bincount(labels, weights, minlength=len(self.classes_))
            there = total > 0
            of_class[there] = total.sum() / (there.sum() * total[there])
        return of_class

    def _n_epochs(self, n_rows: int) -> int:
        """Return ``max_epochs``, or what stands for "auto"."""
        if not isinstance(self.max_epochs, str):
            return int(self.max_epochs)
        return max(_EPOCHS[0], round(self._share_left() * self._auto_epochs(n_rows)))

    def _auto_lr(self) -> float:
        return super()._auto_lr() * self._share_left()

    def _share_left(self) -> float:
        """Return what values between knots leave of epochs and rate, as a share."""
        return 1 - (1 - _BETWEEN) * self._encoder.share_between

    def _auto_epochs(self, n_rows: int) -> int:
        """Return what ``max_epochs="auto"`` is where each value has a knot."""
        started = _ROWS_STARTED * min(1.0, _COLUMNS / self.n_features_in_)
        return int(np.clip(round(started / n_rows), *_EPOCHS))

    def _choose_decay(self, n_rows: float, noise: float = 0.0) -> float:
        """Return ``weight_decay``, or what stands for "auto".

        ``n_rows`` is for how many rows they count, ``noise`` what
        :func:`label_noise` found.
        """
        if not isinstance(self.weight_decay, str):
            return float(self.weight_decay)
        decay = np.clip(math.sqrt(_ROWS_DECAYED_BY_ONE / n_rows), *_DECAY)
        factor = 1 + _NOISE_DECAYED * min(1.0, noise / _FULL_NOISE)
        return float(min(factor * decay, _MOST_DECAY))

    def _make_net(self, model: TinyRecursionModel, slots: Slots) -> DeepSupervisionNet:
        """Wrap ``model`` in a skorch net, with the decay that was chosen."""
        net = super()._make_net(model, slots)
        return net.set_params(optimizer__weight_decay=self.weight_decay_)

    def _begin_training(self, rows: "Labelled") -> None:
        """Choose the decay and build model and net."""
        noise = 0.0
        if isinstance(self.weight_decay, str):
            noise = label_noise(self._encode(rows.table), rows.labels, rows.counts)
        self.weight_decay_ = self._choose_decay(rows.counts.sum(), noise)
        self._start_training(self._space(), min(self.batch_size, len(rows.labels)))

    def _learn_columns(self, rows: "Labelled", smooth: bool) -> None:
        """Learn the encoding, of the rows to train on alone, and the sizes."""
        table = rows.table
        encoder = TableEncoder(
            self.n_knots,
            self.min_frequency,
            self.max_categories,
            smooth_numbers=smooth,
        )
        self._encoder = encoder.fit(table, self.is_categorical_, rows.weights)
        self._sizes: dict[str, Any] = {
            "shares": encoder.shares,
            "bend": _BEND,
            "n_categories": encoder.n_categories,
            "n_classes": len(self.classes_),
            "hidden_size": self.hidden_size,
            "n_layers": self.n_layers,
            "n_heads": self.n_heads,
            "expansion": self.expansion,
            "mixer": self._choose_mixer(len(table.columns)),
            "n_latent_recursions": self.n_latent_recursions,
            "n_deep_recursions": self.n_deep_recursions,
        }

    def _make_rows(self, rows: "Labelled") -> Rows:
        """Encode rows and put them on the device."""
        weights = rows.weights * self._class_weight[rows.labels]
        return self._on_device(self._encode(rows.table), rows.labels[:, None], weights)

    def _working_dtype(self) -> torch.dtype:
        narrow = self.n_features_in_ <= _NARROW and self._device.type == "cpu"
        if self._dtype_of_floats() == "auto" and narrow and not self._is_double:
            return torch.float32
        return super()._working_dtype()

    def _make_model(self, generator: torch.Generator) -> TinyRecursionModel:
        """Build a model of the sizes that fit decided on."""
        return self._with_dtype(build_table_model(**self._sizes, generator=generator))


class Labelled(NamedTuple):
    """Checked rows of positive weight."""

    table: Table
    labels: np.ndarray  # (n,), indices of classes
    weights: np.ndarray  # (n,), sample weights, without those of the classes

    @property
    def counts(self) -> np.ndarray:
        """For how many rows each counts: by its weight, but all for no fewer, (n,)."""
        return as_counts(self.weights)

    def take(self, rows: np.ndarray) -> "Labelled":
        """Return the rows at these indices."""
        return Labelled(self.table.take(rows), self.labels[rows], self.weights[rows])


def _check_labels(y: Any, name: str) -> np.ndarray:
    """Return labels (n,); raise if one is missing."""
    y = check_array(
        y, ensure_2d=False, dtype=None, ensure_all_finite="allow-nan", input_name=name
    )
    y = column_or_1d(y, warn=True)
    if y.dtype.kind in "fOmM" and any(is_missing(label, name) for label in y.tolist()):
        raise ValueError(f"Input {name} contains NaN or None: every row needs a label.")
    check_classification_targets(y)
    return y


def label_noise(encoded: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> float:
    """Estimate how much noise there is in labels that could be learned by heart.

    Rows that are encoded alike are of one kind. Of their labels beyond the first of
    each kind, and 100 more, those count as noise that are not the most frequent one of
    their kind. Where there are fewer kinds than rows, so much less can be learned by
    heart: the share is multiplied by kinds / rows.

    Parameters
    ----------
    encoded : ndarray of shape (n, n_columns)
        Rows; NaN is like NaN.
    labels : ndarray of shape (n,)
        Indices of classes.
    counts : ndarray of shape (n,)
        For how many rows each counts.

    Returns
    -------
    noise : float
        From 0, if rows alike agree or there are none, to less than 1.
    """
    without_nan = np.nan_to_num(encoded, nan=-np.inf)
    _, kinds = np.unique(without_nan, axis=0, return_inverse=True)
    kinds = kinds.reshape(-1)  # numpy 2.0 alone returns a column
    n_labels = labels.max() + 1
    pairs, pair_of_row = np.unique(kinds * n_labels + labels, return_inverse=True)
    total = np.bincount(kinds, counts)
    majority = np.zeros_like(total)
    np.maximum.at(majority, pairs // n_labels, np.bincount(pair_of_row, counts))
    repeated = np.maximum(total - 1, 0).sum()
    share = max(0.0, float((total - majority).sum() / (repeated + _PRIOR_LABELS)))
    return share * min(1.0, len(total) / counts.sum())

"""What a fitted classifier says of tables: labels, probabilities, their stages."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from sktrm._slots import Rows
from sktrm._tables import Table, TableEncoder, find_categorical, is_frame, read_table
from sktrm.nn import log_probabilities

# Pulls the temperature to 1, in rows: a few without an error show nothing about it.
_SHRINKING = 10.0


class TableAnswers:
    """Prediction with a fitted :class:`~sktrm.TRMClassifier`.

    Checks and encodes columns, and turns the logits of the steps into probabilities.
    The host class steps the model (``_solve``, ``_stages``).
    """

    _forget: Any
    _encoder: TableEncoder
    _solve: Any
    _stages: Any
    categorical_features: Any
    classes_: np.ndarray
    temperature_: float
    dtype: str
    _is_double: bool
    _loss: str

    def predict(self, X: Any) -> np.ndarray:
        """Return the label of each row.

        Parameters
        ----------
        X : array-like of shape (n, n_columns) or data frame of pandas or polars
            Rows, in the columns of ``fit``.

        Returns
        -------
        y : ndarray of shape (n,)
            Labels out of ``classes_``.
        """
        log_proba = self.predict_log_proba(X)  # raises NotFittedError first
        return self.classes_[log_proba.argmax(axis=1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class, at the step at which a row halts.

        Parameters
        ----------
        X : array-like of shape (n, n_columns) or data frame of pandas or polars
            Rows, in the columns of ``fit``.

        Returns
        -------
        proba : ndarray of shape (n, n_classes)
            Probabilities, in the order of ``classes_``.
        """
        return np.exp(self.predict_log_proba(X))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithm of the probability of each class.

        Parameters
        ----------
        X : array-like of shape (n, n_columns) or data frame of pandas or polars
            Rows, in the columns of ``fit``.

        Returns
        -------
        log_proba : ndarray of shape (n, n_classes)
            Logarithms of the probabilities, in the order of ``classes_``.
        """
        return self._log_proba(self._questions(X))

    def _log_proba(self, rows: np.ndarray) -> np.ndarray:
        """Return the logarithms of the probabilities of encoded rows."""
        return self._temper(self._solve(rows, self._read, None).answers)

    def predict_confidence(self, X: Any) -> np.ndarray:
        """Return the probability, as the halting head sees it, that a label is right.

        Parameters
        ----------
        X : array-like of shape (n, n_columns) or data frame of pandas or polars
            Rows, in the columns of ``fit``.

        Returns
        -------
        confidence : ndarray of shape (n,)
            Halting probability of the label that ``predict`` returns.
        """
        return self._solve(self._questions(X), self._read, None).confidence

    def staged_predict(self, X: Any, *, max_steps: int | None = None) -> Iterator[Any]:
        """Yield the labels after each supervision step; the last are ``predict``'s.

        Parameters
        ----------
        X : array-like of shape (n, n_columns) or data frame of pandas or polars
            Rows, in the columns of ``fit``.
        max_steps : int, default=None
            Supervision steps at most; None takes the estimator's ``max_steps``.

        Yields
        ------
        y : ndarray of shape (n,)
            Labels. A row that has halted keeps its own.
        """
        for proba in self.staged_predict_proba(X, max_steps=max_steps):
            yield self.classes_[proba.argmax(axis=1)]

    def staged_predict_proba(
        self, X: Any, *, max_steps: int | None = None
    ) -> Iterator[np.ndarray]:
        """Yield the probabilities after each supervision step.

        Parameters
        ----------
        X : array-like of shape (n, n_columns) or data frame of pandas or polars
            Rows, in the columns of ``fit``.
        max_steps : int, default=None
            Supervision steps at most; None takes the estimator's ``max_steps``.

        Yields
        ------
        proba : ndarray of shape (n, n_classes)
            As ``predict_proba`` returns. A row that has halted keeps its own.
        """
        rows = self._questions(X)
        for log_proba, _, _ in self._stages(rows, self._read, max_steps):
            yield np.exp(self._temper(log_proba))

    def _check_X(self, X: Any, *, reset: bool) -> Table:
        """Check the columns; learn or compare their names, find those of categories."""
        if reset:
            self._forget()
        if is_frame(X):
            validate_data(self, X, skip_check_array=True, reset=reset)
        else:
            given = {"ensure_all_finite": "allow-nan", "reset": reset}
            checked = validate_data(self, X, dtype=None, **given)
            if checked.dtype.kind == "U" and not hasattr(X, "dtype"):
                # A list: numpy would write its numbers out beside a string.
                checked = validate_data(self, X, dtype=object, **given)
            X = checked
        if reset:
            names = getattr(self, "feature_names_in_", None)
            self.is_categorical_ = find_categorical(X, self.categorical_features, names)
        return read_table(X, self.is_categorical_, type(self).__name__)

    def _check_X_val(self, X_val: Any) -> Table:
        """Check the columns of rows to validate on; messages name them."""
        try:
            return self._check_X(X_val, reset=False)
        except ValueError as error:
            raise ValueError(f"X_val: {error}") from error

    def _questions(self, X: Any) -> np.ndarray:
        """Check and encode rows for prediction."""
        check_is_fitted(self)
        return self._encode(self._check_X(X, reset=False))

    def _encode(self, table: Table) -> np.ndarray:
        dtype = np.float64 if self._is_double else np.float32
        return self._encoder.encode(table).astype(dtype)

    def _read(self, answer_logits: Tensor) -> Tensor:
        """Return the logarithms of the probabilities, (rows, n_classes)."""
        return log_probabilities(answer_logits[:, 0].double(), self._loss)

    def _temper(self, log_proba: np.ndarray) -> np.ndarray:
        """Divide logarithms of probabilities by the temperature and normalise."""
        tempered: np.ndarray = log_softmax(log_proba / self.temperature_, axis=1)
        return tempered

    def _find_temperature(self, held_out: Rows | None) -> float:
        """Return the temperature of the least log loss in validation, drawn to 1."""
        if held_out is None:
            return 1.0
        log_proba = self._solve(held_out.inputs.cpu().numpy(), self._read, None).answers
        labels, weights = held_out.labels.cpu().numpy(), held_out.weights.cpu().numpy()

        def loss(log_temperature: float) -> float:
            tempered = log_softmax(log_proba / np.exp(log_temperature), axis=1)
            right = np.take_along_axis(tempered, labels, axis=1)[:, 0]
            shrinking = _SHRINKING * log_temperature**2 / len(labels)
            return float(shrinking - np.average(right, weights=weights))

        # Without a single error there is no least loss: keep to one fifth and five.
        bounds = (-np.log(5), np.log(5))
        return float(np.exp(minimize_scalar(loss, bounds=bounds).x))

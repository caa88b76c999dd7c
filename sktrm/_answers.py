"""What a fitted solver says: answers, their stages, probabilities, scores."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sktrm._encoding import PAD, GridEncoder, Grids
from sktrm.metrics import exact_match_score
from sktrm.nn import log_probabilities


class Solutions(NamedTuple):
    """What :meth:`TRMSolver.solve` returns."""

    answers: Any  # like y
    confidence: np.ndarray  # (n,) halting probability of each answer
    n_steps: np.ndarray  # (n,) supervision steps taken


class GridAnswers:
    """Prediction with a fitted :class:`~sktrm.TRMSolver`.

    Turns the logits of the steps into symbols. The host class checks questions
    (``_check_X``) and steps the model (``_solve``, ``_stages``).
    """

    _encoder: GridEncoder
    _check_X: Any
    _solve: Any
    _stages: Any
    loss: str
    ignore_value: Any

    def solve(self, X: Any, *, max_steps: int | None = None) -> Solutions:
        """Answer ``X``, and say how sure of it and after how many steps.

        Parameters
        ----------
        X : array-like of shape (n, L) or (n, H, W), data frame, or list of n grids
            Questions, of the form of those in ``fit``.
        max_steps : int, default=None
            Supervision steps at most, ``n_supervision_steps`` if None. May be more
            than in training.

        Returns
        -------
        solutions : Solutions
            A named tuple of ``answers``, of the form, values and dtype of ``y``;
            ``confidence``, float of shape (n,), the halting probability of each
            answer; ``n_steps``, int of shape (n,), the steps taken.
        """
        inputs, X = self._questions(X)
        tokens, confidence, n_steps = self._solve(inputs, self._read_answers, max_steps)
        return Solutions(self._encoder.decode(tokens, X), confidence, n_steps)

    def predict(self, X: Any, *, max_steps: int | None = None) -> Any:
        """Answer ``X``.

        Parameters
        ----------
        X : array-like of shape (n, L) or (n, H, W), data frame, or list of n grids
            Questions, of the form of those in ``fit``.
        max_steps : int, default=None
            Supervision steps at most, ``n_supervision_steps`` if None. May be more
            than in training.

        Returns
        -------
        y : ndarray or list of ndarray
            Answers, of the form, values and dtype of ``y`` in ``fit``.
        """
        return self.solve(X, max_steps=max_steps).answers

    def predict_confidence(self, X: Any, *, max_steps: int | None = None) -> np.ndarray:
        """Return the probability, as the halting head sees it, that an answer is right.

        A score to abstain by; it judges the whole answer.

        Parameters
        ----------
        X : array-like of shape (n, L) or (n, H, W), data frame, or list of n grids
            Questions, of the form of those in ``fit``.
        max_steps : int, default=None
            Supervision steps at most, ``n_supervision_steps`` if None. May be more
            than in training.

        Returns
        -------
        confidence : ndarray of shape (n,)
            Halting probability of the answer that ``predict`` returns.
        """
        return self.solve(X, max_steps=max_steps).confidence

    def staged_solve(
        self, X: Any, *, max_steps: int | None = None
    ) -> Iterator[Solutions]:
        """Yield what :meth:`solve` would return after each supervision step.

        Parameters
        ----------
        X : array-like of shape (n, L) or (n, H, W), data frame, or list of n grids
            Questions, of the form of those in ``fit``.
        max_steps : int, default=None
            Supervision steps at most, ``n_supervision_steps`` if None. May be more
            than in training.

        Yields
        ------
        solutions : Solutions
            As :meth:`solve` returns. A row that has halted keeps its answer.
        """
        inputs, X = self._questions(X)
        for tokens, confidence, n_steps in self._stages(
            inputs, self._read_answers, max_steps
        ):
            yield Solutions(self._encoder.decode(tokens, X), confidence, n_steps)

    def staged_predict(self, X: Any, *, max_steps: int | None = None) -> Iterator[Any]:
        """Yield the answers after each supervision step; the last are ``predict``'s.

        Parameters
        ----------
        X : array-like of shape (n, L) or (n, H, W), data frame, or list of n grids
            Questions, of the form of those in ``fit``.
        max_steps : int, default=None
            Supervision steps at most, ``n_supervision_steps`` if None. May be more
            than in training.

        Yields
        ------
        y : ndarray or list of ndarray
            As ``predict`` returns. A row that has halted keeps its answer.
        """
        for solutions in self.staged_solve(X, max_steps=max_steps):
            yield solutions.answers

    def predict_proba(self, X: Any, *, max_steps: int | None = None) -> Any:
        """Return the probability of each symbol in each cell.

        These are the network's, at the step at which a row halts. They are not
        calibrated: a puzzle that is not solved may hold wrong cells of high
        probability. ``predict_confidence`` judges the whole answer better.

        Parameters
        ----------
        X : array-like of shape (n, L) or (n, H, W), data frame, or list of n grids
            Questions, of the form of those in ``fit``.
        max_steps : int, default=None
            Supervision steps at most, ``n_supervision_steps`` if None. May be more
            than in training.

        Returns
        -------
        proba : ndarray or list of ndarray
            For ``y`` of shape (n,), an array (n, n_classes). For (n, L), a list of L
            such arrays, as scikit-learn's multi-output classifiers return. For
            (n, H, W), an array (n, H, W, n_classes). For grids of different sizes, a
            list of n arrays (h, w, n_classes). Classes are in the order of
            ``classes_``.
        """
        inputs, X = self._questions(X)
        both, _, _ = self._solve(inputs, self._read_probabilities, max_steps)
        return self._arrange(both, X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the share of rows whose answer is right in every scored cell.

        Parameters
        ----------
        X : array-like of shape (n, L) or (n, H, W), data frame, or list of n grids
            Questions.
        y : array-like of shape (n,), (n, L) or (n, H, W), or list of n grids
            Right answers.
        sample_weight : array-like of shape (n,), default=None
            Weights of the rows.

        Returns
        -------
        score : float
            Exact match, between 0 and 1.
        """
        return exact_match_score(
            y,
            self.predict(X),
            sample_weight=sample_weight,
            ignore_value=self.ignore_value,
        )

    def _questions(self, X: Any) -> tuple[np.ndarray, Grids]:
        """Check and encode questions for prediction."""
        check_is_fitted(self)
        X = self._check_X(X, reset=False)
        return self._encoder.encode_X(X), X

    def _read_answers(self, answer_logits: Tensor) -> Tensor:
        """Return each cell's likeliest token of y, negative where PAD beats it."""
        logits = answer_logits[:, : self._encoder.answer_cells]
        tokens = torch.tensor(self._encoder.answer_tokens, device=logits.device)
        best, position = logits[..., tokens].max(dim=-1)
        answers = tokens[position]
        if self._encoder.predicts_size:
            answers = torch.where(logits[..., PAD] > best, -answers, answers)
        return answers

    def _read_probabilities(self, answer_logits: Tensor) -> Tensor:
        """Return each cell's probabilities of PAD and of the symbols of y."""
        logits = answer_logits[:, : self._encoder.answer_cells]
        tokens = torch.tensor((PAD, *self._encoder.answer_tokens), device=logits.device)
        return log_probabilities(logits[..., tokens].double(), self.loss).exp()

    def _arrange(self, both: np.ndarray, X: Grids) -> Any:
        """Give probabilities (n, answer_cells, 1 + n_classes) the answers' form."""
        pad, proba = both[..., 0], both[..., 1:]
        signs = np.where(pad > proba.max(axis=-1), -1, 1)
        proba = proba / proba.sum(axis=-1, keepdims=True)
        arranged = self._encoder.cut_out(proba, signs, X)
        if isinstance(arranged, np.ndarray) and arranged.ndim == 3:
            return list(arranged.swapaxes(0, 1))
        return arranged

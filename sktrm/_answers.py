"""What a fitted solver says: answers, their stages, probabilities, scores."""

from collections.abc import Iterator
from functools import partial
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sktrm._choosing import Choosing, Verifier
from sktrm._encoding import PAD, Grids
from sktrm._tries import Choice, Ranking
from sktrm.metrics import exact_match_score
from sktrm.nn import log_probabilities


class Solutions(NamedTuple):
    """What :meth:`TRMSolver.solve` returns."""

    answers: Any  # like y
    confidence: np.ndarray  # (n,) halting probability of each answer
    n_steps: np.ndarray  # (n,) supervision steps taken


class GridAnswers(Choosing):
    """Prediction with a fitted :class:`~sktrm.TRMSolver`.

    Turns the logits of the steps into symbols. The host class checks questions
    (``_check_X``), puts their tasks before them (``_with_tasks``) and steps the model
    (``_solve``, ``_stages``).
    """

    _check_X: Any
    _solve: Any
    _stages: Any
    _with_tasks: Any
    _loss: str
    ignore_value: Any

    def solve(
        self,
        X: Any,
        *,
        task_ids: Any = None,
        max_steps: int | None = None,
        n_rollouts: int | None = None,
        augment_votes: int = 1,
        choose: str = "auto",
        verifier: Verifier | None = None,
    ) -> Solutions:
        """Answer ``X``, and say how sure of it and after how many steps.

        Parameters
        ----------
        X : array-like of shape (n, L) or (n, H, W), data frame, or list of n grids
            Questions, of the form of those in ``fit``.
        task_ids : array-like of shape (n,), default=None
            The task of each row; needed if ``fit`` had them.
        max_steps : int, default=None
            Supervision steps of a try at most; None takes the estimator's
            ``max_steps``.
        n_rollouts : int, default=None
            Tries for each row at most; None takes the estimator's ``n_rollouts``. The
            first starts from the state known from training, the others from random
            states around it (see ``rollout_noise``), drawn once for all rows. Tries run
            in one batch, ``batch_size`` at a time, and those that cannot change the
            answer any more are not made; a vote makes all.
        augment_votes : int, default=1
            Views of each row: itself, and random transforms of it by ``augmentation``,
            whose answers are transformed back. Each view gets ``n_rollouts`` tries. If
            there are fewer different views, as of ``Dihedral``, those.
        choose : {"auto", "confidence", "vote"}, default="auto"
            Whose answer a row gets: "confidence" that of the first try that halts, or
            else of the one with the highest halting probability; "vote" the one that
            most tries give. "auto" votes if ``augment_votes`` is above one.
        verifier : callable, default=None
            ``verifier(X_row, y_row) -> bool`` tells whether an answer is right, such as
            :func:`sktrm.datasets.is_solved_sudoku`; the rows are arrays of the shape,
            values and dtype of ``X`` and ``y``. It is asked after every step, instead
            of the halting head, and a row stops when it accepts. A row of which nothing
            is accepted gets its most confident answer. ``choose`` must be "auto" then.

        Returns
        -------
        solutions : Solutions
            A named tuple of ``answers``, of the form, values and dtype of ``y``;
            ``confidence``, float of shape (n,), the halting probability of each
            answer; ``n_steps``, int of shape (n,), the steps taken: those of all tries
            up to the one that settled the row, of all tries if none did.

        Raises
        ------
        ValueError
            If a parameter is out of range, if there is nothing in which tries could
            differ (``augment_votes`` without ``augmentation``), or if ``verifier``
            returns something else than a truth value.
        """
        inputs, X = self._questions(X, task_ids)
        tries = self._tries(n_rollouts, augment_votes, choose, verifier)
        choice = self._choice(X, len(tries), choose, augment_votes, verifier)
        tokens, confidence, n_steps = self._solve(
            inputs, self._read_answers, max_steps, tries, choice
        )
        return Solutions(self._encoder.decode(tokens, X), confidence, n_steps)

    def predict(
        self,
        X: Any,
        *,
        task_ids: Any = None,
        max_steps: int | None = None,
        n_rollouts: int | None = None,
        augment_votes: int = 1,
        choose: str = "auto",
        verifier: Verifier | None = None,
    ) -> Any:
        """Answer ``X``.

        Parameters
        ----------
        X : array-like of shape (n, L) or (n, H, W), data frame, or list of n grids
            Questions, of the form of those in ``fit``.
        task_ids : array-like of shape (n,), default=None
            The task of each row; needed if ``fit`` had them.
        max_steps, n_rollouts, augment_votes, choose, verifier : optional
            How long and how often to try, and which answer to take, as in
            :meth:`solve`.

        Returns
        -------
        y : ndarray or list of ndarray
            Answers, of the form, values and dtype of ``y`` in ``fit``.
        """
        solutions = self.solve(
            X,
            task_ids=task_ids,
            max_steps=max_steps,
            n_rollouts=n_rollouts,
            augment_votes=augment_votes,
            choose=choose,
            verifier=verifier,
        )
        return solutions.answers

    def predict_confidence(
        self,
        X: Any,
        *,
        task_ids: Any = None,
        max_steps: int | None = None,
        n_rollouts: int | None = None,
        augment_votes: int = 1,
        choose: str = "auto",
        verifier: Verifier | None = None,
    ) -> np.ndarray:
        """Return the probability, as the halting head sees it, that an answer is right.

        A score to abstain by; it judges the whole answer.

        Parameters
        ----------
        X : array-like of shape (n, L) or (n, H, W), data frame, or list of n grids
            Questions, of the form of those in ``fit``.
        task_ids : array-like of shape (n,), default=None
            The task of each row; needed if ``fit`` had them.
        max_steps, n_rollouts, augment_votes, choose, verifier : optional
            How long and how often to try, and which answer to take, as in
            :meth:`solve`.

        Returns
        -------
        confidence : ndarray of shape (n,)
            Halting probability of the answer that ``predict`` returns.
        """
        solutions = self.solve(
            X,
            task_ids=task_ids,
            max_steps=max_steps,
            n_rollouts=n_rollouts,
            augment_votes=augment_votes,
            choose=choose,
            verifier=verifier,
        )
        return solutions.confidence

    def staged_solve(
        self, X: Any, *, task_ids: Any = None, max_steps: int | None = None
    ) -> Iterator[Solutions]:
        """Yield what the first try would return after each supervision step.

        Parameters
        ----------
        X : array-like of shape (n, L) or (n, H, W), data frame, or list of n grids
            Questions, of the form of those in ``fit``.
        task_ids : array-like of shape (n,), default=None
            The task of each row; needed if ``fit`` had them.
        max_steps : int, default=None
            Supervision steps at most; None takes the estimator's ``max_steps``.

        Yields
        ------
        solutions : Solutions
            As :meth:`solve` returns. A row that has halted keeps its answer.
        """
        inputs, X = self._questions(X, task_ids)
        for tokens, confidence, n_steps in self._stages(
            inputs, self._read_answers, max_steps
        ):
            yield Solutions(self._encoder.decode(tokens, X), confidence, n_steps)

    def staged_predict(
        self, X: Any, *, task_ids: Any = None, max_steps: int | None = None
    ) -> Iterator[Any]:
        """Yield the answers of the first try after each supervision step.

        Parameters
        ----------
        X : array-like of shape (n, L) or (n, H, W), data frame, or list of n grids
            Questions, of the form of those in ``fit``.
        task_ids : array-like of shape (n,), default=None
            The task of each row; needed if ``fit`` had them.
        max_steps : int, default=None
            Supervision steps at most; None takes the estimator's ``max_steps``.

        Yields
        ------
        y : ndarray or list of ndarray
            As ``predict`` returns. A row that has halted keeps its answer.
        """
        for solutions in self.staged_solve(X, task_ids=task_ids, max_steps=max_steps):
            yield solutions.answers

    def predict_proba(
        self,
        X: Any,
        *,
        task_ids: Any = None,
        max_steps: int | None = None,
        n_rollouts: int | None = None,
    ) -> Any:
        """Return the probability of each symbol in each cell.

        These are the network's, at the last step of the try whose answer ``predict``
        takes. They are not calibrated: a puzzle that is not solved may hold wrong
        cells of high probability. ``predict_confidence`` judges the whole answer
        better.

        Parameters
        ----------
        X : array-like of shape (n, L) or (n, H, W), data frame, or list of n grids
            Questions, of the form of those in ``fit``.
        task_ids : array-like of shape (n,), default=None
            The task of each row; needed if ``fit`` had them.
        max_steps, n_rollouts : int, default=None
            How long and how often to try, as in :meth:`solve`.

        Returns
        -------
        proba : ndarray or list of ndarray
            For ``y`` of shape (n,), an array (n, n_classes). For (n, L), a list of L
            such arrays, as scikit-learn's multi-output classifiers return. For
            (n, H, W), an array (n, H, W, n_classes). For grids of different sizes, a
            list of n arrays (h, w, n_classes). Classes are in the order of
            ``classes_``.
        """
        inputs, X = self._questions(X, task_ids)
        tries = self._tries(n_rollouts, 1)
        both, _, _ = self._solve(
            inputs,
            self._read_probabilities,
            max_steps,
            tries,
            Choice(len(X), len(tries)),
        )
        return self._arrange(both, X)

    def score(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        task_ids: Any = None,
        max_steps: int | None = None,
        n_rollouts: int | None = None,
        augment_votes: int = 1,
        choose: str = "auto",
        verifier: Verifier | None = None,
    ) -> float:
        """Return the share of rows whose answer is right in every scored cell.

        Parameters
        ----------
        X : array-like of shape (n, L) or (n, H, W), data frame, or list of n grids
            Questions.
        y : array-like of shape (n,), (n, L) or (n, H, W), or list of n grids
            Right answers.
        sample_weight : array-like of shape (n,), default=None
            Weights of the rows.
        task_ids : array-like of shape (n,), default=None
            The task of each row; needed if ``fit`` had them.
        max_steps, n_rollouts, augment_votes, choose, verifier : optional
            How long and how often to try, and which answer to take, as in
            :meth:`solve`.

        Returns
        -------
        score : float
            Exact match, between 0 and 1.
        """
        answers = self.predict(
            X,
            task_ids=task_ids,
            max_steps=max_steps,
            n_rollouts=n_rollouts,
            augment_votes=augment_votes,
            choose=choose,
            verifier=verifier,
        )
        return exact_match_score(
            y, answers, sample_weight=sample_weight, ignore_value=self.ignore_value
        )

    def predict_top_k(
        self,
        X: Any,
        k: int = 2,
        *,
        task_ids: Any = None,
        max_steps: int | None = None,
        n_rollouts: int | None = None,
        augment_votes: int = 1,
    ) -> list[list[np.ndarray]]:
        """Return the ``k`` different answers that most tries give to each row.

        Of answers with as many votes the one with the higher halting probability comes
        first. ARC takes two.

        Parameters
        ----------
        X : array-like of shape (n, L) or (n, H, W), data frame, or list of n grids
            Questions, of the form of those in ``fit``.
        k : int, default=2
            Answers to each row at most.
        task_ids : array-like of shape (n,), default=None
            The task of each row; needed if ``fit`` had them.
        max_steps, n_rollouts, augment_votes : optional
            How long and how often to try, as in :meth:`solve`; but where the solver's
            ``n_rollouts`` is "auto" and there is ``rollout_noise``, each row has ``k``
            tries at least.

        Returns
        -------
        answers : list of n lists of ndarray
            Best first; fewer than ``k`` where tries agree.
        """
        if not isinstance(k, Integral) or k < 1:
            raise ValueError(f"k must be an int >= 1, got {k!r}.")
        inputs, X = self._questions(X, task_ids)
        if n_rollouts is None:
            n_rollouts = self._rollouts(augment_votes, "vote", at_least=int(k))
        tries = self._tries(n_rollouts, augment_votes, "vote")
        visible = partial(self._encoder.visible, X)
        ranking = Ranking(len(X), len(tries), visible)
        self._solve(inputs, self._read_answers, max_steps, tries, ranking)
        best = [ranking.best(row, int(k)) for row in range(len(X))]
        return [
            [self._encoder.decode(a[None], X[row : row + 1])[0] for a in answers]
            for row, answers in enumerate(best)
        ]

    def _questions(self, X: Any, task_ids: Any = None) -> tuple[np.ndarray, Grids]:
        """Check and encode questions for prediction."""
        check_is_fitted(self)
        X = self._check_X(X, reset=False)
        return self._with_tasks(self._encoder.encode_X(X), task_ids, X), X

    def _read_answers(self, answer_logits: Tensor) -> Tensor:
        """Return each cell's likeliest token of y, negative where PAD beats it."""
        logits = answer_logits[:, : self._encoder.answer_cells]
        # Of a million rows, the answers are held in as few bytes as the questions.
        known = np.array(self._encoder.answer_tokens, self._encoder.vocabulary.dtype)
        tokens = torch.as_tensor(known, device=logits.device)
        best, position = logits[..., tokens.int()].max(dim=-1)
        answers = tokens[position]
        if self._encoder.predicts_size:
            answers = torch.where(logits[..., PAD] > best, -answers, answers)
        return answers

    def _read_probabilities(self, answer_logits: Tensor) -> Tensor:
        """Return each cell's probabilities of PAD and of the symbols of y."""
        logits = answer_logits[:, : self._encoder.answer_cells]
        tokens = torch.tensor((PAD, *self._encoder.answer_tokens), device=logits.device)
        return log_probabilities(logits[..., tokens].double(), self._loss).exp()

    def _arrange(self, both: np.ndarray, X: Grids) -> Any:
        """Give probabilities (n, answer_cells, 1 + n_classes) the answers' form."""
        pad, proba = both[..., 0], both[..., 1:]
        signs = np.where(pad > proba.max(axis=-1), -1, 1)
        proba = proba / proba.sum(axis=-1, keepdims=True)
        arranged = self._encoder.cut_out(proba, signs, X)
        if isinstance(arranged, np.ndarray) and arranged.ndim == 3:
            return list(arranged.swapaxes(0, 1))
        return arranged

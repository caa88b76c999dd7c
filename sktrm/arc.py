"""ARC-AGI: submissions as Kaggle's contests want them, and what they score."""

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from sktrm._solver import TRMSolver
from sktrm._tasks import check_task_ids

__all__ = ["arc_submission", "pass_at_k"]

Submission = dict[str, list[dict[str, list[list[int]]]]]
_N_ATTEMPTS, _N_COLOURS, _LARGEST_SIDE = 2, 10, 30


def arc_submission(
    solver: TRMSolver,
    X: Any,
    task_ids: Any,
    *,
    augment_votes: int = 1,
    n_rollouts: int | None = None,
    max_steps: int | None = None,
    path: str | PathLike[str] | None = None,
) -> Submission:
    """Answer the tests of ARC tasks with two attempts each, in Kaggle's form.

    The attempts are the two answers that most views of a test give, and of those with
    as many votes the ones the halting head finds more probable.

    Parameters
    ----------
    solver : TRMSolver
        Fitted with the ``task_ids`` of the tasks' demonstrations.
    X : list of n grids
        Questions of the tests; those of a task in their order.
    task_ids : array-like of shape (n,)
        The task of each test.
    augment_votes : int, default=1
        Views of each test, as in :meth:`TRMSolver.solve`; the solver has
        ``n_augmentations`` + 1 at most.
    n_rollouts : int, default=None
        Tries for each view; None takes the solver's ``n_rollouts``, of which "auto" is
        two with a single view and one with more.
    max_steps : int, default=None
        Supervision steps of a try at most; None takes the solver's ``max_steps``.
    path : str or path-like, default=None
        File to write the submission to, as JSON.

    Returns
    -------
    submission : dict
        Task id to a list with ``{"attempt_1": grid, "attempt_2": grid}`` for each of
        its tests; grids are lists of lists of int. Where all views agree, both
        attempts are the same.

    Raises
    ------
    ValueError
        If an answer is no grid of colours 0 to 9, or a parameter is out of range.
    """
    ids = check_task_ids(task_ids, X)
    answers = solver.predict_top_k(
        X,
        _N_ATTEMPTS,
        task_ids=task_ids,
        max_steps=max_steps,
        n_rollouts=n_rollouts,
        augment_votes=augment_votes,
    )
    names = [str(i) for i in range(len(answers))] if ids is None else map(str, ids)
    submission: Submission = {}
    for name, grids in zip(names, answers, strict=True):
        both = [*grids, grids[0]][:_N_ATTEMPTS]
        attempts = {f"attempt_{i}": _listed(grid) for i, grid in enumerate(both, 1)}
        submission.setdefault(name, []).append(attempts)
    if path is not None:
        Path(path).write_text(json.dumps(submission), encoding="utf-8")
    return submission


def _listed(grid: np.ndarray) -> list[list[int]]:
    """Return a grid as lists, or raise ValueError if it is none of ARC's."""
    fits = grid.ndim == 2 and max(grid.shape) <= _LARGEST_SIDE
    if not fits or not all(cell in range(_N_COLOURS) for cell in grid.ravel()):
        raise ValueError(
            f"An ARC answer must be a grid of at most {_LARGEST_SIDE} x "
            f"{_LARGEST_SIDE} whole numbers from 0 to {_N_COLOURS - 1}, got {grid!r}."
        )
    return [[int(cell) for cell in line] for line in grid]


def pass_at_k(
    submission: Mapping[str, Any], solutions: Mapping[str, Any], k: int = 2
) -> float:
    """Score a submission: tests right within ``k`` attempts, averaged over tasks.

    Parameters
    ----------
    submission : dict
        As :func:`arc_submission` returns, or read from its file.
    solutions : dict
        Task id to the list of right answers of its tests, grids or lists of lists, as
        in Kaggle's files. Tasks without an entry in ``submission`` count as wrong.
    k : {1, 2}, default=2
        Attempts that count.

    Returns
    -------
    score : float
        Between 0 and 1: the mean over the tasks of the share of their tests that are
        right.

    Raises
    ------
    ValueError
        If a task of the submission has no solution, another number of tests or not
        ``k`` attempts at each, or if ``solutions`` is empty.

    Examples
    --------
    >>> from sktrm.arc import pass_at_k
    >>> submission = {"a": [{"attempt_1": [[1]], "attempt_2": [[2]]}]}
    >>> [pass_at_k(submission, {"a": [[[2]]]}, k=k) for k in (1, 2)]
    [0.0, 1.0]
    """
    if k not in range(1, _N_ATTEMPTS + 1):
        raise ValueError(f"k must be 1 or {_N_ATTEMPTS}, got {k!r}.")
    if not solutions:
        raise ValueError("solutions must hold the answers of a task at least.")
    unknown = [task for task in submission if task not in solutions]
    if unknown:
        raise ValueError(f"solutions has no entry for the task {unknown[0]!r}.")
    return float(
        np.mean([_share(submission.get(t), a, k, t) for t, a in solutions.items()])
    )


def _share(tests: Any, answers: Any, k: int, task: str) -> float:
    """Return the share of a task's tests that are right."""
    if tests is None:
        return 0.0
    if len(tests) != len(answers):
        raise ValueError(
            f"The task {task!r} has {len(answers)} tests, but the submission has "
            f"{len(tests)}."
        )
    if any(f"attempt_{i}" not in t for t in tests for i in range(1, k + 1)):
        raise ValueError(f"The task {task!r} has a test without {k} attempts.")
    right = [
        any(np.array_equal(test[f"attempt_{i}"], answer) for i in range(1, k + 1))
        for test, answer in zip(tests, answers, strict=True)
    ]
    return float(np.mean(right))

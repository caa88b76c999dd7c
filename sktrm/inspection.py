"""Displays: what a solver thinks while it thinks."""

import math
from typing import Any

import numpy as np

__all__ = ["RecursionDisplay"]


class RecursionDisplay:
    """The answer to one question after each supervision step.

    Use :meth:`from_estimator` to make one, then :meth:`plot` for a figure or
    :meth:`text` for a terminal. Cells that changed since the step before are marked; in
    the figure those that agree with the question are bold.

    Parameters
    ----------
    question : ndarray of shape (H, W)
        The question.
    answers : ndarray of shape (n_steps, H, W), or list of n_steps grids
        The answer after each step; a list where they differ in size.
    halt_probabilities : ndarray of shape (n_steps,)
        Halting probability of each answer.

    Attributes
    ----------
    figure_ : matplotlib Figure
        The figure that holds the grids, after :meth:`plot`.
    axes_ : ndarray of matplotlib Axes
        One for the question and one for each step.

    Examples
    --------
    >>> import numpy as np
    >>> from sktrm.inspection import RecursionDisplay
    >>> display = RecursionDisplay(
    ...     np.array([[0, 2]]), np.array([[[2, 2]], [[1, 2]]]), np.array([0.1, 0.9])
    ... )
    >>> print(display.text())
    question
      0  2
    step 1: halting probability 0.10, 1 cell changed
      2* 2
    step 2: halting probability 0.90, 1 cell changed
      1* 2
    """

    def __init__(
        self,
        question: np.ndarray,
        answers: np.ndarray | list[np.ndarray],
        halt_probabilities: np.ndarray,
    ) -> None:
        self.question = question
        self.answers = answers
        self.halt_probabilities = halt_probabilities

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        task_id: Any = None,
        max_steps: int | None = None,
        max_columns: int = 5,
    ) -> "RecursionDisplay":
        """Let a fitted solver think about one question, and plot its answers.

        Parameters
        ----------
        estimator : TRMSolver
            Fitted on grids (n, H, W), or on sequences, which are drawn as one line.
        X : array-like of shape (H, W) or (L,)
            One question.
        task_id : object, default=None
            The question's task, for a solver fitted with ``task_ids``.
        max_steps : int, default=None
            Supervision steps at most; None takes the estimator's.
        max_columns : int, default=5
            Grids in a row of the figure.

        Returns
        -------
        display : RecursionDisplay
        """
        display = cls.think(estimator, X, task_id=task_id, max_steps=max_steps)
        return display.plot(max_columns=max_columns)

    @classmethod
    def think(
        cls,
        estimator: Any,
        X: Any,
        *,
        task_id: Any = None,
        max_steps: int | None = None,
    ) -> "RecursionDisplay":
        """Let a fitted solver think about one question, without drawing.

        Parameters
        ----------
        estimator : TRMSolver
            Fitted.
        X : array-like of shape (H, W) or (L,)
            One question.
        task_id : object, default=None
            The question's task, for a solver fitted with ``task_ids``.
        max_steps : int, default=None
            Supervision steps at most; None takes the estimator's.

        Returns
        -------
        display : RecursionDisplay
        """
        question = np.asarray(X)
        task_ids = None if task_id is None else [task_id]
        answers, probabilities = [], []
        stages = estimator.staged_solve(
            question[None], task_ids=task_ids, max_steps=max_steps
        )
        for step, stage in enumerate(stages, start=1):
            if stage.n_steps[0] < step:  # it has halted
                break
            answers.append(np.atleast_2d(stage.answers[0]))
            probabilities.append(stage.confidence[0])
        of_one_size = len({answer.shape for answer in answers}) == 1
        return cls(
            np.atleast_2d(question),
            np.array(answers) if of_one_size else answers,
            np.array(probabilities),
        )

    def changed(self) -> np.ndarray | list[np.ndarray]:
        """Tell which cells each step changed; the first is compared with the question.

        Returns
        -------
        changed : ndarray of shape (n_steps, H, W), bool, or list of n_steps grids
            In the form of ``answers``. Of an answer of another size than the one before
            all cells changed.
        """
        before = [self.question, *self.answers[:-1]]
        changed = [~_alike(a, b) for a, b in zip(self.answers, before, strict=True)]
        return changed if isinstance(self.answers, list) else np.array(changed)

    def text(self) -> str:
        """Write question and answers as lines of text; a star marks a changed cell.

        Returns
        -------
        text : str
        """
        plain = np.zeros(self.question.shape, dtype=bool)
        lines = ["question", *_lines(self.question, plain)]
        steps = zip(self.answers, self.changed(), self.halt_probabilities, strict=True)
        for step, (answer, changed, probability) in enumerate(steps, start=1):
            n = int(changed.sum())
            lines.append(
                f"step {step}: halting probability {probability:.2f}, {n} "
                f"cell{'s' * (n != 1)} changed"
            )
            lines += _lines(answer, changed)
        return "\n".join(lines)

    def plot(self, *, max_columns: int = 5) -> "RecursionDisplay":
        """Draw the question and the answer after each step.

        Parameters
        ----------
        max_columns : int, default=5
            Grids in a row of the figure.

        Returns
        -------
        display : RecursionDisplay
            This object.
        """
        import matplotlib.pyplot as plt

        n_grids = len(self.answers) + 1
        n_columns = min(n_grids, max_columns)
        n_rows = math.ceil(n_grids / n_columns)
        height, width = self.question.shape
        size = 2.4 * height / max(height, width) + 0.5
        self.figure_, axes = plt.subplots(
            n_rows,
            n_columns,
            figsize=(2.6 * n_columns, size * n_rows),
            squeeze=False,
            layout="constrained",
        )
        self.axes_ = axes.ravel()[:n_grids]
        for unused in axes.ravel()[n_grids:]:
            unused.axis("off")
        nothing = np.zeros(self.question.shape, dtype=bool)
        _draw_grid(self.axes_[0], self.question, nothing, ~nothing, "question")
        changed, given = self.changed(), self._given()
        for i, probability in enumerate(self.halt_probabilities):
            title = f"step {i + 1}, halting {probability:.2f}"
            _draw_grid(self.axes_[i + 1], self.answers[i], changed[i], given[i], title)
        return self

    def _given(self) -> list[np.ndarray]:
        """Tell which cells of each answer agree with the question."""
        return [_alike(answer, self.question) for answer in self.answers]


def _alike(answer: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Tell which cells of an answer are as in another grid: none of another size."""
    if answer.shape != other.shape:
        return np.zeros(answer.shape, dtype=bool)
    alike: np.ndarray = answer == other
    return alike


def _lines(grid: np.ndarray, marked: np.ndarray) -> list[str]:
    """Write a grid as lines; marked cells are followed by a star."""
    width = max(len(str(value)) for value in grid.ravel())
    return [
        "  "
        + " ".join(
            f"{value!s:>{width}}{'*' if mark else ' '}"
            for value, mark in zip(row, marks, strict=True)
        ).rstrip()
        for row, marks in zip(grid, marked, strict=True)
    ]


def _draw_grid(
    ax: Any, grid: np.ndarray, marked: np.ndarray, bold: np.ndarray, title: str
) -> None:
    """Draw one grid of symbols; marked cells are shaded, bold ones in bold type."""
    height, width = grid.shape
    ax.imshow(marked, cmap="Oranges", vmin=0, vmax=2.5)
    style = {"ha": "center", "va": "center", "size": min(11.0, 110 / max(grid.shape))}
    for (row, column), value in np.ndenumerate(grid):
        weight = "bold" if bold[row, column] else "normal"
        ax.text(column, row, str(value), weight=weight, **style)
    ax.set_xticks(np.arange(width + 1) - 0.5, labels=[])
    ax.set_yticks(np.arange(height + 1) - 0.5, labels=[])
    ax.grid(color="0.75", linewidth=0.5)
    ax.tick_params(length=0)
    ax.set_title(title, fontsize=9)

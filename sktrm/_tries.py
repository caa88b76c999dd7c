"""Several tries at a question: what tells them apart, and which answer is kept."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from sktrm.augmentation import Transform
from sktrm.nn import Carry, TinyRecursionModel


class Tries:
    """The tries that every question gets, numbered; try 0 is the plain one.

    The others start from random states. These are the same for all questions: a row's
    answer must not depend on the rows around it. With several ``views``, the tries take
    turns in looking at the question through them.
    """

    def __init__(
        self,
        n_starts: int = 1,
        noise: float = 0.0,
        seed: int = 0,
        views: Sequence[Transform] = (Transform(),),
    ) -> None:
        self.n_starts = n_starts
        self.noise = noise
        self.seed = seed
        self.views = views  # each of one row

    def __len__(self) -> int:
        return self.n_starts * len(self.views)

    def start(self, model: TinyRecursionModel, number: int) -> Carry:
        """Return the state (1, ...) from which try ``number`` sets out."""
        start = number // len(self.views)
        # Drawn anew each time: of a million tries, the states would fill the memory. On
        # the CPU, so that all devices think alike.
        generator = torch.Generator().manual_seed(self.seed + start)
        return model.initial_carry(1, self.noise if start else 0.0, generator)

    def see(self, questions: Tensor, number: int) -> Tensor:
        """Return ``questions`` (rows, length) as try ``number`` looks at them."""
        return self._view(number).expand(len(questions))(questions)

    def undo(self, answer: np.ndarray, number: int) -> np.ndarray:
        """Undo on an answer (cells,) what ``see`` did to its question."""
        view = self._view(number)
        if view.is_identity():
            return answer
        seen, back = torch.as_tensor(answer)[None], view.inverse()
        # A negative token means "no cell here", which moves with its cell.
        signs = Transform(cells=back.cells)(seen.sign())
        undone: np.ndarray = (back(seen.abs()) * signs)[0].numpy()
        return undone

    def _view(self, number: int) -> Transform:
        return self.views[number % len(self.views)]


class Choice:
    """Decides which try's answer a row gets, and which tries are still needed.

    This one takes the first try, by number, that halts; if none does, the one with the
    highest halting probability.
    """

    # Whether a try is over when its halting head says so.
    heeds_halting = True

    def __init__(self, n_rows: int, n_tries: int = 1) -> None:
        self.n_tries = n_tries
        # No later try can change the row's answer.
        self.last_try = np.full(n_rows, n_tries - 1)
        self.steps = np.zeros((n_rows, n_tries), dtype=np.int32)
        self.confidence = np.zeros(n_rows, dtype=np.float32)
        self.answers: np.ndarray = np.empty((n_rows, 0))
        self._ranks = np.full(n_rows, -1.0)
        self._numbers = np.zeros(n_rows, dtype=np.int64)

    def judge(
        self, row: int, number: int, answer: np.ndarray, confidence: float, halted: bool
    ) -> bool:
        """Take note of the answer of a try that ends; True: it may not go on."""
        self._offer(row, number, answer, confidence, settled=halted)
        return True

    def n_steps(self) -> np.ndarray:
        """Return the supervision steps of the tries that were needed, (n_rows,)."""
        needed = np.arange(self.n_tries) <= self.last_try[:, None]
        n_steps: np.ndarray = (self.steps * needed).sum(axis=1)
        return n_steps

    def _offer(
        self,
        row: int,
        number: int,
        answer: np.ndarray,
        confidence: float,
        *,
        settled: bool,
    ) -> None:
        """Keep ``answer`` if it beats the row's so far; ``settled``: later ones can't.

        What is kept does not depend on the order in which tries end.
        """
        rank = 2.0 + self.n_tries - number if settled else confidence
        if settled:
            self.last_try[row] = min(self.last_try[row], number)
        if (rank, -number) > (self._ranks[row], -self._numbers[row]):
            self._ranks[row], self._numbers[row] = rank, number
            self._keep(row, answer, confidence)

    def _keep(self, row: int, answer: np.ndarray, confidence: float) -> None:
        if self.answers.shape[1:] != answer.shape:
            shape = (len(self.answers), *answer.shape)
            self.answers = np.empty(shape, dtype=answer.dtype)
        self.answers[row] = answer
        self.confidence[row] = confidence


class Vote(Choice):
    """Takes the answer that most tries give, all cells together.

    Of equally frequent answers it takes the one with the highest halting probability.
    """

    def __init__(self, n_rows: int, n_tries: int) -> None:
        super().__init__(n_rows, n_tries)
        # For each row: answer to (votes, highest confidence).
        self._tallies: list[dict[bytes, tuple[int, float]]] = [
            {} for _ in range(n_rows)
        ]

    def judge(
        self, row: int, number: int, answer: np.ndarray, confidence: float, halted: bool
    ) -> bool:
        """Count the answer of a try that ends."""
        tally, key = self._tallies[row], answer.tobytes()
        votes, best = tally.get(key, (0, 0.0))
        tally[key] = votes + 1, max(best, confidence)
        if max(tally, key=lambda k: (*tally[k], k)) == key:
            self._keep(row, answer, tally[key][1])
        return True


class Verified(Choice):
    """Takes the first try, by number, whose answer ``accepts(row, answer)``.

    It looks at the answer after every step; the halting head only ranks the tries of
    rows of which no answer is accepted.
    """

    heeds_halting = False

    def __init__(
        self, n_rows: int, n_tries: int, accepts: Callable[[int, np.ndarray], bool]
    ) -> None:
        super().__init__(n_rows, n_tries)
        self._accepts = accepts
        # Of each row: try to the last answer that was refused.
        self._refused: list[dict[int, bytes]] = [{} for _ in range(n_rows)]

    def judge(
        self, row: int, number: int, answer: np.ndarray, confidence: float, halted: bool
    ) -> bool:
        """Ask about an answer that was not refused yet; True: the try is over."""
        refused, key = self._refused[row], answer.tobytes()
        accepted = refused.get(number) != key and self._accepts(row, answer)
        if accepted:
            refused.clear()
        else:
            refused[number] = key
        self._offer(row, number, answer, confidence, settled=accepted)
        return accepted

"""Several tries at a question: what tells them apart, and which answer is kept."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sktrm.augmentation import Augmentation, TokenSpace, Transform, compose
from sktrm.nn import Carry, TinyRecursionModel

# Draws in a row, for each view there is, without a new one, after which there is taken
# to be no other: the last of them is missed once in e**20 times.
_FRUITLESS_DRAWS = 20


class Tries:
    """The tries that every question gets, numbered; try 0 is the plain one.

    The others start from random states, drawn once for all questions: a row's answer
    must not depend on the rows around it. With several ``views``, the tries take turns
    in looking at the question through them.
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

    def start(self, model: TinyRecursionModel, number: int, questions: Tensor) -> Carry:
        """Return the states from which try ``number`` at ``questions`` sets out."""
        start = number // len(self.views)
        if not start:
            return model.initial_carry(len(questions))
        # Drawn anew each time: of a million tries, the states would fill the memory. On
        # the CPU, so that all devices think alike.
        generator = torch.Generator().manual_seed(self.seed + start)
        return model.random_carry(questions, self.noise, generator)

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


class TaskTries(Tries):
    """Tries at questions that start with the number of their task's row."""

    def see(self, questions: Tensor, number: int) -> Tensor:
        """Return questions and the rows of their views as try ``number`` sees them."""
        rows = questions[:, :1] + number % len(self.views)
        return torch.cat((rows, super().see(questions[:, 1:], number)), dim=1)


def draw_views(
    augmentations: Sequence[Augmentation],
    n_views: int,
    space: TokenSpace,
    generator: torch.Generator,
    alike: Sequence[int],
) -> list[Transform]:
    """Draw transforms through which a network sees different questions.

    Tokens ``alike`` are exchanged unseen by an equivariant network. Returns fewer than
    ``n_views`` if no more are found; raises ValueError if there is none.
    """
    seen, views = {_as_seen(Transform(), space, alike)}, list[Transform]()
    n_fruitless = 0
    while len(views) < n_views and n_fruitless < _FRUITLESS_DRAWS * (len(seen) + 1):
        view = compose(augmentations, 1, space, generator)
        shown = _as_seen(view, space, alike)
        n_fruitless += 1
        if shown not in seen:
            seen.add(shown)
            views.append(view)
            n_fruitless = 0
    if n_views and not views:
        raise ValueError(
            f"augment_votes={n_views + 1} needs transforms that change what the "
            f"network sees; those of augmentation only exchange symbols that it treats "
            f"alike."
        )
    return views


def _as_seen(view: Transform, space: TokenSpace, alike: Sequence[int]) -> Hashable:
    """Return what a view of one row does, up to exchanges among ``alike``."""
    cells = None
    if view.cells is not None:
        still = torch.arange(view.cells.shape[1])
        cells = None if bool((view.cells[0] == still).all()) else view.cells[0].tolist()
    tokens = list(range(space.n_tokens))
    if view.tokens is not None:
        tokens = view.tokens[0].tolist()
    free = set(alike)
    tokens = [-1 if token in free else token for token in tokens]
    return (tuple(cells) if cells else None), tuple(tokens)


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
        self.confidence = np.zeros(n_rows, dtype=np.float32)
        self.answers: np.ndarray = np.empty((n_rows, 0))
        self._ranks = np.full(n_rows, -1.0)
        self._numbers = np.zeros(n_rows, dtype=np.int64)
        # Steps of each row's first tries, of which so many are over, and of later ones.
        self._n_steps = np.zeros(n_rows, dtype=np.int64)
        self._n_over = np.zeros(n_rows, dtype=np.int64)
        self._later: dict[int, dict[int, int]] = {}

    def judge(
        self, row: int, number: int, answer: np.ndarray, confidence: float, halted: bool
    ) -> bool:
        """Take note of the answer of a try that ends; True: it may not go on."""
        self._offer(row, number, answer, confidence, settled=halted)
        return True

    def end(self, row: int, number: int, n_steps: int) -> None:
        """Take note that a try is over, after ``n_steps``."""
        later = self._later.setdefault(row, {})
        later[number] = n_steps
        # Tries end nearly in order: few are kept one by one, however many there are.
        while self._n_over[row] in later and self._n_over[row] <= self.last_try[row]:
            self._n_steps[row] += later.pop(int(self._n_over[row]))
            self._n_over[row] += 1
        if not later:  # of a million rows, empty records would fill the memory
            del self._later[row]

    def n_steps(self) -> np.ndarray:
        """Return the supervision steps of the tries that were needed, (n_rows,)."""
        n_steps = self._n_steps.copy()
        for row, later in self._later.items():
            n_steps[row] += sum(
                n for number, n in later.items() if number <= self.last_try[row]
            )
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
        # NaN, of weights that are broken, is below every probability.
        rank = confidence if confidence >= 0 else -0.5
        if settled:
            rank = 2.0 + self.n_tries - number
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


class _Tally(NamedTuple):
    """What speaks for an answer, in order of weight."""

    votes: int
    confidence: float  # the highest
    first: int  # number of the first try that gave it, negated


class Vote(Choice):
    """Takes the answer that most tries give, all cells together.

    Of equally frequent answers it takes the one with the highest halting probability.
    """

    def __init__(
        self,
        n_rows: int,
        n_tries: int,
        key: Callable[[int, np.ndarray], Hashable] = lambda row, answer: (
            answer.tobytes()
        ),
    ) -> None:
        super().__init__(n_rows, n_tries)
        # Answers with the same key(row, answer) are one answer.
        self._key = key
        # For each row, by the key of an answer.
        self._tallies: list[dict[Hashable, _Tally]] = [{} for _ in range(n_rows)]

    def judge(
        self, row: int, number: int, answer: np.ndarray, confidence: float, halted: bool
    ) -> bool:
        """Count the answer of a try that ends."""
        tallies, key = self._tallies[row], self._key(row, answer)
        tally = tallies.get(key, _Tally(0, 0.0, -number))
        tallies[key] = _Tally(
            tally.votes + 1,
            max(tally.confidence, confidence),
            max(tally.first, -number),
        )
        if max(tallies.values()) == tallies[key]:
            self._keep(row, answer, tallies[key].confidence)
        return True


class Ranking(Vote):
    """A vote that remembers every answer, best first."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._given: list[dict[Hashable, np.ndarray]] = [{} for _ in self._tallies]

    def judge(
        self, row: int, number: int, answer: np.ndarray, confidence: float, halted: bool
    ) -> bool:
        """Count and keep the answer of a try that ends."""
        self._given[row].setdefault(self._key(row, answer), answer)
        return super().judge(row, number, answer, confidence, halted)

    def best(self, row: int, n_answers: int) -> list[np.ndarray]:
        """Return the answers of a row with most votes, at most ``n_answers``."""
        tallies = self._tallies[row]
        keys = sorted(tallies, key=lambda key: tallies[key], reverse=True)
        return [self._given[row][key] for key in keys[:n_answers]]


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
        if not accepted:
            refused[number] = key
        self._offer(row, number, answer, confidence, settled=accepted)
        return accepted

    def end(self, row: int, number: int, n_steps: int) -> None:
        """Take note that a try is over, after ``n_steps``."""
        super().end(row, number, n_steps)
        self._refused[row].pop(number, None)

"""Stepping a trained model: tries end one by one and leave the batch."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby, islice
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sktrm._tries import Choice, Tries
from sktrm.nn import Carry, TinyRecursionModel
from sktrm.nn.losses import IGNORE_LABEL


class Thought(NamedTuple):
    """One supervision step of the rows that still think."""

    step: int  # 1, 2, ...
    rows: Tensor  # (active,) their indices in the batch
    answer_logits: Tensor  # (active, length, n_tokens)
    halt_probability: Tensor  # (active,)
    halted: Tensor  # (active,) bool: this answer is the row's last


def think(
    model: TinyRecursionModel, inputs: Tensor, *, max_steps: int, halt_threshold: float
) -> Iterator[Thought]:
    """Step ``inputs`` (batch, length) until every row has halted.

    A row halts when its halting probability passes ``halt_threshold``, at the latest
    after ``max_steps``; it then leaves the batch.
    """
    rows = torch.arange(len(inputs), device=inputs.device)
    carry = None
    for step in range(1, max_steps + 1):
        with torch.inference_mode():
            output = model(inputs, carry)
            probability = output.halt_logit.sigmoid()
            halted = probability > halt_threshold
            if step == max_steps:
                halted = torch.ones_like(halted)
            thought = Thought(step, rows, output.answer_logits, probability, halted)
        yield thought
        if halted.all():
            return
        going = ~halted
        rows, inputs = rows[going], inputs[going]
        carry = output.carry.select(going)


class Solution(NamedTuple):
    """What a model made of questions."""

    answers: np.ndarray  # (rows, ...) what ``read`` made of each row's last logits
    confidence: np.ndarray  # (rows,) halting probability of that answer
    n_steps: np.ndarray  # (rows,) supervision steps taken


def stages(
    model: TinyRecursionModel,
    inputs: Tensor,
    read: Callable[[Tensor], Tensor],
    *,
    max_steps: int,
    halt_threshold: float,
) -> Iterator[Solution]:
    """Yield the answers after each step; rows that have halted keep theirs.

    ``read`` maps answer logits (rows, length, n_tokens) to what is kept of them.
    Always yields ``max_steps`` times; the same arrays are updated in place.
    """
    solution = None
    thought = None
    for thought in think(
        model, inputs, max_steps=max_steps, halt_threshold=halt_threshold
    ):
        answers = read(thought.answer_logits).cpu().numpy()
        confidence = thought.halt_probability.cpu().numpy()
        if solution is None:
            steps = np.zeros(len(answers), dtype=np.int64)
            solution = Solution(answers.copy(), confidence.copy(), steps)
        rows = thought.rows.cpu().numpy()
        solution.answers[rows] = answers
        solution.confidence[rows] = confidence
        solution.n_steps[rows] = thought.step
        yield solution
    assert solution is not None
    assert thought is not None
    for _ in range(thought.step, max_steps):
        yield solution


class Flight(NamedTuple):
    """The tries being thought about, at most a batch of them."""

    rows: np.ndarray  # (active,) the questions they are at
    numbers: np.ndarray  # (active,) which try of the question each is
    steps: np.ndarray  # (active,) how many each has taken
    inputs: Tensor  # (active, length)
    carry: Carry  # (active, ...)

    def select(self, kept: np.ndarray) -> "Flight":
        """Return the tries marked in ``kept`` (active,)."""
        if kept.all():
            return self
        index = torch.as_tensor(np.flatnonzero(kept), device=self.inputs.device)
        return Flight(
            self.rows[kept],
            self.numbers[kept],
            self.steps[kept],
            self.inputs[index],
            self.carry.select(index),
        )


def solve(
    model: TinyRecursionModel,
    inputs: Tensor,
    read: Callable[[Tensor], Tensor],
    *,
    batch_size: int,
    max_steps: int,
    halt_threshold: float,
    tries: Tries | None = None,
    choice: Choice | None = None,
) -> Solution:
    """Answer ``inputs`` (rows, length); ``choice`` picks among each row's ``tries``.

    ``batch_size`` tries are in flight at most. One that is over leaves; the next that
    may still matter takes its place: first the plain try of every row, then the second
    of the rows that are not settled, and so on.
    """
    tries = tries or Tries()
    choice = choice or Choice(len(inputs))
    waiting = _waiting(len(tries), choice)
    flight = None
    with torch.inference_mode():
        while True:
            n_free = batch_size - (0 if flight is None else len(flight.rows))
            entering = list(islice(waiting, n_free))
            if entering:
                flight = _board(flight, model, inputs, tries, entering)
            if flight is None or not len(flight.rows):
                break
            flight = _step(
                flight, model, read, tries, choice, max_steps, halt_threshold
            )
    return Solution(choice.answers, choice.confidence, choice.n_steps())


def _waiting(n_tries: int, choice: Choice) -> Iterator[tuple[int, int]]:
    """Yield number and row of the tries still needed, plain ones first."""
    for number in range(n_tries):
        rows = np.flatnonzero(number <= choice.last_try)
        if not len(rows):
            return
        for row in rows:
            if number <= choice.last_try[row]:  # it may have been settled meanwhile
                yield number, int(row)


def _board(
    flight: Flight | None,
    model: TinyRecursionModel,
    inputs: Tensor,
    tries: Tries,
    entering: list[tuple[int, int]],
) -> Flight:
    """Return ``flight`` with the tries that are ``entering``."""
    parts = [] if flight is None else [flight]
    for number, group in groupby(entering, key=itemgetter(0)):
        rows = np.array([row for _, row in group])
        questions = inputs[torch.as_tensor(rows, device=inputs.device)]
        questions = tries.see(questions, number).to(model.y_init.device)
        carry = tries.start(model, number, questions)
        numbers, steps = np.full(len(rows), number), np.zeros(len(rows), dtype=int)
        parts.append(Flight(rows, numbers, steps, questions, carry))
    if len(parts) == 1:
        return parts[0]
    rows, numbers, steps, questions, carries = zip(*parts, strict=True)
    return Flight(
        np.concatenate(rows),
        np.concatenate(numbers),
        np.concatenate(steps),
        torch.cat(questions),
        Carry(*(torch.cat(states) for states in zip(*carries, strict=True))),
    )


def _step(
    flight: Flight,
    model: TinyRecursionModel,
    read: Callable[[Tensor], Tensor],
    tries: Tries,
    choice: Choice,
    max_steps: int,
    halt_threshold: float,
) -> Flight:
    """Think one step on; return the tries that are not over."""
    rows, numbers, steps = flight.rows, flight.numbers, flight.steps + 1
    output = model(flight.inputs, flight.carry)
    confidence = output.halt_logit.sigmoid().cpu().numpy()
    halted = (confidence > halt_threshold) & choice.heeds_halting
    over = halted | (steps >= max_steps)
    due = np.flatnonzero(over | (not choice.heeds_halting))
    if len(due):
        logits = output.answer_logits[torch.as_tensor(due, device=model.y_init.device)]
        answers = read(logits).cpu().numpy()
        for i, answer in zip(due, answers, strict=True):
            over[i] |= choice.judge(
                rows[i],
                numbers[i],
                tries.undo(answer, numbers[i]),
                confidence[i],
                halted[i],
            )
    for i in np.flatnonzero(over):
        choice.end(int(rows[i]), int(numbers[i]), int(steps[i]))
    going = ~over & (numbers <= choice.last_try[rows])
    return flight._replace(steps=steps, carry=output.carry).select(going)


class Verdict(NamedTuple):
    """How a model does on labelled rows, in weighted means over the rows."""

    exact_match: float
    cell_accuracy: float
    n_steps: float

    def beats(self, other: "Verdict", tol: float = 0.0) -> bool:
        """Compare by exact match, then by cell accuracy."""
        if abs(self.exact_match - other.exact_match) > tol:
            return self.exact_match > other.exact_match
        return self.cell_accuracy > other.cell_accuracy + tol


def _likeliest(logits: Tensor, tokens: Sequence[int] | None) -> Tensor:
    """Return the likeliest token of each cell, of ``tokens`` if they are given."""
    if tokens is None:
        return logits.argmax(dim=-1)
    allowed = torch.as_tensor(tokens, device=logits.device)
    return allowed[logits[..., allowed].argmax(dim=-1)]


def evaluate(
    model: TinyRecursionModel,
    inputs: Tensor,
    labels: Tensor,
    weights: Tensor,
    *,
    batch_size: int,
    max_steps: int,
    halt_threshold: float,
    tokens: Sequence[int] | None = None,
) -> Verdict:
    """Solve all rows and compare with ``labels`` (rows, length).

    With ``tokens``, an answer is made of these alone, as in prediction.
    """
    solution = solve(
        model,
        inputs,
        partial(_likeliest, tokens=tokens),
        batch_size=batch_size,
        max_steps=max_steps,
        halt_threshold=halt_threshold,
    )
    targets = labels.cpu().numpy()
    scored = targets != IGNORE_LABEL
    right = (solution.answers == targets) & scored
    share = right.sum(axis=1) / scored.sum(axis=1).clip(min=1)
    exact = (right == scored).all(axis=1)
    figures = np.stack((exact, share, solution.n_steps))
    return Verdict(*np.average(figures, axis=1, weights=weights.cpu()).tolist())

"""Stepping a trained model: rows halt one by one and leave the batch."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sktrm.nn import TinyRecursionModel, is_right
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
    """What a model made of a batch of questions."""

    answers: Tensor  # (batch, ...) what ``read`` made of each row's last logits
    confidence: Tensor  # (batch,) halting probability of that answer
    n_steps: Tensor  # (batch,) supervision steps taken


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
    Always yields ``max_steps`` times; the same tensors are updated in place.
    """
    solution = None
    thought = None
    for thought in think(
        model, inputs, max_steps=max_steps, halt_threshold=halt_threshold
    ):
        answers = read(thought.answer_logits)
        if solution is None:
            steps = torch.zeros_like(thought.rows)
            solution = Solution(
                answers.clone(), thought.halt_probability.clone(), steps
            )
        solution.answers[thought.rows] = answers
        solution.confidence[thought.rows] = thought.halt_probability
        solution.n_steps[thought.rows] = thought.step
        yield solution
    assert solution is not None
    assert thought is not None
    for _ in range(thought.step, max_steps):
        yield solution


def solve(
    model: TinyRecursionModel,
    inputs: Tensor,
    read: Callable[[Tensor], Tensor],
    *,
    max_steps: int,
    halt_threshold: float,
) -> Solution:
    """Return each row's answer at the step at which it halts."""
    *_, last = stages(
        model, inputs, read, max_steps=max_steps, halt_threshold=halt_threshold
    )
    return last


class Verdict(NamedTuple):
    """How a model does on labelled rows, in means over the rows."""

    exact_match: float
    cell_accuracy: float
    n_steps: float


def evaluate(
    model: TinyRecursionModel,
    inputs: Tensor,
    labels: Tensor,
    *,
    batch_size: int,
    max_steps: int,
    halt_threshold: float,
) -> Verdict:
    """Solve all rows in batches and compare with ``labels`` (rows, length)."""
    totals = torch.zeros(3, dtype=torch.float64)
    for start in range(0, len(inputs), batch_size):
        batch = slice(start, start + batch_size)
        targets = labels[batch].long()
        scored = targets != IGNORE_LABEL

        for thought in think(
            model, inputs[batch], max_steps=max_steps, halt_threshold=halt_threshold
        ):
            done = thought.rows[thought.halted]
            logits = thought.answer_logits[thought.halted]
            cells = (logits.argmax(dim=-1) == targets[done]) & scored[done]
            share = cells.sum(dim=-1) / scored[done].sum(dim=-1).clamp(min=1)
            exact = is_right(logits, targets[done]).sum()
            totals += torch.tensor(
                [exact.item(), share.sum().item(), thought.step * len(done)]
            )
    return Verdict(*(totals / len(inputs)).tolist())

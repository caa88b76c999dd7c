"""What goes from one supervision step to the next, for all rows or some."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Carry(NamedTuple):
    """State between supervision steps: embedded answer and latent."""

    y: Tensor  # (batch, n_prefix_tokens + length, hidden_size)
    z: Tensor  # (batch, n_prefix_tokens + length, hidden_size)

    def detach(self) -> "Carry":
        """Cut the state off the graph that made it."""
        return Carry(self.y.detach(), self.z.detach())

    def select(self, rows: Tensor) -> "Carry":
        """Return the state of some rows, given by mask or index."""
        return Carry(self.y[rows], self.z[rows])

    def noisy(self, deviation: float, generator: torch.Generator | None) -> "Carry":
        """Return the state plus independent normal numbers."""
        device = None if generator is None else generator.device
        return Carry(
            *(
                s
                + deviation
                * torch.randn(s.shape, generator=generator, device=device).to(s)
                for s in self
            )
        )


class StepOutput(NamedTuple):
    """Result of one supervision step."""

    carry: Carry
    answer_logits: Tensor  # (batch, length, n_tokens)
    halt_logit: Tensor  # (batch,)


Part = tuple[Tensor, Carry | None, Tensor | None, Tensor | None]


def split_rows(
    n_parts: int,
    inputs: Tensor,
    carry: Carry | None,
    task_ids: Tensor | None,
    fresh: Tensor | None,
) -> Iterator[Part]:
    """Yield the arguments of a step for ``n_parts`` groups of rows, nearly equal."""
    if n_parts <= 1:
        yield inputs, carry, task_ids, fresh
        return

    def split(rows: Tensor | None) -> Sequence[Any]:
        if rows is None:
            return [None] * n_parts
        return rows.tensor_split(n_parts)

    carries: Sequence[Any] = [None] * n_parts
    if carry is not None:
        carries = list(map(Carry, *map(split, carry)))
    yield from zip(split(inputs), carries, split(task_ids), split(fresh), strict=True)


def join_rows(steps: Sequence[StepOutput]) -> StepOutput:
    """Return the steps of groups of rows as that of all of them."""
    carries, answer_logits, halt_logits = zip(*steps, strict=True)
    carry = Carry(*map(torch.cat, zip(*carries, strict=True)))
    return StepOutput(carry, torch.cat(answer_logits), torch.cat(halt_logits))

"""Rows in flight: which rows an optimiser step works on, and when they leave."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sktrm.augmentation import Augmentation, TokenSpace, Transform, augment
from sktrm.nn import Carry, StepOutput


class Rows(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """All rows of a data set as tokens, on the device."""

    def __init__(self, inputs: Tensor, labels: Tensor, weights: Tensor) -> None:
        self.inputs = inputs  # (n, length)
        self.labels = labels  # (n, length)
        self.weights = weights  # (n,)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.inputs[rows], self.labels[rows], self.weights[rows]


class SlotBatch(NamedTuple):
    """What one optimiser step works on."""

    inputs: Tensor  # (active, length)
    labels: Tensor  # (active, length)
    weights: Tensor  # (active,)
    carry: Carry | None  # (active, ...)
    fresh: Tensor | None  # (active,) bool: rows that start with this step


class Slots:
    """A fixed number of rows in flight, each with its carry and its step count.

    After every optimiser step the rows that halted leave, and the next rows of the
    epoch take their slots; the others go on with their carry. An epoch starts every
    row exactly once. Rows in flight at its end go on in the next. If there is a slot
    for every row, each has its own: what is learned then depends on no order.
    There ``n_started``, which the schedule follows, counts a row by its weight, as part
    of the mean weight: one of weight two is then as good as two rows.
    """

    def __init__(
        self,
        n_slots: int,
        *,
        n_supervision_steps: int,
        halt_exploration: float,
        augmentations: Sequence[Augmentation],
        space: TokenSpace,
        generator: torch.Generator,
    ) -> None:
        self.n_slots = n_slots
        self.n_supervision_steps = n_supervision_steps
        self.halt_exploration = halt_exploration
        self.augmentations = augmentations
        self.space = space
        self.generator = generator
        device = generator.device
        self.steps = torch.zeros(n_slots, dtype=torch.long, device=device)
        self.min_steps = torch.ones_like(self.steps)
        self.free = torch.ones(n_slots, dtype=torch.bool, device=device)
        self.fresh = torch.zeros_like(self.free)
        self.data: tuple[Tensor, Tensor, Tensor] | None = None
        self.carry: Carry | None = None
        self.n_started = 0.0

    def epoch(self, rows: Rows) -> Iterator[SlotBatch]:
        """Yield batches until every row of ``rows`` has been started once."""
        device = self.generator.device
        if len(rows) <= self.n_slots:
            yield from self._epoch_of_few(rows)
            return
        order = torch.randperm(len(rows), generator=self.generator, device=device)
        started = 0
        while started < len(rows):
            slots = self.free.nonzero().squeeze(1)[: len(rows) - started]
            self._start(slots, rows[order[started : started + len(slots)]])
            started += len(slots)
            self.n_started += len(slots)
            yield self._batch()

    def _epoch_of_few(self, rows: Rows) -> Iterator[SlotBatch]:
        """Yield batches until every row has been started in its own slot."""
        waiting = torch.arange(self.n_slots, device=self.free.device) < len(rows)
        weights = rows.weights / rows.weights.max()  # no sum overflows
        counts = weights / weights.mean()
        while waiting.any():
            starting = (waiting & self.free).nonzero().squeeze(1)
            self._start(starting, rows[starting])
            waiting[starting] = False
            self.n_started += float(counts[starting].sum())
            yield self._batch()

    def _start(self, slots: Tensor, rows: tuple[Tensor, Tensor, Tensor]) -> None:
        """Put rows into free slots, transformed by the augmentations."""
        if self.data is None:
            self.data = tuple(r.new_zeros(self.n_slots, *r.shape[1:]) for r in rows)  # type: ignore[assignment]
        assert self.data is not None
        inputs, labels, weights = rows
        inputs, labels = self._transform(inputs, labels)
        for store, new in zip(self.data, (inputs, labels, weights), strict=True):
            store[slots] = new
        self.steps[slots] = 0
        self.min_steps[slots] = self._draw_min_steps(len(slots))
        self.free[slots] = False
        self.fresh[slots] = True

    def _transform(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Transform rows that start, questions and answers alike."""
        return augment(self.augmentations, inputs, labels, self.space, self.generator)

    def _draw_min_steps(self, n_rows: int) -> Tensor:
        """Draw how long each row must think: mostly 1, sometimes 2 .. N_sup."""
        device, top = self.generator.device, self.n_supervision_steps
        if top == 1:
            return torch.ones(n_rows, dtype=torch.long, device=device)
        uniform = torch.rand(n_rows, generator=self.generator, device=device)
        longer = torch.randint(
            2, top + 1, (n_rows,), generator=self.generator, device=device
        )
        return torch.where(uniform < self.halt_exploration, longer, 1)

    def _active(self) -> Tensor | slice:
        """Index of the occupied slots."""
        if not self.free.any():
            return slice(None)
        return (~self.free).nonzero().squeeze(1)

    def _batch(self) -> SlotBatch:
        """Gather the occupied slots."""
        assert self.data is not None
        active = self._active()
        inputs, labels, weights = (store[active] for store in self.data)
        if self.carry is None:
            return SlotBatch(inputs, labels.long(), weights, None, None)
        carry = Carry(self.carry.y[active], self.carry.z[active])
        return SlotBatch(inputs, labels.long(), weights, carry, self.fresh[active])

    def advance(self, output: StepOutput) -> None:
        """Store the carries of the step just made and free the slots that halted."""
        active = self._active()
        if isinstance(active, slice):
            self.carry = output.carry
        else:
            self._scatter(active, output.carry)
        self.steps[active] += 1
        steps = self.steps[active]
        halted = (output.halt_logit > 0) & (steps >= self.min_steps[active])
        self.free[active] = halted | (steps >= self.n_supervision_steps)
        self.fresh[:] = False

    def release(self) -> None:
        """Let all rows in flight leave."""
        self.free[:] = True

    def _scatter(self, active: Tensor, carry: Carry) -> None:
        """Write the carries of some slots into those of all."""
        if self.carry is None:
            self.carry = Carry(
                *(s.new_zeros(self.n_slots, *s.shape[1:]) for s in carry)
            )
        for store, new in zip(self.carry, carry, strict=True):
            store[active] = new


class TaskSlots(Slots):
    """Slots for rows that start with the number of their task's row.

    A row is looked at through one of the task's ``views``, chosen at random; each has a
    row of its own in the table of tasks, after that of the task.
    """

    def __init__(self, *args: Any, views: Transform, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.views = views

    def _transform(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Choose a view for each row; then move it, as ``augmentations`` say."""
        cells, tokens = self.views
        assert cells is not None
        assert tokens is not None
        device = self.generator.device
        chosen = torch.randint(
            len(cells), (len(inputs),), generator=self.generator, device=device
        )
        view = Transform(cells[chosen].long(), tokens[chosen].long())
        questions, labels = augment(
            self.augmentations,
            view(inputs[:, 1:]),
            view(labels),
            self.space,
            self.generator,
        )
        rows = inputs[:, :1] + chosen[:, None].to(inputs.dtype)
        return torch.cat((rows, questions), dim=1), labels

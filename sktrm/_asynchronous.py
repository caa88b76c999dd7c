"""Training without waiting for the device: what the host learns late, and how.

Asking a tensor on an accelerator for its value stops the host until everything before
is done, after which the device waits for the host. So nothing here asks: decisions are
taken on the device, and the host reads copies that were made a few steps ago.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sktrm._slots import Rows, SlotBatch, Slots
from sktrm.augmentation import augment

# Optimiser steps between two looks at what the device has done.
LOOK_EVERY = 8


class LateNumber:
    """A whole number on the device, as it was when it was last asked for."""

    def __init__(self, device: torch.device) -> None:
        on_cuda = device.type == "cuda"
        self._device = device
        self._copy = torch.zeros((), dtype=torch.long, pin_memory=on_cuda)
        self._copied = torch.cuda.Event() if on_cuda else None

    def ask(self, number: Tensor) -> None:
        """Let the device send ``number`` when it gets there."""
        self._copy.copy_(number, non_blocking=True)
        if self._copied is not None:
            self._copied.record(torch.cuda.current_stream(self._device))

    def read(self) -> int:
        """Return the number of the last time; 0 before the first."""
        if self._copied is not None:  # it was steps ago: there is nothing to wait for
            self._copied.synchronize()
        return int(self._copy.numpy()[()])


class Stream:
    """The rows of a data set in random order, pass after pass, dealt out on the device.

    Each pass has every row once. The host learns late how many were dealt, so the
    orders of several passes lie ready, as many as could begin in the meantime.
    """

    def __init__(self, n_rows: int, n_slots: int, generator: torch.Generator) -> None:
        self.n_rows = n_rows
        self.generator = generator
        device = generator.device
        self.look_every = min(LOOK_EVERY, max(1, n_rows // n_slots))
        # Between the copy of a number and the next look lie at most so many rows.
        unseen = 2 * self.look_every * n_slots
        n_orders = 2 + math.ceil(unseen / n_rows)
        self.orders = torch.stack([self._order() for _ in range(n_orders)])
        self.n_dealt = torch.zeros((), dtype=torch.long, device=device)
        self.n_known = 0  # what the host knows of ``n_dealt``
        self._late = LateNumber(device)
        self._n_steps = 0
        self._n_renewed = 0

    def _order(self) -> Tensor:
        return torch.randperm(
            self.n_rows, generator=self.generator, device=self.generator.device
        )

    def deal(self, free: Tensor) -> Tensor:
        """Return the next row for each slot marked in ``free`` (slots,), any else."""
        place = self.n_dealt + free.cumsum(0) - 1
        self.n_dealt = self.n_dealt + free.sum()
        return self.orders.view(-1)[place % self.orders.numel()]

    def look(self) -> None:
        """After a step: now and then, take note of what was dealt, and shuffle anew."""
        self._n_steps += 1
        if self._n_steps % self.look_every:
            return
        self.n_known = self._late.read()
        self._late.ask(self.n_dealt)
        while self._n_renewed < self.n_known // self.n_rows:
            self.orders[self._n_renewed % len(self.orders)] = self._order()
            self._n_renewed += 1


class AsynchronousSlots(Slots):
    """Slots that are freed and filled on the device, always all of them.

    Rows come from a ``Stream``, in which each pass has every row once. An epoch ends
    when the host knows that its pass was dealt, so the last ones are a few steps
    longer. With a slot for every row, as in small trainings, they are plain slots.
    """

    def __init__(self, n_slots: int, **parameters: Any) -> None:
        super().__init__(n_slots, **parameters)
        self._stream: Stream | None = None
        self._rows: Rows | None = None
        self._n_epochs = 0
        self._n_before = 0.0  # rows that were started before this stream

    def epoch(self, rows: Rows) -> Iterator[SlotBatch]:
        """Yield batches until a pass more through ``rows`` is known to be dealt."""
        if len(rows) <= self.n_slots:
            self._stream = self._rows = None
            yield from super().epoch(rows)
            return
        if self._rows is not rows or self._stream is None:
            self._rows = rows
            self._stream = Stream(len(rows), self.n_slots, self.generator)
            self._n_epochs, self._n_before = 0, self.n_started
        self._n_epochs += 1
        stream, goal = self._stream, self._n_epochs * len(rows)
        while True:
            self._enter(stream.deal(self.free), rows)
            yield self._batch()
            stream.look()
            self.n_started = self._n_before + stream.n_known
            if stream.n_known >= goal:
                return

    def _enter(self, chosen: Tensor, rows: Rows) -> None:
        """Put the ``chosen`` rows (slots,) into those slots that are free."""
        inputs, labels, weights = rows[chosen]
        inputs, labels = augment(
            self.augmentations, inputs, labels, self.space, self.generator
        )
        new = (inputs, labels, weights)
        if self.data is None:  # all slots are free
            self.data = new
        self.data = tuple(
            torch.where(self.free.view(-1, *[1] * (n.dim() - 1)), n, old)
            for n, old in zip(new, self.data, strict=True)
        )  # type: ignore[assignment]  # three go in, three come out
        min_steps = self._draw_min_steps(self.n_slots)
        self.min_steps = torch.where(self.free, min_steps, self.min_steps)
        self.steps = torch.where(self.free, 0, self.steps)
        self.fresh = self.free
        self.free = torch.zeros_like(self.free)

    def _active(self) -> Tensor | slice:
        """Index of the occupied slots."""
        return super()._active() if self._stream is None else slice(None)


class LateGuard:
    """Watches on the device over losses and gradients; the host learns of it late.

    ``snapshot`` copies the weights. A copy is good if all was well when it was made,
    which is known when the next one is made.
    """

    def __init__(self, device: torch.device, snapshot: Callable[[], Any]) -> None:
        self.snapshot = snapshot
        self.first_bad = torch.zeros((), dtype=torch.long, device=device)
        self._late = LateNumber(device)
        self.good = self._newest = snapshot()

    def watch(self, module: nn.Module, norm: Tensor, step: int) -> None:
        """Note whether ``norm`` is finite at ``step``, from 1 on.

        A gradient that is not reaches neither the weights nor the optimiser's moments.
        """
        finite = norm.isfinite()
        bad = torch.where(finite, 0, step)
        self.first_bad = torch.where(self.first_bad > 0, self.first_bad, bad)
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter.grad = torch.where(finite, parameter.grad, 0)

    def look(self) -> int:
        """Return the first bad step that is known, 0 if there is none; copy anew."""
        bad = self._late.read()
        if not bad:
            self.good, self._newest = self._newest, self.snapshot()
            self._late.ask(self.first_bad)
        return bad

    def wait(self) -> int:
        """Wait for the device; return the first bad step, 0 if there is none."""
        if not self._late.read():
            self.good = self._newest
        return int(self.first_bad)

"""No row is dropped: every epoch starts every row exactly once."""

from collections import Counter

import pytest
import torch

from sktrm._slots import Rows, Slots
from sktrm.augmentation import SymbolPermutation, TokenSpace
from sktrm.nn import Carry, StepOutput


def numbered_rows(n):
    """Rows whose first cell is their number."""
    inputs = torch.arange(1, n + 1).reshape(-1, 1).repeat(1, 3)
    return Rows(inputs, inputs.clone(), torch.ones(n))


def make_slots(n_slots, n_supervision_steps=4, halt_exploration=0.0, augmentations=()):
    space = TokenSpace((3,), 200, {}, tuple(range(1, 200)))
    return Slots(
        n_slots,
        n_supervision_steps=n_supervision_steps,
        halt_exploration=halt_exploration,
        augmentations=augmentations,
        space=space,
        generator=torch.Generator().manual_seed(0),
    )


def step(batch, halting):
    """Act as a model: row ``r`` halts as soon as it took ``halting(r)`` steps."""
    rows = batch.inputs[:, 0]
    taken = torch.zeros(len(rows)) if batch.carry is None else batch.carry.y[:, 0, 0]
    if batch.fresh is not None:
        taken = torch.where(batch.fresh, 0.0, taken)
    state = (taken + 1).view(-1, 1, 1).repeat(1, 3, 2)
    limits = torch.tensor([halting(int(r)) for r in rows])
    logit = torch.where(taken + 1 >= limits, 1.0, -1.0)
    return StepOutput(Carry(state, -state), torch.zeros(len(rows), 3, 200), logit)


def run_epochs(slots, rows, n_epochs, halting):
    """Return, for each epoch, how often each row was started; and all rows' steps."""
    started, steps = [], Counter()
    for _ in range(n_epochs):
        epoch = Counter()
        for batch in slots.epoch(rows):
            fresh = slice(None) if batch.fresh is None else batch.fresh
            epoch.update(batch.inputs[fresh, 0].tolist())
            steps.update(batch.inputs[:, 0].tolist())
            slots.advance(step(batch, halting))
        started.append(epoch)
    return started, steps


@pytest.mark.parametrize("n", [1, 7, 8, 29, 64])
@pytest.mark.parametrize(
    "halting", [lambda r: 1, lambda r: 99, lambda r: 1 + r % 5], ids=["1", "4", "mixed"]
)
def test_every_epoch_starts_every_row_exactly_once(n, halting):
    started, _ = run_epochs(make_slots(8), numbered_rows(n), 5, halting)
    assert started == [Counter(range(1, n + 1))] * 5


@pytest.mark.parametrize(("n_slots", "weighs"), [(32, True), (20, True), (8, False)])
@pytest.mark.parametrize("scale", [1.0, 1e38])
def test_rows_with_slots_of_their_own_count_by_their_weight(n_slots, weighs, scale):
    rows = numbered_rows(20)
    rows.weights[:] = torch.tensor([1.0, 3.0]).repeat(10) * scale
    slots = make_slots(n_slots)
    counted = weighted = 0.0
    for _ in range(3):
        for batch in slots.epoch(rows):
            fresh = slice(None) if batch.fresh is None else batch.fresh
            counted += len(batch.inputs[fresh])
            weighted += (batch.weights[fresh] / (2 * scale)).sum().item()
            assert slots.n_started == pytest.approx(weighted if weighs else counted)
            slots.advance(step(batch, lambda r: 1 + r % 5))
    assert counted == pytest.approx(weighted) == 60


def test_rows_take_the_steps_they_need_and_no_more():
    slots, rows = make_slots(8), numbered_rows(30)
    _, steps = run_epochs(slots, rows, 1, halting=lambda r: 1 + r % 6)
    in_flight = set(slots.data[0][~slots.free, 0].tolist())
    finished = set(range(1, 31)) - in_flight
    assert len(finished) > 20
    assert all(steps[r] == min(4, 1 + r % 6) for r in finished)


def test_a_row_keeps_its_own_carry_until_it_leaves():
    slots, rows = make_slots(4, n_supervision_steps=6), numbered_rows(17)
    age = Counter()
    for _ in range(3):
        for batch in slots.epoch(rows):
            fresh = torch.ones(len(batch.inputs), dtype=torch.bool)
            if batch.fresh is not None:
                fresh = batch.fresh
                old = batch.carry.y[~fresh, 0, 0]
                known = [age[r] for r in batch.inputs[~fresh, 0].tolist()]
                assert old.tolist() == known
            for r in batch.inputs[fresh, 0].tolist():
                age[r] = 0
            age.update(batch.inputs[:, 0].tolist())
            slots.advance(step(batch, lambda r: 2 + r % 3))


def test_exploration_makes_rows_think_longer():
    eager, rows = make_slots(50, halt_exploration=0.0), numbered_rows(100)
    _, without = run_epochs(eager, rows, 4, halting=lambda r: 1)
    curious = make_slots(50, halt_exploration=0.5)
    _, with_exploration = run_epochs(curious, rows, 4, halting=lambda r: 1)
    assert without.total() == 400
    # Half of the rows think 3 steps on average instead of 1; 4 is the most.
    assert 1.5 * 400 < with_exploration.total() < 2.5 * 400


def test_a_row_keeps_its_augmentation_while_in_flight():
    slots = make_slots(5, augmentations=[SymbolPermutation()])
    rows = numbered_rows(5)
    first = next(iter(slots.epoch(rows)))
    slots.advance(step(first, lambda r: 99))
    second = slots._batch()
    assert (first.inputs != rows.inputs).any()
    torch.testing.assert_close(first.inputs, second.inputs)
    torch.testing.assert_close(first.inputs, first.labels)

"""Training that does not wait for the device: the same, learned of later.

On CUDA all of this is on; here the same code runs on the CPU.
"""

import copy
import math

import numpy as np
import pytest
import torch
from conftest import tiny_solver
from skorch.callbacks import Callback
from test_slots import make_slots, numbered_rows, step
from torch.utils._python_dispatch import TorchDispatchMode

from sktrm import TRMSolver
from sktrm._asynchronous import LOOK_EVERY, AsynchronousSlots
from sktrm.augmentation import Dihedral, SudokuGroup
from sktrm.nn.losses import answer_loss


@pytest.fixture
def asynchronous(monkeypatch):
    monkeypatch.setattr(TRMSolver, "_is_asynchronous", lambda self: True)


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for an accelerator."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "equal")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in self.NAMES or any(map(is_mask, indices(args))):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def indices(args):
    """Index tensors among the arguments of an operation."""
    return args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ()


def is_mask(index):
    """Whether an index is a mask, of which somebody must count the marks."""
    return isinstance(index, torch.Tensor) and index.dtype == torch.bool


def steps_watched(X, y, n_steps=10, **parameters):
    """Train, then return what the host waits for in further steps."""
    solver = tiny_solver(max_epochs=1, **parameters).fit(X, y)
    epoch = solver.net_.slots.epoch(solver._make_rows(X, y, None))
    solver.net_.train_step(next(epoch))
    with Waits() as waits:
        for _ in range(n_steps):
            solver.net_.train_step(next(epoch))
    return waits.found


@pytest.mark.parametrize(
    "parameters",
    [
        {"mixer": "mlp"},
        {"mixer": "attention", "dtype": "bfloat16", "loss": "stablemax"},
        {"symbols": "interchangeable", "max_grad_norm": None, "ema_decay": 0.0},
        {"augmentation": [SudokuGroup((2, 2)), Dihedral()], "halt_exploration": 0.5},
    ],
    ids=str,
)
def test_no_step_waits_for_the_device(sudokus, parameters, monkeypatch):
    X, y = (np.concatenate([part] * 2) for part in sudokus)
    assert steps_watched(X, y, **parameters)  # the plain way waits
    monkeypatch.setattr(TRMSolver, "_is_asynchronous", lambda self: True)
    assert steps_watched(X, y, **parameters) == []


def make_asynchronous_slots(n_slots):
    plain = make_slots(n_slots)
    return AsynchronousSlots(
        n_slots,
        n_supervision_steps=plain.n_supervision_steps,
        halt_exploration=0.0,
        augmentations=(),
        space=plain.space,
        generator=torch.Generator().manual_seed(0),
    )


@pytest.mark.parametrize("n", [9, 20, 64, 131])
@pytest.mark.parametrize(
    "halting", [lambda r: 1, lambda r: 99, lambda r: 1 + r % 5], ids=["1", "4", "mixed"]
)
def test_every_pass_starts_every_row_exactly_once(n, halting):
    slots, rows, n_slots, n_epochs = make_asynchronous_slots(8), numbered_rows(n), 8, 6
    started, n_steps = [], 0
    for _ in range(n_epochs):
        for batch in slots.epoch(rows):
            assert batch.inputs.shape == (n_slots, 3)  # nothing compiles anew
            started += batch.inputs[slots.fresh, 0].tolist()
            slots.advance(step(batch, halting))
            n_steps += 1
    passes = [started[i : i + n] for i in range(0, len(started) - n + 1, n)]
    assert len(passes) >= n_epochs
    assert all(sorted(p) == list(range(1, n + 1)) for p in passes)
    assert len({tuple(p) for p in passes}) == len(passes)  # in another order each
    # What the host learns late costs so many steps, once.
    late = 2 * min(LOOK_EVERY, n // n_slots) * n_slots
    assert n_epochs * n <= len(started) <= n_epochs * n + late + n_slots


def test_rows_in_flight_keep_their_carry_and_their_labels():
    slots, rows = make_asynchronous_slots(4), numbered_rows(17)
    held, age = [None] * 4, [0] * 4
    for _ in range(4):
        for batch in slots.epoch(rows):
            assert (batch.inputs == batch.labels).all()
            for slot, row in enumerate(batch.inputs[:, 0].tolist()):
                if slots.fresh[slot]:
                    held[slot], age[slot] = row, 0
                assert row == held[slot]
                if age[slot]:
                    assert batch.carry.y[slot, 0, 0] == age[slot]
                age[slot] += 1
                assert age[slot] <= min(4, 2 + row % 3)
            slots.advance(step(batch, lambda r: 2 + r % 3))


def test_it_learns_what_the_plain_way_learns(copies, monkeypatch):
    X, y = copies
    settings = {"hidden_size": 16, "batch_size": 50, "lr": 1e-2}
    final_losses = []
    for asynchronous in (False, True):
        monkeypatch.setattr(
            TRMSolver, "_is_asynchronous", lambda self, is_on=asynchronous: is_on
        )
        solver = tiny_solver(max_epochs=30, **settings).fit(X, y)
        assert solver.net_.asynchronous == asynchronous
        assert len(solver.history_) == 30
        first, *_, last = (epoch["train_loss"] for epoch in solver.history_)
        assert last < 0.1 * first
        assert 30 * len(X) <= solver.net_.slots.n_started <= 31 * len(X)
        final_losses.append(last)
    np.testing.assert_allclose(*final_losses, rtol=0.25)


def test_few_rows_have_their_own_slots(copies, asynchronous):
    X, y = copies
    solver = tiny_solver(batch_size=64, max_epochs=3).fit(X[:40], y[:40])
    assert solver.net_.slots.n_started == 3 * 40


class Poison(Callback):
    """Makes the gradient infinite at one optimiser step."""

    def __init__(self, at):
        self.at = at

    def on_grad_computed(self, net, named_parameters, **kwargs):
        if net.n_optimizer_steps_ == 16:
            self.weights_ = copy.deepcopy(net.module_.state_dict())
        if net.n_optimizer_steps_ == self.at:
            dict(named_parameters)["answer_head.weight"].grad.fill_(math.inf)


def test_the_last_good_weights_come_back_and_training_can_go_on(copies, asynchronous):
    X, y = copies
    solver = tiny_solver(callbacks=[("poison", Poison(at=20))], warm_start=True)
    with pytest.warns(UserWarning, match="at optimiser step 21 .* step 16 are kept"):
        solver.fit(X, y)
    net = solver.net_
    good = dict(net.callbacks_)["poison"].weights_
    torch.testing.assert_close(dict(net.module_.state_dict()), dict(good))
    # Neither the average nor the optimiser's moments took the gradient in.
    assert np.isfinite(solver.predict_confidence(X)).all()
    solver.fit(X, y)
    assert np.isfinite(solver.history_[-1]["train_loss"])
    assert all(p.isfinite().all() for p in net.module_.parameters())


def test_a_bad_step_is_known_when_the_next_copies_are_made(copies, asynchronous):
    solver = tiny_solver(
        callbacks=[("poison", Poison(at=20))], max_epochs=1, n_supervision_steps=16
    )
    with pytest.warns(UserWarning, match="at optimiser step 21 .* step 16 are kept"):
        solver.fit(*copies)
    assert solver.net_.n_optimizer_steps_ == 48  # 32 was copied after it


class PoisonAndStop(Poison):
    """Stops training soon after, before the host has looked at what happened."""

    def on_batch_end(self, net, **kwargs):
        if net.n_optimizer_steps_ == self.at + 3:
            raise KeyboardInterrupt


def test_a_bad_step_is_known_when_a_callback_stops_training(copies, asynchronous):
    solver = tiny_solver(callbacks=[("poison", PoisonAndStop(at=20))])
    with pytest.warns(UserWarning, match="at optimiser step 21 .* step 16 are kept"):
        solver.fit(*copies)
    assert np.isfinite(solver.predict_confidence(copies[0])).all()


@pytest.mark.parametrize("loss", ["softmax", "stablemax"])
def test_losses_in_float32_are_those_in_float64(loss):
    generator = torch.Generator().manual_seed(0)
    logits = 30 * torch.randn(50, 81, 11, generator=generator)
    labels = torch.randint(11, (50, 81), generator=generator)
    results = []
    for dtype in (torch.float32, torch.float64):
        leaf = logits.clone().requires_grad_()
        value = answer_loss(leaf, labels, loss, dtype)
        value.sum().backward()
        results.append((value.double().detach(), leaf.grad))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-5, atol=1e-8)

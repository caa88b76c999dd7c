"""What is done for speed changes no answer: each fast path against the plain one."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_solver
from joblib import Parallel, cpu_count, delayed, parallel_config

from sktrm._device import has_cxx_compiler
from sktrm._inference import solve
from sktrm._tries import Choice
from sktrm.nn import TinyRecursionModel, recursion
from sktrm.nn.blocks import SwiGLU, attend
from sktrm.nn.equivariant import build_equivariant


def small_model(kind):
    sizes = {"n_tokens": 5, "length": 6, "hidden_size": 16, "n_heads": 2}
    generator = torch.Generator().manual_seed(0)
    if kind in ("equivariant", "convolution"):
        sizes |= {"symbols": [1, 2, 3]}
        if kind == "convolution":
            sizes |= {"mixer": kind, "grid": (2, 3)}
        return build_equivariant(**sizes, generator=generator).double()
    model = TinyRecursionModel.build(**sizes, mixer=kind, generator=generator)
    return model.double()


@pytest.mark.parametrize("kind", ["mlp", "attention", "equivariant", "convolution"])
def test_rows_stepped_in_parts_are_rows_stepped_together(kind, monkeypatch):
    model = small_model(kind)
    inputs = torch.arange(7 * 6).reshape(7, 6) % 5
    carry = model.initial_carry(7, 0.1, torch.Generator().manual_seed(1))
    fresh = torch.arange(7) % 2 == 0
    results, sizes = [], []
    model.net.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    for widest in (2**30, 1):
        monkeypatch.setattr(recursion, "_WIDEST", widest)
        output = model(inputs, carry, fresh=fresh)
        model.zero_grad()
        (output.answer_logits.square().sum() + output.halt_logit.sum()).backward()
        grads = {n: p.grad.clone() for n, p in model.named_parameters()}
        results.append((*output.carry, *output[1:], grads))
    n_calls = 3 * (6 + 1)
    assert sizes == [7] * n_calls + [1] * 7 * n_calls
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("size", "width"), [(32, 96), (48, 128)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_activations_of_rows_that_do_not_fit_are_those_of_one_row(
    size, width, dtype, monkeypatch
):
    swiglu = SwiGLU(size, multiple=32, generator=torch.Generator().manual_seed(0))
    assert swiglu.down.weight.shape[1] == width
    h = torch.randn(40, size, generator=torch.Generator().manual_seed(1)).to(dtype)
    silu, one_row = F.silu, []
    monkeypatch.setattr(
        F, "silu", lambda gate: one_row.append(gate.is_contiguous()) or silu(gate)
    )
    ours, plain = h.clone().requires_grad_(), h.clone().requires_grad_()
    out = swiglu(ours)
    assert one_row == [dtype == torch.bfloat16 and width == 96]
    gate, up = F.linear(plain, swiglu.gate_up.weight.to(dtype)).chunk(2, dim=-1)
    expected = F.linear(silu(gate) * up, swiglu.down.weight.to(dtype))
    out.square().sum().backward()
    expected.square().sum().backward()
    close = {"rtol": 0.01, "atol": 0.01} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(out, expected, **close)
    torch.testing.assert_close(ours.grad, plain.grad, **close)


def test_written_out_attention_is_the_fused_one():
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(3, 2, 4, 9, 8, generator=generator)
    plain = qkv.clone().requires_grad_()
    short = qkv.bfloat16().requires_grad_()
    expected, ours = F.scaled_dot_product_attention(*plain), attend(*short)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), expected, atol=0.03, rtol=0)
    expected.square().sum().backward()
    ours.float().square().sum().backward()
    torch.testing.assert_close(short.grad.float(), plain.grad, atol=0.1, rtol=0)


@pytest.mark.parametrize("mixer", ["mlp", "attention"])
def test_a_trained_model_answers_alike_in_bfloat16(copies, mixer):
    X, y = copies
    settings = {"hidden_size": 16, "max_epochs": 30, "batch_size": 50, "lr": 1e-2}
    solver = tiny_solver(mixer=mixer, n_supervision_steps=4, **settings)
    plain = solver.fit(X, y).solve(X)
    solver.module_.dtype = torch.bfloat16
    fast = solver.solve(X)
    assert (plain.answers == y).mean() > 0.99  # it was trained
    assert (fast.answers == plain.answers).mean() >= 0.999
    assert (fast.n_steps == plain.n_steps).mean() >= 0.999


@pytest.mark.skipif(not has_cxx_compiler(), reason="torch has no C++ compiler here")
def test_a_trained_model_answers_alike_compiled_in_bfloat16(sudokus):
    """What is the default with ``symbols`` where a CPU has bfloat16."""
    X, y = sudokus
    solver = tiny_solver(
        symbols="interchangeable",
        max_epochs=120,
        batch_size=20,
        lr=5e-3,
        augmentation=None,
        compile=False,
    )
    plain = solver.fit(X, y).solve(X, max_steps=4)
    solver.module_.dtype = torch.bfloat16
    solver.set_params(compile=True)
    solver.module_.compile_prediction(torch.as_tensor(solver._encoder.encode_X(X)))
    fast = solver.solve(X, max_steps=4)
    assert solver.module_._prediction is not None
    assert (plain.answers == y).mean() > 0.99  # it was trained
    assert (fast.answers == plain.answers).mean() >= 0.999
    assert (fast.n_steps == plain.n_steps).mean() >= 0.999


def loss_curve(X, y, **parameters):
    """Mean losses of the epochs in 200 optimiser steps and more."""
    settings = {"hidden_size": 16, "max_epochs": 16, "n_supervision_steps": 1}
    solver = tiny_solver(**settings, lr=2e-3, **parameters).fit(X, y)
    assert solver.net_.n_optimizer_steps_ >= 200
    return np.log([epoch["train_loss"] for epoch in solver.history_])


@pytest.mark.parametrize("mixer", ["mlp", "attention"])
def test_losses_in_bfloat16_are_within_the_spread_of_seeds(copies, mixer):
    curve = loss_curve(*copies, mixer=mixer)
    other = loss_curve(*copies, mixer=mixer, random_state=1)
    fast = loss_curve(*copies, mixer=mixer, dtype="bfloat16")
    assert np.abs(fast - curve).mean() < np.abs(other - curve).mean()


def test_training_does_not_depend_on_the_number_of_threads(sudokus):
    curves = []
    before = torch.get_num_threads()
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            solver = tiny_solver(dtype="float64", max_epochs=3).fit(*sudokus)
            curves.append([epoch["train_loss"] for epoch in solver.history_])
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-9)


@pytest.mark.parametrize("share", [None, 2])
def test_workers_share_the_cores(sudokus, monkeypatch, share):
    """joblib gives each process its share of the cores, of which torch takes note."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)

    # Within the test: a worker that imported this file would have one thread.
    def threads_after_fit(solver, X, y):
        import torch

        solver.fit(X, y)
        return torch.get_num_threads()

    with parallel_config("loky", n_jobs=2, inner_max_num_threads=share):
        n_threads = Parallel()(
            delayed(threads_after_fit)(tiny_solver(max_epochs=1), *sudokus)
            for _ in range(2)
        )
    assert n_threads == [share or max(1, cpu_count() // 2)] * 2


def test_prediction_keeps_nothing_of_a_row_but_its_answer(copies):
    seen = []

    class Watched(Choice):
        def end(self, row, number, n_steps):
            super().end(row, number, n_steps)
            seen.append((row, len(self._later)))

    X, y = copies
    solver = tiny_solver(max_epochs=1).fit(X, y)
    inputs = torch.as_tensor(solver._make_rows(X, y, None).inputs)
    solution = solve(
        solver.module_,
        inputs,
        lambda logits: logits.argmax(dim=-1),
        batch_size=16,
        max_steps=3,
        halt_threshold=0.5,
        choice=Watched(len(X)),
    )
    assert sorted(row for row, _ in seen) == list(range(len(X)))
    assert {n_kept for _, n_kept in seen} == {0}
    assert (solution.n_steps >= 1).all()

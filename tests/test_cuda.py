"""What only a CUDA device can show: no waiting, one graph, the same answers."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from conftest import tiny_solver
from test_fast_paths import loss_curve
from torch._dynamo.utils import counters

from sktrm.nn import fused
from sktrm.nn.blocks import SwiGLU, TokenMixer
from sktrm.nn.losses import answer_loss

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="there is no CUDA device"
)

NETWORKS = [
    {"mixer": "mlp"},
    {"mixer": "attention"},
    {"symbols": "interchangeable"},
    {"symbols": "interchangeable", "mixer": "convolution"},
]
ON_CUDA = {"device": "cuda", "mixer": "mlp", "dtype": "bfloat16"}


def cuda_solver(**parameters):
    """A solver with several recursions, trained on the device."""
    depth = {"n_latent_recursions": 2, "n_deep_recursions": 2, "n_layers": 2}
    return tiny_solver(**{"device": "cuda", **depth, **parameters})


def fit_compiled(X, y, **parameters):
    """Fit with a compiled step; what torch says of it is of no use."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch\b")
        return cuda_solver(compile=True, **parameters).fit(X, y)


@pytest.fixture(scope="module")
def many(sudokus):
    """Enough rows for the slots to be filled on the device."""
    return tuple(np.concatenate([part] * 3) for part in sudokus)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("compiles", [False, True])
@pytest.mark.parametrize("parameters", NETWORKS, ids=str)
def test_no_step_waits_for_the_device(many, parameters, compiles):
    fit = fit_compiled if compiles else lambda *rows, **p: cuda_solver(**p).fit(*rows)
    solver = fit(*many, dtype="bfloat16", **parameters)
    net = solver.net_
    assert net.module_.is_compiled_for(16) == compiles
    epoch = net.slots.epoch(solver._make_rows(*many, None))
    for _ in range(3):
        net.train_step(next(epoch))
    try:
        torch.cuda.set_sync_debug_mode("error")
        for _ in range(5):
            net.train_step(next(epoch))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("parameters", NETWORKS, ids=str)
def test_compiled_training_is_the_plain_one(many, parameters, dtype):
    losses = []
    for compiles in (True, False):
        fit = fit_compiled if compiles else lambda *r, **p: cuda_solver(**p).fit(*r)
        solver = fit(*many, dtype=dtype, max_epochs=4, **parameters)
        assert solver.net_.module_.is_compiled_for(16) == compiles
        losses.append([epoch["train_loss"] for epoch in solver.history_])
    tolerance = 1e-3 if dtype == "float32" else 5e-2
    np.testing.assert_allclose(*losses, rtol=tolerance)


@pytest.mark.parametrize("parameters", NETWORKS, ids=str)
def test_a_compiled_step_is_one_graph_for_all_batches(many, parameters):
    counters.clear()
    solver = fit_compiled(*many, dtype="bfloat16", **parameters)
    assert solver.net_.module_.is_compiled_for(16)
    before = counters["stats"]["unique_graphs"]
    assert before > 0
    solver.net_.partial_fit(solver._make_rows(*many, None), epochs=3)
    assert counters["stats"]["unique_graphs"] == before
    assert counters["inductor"]["cudagraph_skips"] == 0
    # Loaded by now; at import torch warns of its own code.
    trees = torch._inductor.cudagraph_trees
    assert trees.get_manager(0, create_if_none_exists=False).graph_counter


@pytest.mark.parametrize("parameters", NETWORKS, ids=str)
def test_what_was_trained_here_answers_alike_on_a_cpu(copies, parameters):
    X, y = copies
    if "symbols" in parameters:
        parameters = {**parameters, "symbols": [0, 1, 2, 3], "augmentation": None}
    solver = cuda_solver(max_epochs=20, lr=3e-3, **parameters).fit(X, y)
    here = solver.solve(X)
    solver.device = "cpu"
    there = pickle.loads(pickle.dumps(solver)).solve(X)
    assert (here.answers == there.answers).mean() >= 0.999
    assert (here.n_steps == there.n_steps).mean() >= 0.99


def results(layer, h, direction):
    """What a layer makes of ``h``, and the gradients of states and weights."""
    layer.zero_grad()
    h = h.clone().requires_grad_()
    out = layer(h)
    out.backward(direction)
    return [out.detach(), h.grad, *(p.grad for p in layer.parameters())]


def errors(found, exact):
    pairs = zip(found, exact, strict=True)
    return [((a.double() - b).norm() / b.norm()).item() for a, b in pairs]


@pytest.fixture
def without_kernels(monkeypatch):
    assert fused._can_launch(0)  # else there would be nothing to compare with
    monkeypatch.setattr(fused, "is_fused", lambda h: False)


@pytest.mark.parametrize(
    "make", [lambda: TokenMixer(97), lambda: SwiGLU(512)], ids=["mixer", "swiglu"]
)
def test_kernels_are_as_precise_as_torch_at_the_size_of_the_paper(make, request):
    torch.manual_seed(0)
    layer = make().cuda().bfloat16()
    h, direction = torch.randn(2, 64, 97, 512, device="cuda").bfloat16()
    ours = results(layer, h, direction)
    request.getfixturevalue("without_kernels")
    plain = results(layer, h, direction)
    exact = results(layer.double(), h.double(), direction.double())
    for mine, torchs in zip(errors(ours, exact), errors(plain, exact), strict=True):
        assert 0 < mine < 1.2 * torchs


def test_a_trained_model_answers_alike_with_kernels_and_without(copies, request):
    X, y = copies
    solver = cuda_solver(
        mixer="mlp", hidden_size=64, dtype="bfloat16", max_epochs=30, lr=3e-3
    ).fit(X, y)
    with_kernels = solver.solve(X)
    assert (with_kernels.answers == y).mean() > 0.9
    request.getfixturevalue("without_kernels")
    without = solver.solve(X)
    assert (with_kernels.answers == without.answers).mean() >= 0.999
    assert (with_kernels.n_steps == without.n_steps).mean() >= 0.99


def test_losses_with_kernels_are_within_the_spread_of_seeds(copies, request):
    curve = loss_curve(*copies, **ON_CUDA)
    other = loss_curve(*copies, **ON_CUDA, random_state=1)
    request.getfixturevalue("without_kernels")
    without = loss_curve(*copies, **ON_CUDA)
    assert np.abs(without - curve).mean() < np.abs(other - curve).mean()


@pytest.mark.parametrize("loss", ["softmax", "stablemax"])
def test_losses_in_float32_are_those_in_float64(loss):
    generator = torch.Generator("cuda").manual_seed(0)
    scale = torch.logspace(-2, 2, 64, device="cuda")[:, None, None]
    logits = scale * torch.randn(64, 81, 11, generator=generator, device="cuda")
    labels = torch.randint(11, (64, 81), generator=generator, device="cuda")
    found = answer_loss(logits, labels, loss)
    assert found.dtype == torch.float32
    exact = answer_loss(logits, labels, loss, torch.float64).float()
    torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-6)


def test_memory_does_not_grow_with_the_recursions_without_gradient(many):
    peaks = []
    for depth in (2, 6):
        solver = cuda_solver(n_deep_recursions=depth, hidden_size=64, max_epochs=1)
        solver.fit(*many)
        torch.cuda.reset_peak_memory_stats()
        solver.net_.partial_fit(solver._make_rows(*many, None), epochs=1)
        peaks.append(torch.cuda.max_memory_allocated())
        del solver
    assert peaks[1] < 1.1 * peaks[0]


def test_checkpointing_keeps_little_of_the_recursions_with_gradient(many):
    peaks = []
    for depth, checkpointed in ((1, True), (8, True), (8, False)):
        solver = cuda_solver(
            n_latent_recursions=depth,
            gradient_checkpointing=checkpointed,
            hidden_size=64,
            max_epochs=1,
            compile=False,
        ).fit(*many)
        torch.cuda.reset_peak_memory_stats()
        solver.net_.partial_fit(solver._make_rows(*many, None), epochs=1)
        peaks.append(torch.cuda.max_memory_allocated())
        del solver
    assert peaks[1] - peaks[0] < 0.3 * (peaks[2] - peaks[0])

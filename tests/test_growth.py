"""What deeper recursions and longer rows cost: operations and memory, exactly.

Counted, not timed: products of matrices, and bytes that wait for the backward pass.
"""

import numpy as np
import pytest
import torch
from conftest import tiny_solver
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sktrm._device import has_cxx_compiler
from sktrm.nn import TinyRecursionModel, build_equivariant

WIDTH, ROWS, N_LAYERS = 16, 3, 2
CHECKPOINTED = pytest.mark.parametrize("checkpointed", [False, True])


def plain(length=12, **sizes):
    return TinyRecursionModel.build(
        n_tokens=5,
        length=length,
        hidden_size=WIDTH,
        n_layers=N_LAYERS,
        n_heads=2,
        generator=torch.Generator().manual_seed(0),
        **sizes,
    )


def equivariant(length=12, **sizes):
    return build_equivariant(
        n_tokens=5,
        length=length,
        symbols=(1, 2, 3, 4),
        hidden_size=WIDTH,
        n_heads=2,
        generator=torch.Generator().manual_seed(0),
        **sizes,
    )


def questions(length=12):
    return torch.randint(5, (ROWS, length), generator=torch.Generator().manual_seed(0))


def operations(model, length=12, n_steps=1, train=False):
    """Operations of the products of matrices in ``n_steps`` supervision steps."""
    inputs, carry = questions(length), None
    # Attention as products, which torch counts on every device.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        for _ in range(n_steps):
            with torch.set_grad_enabled(train):
                output = model(inputs, carry)
            carry = output.carry
            if train:
                (output.answer_logits.sum() + output.halt_logit.sum()).backward()
    return counter.get_total_flops()


def kept(model):
    """Bytes that a supervision step keeps for the backward pass, weights included."""
    storages = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(questions())
    return sum(storage.nbytes() for storage in storages.values())


def increments(values):
    return np.diff(values).tolist()


@pytest.mark.parametrize("build", [plain, equivariant])
@pytest.mark.parametrize("size", ["n_latent_recursions", "n_deep_recursions"])
@pytest.mark.parametrize("train", [False, True])
def test_operations_are_linear_in_the_depth(build, size, train):
    """Each n costs as much as every other, and so does each T."""
    models = [build(**{size: depth}) for depth in (1, 2, 3, 4)]
    first, *others = increments([operations(model, train=train) for model in models])
    assert first > 0
    assert others == [first] * 2


@pytest.mark.parametrize("build", [plain, equivariant])
def test_operations_are_linear_in_the_supervision_steps(build):
    model = build()
    one, two, three = (operations(model, n_steps=n) for n in (1, 2, 3))
    assert 0 < 3 * one == three
    assert 2 * one == two


def test_only_attention_itself_is_quadratic_in_the_length():
    """Its two products, scores and values: 2 * 2 * L * L * width for each call."""
    n, T = 2, 3
    sizes = {"n_latent_recursions": n, "n_deep_recursions": T}
    work = [operations(plain(length, **sizes), length) for length in (50, 100, 150)]
    quadratic = 2 * 2 * 50**2 * WIDTH * ROWS * N_LAYERS * T * (n + 1)
    # The second difference of a + b L + c L * L at steps of 50 is 2 c 50 * 50.
    assert increments(increments(work)) == [2 * quadratic]


@CHECKPOINTED
@pytest.mark.parametrize("build", [plain, equivariant])
def test_memory_is_flat_in_recursions_without_gradient(build, checkpointed):
    found = []
    for depth in (1, 2, 5):
        model = build(n_deep_recursions=depth)
        model.gradient_checkpointing = checkpointed
        found.append(kept(model))
    assert found[0] == pytest.approx(found[2], rel=0.01)
    assert found[1] == found[2]


@pytest.mark.parametrize("build", [plain, equivariant])
def test_checkpointing_keeps_one_state_for_each_call(build):
    found = []
    for n in (1, 2, 3):
        model = build(n_latent_recursions=n)
        model.gradient_checkpointing = True
        found.append(kept(model))
    state = 4 * ROWS * np.prod(model.state_shape)  # float32
    assert increments(found) == [state] * 2
    model.gradient_checkpointing = False
    assert kept(model) > found[-1] + 10 * state * (3 + 1)


@pytest.mark.parametrize("build", [plain, equivariant])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_checkpointing_changes_no_gradient(build, dtype):
    gradients = []
    for checkpointed in (False, True):
        model = build()
        model.dtype, model.gradient_checkpointing = dtype, checkpointed
        output = model(questions())
        (
            output.answer_logits.float().square().sum() + output.halt_logit.sum()
        ).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert gradients[0]
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"symbols": "interchangeable"},
        pytest.param(
            {"symbols": "interchangeable", "compile": True},
            marks=pytest.mark.skipif(
                not has_cxx_compiler(), reason="torch has no C++ compiler here"
            ),
        ),
    ],
    ids=str,
)
def test_a_solver_trains_checkpointed_as_it_does_without(sudokus, parameters):
    losses = []
    for checkpointed in (False, True):
        solver = tiny_solver(
            gradient_checkpointing=checkpointed, dtype="float64", **parameters
        ).fit(*sudokus)
        losses.append([epoch["train_loss"] for epoch in solver.history_])
    assert solver.module_.gradient_checkpointing
    np.testing.assert_allclose(*losses, rtol=1e-9)

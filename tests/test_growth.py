"""What deeper recursions and longer rows cost: operations and memory, exactly.

Counted, not timed: products of matrices, and bytes that wait for the backward pass.
"""

import pickle
from functools import partial

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


def mixing(mixer):
    """An equivariant network with another way to mix along the cells."""

    def build(**sizes):
        grid = {"grid": (3, 4)} if mixer == "convolution" else {}
        return equivariant(mixer=mixer, **grid, **sizes)

    return build


BUILDS = pytest.mark.parametrize(
    "build",
    [
        pytest.param(plain, id="attention"),
        pytest.param(partial(plain, mixer="mlp"), id="mlp"),
        pytest.param(mixing("mlp"), id="equivariant"),
        pytest.param(mixing("attention"), id="equivariant attention"),
        pytest.param(mixing("convolution"), id="equivariant convolution"),
    ],
)


def kept(model, length=12, inputs=None):
    """Bytes that a supervision step keeps for the backward pass, weights included."""
    inputs = questions(length) if inputs is None else inputs
    storages = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(inputs)
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
@pytest.mark.parametrize("train", [False, True])
def test_operations_are_linear_in_the_supervision_steps(build, train):
    """A carry with a graph of its own would make later steps dearer."""
    model = build()
    one, two, three = (operations(model, n_steps=n, train=train) for n in (1, 2, 3))
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


def test_fused_attention_keeps_nothing_quadratic_in_the_length():
    found = [kept(plain(length), length) for length in (50, 100, 150)]
    assert increments(increments(found)) == [0]


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


@BUILDS
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


@BUILDS
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


@pytest.mark.skipif(not has_cxx_compiler(), reason="torch has no C++ compiler here")
def test_compiled_steps_keep_as_little(sudokus):
    found, losses = [], []
    for n, checkpointed in ((1, True), (2, True), (3, True), (3, False)):
        solver = tiny_solver(
            symbols="interchangeable",
            n_latent_recursions=n,
            gradient_checkpointing=checkpointed,
            compile=True,
        ).fit(*sudokus)
        model, inputs = solver.net_.module_, solver.net_.slots.data[0]
        assert model.is_compiled_for(len(inputs))
        model.train()
        found.append(kept(model, inputs=inputs))
        losses.append(solver.history_[-1]["train_loss"])
    assert losses[2] == pytest.approx(losses[3], rel=1e-3)
    state = 4 * len(inputs) * np.prod(model.state_shape)
    assert found[3] - found[2] > 10 * state
    assert max(increments(found[:3])) <= 2 * state


def test_what_is_asked_for_between_trainings_counts(sudokus):
    X, y = sudokus
    solver = tiny_solver(warm_start=True).fit(X, y)
    assert not solver.net_.module_.gradient_checkpointing
    solver.set_params(gradient_checkpointing=True).fit(X, y)
    assert solver.net_.module_.gradient_checkpointing
    solver.set_params(gradient_checkpointing=False).partial_fit(X, y)
    assert not solver.net_.module_.gradient_checkpointing


def test_tasks_that_come_later_are_learned_checkpointed(sudokus):
    X, y = sudokus
    solver = tiny_solver(gradient_checkpointing=True, n_augmentations=0)
    solver.fit(X, y, task_ids=["first"] * len(X))
    assert not solver.module_.gradient_checkpointing
    solver.adapt(X, y, task_ids=["second"] * len(X))
    assert solver.module_.gradient_checkpointing


def test_a_solver_stored_before_there_was_checkpointing_trains(sudokus):
    X, y = sudokus
    solver = tiny_solver().fit(X, y)
    del solver.gradient_checkpointing
    back = pickle.loads(pickle.dumps(solver))
    assert back.gradient_checkpointing is False
    back.partial_fit(X, y)

"""Permuting interchangeable symbols of a question permutes those of its answer."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_solver

from sktrm.nn import build_equivariant
from sktrm.nn.equivariant import ConvolutionMixer
from sktrm.nn.recursion import TinyRecursionModel

N_TOKENS, LENGTH = 9, 12


def model_for(symbols, mixer, positions="rope"):
    model = build_equivariant(
        n_tokens=N_TOKENS,
        symbols=symbols,
        length=LENGTH,
        hidden_size=16,
        mixer=mixer,
        positions=positions,
        n_latent_recursions=2,
        n_deep_recursions=2,
        generator=torch.Generator().manual_seed(0),
    ).double()
    # An untrained halting head ignores its input; make this one read.
    torch.nn.init.ones_(model.halt_head.linear.weight)
    return model


def random_subsets(n):
    """Draw sets of two tokens or more, in any order."""
    random = np.random.RandomState(0)
    return [
        random.permutation(N_TOKENS)[: random.randint(2, N_TOKENS)].tolist()
        for _ in range(n)
    ]


def permutation_of(symbols, seed):
    """A table token -> token that moves only ``symbols``."""
    table = np.arange(N_TOKENS)
    table[symbols] = np.random.RandomState(seed).permutation(symbols)
    return torch.as_tensor(table)


@pytest.mark.parametrize(
    ("mixer", "positions"),
    [
        ("mlp", "none"),
        ("convolution", "none"),
        ("attention", "rope"),
        ("attention", "learned"),
    ],
)
@pytest.mark.parametrize(
    "symbols", [list(range(1, N_TOKENS)), [8, 1], *random_subsets(4)]
)
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_model_is_exactly_equivariant(mixer, positions, symbols, noise):
    """From random states, too: they go with the symbols, in order of appearance."""
    model = model_for(symbols, mixer, positions)
    inputs = torch.randint(
        N_TOKENS, (4, LENGTH), generator=torch.Generator().manual_seed(1)
    )
    table = permutation_of(symbols, seed=2)
    plain = permuted = None
    if noise:
        plain, permuted = (
            model.random_carry(seen, noise, torch.Generator().manual_seed(3))
            for seen in (inputs, table[inputs])
        )
    for _ in range(3):
        one = model(inputs, plain)
        other = model(table[inputs], permuted)
        plain, permuted = one.carry, other.carry
        # The logit of a token is that of the token it became.
        torch.testing.assert_close(
            other.answer_logits[..., table], one.answer_logits, rtol=0, atol=1e-12
        )
        torch.testing.assert_close(other.halt_logit, one.halt_logit, rtol=0, atol=1e-12)
    assert one.answer_logits.std() > 0.1
    assert one.halt_logit.std() > 0


def test_convolution_is_torch_s():
    """With zeros outside, and a kernel that fades with distance."""
    generator = torch.Generator().manual_seed(0)
    mixer = ConvolutionMixer(1, 1, (3, 5), generator)
    row, column = torch.meshgrid(
        torch.arange(-2, 3), torch.arange(-4, 5), indexing="ij"
    )
    fades = (1 + torch.hypot(row.float(), column.float())) ** -2
    fades *= 10 / fades.square().sum().sqrt()
    values = torch.randn(2, 1, 3, 5, generator=generator)
    expected = F.conv2d(values, (fades * mixer.weight)[None], padding=(2, 4))
    (matrix,) = mixer.cast(torch.float32)
    torch.testing.assert_close(values.flatten(1) @ matrix.T, expected.flatten(1))


def test_convolution_has_one_gradient_for_all_places():
    """Not rounded on the way: many small terms would be lost in bfloat16."""
    mixer = ConvolutionMixer(1, 1, (20, 20), torch.Generator().manual_seed(0))
    mixer.cast(torch.bfloat16).float().sum().backward()
    n_places = torch.outer(*[20 - torch.arange(-19, 20).abs()] * 2)
    torch.testing.assert_close(mixer.weight.grad[0], n_places * mixer.decay)


def test_convolution_does_at_every_place_what_it_learned_at_some():
    """To mark the cell to the right of a sign; free matrices learn places by heart."""
    row, column = np.divmod(np.random.RandomState(0).permutation(25), 5)
    X = np.zeros((25, 5, 6), dtype=int)
    X[np.arange(25), row, column] = 2
    y = X.copy()
    y[np.arange(25), row, column + 1] = 1
    unseen = {}
    for mixer in ("convolution", "mlp"):
        solver = tiny_solver(symbols=[0, 1], mixer=mixer, max_epochs=80, lr=0.02)
        solver.set_params(batch_size=15, augmentation=None).fit(X[:15], y[:15])
        assert solver.score(X[:15], y[:15]) == 1
        unseen[mixer] = solver.score(X[15:], y[15:])
    assert unseen["convolution"] > 0.8
    assert unseen["mlp"] < 0.2


def test_convolution_needs_grids_of_one_size_and_symbols(sudokus):
    X, y = sudokus
    how = {"mixer": "convolution", "max_epochs": 1}
    solver = tiny_solver(symbols="interchangeable", **how).fit(X, y)
    assert solver.module_.net[0].mixer.weight.shape == (2, 7, 7)
    sequences = X.reshape(len(X), -1), y.reshape(len(y), -1)
    solver.fit(*sequences)
    # Three axes: no matrix for Muon.
    assert solver.module_.net[0].mixer.weight.shape == (2, 1, 31)
    larger = np.pad(y, [(0, 0), (1, 0), (0, 1)])  # the grid is the answer's then
    assert solver.fit(X, larger).predict(X).shape == larger.shape
    message = "needs symbols, and questions and answers on one grid"
    with pytest.raises(ValueError, match=message):
        tiny_solver(**how).fit(X, y)
    for questions, answers in (
        ([X[0], X[1, :3]], [y[0], y[1, :3]]),
        (X, [y[0], *y[1:, :3]]),
        (X[:, 0], sequences[1]),
    ):
        with pytest.raises(ValueError, match=message):
            solver.fit(questions, answers)
    with pytest.raises(
        ValueError, match=r"grid must have 12 cells, got shape \(3, 3\)"
    ):
        build_equivariant(n_tokens=9, symbols=[1, 2], length=LENGTH, grid=(3, 3))


def test_symbols_kept_apart_are_told_apart():
    model = model_for([1, 2, 3], "mlp")
    inputs = torch.ones(1, LENGTH, dtype=torch.long)
    logits = []
    for token in (0, 4, 5):
        question = inputs.clone()
        question[0, 3] = token
        logits.append(model(question).answer_logits)
    assert (logits[0] - logits[1]).abs().max() > 1e-3
    assert (logits[1] - logits[2]).abs().max() > 1e-3


def test_the_recursion_is_the_same_code():
    assert type(model_for([1, 2], "mlp")) is TinyRecursionModel


@pytest.mark.parametrize("mixer", ["mlp", "convolution", "attention"])
def test_trained_solver_answers_a_renamed_puzzle_alike(sudokus, mixer):
    X, y = sudokus
    solver = tiny_solver(
        symbols="interchangeable", mixer=mixer, hidden_size=16, max_epochs=8, lr=0.01
    ).fit(X, y)
    rename = np.array([0, 3, 1, 4, 2])
    before, after = solver.solve(X), solver.solve(rename[X])
    np.testing.assert_array_equal(after.answers, rename[before.answers])
    np.testing.assert_array_equal(after.n_steps, before.n_steps)
    np.testing.assert_allclose(after.confidence, before.confidence, rtol=1e-3)
    assert len(np.unique(before.answers)) > 1


def test_digits_never_seen_in_a_cell_are_learned_all_the_same(sudokus):
    X, y = sudokus
    # In training the first cell is always 1; afterwards it may be any digit.
    rename = np.array([0, 2, 3, 4, 1])
    shift = (1 - y[:, 0, 0]) % 4
    for _ in range(3):
        turn = (shift > 0)[:, None, None]
        X, y = np.where(turn, rename[X], X), np.where(turn, rename[y], y)
        shift = np.maximum(shift - 1, 0)
    assert (y[:, 0, 0] == 1).all()
    solver = tiny_solver(symbols=range(1, 5), hidden_size=16, max_epochs=30, lr=0.01)
    solver.fit(X, y)
    first = solver.predict(rename[X])[:, 0, 0]
    assert (first == rename[solver.predict(X)[:, 0, 0]]).all()
    assert (first == 2).mean() > 0.5


def test_a_background_may_be_part_of_the_answer():
    rng = np.random.RandomState(0)
    X = np.where(rng.uniform(size=(150, 3, 3)) < 0.4, 0, rng.randint(1, 4, (150, 3, 3)))
    y = X[:, :, ::-1].copy()  # mirror, background and all
    solver = tiny_solver(
        symbols=[1, 2, 3], hidden_size=32, max_epochs=40, lr=0.02, batch_size=50
    ).fit(X, y)
    assert solver.score(X, y) > 0.9
    assert 0 in solver.predict(X)


@pytest.mark.parametrize(
    ("symbols", "message"),
    [
        ([1, 9], "symbols names 9, which occurs neither in X nor in y"),
        ([3], "at least two symbols to exchange"),
        ("digits", "must be 'interchangeable', a sequence or None, got 'digits'"),
        (5, "must be 'interchangeable', a sequence of symbols or None, got 5"),
        ([[1, 2], [3]], "must be 'interchangeable', a sequence of symbols or None"),
    ],
)
def test_symbols_that_cannot_be(sudokus, symbols, message):
    with pytest.raises(ValueError, match=message):
        tiny_solver(symbols=symbols).fit(*sudokus)


def test_unscored_cells_are_not_exchanged(sudokus):
    X, y = sudokus
    solver = tiny_solver(symbols=range(5), ignore_value=0)
    with pytest.raises(ValueError, match="symbols must not hold ignore_value, 0"):
        solver.fit(X, y)
    with pytest.raises(ValueError, match="must not hold ignore_value"):
        solver.set_params(ignore_value=9, symbols=[1, 9]).fit(X, y)


def test_symbols_may_be_of_several_types(copies):
    table = np.empty(4, dtype=object)
    table[:] = [1, "a", (2, 3), None]
    X, y = (table[tokens[:40]] for tokens in copies)
    for symbols in ("interchangeable", [1, "a", (2, 3)], table):
        solver = tiny_solver(symbols=symbols, max_epochs=1).fit(X, y)
        assert len(solver._sizes["symbols"]) == (3 if isinstance(symbols, list) else 4)


def test_symbols_that_a_question_does_not_hold_look_alike(sudokus):
    """What exactness costs: nothing tells such symbols apart."""
    X, y = sudokus
    solver = tiny_solver(symbols="interchangeable", hidden_size=16).fit(X, y)
    question = np.zeros((1, 4, 4), dtype=int)
    question[0, 0, 0] = 1
    proba = solver.predict_proba(question)[0]
    np.testing.assert_array_equal(proba[..., 1], proba[..., 2])
    np.testing.assert_array_equal(proba[..., 1], proba[..., 3])
    assert not np.array_equal(proba[..., 0], proba[..., 1])


def test_a_narrow_network_has_at_least_one_unit(sudokus):
    solver = tiny_solver(symbols="interchangeable", expansion=0.01).fit(*sudokus)
    assert solver.module_.net[0].feed_forward.up.weight.shape[0] == 1


def test_a_task_with_one_symbol_has_none_to_exchange():
    X = np.zeros((5, 4), dtype=int)
    with pytest.raises(ValueError, match="at least two symbols to exchange"):
        tiny_solver(symbols="interchangeable").fit(X, X)


def test_prefix_tokens_do_not_go_with_symbols(sudokus):
    with pytest.raises(ValueError, match="n_prefix_tokens must be 0 with symbols"):
        tiny_solver(symbols="interchangeable", n_prefix_tokens=2).fit(*sudokus)

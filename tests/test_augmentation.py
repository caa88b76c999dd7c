"""A transformed puzzle is a puzzle: still solved, and the way back is known."""

import numpy as np
import pytest
import torch

from sktrm._encoding import GridEncoder
from sktrm.augmentation import (
    Augmentation,
    Dihedral,
    SudokuGroup,
    SymbolPermutation,
    TokenSpace,
    Transform,
    find_symmetries,
)
from sktrm.datasets import make_sudoku

N = 40


def task(box):
    """Questions, answers as tokens, and what is known of them."""
    X, y = make_sudoku(N, box=box, random_state=0)
    encoder = GridEncoder().fit(X, y)
    space = TokenSpace(
        encoder.one_shape,
        encoder.vocabulary.n_tokens,
        encoder.vocabulary.token_of,
        encoder.answer_tokens,
    )
    tokens = (
        torch.as_tensor(encoder.encode_X(X)),
        torch.as_tensor(encoder.encode_y(y)),
    )
    return *tokens, space, encoder


def is_solved(grid, box):
    """Every row, column and box holds every digit."""
    height, width = box
    side = height * width
    boxes = (
        grid.reshape(width, height, height, width).swapaxes(1, 2).reshape(side, side)
    )
    full = set(range(1, side + 1))
    return all(set(unit) == full for unit in (*grid, *grid.T, *boxes))


@pytest.mark.parametrize("box", [(2, 2), (2, 3), (3, 2), (3, 3)])
def test_a_solved_sudoku_stays_solved(box):
    inputs, labels, space, encoder = task(box)
    augmentation = SudokuGroup(box)
    augmentation.check(space)
    transform = augmentation.draw(N, space, torch.Generator().manual_seed(0))
    questions, answers = transform(inputs), transform(labels)
    grids = encoder.decode(answers.numpy(), None)
    assert all(is_solved(grid, box) for grid in grids)
    assert (answers != labels).any(dim=1).float().mean() > 0.9
    given = questions != space.token_of[0]
    torch.testing.assert_close(questions[given], answers[given])


@pytest.mark.parametrize(
    "augmentation",
    [
        SudokuGroup((3, 3)),
        SymbolPermutation(),
        SymbolPermutation(symbols=[1, 2, 5]),
        Dihedral(),
    ],
    ids=repr,
)
def test_the_inverse_undoes_it(augmentation):
    inputs, _, space, _ = task((3, 3))
    transform = augmentation.draw(N, space, torch.Generator().manual_seed(0))
    there = transform(inputs)
    assert (there != inputs).any()
    back = transform.inverse()
    if back.cells is not None and back.tokens is not None:
        assert (there.gather(1, back.cells) != inputs).any()
    torch.testing.assert_close(back(there), inputs)


def test_only_the_named_symbols_move():
    inputs, _, space, _ = task((3, 3))
    transform = SymbolPermutation([1, 2]).draw(
        N, space, torch.Generator().manual_seed(0)
    )
    moved = transform(inputs) != inputs
    named = [space.token_of[1], space.token_of[2]]
    assert set(inputs[moved].tolist()) == set(named)


def test_labels_that_are_not_scored_stay_unscored():
    _, labels, space, _ = task((2, 2))
    labels[:, 3] = -100
    transform = SudokuGroup((2, 2)).draw(N, space, torch.Generator().manual_seed(0))
    assert ((transform(labels) == -100).sum(dim=1) == 1).all()


@pytest.mark.parametrize(("shape", "n_expected"), [((3, 3), 8), ((2, 4), 4)])
def test_dihedral_draws_every_symmetry(shape, n_expected):
    space = TokenSpace(shape, 20, {}, ())
    cells = Dihedral().draw(400, space, torch.Generator().manual_seed(0)).cells
    assert len({tuple(row) for row in cells.tolist()}) == n_expected


def test_dihedral_keeps_neighbours():
    space = TokenSpace((4, 4), 20, {}, ())
    cells = Dihedral().draw(50, space, torch.Generator().manual_seed(0)).cells
    where = np.argsort(cells.numpy(), axis=1)  # new place of each old cell
    rows, columns = where // 4, where % 4
    distance = abs(rows[:, 0] - rows[:, 1]) + abs(columns[:, 0] - columns[:, 1])
    assert (distance == 1).all()


def test_an_augmentation_must_draw():
    with pytest.raises(NotImplementedError, match="must implement draw"):
        Augmentation().draw(1, None, None)


def test_composed_transforms_act_one_after_the_other():
    inputs, _, space, _ = task((2, 2))
    generator = torch.Generator().manual_seed(0)
    first = Dihedral().draw(N, space, generator)
    second = SudokuGroup((2, 2)).draw(N, space, generator)
    for a, b in [(first, second), (second, first), (first, Transform())]:
        assert (a.then(b)(inputs) == b(a(inputs))).all()


@pytest.mark.parametrize("box", [(2, 2), (2, 3), (3, 2), (3, 3), (1, 5)])
def test_symmetries_of_sudokus_and_latin_squares_are_found(box):
    inputs, labels, space, _ = task(box)
    found = find_symmetries(inputs.numpy(), labels.numpy(), space)
    assert found == [SudokuGroup(box)]
    flat = space._replace(canvas=(inputs.shape[1],))
    assert find_symmetries(inputs.numpy(), labels.numpy(), flat) == found


def test_symmetries_are_not_found_where_there_are_none():
    inputs, labels, space, _ = task((2, 2))
    inputs, labels = inputs.numpy(), labels.numpy()
    wrong = labels.copy()
    wrong[3, :2] = wrong[3, 1::-1]  # one answer is no Sudoku
    assert find_symmetries(inputs, wrong, space) == []
    changed = inputs.copy()
    clue = np.isin(inputs[3], space.answer_tokens).argmax()
    one, other = space.answer_tokens[:2]
    changed[3, clue] = other if inputs[3, clue] == one else one
    assert find_symmetries(changed, labels, space) == []  # a clue is not kept
    ragged = space._replace(canvas=None)
    assert find_symmetries(inputs, labels, ragged) == []

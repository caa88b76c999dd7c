"""A transformed puzzle is a puzzle: still solved, and the way back is known."""

import numpy as np
import pytest
import torch
from conftest import tiny_solver

from sktrm._encoding import GridEncoder
from sktrm.augmentation import (
    Augmentation,
    Dihedral,
    SudokuGroup,
    SymbolPermutation,
    TokenSpace,
    Transform,
    Translation,
    augment,
    find_symmetries,
)
from sktrm.datasets import make_sudoku

N = 40


def task(box):
    """Questions, answers as tokens, and what is known of them."""
    X, y = make_sudoku(N, box=box, random_state=0)
    encoder = GridEncoder().fit(X, y)
    space = TokenSpace(
        encoder.canvas,
        encoder.vocabulary.n_tokens,
        encoder.vocabulary.token_of,
        encoder.answer_tokens,
        encoder.one_shape is None,
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


def test_the_sudoku_group_is_drawn_whole():
    """Of 4 x 4: bands, stacks, rows and columns in them, and the transpose."""
    _, _, space, _ = task((2, 2))
    draw = torch.Generator().manual_seed(0)
    maps = SudokuGroup((2, 2)).draw(4000, space, draw).cells
    assert len({tuple(cells) for cells in maps.tolist()}) == 8 * 8 * 2


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
    marked = inputs.copy()
    marked[0, (~np.isin(inputs[0], space.answer_tokens)).argmax()] = 0
    assert find_symmetries(marked, labels, space) == []  # two kinds of empty cells
    for ragged in (space._replace(canvas=None), space._replace(ragged=True)):
        assert find_symmetries(inputs, labels, ragged) == []


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def grids_on_a_canvas(sizes, canvas=(6, 7)):
    """Token grids of the given sizes, upper left on a canvas of zeros."""
    rows = torch.zeros(len(sizes), *canvas, dtype=torch.int8)
    draw = generator(len(sizes))
    for row, (height, width) in zip(rows, sizes, strict=True):
        row[:height, :width] = torch.randint(1, 10, (height, width), generator=draw)
    return rows.flatten(1)


RAGGED = TokenSpace((6, 7), 10, {}, (), ragged=True)


def content(row, canvas=(6, 7)):
    """The tokens of the smallest rectangle that holds all cells, by lines."""
    grid = row.clamp(min=0).view(canvas)
    taken = grid.nonzero()
    (top, left), (bottom, right) = taken.amin(dim=0), taken.amax(dim=0)
    return grid[top : bottom + 1, left : right + 1].tolist()


def random_sizes(seed, n=200):
    random = np.random.RandomState(seed)
    return list(zip(random.randint(1, 7, n), random.randint(1, 8, n), strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_translation_moves_whole_grids_and_their_answers_alike(seed):
    questions = grids_on_a_canvas(random_sizes(seed))
    answers = grids_on_a_canvas(random_sizes(seed + 100))
    transform = Translation().draw_for(questions, answers, RAGGED, generator(seed))
    moved = transform(questions), transform(answers)
    for before, after in zip((questions, answers), moved, strict=True):
        # In one piece: nothing was dropped, nothing wraps around an edge.
        assert [content(row) for row in before] == [content(row) for row in after]
    both = torch.stack((questions + 10 * answers, moved[0] + 10 * moved[1]))
    assert [content(row) for row in both[0]] == [content(row) for row in both[1]]
    torch.testing.assert_close(transform.inverse()(moved[1]), answers)
    assert (moved[0] != questions).any()


def test_translation_reaches_every_place():
    questions = grids_on_a_canvas([(4, 6)] * 400)
    moved = Translation().draw_for(questions, None, RAGGED, generator())(questions)
    corners = {int(row.nonzero()[0]) for row in moved}
    assert corners == {7 * row + column for row in range(3) for column in range(2)}


def test_translation_leaves_alone_what_fills_its_canvas_or_is_empty():
    questions = torch.cat((grids_on_a_canvas([(6, 7)] * 20), torch.zeros(20, 42)))
    transform = Translation().draw_for(questions, None, RAGGED, generator())
    torch.testing.assert_close(transform(questions), questions)


def test_translation_ignores_cells_that_are_not_scored():
    questions = grids_on_a_canvas([(2, 2)] * 400)
    labels = torch.where(questions > 0, questions, -100)
    transform = Translation().draw_for(questions, labels, RAGGED, generator())
    moved = transform(questions), transform(labels)
    torch.testing.assert_close(moved[0], moved[1].clamp(min=0))
    assert len({int(row.nonzero()[0]) for row in moved[0]}) == 5 * 6


def test_translation_within_arrays_by_the_symbol_around_the_grids():
    X = np.full((50, 5, 5), -1)
    X[:, :2, :3] = np.random.RandomState(0).randint(4, size=(50, 2, 3))
    encoder = GridEncoder().fit(X, X)
    space = TokenSpace((5, 5), 6, encoder.vocabulary.token_of, encoder.answer_tokens)
    translation = Translation(outside=-1)
    translation.check(space)
    tokens = torch.as_tensor(encoder.encode_X(X))
    transform = translation.draw_for(tokens, tokens, space, generator())
    moved = encoder.decode(transform(tokens).numpy(), None)
    for before, after in zip(X, moved, strict=True):
        np.testing.assert_array_equal(after[after >= 0], before[before >= 0])
    assert len({int(np.argmax(grid >= 0)) for grid in moved}) == 4 * 3


@pytest.mark.parametrize(
    ("translation", "space", "message"),
    [
        (Translation(), RAGGED._replace(ragged=False), "needs room to move grids"),
        (Translation(), RAGGED._replace(canvas=(42,)), "Translation needs grids"),
        (Translation(), RAGGED._replace(canvas=None), "grids on one canvas"),
        (Translation(outside=7), RAGGED, "outside must be a symbol of X or y, got 7"),
    ],
)
def test_translation_says_what_it_needs(translation, space, message):
    with pytest.raises(ValueError, match=message):
        translation.check(space)


def test_symbols_that_a_task_lacks_are_left_out():
    """The colours of ARC, say: few tasks hold all of them."""
    space = TokenSpace((2, 2), 4, {0: 1, 1: 2, 5: 3}, (1, 2, 3))
    named = SymbolPermutation(range(1, 10))
    named.check(space)
    drawn = named.draw(20, space, torch.Generator().manual_seed(0)).tokens
    assert {tuple(row) for row in drawn.tolist()} == {(0, 1, 2, 3), (0, 1, 3, 2)}


COLOURS = SymbolPermutation(range(1, 10))


def test_colours_are_permuted_and_the_background_stays():
    X = np.random.RandomState(0).randint(10, size=(100, 3, 3))
    encoder = GridEncoder().fit(X, X)
    token_of = encoder.vocabulary.token_of
    space = TokenSpace((3, 3), 11, token_of, encoder.answer_tokens)
    COLOURS.check(space)
    tokens = torch.as_tensor(encoder.encode_X(X))
    seen = encoder.decode(COLOURS.draw(100, space, generator())(tokens).numpy(), None)
    np.testing.assert_array_equal(seen == 0, X == 0)
    for before, after in zip(X, seen, strict=True):
        pairs = set(zip(before.ravel().tolist(), after.ravel().tolist(), strict=True))
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    assert (seen != X).any()


@pytest.mark.parametrize("seed", range(3))
def test_augmentations_of_a_list_see_what_those_before_them_did(seed):
    """A grid that was turned into another corner is moved from there."""
    sizes = random_sizes(seed)
    questions = grids_on_a_canvas(sizes)
    space = RAGGED._replace(token_of={i: i for i in range(10)})
    moved, same = augment(
        [Dihedral(), COLOURS, Translation()], questions, questions, space, generator()
    )
    torch.testing.assert_close(moved, same)
    shapes = [np.shape(content(row)) for row in moved]
    assert shapes == sizes  # a rectangle's four symmetries keep its sides
    assert (moved != questions).any()


def test_votes_see_no_translations():
    X = [np.full((size, size), size) for size in (2, 3, 2, 3)]
    alone = tiny_solver(augmentation=Translation()).fit(X, X)
    with pytest.raises(ValueError, match="needs transforms to look through"):
        alone.predict(X, augment_votes=2)
    both = tiny_solver(augmentation=[Translation(), Dihedral()]).fit(X, X)
    answers = both.predict(X, augment_votes=4)
    assert [a.shape for a in answers] == [x.shape for x in X]

"""Generated puzzles are what they claim to be; files are read or refused."""

import numpy as np
import pandas as pd
import pytest
from conftest import shared
from test_augmentation import is_solved

from sktrm.datasets import (
    is_shortest_path,
    is_valid_path,
    load_maze,
    load_sudoku,
    make_maze,
    make_sudoku,
)
from sktrm.metrics import valid_shortest_path_score


def solutions(grid, box, limit=2):
    """Count solutions the simple way, sharing nothing with the generator."""
    blanks = np.argwhere(grid == 0)
    if not len(blanks):
        return 1
    height, width = box

    def options(row, column):
        top, left = row // height * height, column // width * width
        seen = {*grid[row], *grid[:, column]}
        seen |= set(grid[top : top + height, left : left + width].ravel())
        return [d for d in range(1, height * width + 1) if d not in seen]

    row, column = min(blanks, key=lambda cell: len(options(*cell)))
    found = 0
    for digit in options(row, column):
        grid[row, column] = digit
        found += solutions(grid, box, limit - found)
        grid[row, column] = 0
        if found >= limit:
            break
    return found


@pytest.mark.parametrize(
    ("box", "n_clues"),
    [((2, 2), 5), ((2, 3), 11), ((3, 2), 18), ((3, 3), 26), ((3, 3), 40)],
)
def test_sudokus_have_one_solution_and_the_clues_asked_for(box, n_clues):
    X, y = make_sudoku(6, box=box, n_clues=n_clues, random_state=1)
    assert ((X > 0).sum(axis=(1, 2)) == n_clues).all()
    assert all(is_solved(grid, box) for grid in y)
    assert ((X == 0) | (y == X)).all()
    assert [solutions(grid.copy(), box) for grid in X] == [1] * 6


def test_generators_are_seeded():
    for make in (make_sudoku, make_maze):
        first, second, other = (make(3, random_state=seed) for seed in (0, 0, 1))
        np.testing.assert_array_equal(first[0], second[0])
        assert (first[0] != other[0]).any()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_samples": 0}, "at least 1"),
        ({"n_clues": 82}, "n_clues must be between 1 and 81"),
        ({"box": (2, 2), "n_clues": 1}, "No Sudoku of side 4 with n_clues=1"),
    ],
)
def test_sudokus_that_cannot_be(parameters, message):
    with pytest.raises(ValueError, match=message):
        make_sudoku(**{"n_samples": 1, "random_state": 0, **parameters})


def test_mazes_are_labelled_with_a_shortest_path():
    X, y = make_maze(30, (8, 11), random_state=0)
    assert X.shape == y.shape == (30, 8, 11)
    assert all(is_shortest_path(*pair) for pair in zip(X, y, strict=True))
    assert ((y == "o").sum(axis=(1, 2)) >= (8 + 11) // 2 - 1).all()


def maze(*lines):
    return np.array([list(line) for line in lines])


@pytest.mark.parametrize(
    ("answer", "valid"),
    [
        (maze("So ", "#o ", " oG"), True),
        (maze("So ", "#oo", "  G"), True),
        (maze("Soo", "# o", "  G"), True),
        (maze("So ", "#o ", "  G"), False),  # does not arrive
        (maze("Soo", "#oo", "  G"), False),  # two at once
        (maze("So ", "#o ", "ooG"), False),  # a cell too many
        (maze("So ", "oo ", " oG"), False),  # through the wall
        (maze("So ", "#o ", " o "), False),  # lost the goal
        (maze("So", "#o"), False),  # another size
    ],
)
def test_what_counts_as_a_shortest_path(answer, valid):
    assert is_shortest_path(maze("S  ", "#  ", "  G"), answer) == valid


def test_a_detour_is_a_path_but_no_shortest_one():
    question = maze("S    ", "   ##", "G    ")
    detour = maze("So   ", " o ##", "Go   ")
    assert is_valid_path(question, detour)
    assert not is_shortest_path(question, detour)
    assert is_shortest_path(question, maze("S    ", "o  ##", "G    "))


def test_marks_off_the_path_are_no_path():
    question = maze("S    ", "## ##", "G    ")
    assert not is_valid_path(question, maze("Soooo", "##o##", "Goo  "))
    assert is_valid_path(question, maze("Soo  ", "##o##", "Goo  "))


def test_an_impossible_maze_is_refused():
    with pytest.raises(ValueError, match="No maze of shape"):
        make_maze(1, (3, 3), wall_density=0.99, random_state=0)
    with pytest.raises(ValueError, match="wall_density must be in"):
        make_maze(1, wall_density=1.0)
    with pytest.raises(ValueError, match="n_samples must be at least 1"):
        make_maze(0)


SUDOKU = "source,question,answer,rating\nme,12..,1234,3\nyou,.2.4,1234,1.5\n"


def test_sudokus_from_a_file(tmp_path):
    path = tmp_path / "puzzles.csv"
    path.write_text(SUDOKU)
    bunch = load_sudoku(path)
    assert bunch.data.tolist() == [[[1, 2], [0, 0]], [[0, 2], [0, 4]]]
    assert bunch.target[0].tolist() == [[1, 2], [3, 4]]
    assert bunch.rating.tolist() == [3, 1.5]
    X, _ = load_sudoku(path, return_X_y=True)
    np.testing.assert_array_equal(X, bunch.data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SUDOKU.replace("rating", "level"), "it lacks rating"),
        (SUDOKU.replace(".2.4", ".2.45"), "puzzle 1 has 5"),
        (SUDOKU.replace(".2.4", ".2.?"), r"no digit: '\?'"),
        (SUDOKU.replace(".2.4", ".2.\u0664"), "no digit"),
        (SUDOKU.replace(",1.5", ",hard"), "ratings of .* must be numbers"),
        (SUDOKU.replace(",1.5", ""), "4 columns, but that of puzzle 1 has 3"),
        (SUDOKU.splitlines()[0], "holds no puzzles"),
    ],
)
def test_files_that_are_no_sudokus(tmp_path, text, message):
    path = tmp_path / "puzzles.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_sudoku(path)


def test_letters_are_digits_above_nine(tmp_path):
    path = tmp_path / "puzzles.csv"
    path.write_text(f"source,question,answer,rating\n,{'.' * 256},{'aGz0' * 64},1\n")
    bunch = load_sudoku(path)
    assert bunch.data.dtype == bunch.target.dtype == np.int8
    assert bunch.target[0, 0, :4].tolist() == [10, 16, 35, 0]


def test_files_longer_than_what_is_read_at_once(tmp_path, monkeypatch):
    path = tmp_path / "puzzles.csv"
    lines = [f"s{i},{i % 5}...,123{i % 5},{i}" for i in range(23)]
    path.write_text("\n".join(["source,question,answer,rating", *lines, "", ""]))
    whole = load_sudoku(path)
    monkeypatch.setattr("sktrm.datasets._files._LINES_AT_ONCE", 5)
    parts = load_sudoku(path)
    assert whole.source.tolist() == [f"s{i}" for i in range(23)]
    assert whole.rating.tolist() == list(range(23))
    for name in whole:
        np.testing.assert_array_equal(whole[name], parts[name])
    path.write_text(path.read_text().replace("s17,2...", "s17,2.."))
    with pytest.raises(ValueError, match="puzzle 17 has 3"):
        load_sudoku(path)


def test_real_files():
    sudokus = load_sudoku(shared("data", "sudoku-graded", "train.csv"))
    assert sudokus.data.shape == sudokus.target.shape == (7200, 9, 9)
    assert all(is_solved(grid, (3, 3)) for grid in sudokus.target[:50])
    mazes = load_maze(shared("data", "maze-30x30-hard-1k", "test.csv"))
    assert mazes.data.shape == (300, 30, 30)
    pairs = zip(mazes.data[:5], mazes.target[:5], strict=True)
    assert all(is_shortest_path(*pair) for pair in pairs)


def test_mazes_may_be_lists_or_rows_of_a_frame():
    maze, answer = ["S", " ", " ", "G"], ["S", "o", " ", "G"]
    assert is_shortest_path(maze, answer)
    assert is_valid_path(np.reshape(maze, (2, 2)).tolist(), answer)
    frames = pd.DataFrame([maze]), pd.DataFrame([answer])
    assert valid_shortest_path_score(*frames) == 1
    with pytest.raises(ValueError, match=r"must be a grid, .* got shape \(3,\)"):
        is_valid_path(maze[:3], answer[:3])

"""Sudokus: a generator of puzzles with one solution, and a reader of CSV files."""

import math
from os import PathLike
from typing import Any

import numpy as np
from sklearn.utils import Bunch, check_random_state

from sktrm.datasets._files import load_puzzles

# Grids in which removing clues got stuck, per puzzle, before we give up.
_MAX_ATTEMPTS = 200
# The digit of each character of a file, letters standing for 10 and more.
DIGIT_OF = np.full(256, -1, dtype=np.int8)
DIGIT_OF[[ord(c) for c in ".0123456789abcdefghijklmnopqrstuvwxyz"]] = [0, *range(36)]
DIGIT_OF[[ord(c) for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"]] = range(10, 36)


class _Rules:
    """Which cells of a Sudoku see each other; boxes are ``height`` x ``width``."""

    def __init__(self, height: int, width: int) -> None:
        self.side = side = height * width
        self.n_cells = side * side
        self.all_digits = (1 << side) - 1
        cells = np.arange(self.n_cells)
        rows, columns = cells // side, cells % side
        boxes = rows // height * height + columns // width
        units = [
            np.flatnonzero(group == i)
            for group in (rows, columns, boxes)
            for i in range(side)
        ]
        self.units = [unit.tolist() for unit in units]
        same = np.any(
            [g[:, None] == g[None, :] for g in (rows, columns, boxes)], axis=0
        )
        np.fill_diagonal(same, False)
        self.peers = [np.flatnonzero(line).tolist() for line in same]
        self.units_of = [
            [[c for c in unit if c != cell] for unit in self.units if cell in unit]
            for cell in range(self.n_cells)
        ]


def _place(rules: _Rules, options: list[int], cell: int, digit: int) -> bool:
    """Put ``digit`` (one bit) into ``cell``; follow forced cells; False if stuck.

    ``options`` holds each cell's possible digits as bits and is changed in place.
    """
    stack = [(cell, digit)]
    while stack:
        cell, digit = stack.pop()
        if not options[cell] & digit:
            return False
        options[cell] = digit
        for peer in rules.peers[cell]:
            left = options[peer]
            if left & digit:
                left &= ~digit
                options[peer] = left
                if not left:
                    return False
                if not left & (left - 1):
                    stack.append((peer, left))
    return True


def _solutions(rules: _Rules, options: list[int], limit: int) -> int:
    """Count solutions, up to ``limit``, by branching on the most constrained cell."""
    open_cells = [(o.bit_count(), c) for c, o in enumerate(options) if o & (o - 1)]
    if not open_cells:
        return 1
    _, cell = min(open_cells)
    found, left = 0, options[cell]
    while left and found < limit:
        digit = left & -left
        left ^= digit
        trial = options.copy()
        if _place(rules, trial, cell, digit):
            found += _solutions(rules, trial, limit - found)
    return found


def _options(rules: _Rules, clues: list[int]) -> list[int] | None:
    """Return each cell's possible digits given ``clues``, None if they contradict."""
    options = [rules.all_digits] * rules.n_cells
    for cell, clue in enumerate(clues):
        if clue and not _place(rules, options, cell, 1 << (clue - 1)):
            return None
    return options


def _random_solution(rules: _Rules, rng: np.random.RandomState) -> list[int]:
    """Fill an empty grid at random."""

    def fill(options: list[int]) -> list[int] | None:
        open_cells = [(o.bit_count(), c) for c, o in enumerate(options) if o & (o - 1)]
        if not open_cells:
            return options
        fewest = min(open_cells)[0]
        choices = [c for n, c in open_cells if n == fewest]
        cell = choices[rng.randint(len(choices))]
        for digit in rng.permutation(rules.side).tolist():
            trial = options.copy()
            if _place(rules, trial, cell, 1 << digit):
                full = fill(trial)
                if full is not None:
                    return full
        return None

    filled = fill([rules.all_digits] * rules.n_cells)
    assert filled is not None
    return [digit.bit_length() for digit in filled]


def _is_implied(rules: _Rules, clues: list[int], cell: int, digit: int) -> bool:
    """Tell whether ``clues`` without ``cell`` leave it no digit but ``digit``."""
    seen = 0
    for peer in rules.peers[cell]:
        if clues[peer]:
            seen |= 1 << (clues[peer] - 1)
    wrong = rules.all_digits & ~seen & ~(1 << (digit - 1))
    if not wrong:
        return True
    options = _options(rules, clues)
    assert options is not None
    wrong &= options[cell]
    while wrong:
        other = wrong & -wrong
        wrong ^= other
        trial = options.copy()
        if _place(rules, trial, cell, other) and _solutions(rules, trial, 1):
            return False
    return True


def _remove_clues(
    rules: _Rules, solution: list[int], n_clues: int, rng: np.random.RandomState
) -> list[int] | None:
    """Blank cells in random order while the solution stays the only one."""
    clues = solution.copy()
    n_left = rules.n_cells
    for cell in rng.permutation(rules.n_cells).tolist():
        if n_left == n_clues:
            break
        clues[cell] = 0
        if _is_implied(rules, clues, cell, solution[cell]):
            n_left -= 1
        else:
            clues[cell] = solution[cell]
    return clues if n_left == n_clues else None


def make_sudoku(
    n_samples: int = 100,
    *,
    box: tuple[int, int] = (3, 3),
    n_clues: int | None = None,
    random_state: Any = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Generate Sudokus that have exactly one solution.

    Parameters
    ----------
    n_samples : int, default=100
        Number of puzzles.
    box : (int, int), default=(3, 3)
        Height and width of a box; the grid has ``side = box[0] * box[1]`` rows and
        columns.
    n_clues : int, default=None
        Number of given cells. None gives two fifths of the cells, 32 of 81. Fewer
        clues take longer to generate and are harder to solve.
    random_state : int, RandomState instance or None, default=None
        Determines the puzzles.

    Returns
    -------
    X : ndarray of shape (n_samples, side, side), int64
        Puzzles, 0 for a blank.
    y : ndarray of shape (n_samples, side, side), int64
        Their solutions, digits 1 to ``side``.

    Raises
    ------
    ValueError
        If ``n_clues`` is not possible or so low that no such puzzle was found.

    Examples
    --------
    >>> from sktrm.datasets import make_sudoku
    >>> X, y = make_sudoku(2, box=(2, 2), n_clues=6, random_state=0)
    >>> X.shape, int((X > 0).sum())
    ((2, 4, 4), 12)
    """
    height, width = box
    if n_samples < 1 or height < 1 or width < 1:
        raise ValueError(
            f"n_samples and both sides of box must be at least 1, got "
            f"n_samples={n_samples} and box={box}."
        )
    rules = _Rules(height, width)
    n_clues = round(0.4 * rules.n_cells) if n_clues is None else n_clues
    if not 0 < n_clues <= rules.n_cells:
        raise ValueError(
            f"n_clues must be between 1 and {rules.n_cells} for box={box}, got "
            f"{n_clues}."
        )
    rng = check_random_state(random_state)
    pairs = [_make_one(rules, n_clues, rng) for _ in range(n_samples)]
    puzzles, solutions = (np.array(side) for side in zip(*pairs, strict=True))
    shape = (n_samples, rules.side, rules.side)
    return puzzles.reshape(shape), solutions.reshape(shape)


def _make_one(
    rules: _Rules, n_clues: int, rng: np.random.RandomState
) -> tuple[list[int], list[int]]:
    """Return one puzzle and its solution."""
    for _ in range(_MAX_ATTEMPTS):
        solution = _random_solution(rules, rng)
        clues = _remove_clues(rules, solution, n_clues, rng)
        if clues is not None:
            return clues, solution
    raise ValueError(
        f"No Sudoku of side {rules.side} with n_clues={n_clues} was found in "
        f"{_MAX_ATTEMPTS} attempts; ask for more clues."
    )


def square_box(side: int) -> tuple[int, int]:
    """Return height and width of the box closest to a square, wider than high."""
    height = max(h for h in range(1, int(side**0.5) + 1) if side % h == 0)
    return height, side // height


def is_solved_sudoku(
    puzzle: np.ndarray, answer: np.ndarray, *, box: tuple[int, int] | None = None
) -> bool:
    """Tell whether ``answer`` keeps the clues of ``puzzle`` and obeys the rules.

    It needs no solution to compare with, so it can choose among tries:
    ``solver.predict(X, n_rollouts=16, verifier=is_solved_sudoku)``.

    Parameters
    ----------
    puzzle : ndarray of shape (side, side) or (side * side,), int
        Clues, 0 for a blank.
    answer : ndarray of the shape of ``puzzle``, int
        Digits 1 to ``side``.
    box : (int, int), default=None
        Height and width of a box. None takes the box closest to a square, wider than
        high: (3, 3) for side 9, (2, 3) for side 6.

    Returns
    -------
    solved : bool
        False also if ``answer`` has another size than ``puzzle``.

    Raises
    ------
    ValueError
        If ``puzzle`` is no square grid, or not of the side that ``box`` implies.

    Examples
    --------
    >>> from sktrm.datasets import is_solved_sudoku, make_sudoku
    >>> X, y = make_sudoku(1, box=(2, 2), random_state=0)
    >>> is_solved_sudoku(X[0], y[0]), is_solved_sudoku(X[0], y[0][::-1])
    (True, False)
    """
    puzzle, answer = np.asarray(puzzle), np.asarray(answer)
    side = math.isqrt(puzzle.size)
    height, width = square_box(side) if box is None and side else box or (0, 0)
    if side**2 != puzzle.size or side != height * width:
        raise ValueError(
            f"puzzle must be a square grid whose side is that of box={box}, got "
            f"shape {puzzle.shape}."
        )
    if answer.shape != puzzle.shape or ((puzzle != 0) & (answer != puzzle)).any():
        return False
    grid = answer.reshape(side, side)
    boxes = grid.reshape(side // height, height, side // width, width)
    units = (grid, grid.T, boxes.swapaxes(1, 2).reshape(side, side))
    digits = np.arange(1, side + 1)
    return all((np.sort(lines, axis=1) == digits).all() for lines in units)


def load_sudoku(
    path: str | PathLike[str], *, return_X_y: bool = False
) -> Bunch | tuple[np.ndarray, np.ndarray]:
    """Read Sudokus from a CSV file with columns source, question, answer, rating.

    Parameters
    ----------
    path : str or path-like
        A file in the layout of the public Sudoku-Extreme data set: questions and
        answers are strings of side x side characters, row by row, ``.`` or ``0`` for a
        blank, letters for digits above 9.
    return_X_y : bool, default=False
        Return ``(data, target)`` alone.

    Returns
    -------
    bunch : Bunch
        ``data`` and ``target``, int8 of shape (n, side, side), 0 for a blank;
        ``rating``, float of shape (n,), the difficulty as the source rates it;
        ``source``, str of shape (n,).

    Raises
    ------
    ValueError
        If a column is missing or a line is no square grid; the message says which.
    """
    return load_puzzles(path, DIGIT_OF, return_X_y=return_X_y)

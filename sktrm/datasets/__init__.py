"""Puzzles: generators, files, public data sets, checkers.

``make_*`` generates, ``load_*`` reads a file, ``fetch_*`` finds or downloads a public
data set, ``is_*`` checks an answer.
"""

from sktrm.datasets._arc import fetch_arc_agi
from sktrm.datasets._fetch import fetch_maze_hard, fetch_sudoku_extreme
from sktrm.datasets._maze import (
    is_shortest_path,
    is_valid_path,
    load_maze,
    make_maze,
)
from sktrm.datasets._sudoku import is_solved_sudoku, load_sudoku, make_sudoku

__all__ = [
    "fetch_arc_agi",
    "fetch_maze_hard",
    "fetch_sudoku_extreme",
    "is_shortest_path",
    "is_solved_sudoku",
    "is_valid_path",
    "load_maze",
    "load_sudoku",
    "make_maze",
    "make_sudoku",
]

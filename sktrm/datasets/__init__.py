"""Puzzles: generators (``make_*``), local files (``load_*``), checkers (``is_*``)."""

from sktrm.datasets._maze import (
    is_shortest_path,
    is_valid_path,
    load_maze,
    make_maze,
)
from sktrm.datasets._sudoku import is_solved_sudoku, load_sudoku, make_sudoku

__all__ = [
    "is_shortest_path",
    "is_solved_sudoku",
    "is_valid_path",
    "load_maze",
    "load_sudoku",
    "make_maze",
    "make_sudoku",
]

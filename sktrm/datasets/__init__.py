"""Puzzles: generators (``make_*``) and readers of local files (``load_*``)."""

from sktrm.datasets._maze import is_shortest_path, load_maze, make_maze
from sktrm.datasets._sudoku import load_sudoku, make_sudoku

__all__ = ["is_shortest_path", "load_maze", "load_sudoku", "make_maze", "make_sudoku"]

"""Mazes: a generator whose labels are shortest paths, and a reader of CSV files."""

import math
from os import PathLike
from typing import Any

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components
from sklearn.utils import Bunch, check_random_state

from sktrm.datasets._files import load_puzzles

WALL, FREE, START, GOAL, PATH = "#", " ", "S", "G", "o"
_MAX_ATTEMPTS = 1000
CHARACTER_OF = np.array([chr(code) for code in range(256)])


def free_graph(free: np.ndarray) -> csr_array:
    """Return the graph of free cells and their free neighbours; cells are numbered."""
    cells = np.arange(free.size).reshape(free.shape)
    ends = []
    for here, there in (
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
        ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
    ):
        both = free[here] & free[there]
        ends.append((cells[here][both], cells[there][both]))
    a, b = (np.concatenate(side) for side in zip(*ends, strict=True))
    edges = (np.ones(2 * len(a)), (np.append(a, b), np.append(b, a)))
    return csr_array(coo_array(edges, shape=(free.size, free.size)))


def shortest_path(free: np.ndarray, start: int, goal: int) -> list[int] | None:
    """Return the cells of a shortest path from start to goal, None if there is none."""
    _, before = breadth_first_order(free_graph(free), goal, directed=False)
    path = [start]
    while path[-1] != goal:
        path.append(int(before[path[-1]]))
        if path[-1] < 0:
            return None
    return path


def _as_maze(cells: Any) -> np.ndarray:
    """Return a grid of characters; a row of a data frame is taken for a square one."""
    maze = np.asarray(cells)
    side = math.isqrt(maze.size)
    if maze.ndim == 1 and side**2 == maze.size:
        return maze.reshape(side, side)
    if maze.ndim != 2:
        raise ValueError(
            f"A maze must be a grid, or a square one as one row, got shape "
            f"{maze.shape}."
        )
    return maze


def _path_length(maze: np.ndarray, answer: np.ndarray) -> int | None:
    """Return the moves of the one path that ``answer`` marks, None if it is no path."""
    marked = answer == PATH
    if maze.shape != answer.shape or (np.where(marked, FREE, answer) != maze).any():
        return None
    start, goal = (np.flatnonzero(maze == end) for end in (START, GOAL))
    if len(start) != 1 or len(goal) != 1:
        return None
    on_path = marked | np.isin(maze, (START, GOAL))
    taken = shortest_path(on_path, int(start[0]), int(goal[0]))
    # As many marks as the way through them has cells: none is off the path.
    if taken is None or len(taken) != int(marked.sum()) + 2:
        return None
    return len(taken) - 1


def is_valid_path(maze: np.ndarray, answer: np.ndarray) -> bool:
    """Tell whether ``answer`` marks one path from start to goal, of any length.

    It needs no labelled path to compare with, so it can choose among tries:
    ``solver.predict(X, n_rollouts=16, verifier=is_valid_path)``.

    Parameters
    ----------
    maze : array-like of shape (height, width) or, square, (side * side,), str
        ``#`` wall, `` `` free, ``S`` start, ``G`` goal.
    answer : array-like of the shape of ``maze``, str
        The maze with ``o`` on the cells between ``S`` and ``G``.

    Returns
    -------
    valid : bool
        False also if ``answer`` has another size, moves a wall or an end, or marks
        cells that are not on the path.

    Raises
    ------
    ValueError
        If one of them is neither a grid nor a square one as one row.

    See Also
    --------
    is_shortest_path : Asks, too, that there be no shorter one.

    Examples
    --------
    >>> import numpy as np
    >>> from sktrm.datasets import is_valid_path
    >>> maze = np.array([["S", " "], [" ", "G"]])
    >>> is_valid_path(maze, np.array([["S", "o"], [" ", "G"]]))
    True
    """
    return _path_length(_as_maze(maze), _as_maze(answer)) is not None


def is_shortest_path(maze: np.ndarray, answer: np.ndarray) -> bool:
    """Tell whether ``answer`` marks one shortest path through ``maze``.

    Parameters
    ----------
    maze : array-like of shape (height, width) or, square, (side * side,), str
        ``#`` wall, `` `` free, ``S`` start, ``G`` goal.
    answer : array-like of the shape of ``maze``, str
        The maze with ``o`` on the cells between ``S`` and ``G``.

    Returns
    -------
    valid : bool
        False also if ``answer`` has another size, moves a wall or an end, or marks
        more cells than one path.

    Raises
    ------
    ValueError
        If one of them is neither a grid nor a square one as one row.

    See Also
    --------
    is_valid_path : Asks for a path of any length.

    Examples
    --------
    >>> import numpy as np
    >>> from sktrm.datasets import is_shortest_path
    >>> maze = np.array([["S", " "], [" ", "G"]])
    >>> is_shortest_path(maze, np.array([["S", "o"], ["o", "G"]]))
    False
    """
    maze, answer = _as_maze(maze), _as_maze(answer)
    length = _path_length(maze, answer)
    if length is None:
        return False
    start, goal = (int((maze == end).argmax()) for end in (START, GOAL))
    best = shortest_path(maze != WALL, start, goal)
    assert best is not None
    return length == len(best) - 1


def make_maze(
    n_samples: int = 100,
    shape: tuple[int, int] = (10, 10),
    *,
    wall_density: float = 0.35,
    min_path_length: int | None = None,
    random_state: Any = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Generate mazes with a shortest path from start to goal as the answer.

    Walls are drawn independently for each cell; start and goal lie in the largest
    connected room. Where several paths are shortest the answer holds one of them.

    Parameters
    ----------
    n_samples : int, default=100
        Number of mazes.
    shape : (int, int), default=(10, 10)
        Height and width.
    wall_density : float, default=0.35
        Share of the cells that are walls.
    min_path_length : int, default=None
        Least number of moves from start to goal. None asks for half of height plus
        width.
    random_state : int, RandomState instance or None, default=None
        Determines the mazes.

    Returns
    -------
    X : ndarray of shape (n_samples, height, width), str
        ``#`` wall, `` `` free, ``S`` start, ``G`` goal.
    y : ndarray of shape (n_samples, height, width), str
        The same with ``o`` on the path between ``S`` and ``G``.

    Raises
    ------
    ValueError
        If no such maze is found: too many walls or too long a path.

    Examples
    --------
    >>> from sktrm.datasets import make_maze
    >>> X, y = make_maze(1, (3, 4), wall_density=0.2, random_state=1)
    >>> X.shape
    (1, 3, 4)
    """
    if n_samples < 1 or min(shape) < 2:
        raise ValueError(
            f"n_samples must be at least 1 and both sides of shape at least 2, got "
            f"n_samples={n_samples} and shape={shape}."
        )
    if not 0 <= wall_density < 1:
        raise ValueError(f"wall_density must be in [0, 1), got {wall_density}.")
    if min_path_length is None:
        min_path_length = sum(shape) // 2
    rng = check_random_state(random_state)
    mazes = [
        _make_one(shape, wall_density, min_path_length, rng) for _ in range(n_samples)
    ]
    X, y = (np.array(part) for part in zip(*mazes, strict=True))
    return X, y


def _make_one(
    shape: tuple[int, int],
    wall_density: float,
    min_path_length: int,
    rng: np.random.RandomState,
) -> tuple[np.ndarray, np.ndarray]:
    """Return one maze and the same maze with a shortest path."""
    for _ in range(_MAX_ATTEMPTS):
        free = rng.uniform(size=shape) >= wall_density
        _, rooms = connected_components(free_graph(free), directed=False)
        rooms[~free.ravel()] = -1
        if not free.any():
            continue
        largest = np.flatnonzero(rooms == np.bincount(rooms[rooms >= 0]).argmax())
        if len(largest) <= max(1, min_path_length):
            continue
        start, goal = rng.choice(largest, size=2, replace=False)
        path = shortest_path(free, int(start), int(goal))
        if path is not None and len(path) > max(1, min_path_length):
            return _draw(free, path)
    raise ValueError(
        f"No maze of shape {shape} with wall_density={wall_density} and a path of "
        f"{min_path_length} moves was found in {_MAX_ATTEMPTS} attempts."
    )


def _draw(free: np.ndarray, path: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return question and answer as characters."""
    question = np.where(free, FREE, WALL)
    question.ravel()[[path[0], path[-1]]] = START, GOAL
    answer = question.copy()
    answer.ravel()[path[1:-1]] = PATH
    return question, answer


def load_maze(
    path: str | PathLike[str], *, return_X_y: bool = False
) -> Bunch | tuple[np.ndarray, np.ndarray]:
    """Read square mazes from a CSV file: source, question, answer, rating.

    Parameters
    ----------
    path : str or path-like
        A file in the layout of the public Maze-Hard data set: mazes are strings of
        side x side characters out of ``# SGo``, row by row.
    return_X_y : bool, default=False
        Return ``(data, target)`` alone.

    Returns
    -------
    bunch : Bunch
        ``data`` and ``target``, str of shape (n, side, side); ``rating``, float of
        shape (n,), the number of moves; ``source``, str of shape (n,).

    Raises
    ------
    ValueError
        If a column is missing or a line is no square maze; the message says which.
    """
    return load_puzzles(path, CHARACTER_OF, return_X_y=return_X_y)

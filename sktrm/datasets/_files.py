"""CSV files of puzzles: source, question, answer, rating."""

import csv
from collections.abc import Iterator
from itertools import islice
from os import PathLike
from typing import NamedTuple

import numpy as np
from sklearn.utils import Bunch

_COLUMNS = ("source", "question", "answer", "rating")
# Text takes many times the memory of symbols, so only some of it is held at once.
_LINES_AT_ONCE = 2**14


class Puzzles(NamedTuple):
    """The columns of a file, or of some of its lines."""

    data: np.ndarray  # (n, side, side)
    target: np.ndarray  # (n, side, side)
    rating: np.ndarray  # (n,) float
    source: np.ndarray  # (n,) str


def load_puzzles(
    path: str | PathLike[str], symbol_of: np.ndarray, *, return_X_y: bool
) -> Bunch | tuple[np.ndarray, np.ndarray]:
    """Read square puzzles as a Bunch; ``symbol_of`` as in :func:`read_puzzles`."""
    puzzles = read_puzzles(path, symbol_of)
    if return_X_y:
        return puzzles.data, puzzles.target
    return Bunch(**puzzles._asdict())


def read_puzzles(path: str | PathLike[str], symbol_of: np.ndarray) -> Puzzles:
    """Read square puzzles; ``symbol_of`` (256,) maps characters to symbols.

    Negative numbers in ``symbol_of`` mark characters that are none.
    """
    with open(path, newline="", encoding="utf-8") as file:
        parts = list(_parts(csv.reader(file), path, symbol_of))
    if not parts:
        raise ValueError(f"{path} holds no puzzles.")
    return Puzzles(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _parts(
    lines: Iterator[list[str]], path: str | PathLike[str], symbol_of: np.ndarray
) -> Iterator[Puzzles]:
    """Yield the puzzles of a file, some at a time."""
    header = next(lines, [])
    missing = [name for name in _COLUMNS if name not in header]
    if missing:
        raise ValueError(
            f"{path} must have the columns {', '.join(_COLUMNS)}; it lacks "
            f"{', '.join(missing)}."
        )
    places = [header.index(name) for name in _COLUMNS]
    side, n_read = None, 0
    filled = filter(None, lines)
    while some := list(islice(filled, _LINES_AT_ONCE)):
        _check_lines(some, len(header), n_read, path)
        source, questions, answers, ratings = (
            [line[place] for line in some] for place in places
        )
        if side is None:
            side = round(len(questions[0]) ** 0.5)
        yield Puzzles(
            _grids(questions, side, n_read, path, symbol_of),
            _grids(answers, side, n_read, path, symbol_of),
            _numbers(ratings, path),
            np.array(source),
        )
        n_read += len(some)


def _check_lines(
    lines: list[list[str]], n_columns: int, first: int, path: str | PathLike[str]
) -> None:
    """Raise ValueError for the first line that has another number of columns."""
    for i, line in enumerate(lines, start=first):
        if len(line) != n_columns:
            raise ValueError(
                f"Every line of {path} must have {n_columns} columns, but that of "
                f"puzzle {i} has {len(line)}."
            )


def _grids(
    texts: list[str],
    side: int,
    first: int,
    path: str | PathLike[str],
    symbol_of: np.ndarray,
) -> np.ndarray:
    """Return texts of side x side characters as symbols (n, side, side)."""
    if {len(text) for text in texts} != {side * side}:
        i = next(i for i, text in enumerate(texts) if len(text) != side * side)
        raise ValueError(
            f"Every grid of {path} must have {side} x {side} characters as the first "
            f"one, but puzzle {first + i} has {len(texts[i])}."
        )
    # A question mark in place of characters beyond the table.
    codes = np.frombuffer("".join(texts).encode("latin-1", "replace"), dtype=np.uint8)
    symbols = symbol_of[codes]
    if symbols.dtype.kind == "i" and symbols.min(initial=0) < 0:
        wrong = chr(codes[symbols.argmin()])
        raise ValueError(f"{path} holds a character that is no digit: {wrong!r}.")
    return symbols.reshape(len(texts), side, side)


def _numbers(texts: list[str], path: str | PathLike[str]) -> np.ndarray:
    """Return ratings as numbers."""
    try:
        return np.array(texts, dtype=float)
    except ValueError as error:
        raise ValueError(f"The ratings of {path} must be numbers: {error}.") from error

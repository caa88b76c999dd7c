"""CSV files of puzzles: source, question, answer, rating."""

import csv
from collections.abc import Callable
from os import PathLike

import numpy as np
from sklearn.utils import Bunch

_COLUMNS = ("source", "question", "answer", "rating")


def read_puzzles(
    path: str | PathLike[str],
    convert: Callable[[np.ndarray], np.ndarray] = np.asarray,
    *,
    return_X_y: bool,
) -> Bunch | tuple[np.ndarray, np.ndarray]:
    """Read square puzzles; ``convert`` maps characters (n, side, side) to symbols."""
    columns = _read_columns(path, _COLUMNS)
    grids = [_character_grids(columns[name], path) for name in ("question", "answer")]
    try:
        data, target = (convert(characters) for characters in grids)
    except ValueError as error:
        raise ValueError(f"{path} {error}.") from error
    if return_X_y:
        return data, target
    return Bunch(
        data=data,
        target=target,
        rating=np.array(columns["rating"], dtype=float),
        source=np.array(columns["source"]),
    )


def _read_columns(
    path: str | PathLike[str], names: tuple[str, ...]
) -> dict[str, list[str]]:
    """Read the named columns of a CSV file."""
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [name for name in names if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(
                f"{path} must have the columns {', '.join(names)}; it lacks "
                f"{', '.join(missing)}."
            )
        lines = list(reader)
    if not lines:
        raise ValueError(f"{path} holds no puzzles.")
    return {name: [line[name] for line in lines] for name in names}


def _character_grids(texts: list[str], path: str | PathLike[str]) -> np.ndarray:
    """Return texts of n x n characters as an array (n_texts, n, n) of characters."""
    side = round(len(texts[0]) ** 0.5)
    for i, text in enumerate(texts):
        if len(text) != side * side:
            raise ValueError(
                f"Every grid of {path} must have {side} x {side} characters as the "
                f"first one, but puzzle {i} has {len(text)}."
            )
    return np.array(texts)[:, None].view("U1").reshape(len(texts), side, side)

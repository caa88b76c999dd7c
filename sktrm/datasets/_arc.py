"""ARC-AGI: tasks of a few grids each, from the JSON files of the Kaggle contests."""

import json
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import Bunch

from sktrm.datasets._fetch import data_folder

_FOLDER = "arc-agi"
_SUBSETS = {1: ("training", "evaluation"), 2: ("training2", "evaluation2")}
_LARGEST_SIDE, _N_COLOURS = 30, 10
_DESCRIPTION = (
    "ARC-AGI-{version} (Chollet, arXiv:1911.01547; arXiv:2505.11831): tasks of a few "
    "demonstrations, pairs of grids of up to 30 x 30 cells in 10 colours (0 is the "
    "background), and one or more tests. The tests of the evaluation tasks are what a "
    "solver is judged by; their demonstrations may be learned. Most of the evaluation "
    "tasks of version 1 are training tasks of version 2: never train on the one and "
    "test on the other."
)
_CONCEPTS = (
    " The 160 tasks of ConceptARC (Moskvichev et al., arXiv:2305.07141) are added, "
    "as the paper does for training."
)
_LICENCE = "ARC-AGI: Apache-2.0"


def fetch_arc_agi(
    version: int = 1,
    *,
    concept: bool = False,
    data_home: str | PathLike[str] | None = None,
    download_if_missing: bool = True,
    return_X_y: bool = False,
) -> Bunch | tuple[list[np.ndarray], list[np.ndarray]]:
    """Load ARC-AGI-1 or ARC-AGI-2: pairs of grids, each of some task.

    Reads ``arc-agi_SUBSET_challenges.json`` and ``arc-agi_SUBSET_solutions.json`` of
    the Kaggle contests in the folder ``arc-agi`` of the data home; nothing is
    downloaded.

    Parameters
    ----------
    version : {1, 2}, default=1
        1 reads the subsets training and evaluation, 400 tasks each; 2 reads training2
        and evaluation2, 1,000 and 120 tasks.
    concept : bool, default=False
        Add the subset concept, ConceptARC, which the paper trains on, too.
    data_home : str or path-like, default=None
        Folder of all data sets; None takes that of the environment variable
        ``SKTRM_DATA``, or else scikit-learn's, ``~/scikit_learn_data``.
    download_if_missing : bool, default=True
        As in the other fetchers, but without effect: Kaggle's files are never
        downloaded.
    return_X_y : bool, default=False
        Return ``(data, target)`` alone.

    Returns
    -------
    bunch : Bunch
        One entry per pair of grids, in the order of the files, the demonstrations of
        each task before its tests:

        * ``data`` and ``target``: lists of int8 arrays (height, width);
        * ``task_ids``: str of shape (n,), the task of each pair;
        * ``subset``: str of shape (n,), the subset of the task;
        * ``is_test``: bool of shape (n,), whether the pair is a test of its task, not a
          demonstration;
        * ``position``: int of shape (n,), its place among its task's demonstrations or
          tests, from 0;
        * ``DESCR`` and ``licence``: texts.

    Raises
    ------
    FileNotFoundError
        If a file is not there; the message says what to put where.
    ValueError
        If ``version`` is neither 1 nor 2 or a file has another layout.

    Examples
    --------
    >>> from sktrm.datasets import fetch_arc_agi
    >>> arc = fetch_arc_agi(version=1)  # doctest: +SKIP
    >>> judged = arc.is_test & (arc.subset == "evaluation")  # doctest: +SKIP
    """
    if version not in _SUBSETS:
        raise ValueError(f"version must be 1 or 2, got {version!r}.")
    folder = data_folder(data_home, _FOLDER)
    subsets = (*_SUBSETS[version], *(("concept",) if concept else ()))
    pairs = [pair for subset in subsets for pair in _read_subset(folder, subset)]
    data, target, task_ids, names, is_test, position = zip(*pairs, strict=True)
    if return_X_y:
        return list(data), list(target)
    return Bunch(
        data=list(data),
        target=list(target),
        task_ids=np.array(task_ids),
        subset=np.array(names),
        is_test=np.array(is_test),
        position=np.array(position),
        DESCR=_DESCRIPTION.format(version=version) + _CONCEPTS * concept,
        licence=_LICENCE + "; ConceptARC: MIT" * concept,
    )


def _read_subset(folder: Path, subset: str) -> list[tuple[Any, ...]]:
    """Return question, answer, task, subset, is it a test, and which, of each pair."""
    challenges, solutions = (
        folder / f"arc-agi_{subset}_{kind}.json" for kind in ("challenges", "solutions")
    )
    tasks, answers = _read_json(challenges), _read_json(solutions)
    pairs: list[tuple[Any, ...]] = []
    for task_id, task in tasks.items():
        try:
            shown = [(pair["input"], pair["output"]) for pair in task["train"]]
            asked = [pair["input"] for pair in task["test"]]
            tests = list(zip(asked, answers[task_id], strict=True))
            pairs += [
                (_grid(question), _grid(answer), task_id, subset, is_test, position)
                for is_test, part in ((False, shown), (True, tests))
                for position, (question, answer) in enumerate(part)
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"Task {task_id} of {challenges} and {solutions.name} is no list of "
                f"train and test pairs of grids ({type(error).__name__}: {error})."
            ) from error
    return pairs


def _read_json(path: Path) -> dict[str, Any]:
    """Read a file of tasks by their ids."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"ARC-AGI is not there: put {path.name} of the Kaggle contest ARC Prize at "
            f"{path}; challenges and solutions of every subset are needed."
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file: {error}.") from error
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} must hold tasks by their ids, as Kaggle's files do.")
    return content


def _grid(lines: Any) -> np.ndarray:
    """Check one grid and return it as an array."""
    grid = np.array(lines)
    if grid.ndim != 2 or not 0 < max(grid.shape) <= _LARGEST_SIDE or not grid.size:
        raise ValueError(
            f"a grid must have two sides of 1 to {_LARGEST_SIDE} cells, got shape "
            f"{grid.shape}"
        )
    if grid.dtype.kind != "i" or grid.min() < 0 or grid.max() >= _N_COLOURS:
        raise ValueError(f"colours must be whole numbers from 0 to {_N_COLOURS - 1}")
    return grid.astype(np.int8)

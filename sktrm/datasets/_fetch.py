"""Public benchmarks: found in the data home, or downloaded, checked and kept there."""

import hashlib
from numbers import Integral
from os import PathLike, environ
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.datasets import get_data_home
from sklearn.utils import Bunch, check_random_state
from sklearn.utils._optional_dependencies import check_pandas_support

from sktrm.datasets._files import Puzzles, read_puzzles
from sktrm.datasets._maze import CHARACTER_OF
from sktrm.datasets._sudoku import DIGIT_OF

_RECORD = ".sha256"
_SUBSETS = {"train": ("train",), "test": ("test",), "all": ("train", "test")}


class Source(NamedTuple):
    """A data set of files ``train.csv`` and ``test.csv`` on the Hugging Face hub."""

    title: str
    folder: str  # in the data home
    repository: str
    symbol_of: np.ndarray  # (256,)
    description: str
    licence: str


_LICENCE = (
    "The public data card names no licence; sktrm downloads the files for you and "
    "does not redistribute them."
)
SUDOKU_EXTREME = Source(
    "Sudoku-Extreme",
    "sudoku-extreme",
    "sapientinc/sudoku-extreme",
    DIGIT_OF,
    "Sudoku-Extreme: 9 x 9 puzzles with one solution, collected by the Sudoku "
    "community and published by Sapient Intelligence (Wang et al., arXiv:2506.21734). "
    "The whole training file holds 3.8 million easy and hard puzzles, the test file "
    "422,786. No test puzzle is equivalent to one for training. The paper's benchmark "
    "trains on 1,000 of them. rating counts the backtracks of the solver tdoku.",
    _LICENCE,
)
MAZE_HARD = Source(
    "Maze-Hard",
    "maze-30x30-hard-1k",
    "sapientinc/maze-30x30-hard-1k",
    CHARACTER_OF,
    "Maze-Hard: 1,000 mazes of 30 x 30 cells for training and 1,000 for testing, "
    "published by Sapient Intelligence (Wang et al., arXiv:2506.21734). The answer "
    "marks one of many shortest paths: report valid_shortest_path_score beside exact "
    "match. rating counts the moves.",
    _LICENCE,
)


def fetch_sudoku_extreme(
    subset: str = "train",
    *,
    n_samples: int | None = None,
    random_state: Any = None,
    data_home: str | PathLike[str] | None = None,
    download_if_missing: bool = True,
    return_X_y: bool = False,
    as_frame: bool = False,
) -> Bunch | tuple[Any, Any]:
    """Load Sudoku-Extreme, the hard 9 x 9 Sudokus of the paper.

    The files ``train.csv`` and ``test.csv`` are looked for in the folder
    ``sudoku-extreme`` of the data home, and otherwise downloaded there with
    huggingface_hub (``pip install sktrm[data]``): 80 MB for the 422,786 test puzzles,
    700 MB for the 3.8 million for training. What was downloaded is held against the
    checksum that the hub publishes; its SHA-256 is written beside the file and compared
    at every load.

    Parameters
    ----------
    subset : {"train", "test", "all"}, default="train"
        Which file to read; "all" is both, training puzzles first.
    n_samples : int, default=None
        Take so many puzzles at random; None takes all. The paper trains on 1,000.
    random_state : int, RandomState instance or None, default=None
        Determines which ``n_samples`` are taken.
    data_home : str or path-like, default=None
        Folder of all data sets; None takes that of the environment variable
        ``SKTRM_DATA``, or else scikit-learn's, ``~/scikit_learn_data``.
    download_if_missing : bool, default=True
        Whether to download a file that is not there, or to raise FileNotFoundError.
    return_X_y : bool, default=False
        Return ``(data, target)`` alone.
    as_frame : bool, default=False
        Return data frames with one column per cell, r1c1 to r9c9.

    Returns
    -------
    bunch : Bunch
        ``data`` and ``target``, int8 of shape (n, 9, 9), 0 for a blank; ``rating``,
        float of shape (n,); ``source``, str of shape (n,); ``DESCR`` and ``licence``,
        texts. With ``as_frame``, ``data`` and ``target`` are data frames, and
        ``frame`` holds all columns.

    Raises
    ------
    FileNotFoundError
        If a file is neither there nor downloaded; the message says what to put where.
    OSError
        If a download fails or differs from what the hub publishes, or a file is not
        the one that was downloaded.
    ValueError
        If a parameter is out of range or a file has another layout.

    Examples
    --------
    >>> from sktrm.datasets import fetch_sudoku_extreme
    >>> X, y = fetch_sudoku_extreme(
    ...     n_samples=1000, random_state=0, return_X_y=True
    ... )  # doctest: +SKIP
    """
    puzzles = _fetch(SUDOKU_EXTREME, subset, data_home, download_if_missing)
    puzzles = _sample(puzzles, n_samples, random_state)
    return _pack(SUDOKU_EXTREME, puzzles, return_X_y=return_X_y, as_frame=as_frame)


def fetch_maze_hard(
    subset: str = "train",
    *,
    data_home: str | PathLike[str] | None = None,
    download_if_missing: bool = True,
    return_X_y: bool = False,
    as_frame: bool = False,
) -> Bunch | tuple[Any, Any]:
    """Load Maze-Hard, the 30 x 30 mazes of the paper.

    The files ``train.csv`` and ``test.csv`` are looked for in the folder
    ``maze-30x30-hard-1k`` of the data home, and otherwise downloaded there, as
    :func:`fetch_sudoku_extreme` does.

    Parameters
    ----------
    subset : {"train", "test", "all"}, default="train"
        Which file to read; "all" is both, training mazes first.
    data_home : str or path-like, default=None
        Folder of all data sets; None takes that of the environment variable
        ``SKTRM_DATA``, or else scikit-learn's, ``~/scikit_learn_data``.
    download_if_missing : bool, default=True
        Whether to download a file that is not there, or to raise FileNotFoundError.
    return_X_y : bool, default=False
        Return ``(data, target)`` alone.
    as_frame : bool, default=False
        Return data frames with one column per cell, r1c1 to r30c30.

    Returns
    -------
    bunch : Bunch
        ``data`` and ``target``, str of shape (n, 30, 30): ``#`` wall, `` `` free, ``S``
        start, ``G`` goal, and in ``target`` ``o`` for a shortest path; ``rating``,
        float of shape (n,), the moves; ``source``, str of shape (n,); ``DESCR`` and
        ``licence``, texts. With ``as_frame``, ``data`` and ``target`` are data frames,
        and ``frame`` holds all columns.

    Raises
    ------
    FileNotFoundError
        If a file is neither there nor downloaded; the message says what to put where.
    OSError
        If a download fails or differs from what the hub publishes, or a file is not
        the one that was downloaded.
    ValueError
        If ``subset`` is none of those above or a file has another layout.

    Examples
    --------
    >>> from sktrm.datasets import fetch_maze_hard
    >>> mazes = fetch_maze_hard("test")  # doctest: +SKIP
    """
    puzzles = _fetch(MAZE_HARD, subset, data_home, download_if_missing)
    return _pack(MAZE_HARD, puzzles, return_X_y=return_X_y, as_frame=as_frame)


def data_folder(data_home: str | PathLike[str] | None, name: str) -> Path:
    """Return the folder ``name`` of the data home, which is made if it is not there."""
    if data_home is None:
        data_home = environ.get("SKTRM_DATA") or None
    return Path(get_data_home(data_home)) / name


def _fetch(
    source: Source,
    subset: str,
    data_home: str | PathLike[str] | None,
    download_if_missing: bool,
) -> Puzzles:
    """Read the files of ``subset``, one after the other."""
    if subset not in _SUBSETS:
        raise ValueError(f"subset must be one of {sorted(_SUBSETS)}, got {subset!r}.")
    folder = data_folder(data_home, source.folder)
    paths = [folder / f"{name}.csv" for name in _SUBSETS[subset]]
    for path in paths:
        if path.exists():
            _check_record(path)
        elif download_if_missing:
            _download(source, path)
        else:
            raise FileNotFoundError(
                f"{source.title} is not there, and download_if_missing is False. "
                f"{_what_to_put(source, path)}"
            )
    parts = [read_puzzles(path, source.symbol_of) for path in paths]
    return Puzzles(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _what_to_put(source: Source, path: Path) -> str:
    """Say how to bring a file by hand."""
    return (
        f"Put the file {path.name} of https://huggingface.co/datasets/"
        f"{source.repository} (columns source, question, answer, rating) at {path}."
    )


def _download(source: Source, path: Path) -> None:
    """Download one file, hold it against the hub's checksum, and record its own."""
    try:
        from huggingface_hub import get_paths_info, hf_hub_download
    except ImportError as error:
        raise FileNotFoundError(
            f"{source.title} is not there, and without huggingface_hub it cannot be "
            f"downloaded: pip install sktrm[data]. Or: {_what_to_put(source, path)}"
        ) from error
    where = {"repo_id": source.repository, "repo_type": "dataset"}
    try:
        (published,) = get_paths_info(paths=[path.name], **where)
        hf_hub_download(filename=path.name, local_dir=path.parent, **where)
    except Exception as error:  # which ones depends on what the hub's client builds on
        raise OSError(
            f"{source.title} could not be downloaded: {error} "
            f"{_what_to_put(source, path)}"
        ) from error
    checksum = _sha256(path)
    _check_published(path, checksum, published, source)
    _record(path).write_text(f"{checksum}  {path.name}\n", encoding="utf-8")


def _check_published(path: Path, checksum: str, file: Any, source: Source) -> None:
    """Remove ``path`` and raise OSError if it is not the hub's ``file``."""
    if file.lfs is not None:
        kind, expected, found = "SHA-256", file.lfs.sha256, checksum
    else:  # small files lie in git itself
        kind, expected, found = "git id", file.blob_id, _git_id(path)
    if found != expected:
        path.unlink()
        raise OSError(
            f"The {path.name} that was downloaded from {source.repository} has the "
            f"{kind} {found}, but {expected} is published there. It was removed."
        )


def _record(path: Path) -> Path:
    """Return where the checksum of ``path`` is written, in the form of sha256sum."""
    return path.with_name(path.name + _RECORD)


def _check_record(path: Path) -> None:
    """Raise OSError if ``path`` is not what was downloaded; others are not recorded."""
    record = _record(path)
    if not record.exists():
        return
    expected = record.read_text(encoding="utf-8").split(maxsplit=1)[:1]
    found = _sha256(path)
    if [found] != expected:
        raise OSError(
            f"{path} is not the file that was downloaded: its SHA-256 is {found}, "
            f"{record.name} says {' '.join(expected) or 'nothing'}. Remove both, to "
            f"download it again, or {record.name} alone, to use the file as it is."
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git_id(path: Path) -> str:
    """Return the name that git gives to a file of this content."""
    content = path.read_bytes()
    header = f"blob {len(content)}\0".encode()
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()


def _sample(puzzles: Puzzles, n_samples: int | None, random_state: Any) -> Puzzles:
    """Take ``n_samples`` puzzles at random, in the order of the file."""
    if n_samples is None:
        return puzzles
    n = len(puzzles.data)
    if not isinstance(n_samples, Integral) or not 1 <= n_samples <= n:
        raise ValueError(
            f"n_samples must be an int from 1 to {n}, the puzzles that there are, got "
            f"{n_samples!r}."
        )
    taken = check_random_state(random_state).choice(n, n_samples, replace=False)
    return Puzzles(*(column[np.sort(taken)] for column in puzzles))


def _pack(
    source: Source, puzzles: Puzzles, *, return_X_y: bool, as_frame: bool
) -> Bunch | tuple[Any, Any]:
    """Return puzzles in the form that the caller asked for."""
    columns: dict[str, Any] = puzzles._asdict()
    if as_frame:
        columns |= _as_frames(puzzles)
    if return_X_y:
        return columns["data"], columns["target"]
    return Bunch(**columns, DESCR=source.description, licence=source.licence)


def _as_frames(puzzles: Puzzles) -> dict[str, Any]:
    """Return data frames with a column per cell."""
    pd = check_pandas_support("as_frame=True")
    n, height, width = puzzles.data.shape
    names = [f"r{r}c{c}" for r in range(1, height + 1) for c in range(1, width + 1)]
    data, target = (
        pd.DataFrame(grids.reshape(n, -1), columns=names)
        for grids in (puzzles.data, puzzles.target)
    )
    rest = pd.DataFrame({"rating": puzzles.rating, "source": puzzles.source})
    parts = [data.add_prefix("question_"), target.add_prefix("answer_"), rest]
    return {"data": data, "target": target, "frame": pd.concat(parts, axis=1)}

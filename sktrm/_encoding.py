"""Symbols to tokens and back: sequences, grids, grids of different sizes."""

import math
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np
from sklearn.utils.validation import check_array

PAD = 0  # token of cells outside a grid, and of unknown symbols that are ignored
IGNORE_LABEL = -100  # label of cells that are not scored
_LARGEST_TABLE = 2**16  # range of integers that are looked up rather than sorted
_CHUNK_CELLS = 2**22  # cells encoded at once

Grids = np.ndarray | list[np.ndarray]  # (n, ...), or n grids of different shapes


def is_na(value: Any) -> bool:
    """Tell pandas.NA and NaT, which are equal to nothing and convert to no number."""
    return type(value).__name__ in ("NAType", "NaTType")


def na_as_nan(values: np.ndarray) -> np.ndarray:
    """Return an array with NaN in place of pandas.NA and NaT."""
    if values.dtype != object:
        return values
    found = np.frompyfunc(is_na, 1, 1)(values).astype(bool)
    return np.where(found, np.nan, values) if found.any() else values


def as_grids(values: Any, name: str, *, continuous: bool = False) -> Grids:
    """Return ``values`` as one array (n, ...) or, if sizes differ, a list of grids.

    Raises ValueError, naming ``name``, for anything that is not symbols in rows;
    numbers with a fraction are symbols only if ``continuous`` says so.
    """
    if hasattr(values, "to_numpy"):
        values = values.to_numpy()
    nested = isinstance(values, np.ndarray) and _holds_arrays(values)
    if isinstance(values, list | tuple) or nested:
        shapes = [_shape(row, i, name) for i, row in enumerate(values)]
        if len(set(shapes)) > 1:
            if {len(shape) for shape in shapes} != {2}:
                raise ValueError(
                    f"The rows of {name} must have one shape, got "
                    f"{_first_different(shapes)}. Only 2-D grids may differ in size."
                )
            return [_checked(row, name, continuous) for row in values]
        values = np.array(list(values)) if nested else values
    return _checked(values, name, continuous, ensure_2d=name.startswith("X"))


def _holds_arrays(values: np.ndarray) -> bool:
    """Tell whether an object array is a column of arrays or lists."""
    return (
        values.dtype == object
        and values.ndim == 1
        and len(values) > 0
        and isinstance(values[0], np.ndarray | list)
    )


def _shape(row: Any, index: int, name: str) -> tuple[int, ...]:
    """Return the shape of one row given as nested lists or as an array."""
    try:
        return np.shape(row)
    except ValueError as error:
        raise ValueError(
            f"Row {index} of {name} is no rectangular grid: its lines differ in length."
        ) from error


def _first_different(shapes: list[tuple[int, ...]]) -> str:
    """Name the first row whose shape is not that of row 0."""
    index = next(i for i, shape in enumerate(shapes) if shape != shapes[0])
    return f"{shapes[0]} in row 0 and {shapes[index]} in row {index}"


def _checked(
    values: Any, name: str, continuous: bool, ensure_2d: bool = True
) -> np.ndarray:
    """Check one array: finite, not empty, whole numbers or other symbols."""
    if isinstance(values, list | tuple | np.ndarray):
        values = na_as_nan(np.asarray(values))
    array: np.ndarray = check_array(
        values, dtype=None, allow_nd=True, ensure_2d=ensure_2d, input_name=name
    )
    broken: Sequence[Any]
    if continuous:
        broken = []
    elif array.dtype.kind == "f":
        broken = array[array % 1 != 0]
    elif array.dtype == object:
        broken = [v for v in array.ravel() if isinstance(v, float) and v % 1]
    else:
        broken = []
    if len(broken):
        raise ValueError(
            f"Unknown label type: {name} must hold symbols (whole numbers, strings), "
            f"got the continuous value {broken[0]}. For classes of rows of numbers "
            f"there is TRMClassifier."
        )
    return array


def _chunks(grids: np.ndarray) -> Iterator[slice]:
    """Yield slices of rows whose temporary copies take little memory."""
    rows = max(1, _CHUNK_CELLS // max(1, math.prod(grids.shape[1:])))
    for start in range(0, len(grids), rows):
        yield slice(start, start + rows)


def distinct(grids: Grids, name: str) -> list[Hashable]:
    """Return the distinct symbols of ``grids`` as Python objects."""
    parts = grids
    if isinstance(grids, np.ndarray):
        parts = [grids[rows] for rows in _chunks(grids)]
    found: dict[Hashable, None] = {}
    for part in parts:
        found.update(dict.fromkeys(_factorize(part, name)[0]))
    return list(found)


def _factorize(values: np.ndarray, name: str) -> tuple[Sequence[Hashable], np.ndarray]:
    """Return the distinct symbols and, shaped like ``values``, their positions."""
    if values.dtype.kind in "iu" and values.size:
        low, high = int(values.min()), int(values.max())
        if high - low < _LARGEST_TABLE and high < 2**63:
            # Counting instead of sorting: ten times faster on a million Sudokus.
            codes = values.astype(np.int64) - low
            present = np.bincount(codes.ravel()) > 0
            position = np.cumsum(present) - 1
            symbols = (np.flatnonzero(present) + low).tolist()
            return symbols, position[codes]
    if values.dtype == object:
        index: dict[Hashable, int] = {}
        try:
            positions = [index.setdefault(v, len(index)) for v in values.ravel()]
        except TypeError as error:
            raise TypeError(
                f"{name} holds a symbol that cannot be looked up; the argument must be "
                f"a string or a number, or hashable at least: {error}."
            ) from error
        return list(index), np.array(positions, dtype=np.intp).reshape(values.shape)
    unique, inverse = np.unique(values, return_inverse=True)
    return unique.tolist(), inverse.reshape(values.shape)


def _sorted(symbols: list[Hashable]) -> list[Hashable]:
    """Sort symbols; where types do not compare, by type and text."""
    try:
        return sorted(symbols)  # type: ignore[type-var]
    except TypeError:
        return sorted(symbols, key=lambda s: (type(s).__name__, str(s)))


class Vocabulary:
    """One token for each symbol; token 0 is PAD."""

    def __init__(self, symbols: list[Hashable]) -> None:
        self.symbols = _sorted(list(dict.fromkeys(symbols)))
        self.token_of = {symbol: i for i, symbol in enumerate(self.symbols, start=1)}
        self.n_tokens = len(self.symbols) + 1

    @property
    def dtype(self) -> np.dtype:
        """Smallest dtype that holds every token and ``IGNORE_LABEL``."""
        return np.min_scalar_type(-max(self.n_tokens, -IGNORE_LABEL))

    def encode(
        self, values: np.ndarray, name: str, unknown: str = "error"
    ) -> np.ndarray:
        """Return the tokens of ``values``, an array of the same shape."""
        symbols, codes = _factorize(values, name)
        missing = [symbol for symbol in symbols if symbol not in self.token_of]
        if missing and unknown == "error":
            raise ValueError(
                f"{name} holds {_quote(missing)}, which did not occur in fit. Known "
                f"symbols: {_quote(self.symbols)}."
            )
        table = [self.token_of.get(symbol, PAD) for symbol in symbols]
        return np.array(table, dtype=self.dtype)[codes]


def _quote(symbols: Sequence[Hashable], at_most: int = 12) -> str:
    """Write out symbols for an error message."""
    shown = ", ".join(repr(symbol) for symbol in symbols[:at_most])
    left = len(symbols) - at_most
    return f"{shown} and {left} more" if left > 0 else shown


def _dtype_for(dtype: np.dtype, symbols: Sequence[Hashable]) -> np.dtype:
    """Return ``dtype`` if it holds ``symbols``, too; else a wider one, or object."""
    if dtype.kind == "O":
        return dtype
    kinds = {np.asarray(symbol).dtype.kind in "biuf" for symbol in symbols}
    if kinds - {dtype.kind in "biuf"}:
        return np.dtype(object)
    values = np.asarray(symbols)
    if (values.astype(dtype) == values).all():
        return dtype
    return np.result_type(dtype, values)


class GridEncoder:
    """Map questions and answers to rows of tokens, and tokens to answers.

    Rows of tokens have one ``length``. Grids lie at the upper left of a canvas that
    holds the largest one; the cells around them are PAD.
    """

    # Of encoders that were stored before there was one.
    given_canvas: tuple[int, int] | None = None

    def __init__(
        self,
        ignore_value: Any = None,
        handle_unknown: str = "error",
        given_canvas: tuple[int, int] | None = None,
    ) -> None:
        self.ignore_value = ignore_value
        self.handle_unknown = handle_unknown
        # On it grids of any size may lie, those of fit and later ones.
        self.given_canvas = given_canvas

    def fit(self, X: Grids, y: Grids, classes: Sequence[Hashable] | None = None) -> Any:
        """Learn the symbols and the sizes; ``classes`` adds symbols of later ``y``."""
        # None is no value to ignore: it may be a symbol.
        ignored = () if self.ignore_value is None else (self.ignore_value,)
        answers = [symbol for symbol in distinct(y, "y") if symbol not in ignored]
        answers += list(classes) if classes is not None else []
        if not answers:
            raise ValueError("Every cell of y equals ignore_value: nothing to learn.")
        self.vocabulary = Vocabulary(distinct(X, "X") + answers)
        free = self.given_canvas is not None
        self.x_shape = None if free or isinstance(X, list) else X.shape[1:]
        self.y_shape = None if free or isinstance(y, list) else y.shape[1:]
        self._fit_canvas(X, y)
        self.y_follows_x = (
            self.y_shape is None
            and not free
            and [g.shape for g in X] == [g.shape for g in y]
        )
        self.answer_symbols = _sorted(list(dict.fromkeys(answers)))
        self.answer_tokens = tuple(
            self.vocabulary.token_of[symbol] for symbol in self.answer_symbols
        )

        answers_of = [y] if isinstance(y, np.ndarray) else y
        self.y_dtype = np.result_type(*{grid.dtype for grid in answers_of})
        if classes is not None:
            self.y_dtype = _dtype_for(self.y_dtype, classes)
        return self

    def _fit_canvas(self, X: Grids, y: Grids) -> None:
        """Choose the canvases of questions and answers and the length of a row."""
        x_canvas, y_canvas = _largest(X), _largest(y) or (1,)
        if self.given_canvas is not None:
            x_canvas = y_canvas = self.given_canvas
        if len(x_canvas) == len(y_canvas) == 2:
            x_canvas = y_canvas = tuple(map(max, x_canvas, y_canvas))
        self.x_canvas, self.y_canvas = x_canvas, y_canvas
        self.length = max(math.prod(x_canvas), math.prod(y_canvas))

    @property
    def classes(self) -> np.ndarray:
        """The symbols of the answers as an array of their dtype."""
        classes = np.empty(len(self.answer_symbols), dtype=self.y_dtype)
        for i, symbol in enumerate(self.answer_symbols):
            classes[i] = symbol  # one by one: a symbol may itself be a tuple
        return classes

    @property
    def n_features(self) -> int:
        """Number of cells of a question, of the largest if they differ."""
        return math.prod(self.x_canvas if self.x_shape is None else self.x_shape)

    @property
    def n_outputs(self) -> int:
        """Number of cells of an answer, of the largest if they differ."""
        return math.prod(self.y_canvas if self.y_shape is None else self.y_shape)

    @property
    def answer_cells(self) -> int:
        """Number of cells at the start of a row that the answers' canvas takes."""
        return math.prod(self.y_canvas)

    @property
    def one_shape(self) -> tuple[int, ...] | None:
        """Shape that all questions and answers share, or None."""
        return self.x_shape if self.x_shape == self.y_shape else None

    @property
    def canvas(self) -> tuple[int, ...] | None:
        """Shape of all questions and answers, or of the canvas that holds them all."""
        if self.one_shape is None and len(self.x_canvas) == len(self.y_canvas) == 2:
            return self.x_canvas
        return self.one_shape

    @property
    def predicts_size(self) -> bool:
        """Whether the size of an answer must be read off its PAD cells."""
        return self.y_shape is None and not self.y_follows_x

    def encode_X(self, X: Grids, name: str = "X") -> np.ndarray:
        """Return tokens (n, length); messages call the questions ``name``."""
        if self.x_shape is not None:
            self._check_shape(X, self.x_shape, name)
        return self._place(X, name, self.x_canvas, PAD, is_answer=False)

    def encode_y(self, y: Grids, name: str = "y") -> np.ndarray:
        """Return labels (n, length); cells that are not scored hold IGNORE_LABEL."""
        if self.y_shape is not None:
            self._check_shape(y, self.y_shape, name)
        outside = PAD if self.predicts_size else IGNORE_LABEL
        return self._place(y, name, self.y_canvas, outside, is_answer=True)

    def _check_shape(self, grids: Grids, shape: tuple[int, ...], name: str) -> None:
        for i, grid in enumerate(grids):
            if np.shape(grid) != shape:
                raise ValueError(
                    f"{name} was fitted with rows of shape {shape}, but row {i} has "
                    f"shape {np.shape(grid)}."
                )
            if isinstance(grids, np.ndarray):
                return

    def _place(
        self,
        grids: Grids,
        name: str,
        canvas: tuple[int, ...],
        fill: int,
        *,
        is_answer: bool,
    ) -> np.ndarray:
        """Put the tokens of every grid on its canvas, and flatten."""
        n, cells = len(grids), math.prod(canvas)
        beyond = IGNORE_LABEL if is_answer else PAD
        rows = np.full((n, self.length), beyond, dtype=self.vocabulary.dtype)
        placed = np.full((n, *canvas), fill, dtype=self.vocabulary.dtype)
        if isinstance(grids, np.ndarray):
            grids = grids if grids.ndim > 1 else grids[:, None]
            self._check_fits(grids.shape[1:], canvas, f"Every row of {name}")
            inside = tuple(slice(size) for size in grids.shape[1:])
            for part in _chunks(grids):
                placed[part, *inside] = self._tokens(grids[part], name, is_answer)
        else:
            for i, grid in enumerate(grids):
                self._check_fits(grid.shape, canvas, f"Row {i} of {name}")
                height, width = grid.shape
                placed[i, :height, :width] = self._tokens(grid, name, is_answer)
        rows[:, :cells] = placed.reshape(n, cells)
        return rows

    def _check_fits(
        self, shape: tuple[int, ...], canvas: tuple[int, ...], what: str
    ) -> None:
        """Raise ValueError if a grid is larger than the canvas."""
        if len(shape) != len(canvas) or any(map(int.__gt__, shape, canvas)):
            known, remedy = "canvas", ""
            if self.given_canvas is None:
                known = "the largest grid seen in fit"
                remedy = " Set canvas before fit for grids of any size up to it."
            raise ValueError(
                f"{what} has shape {shape}, but {known} is {canvas}.{remedy}"
            )

    def _tokens(self, values: np.ndarray, name: str, is_answer: bool) -> np.ndarray:
        unknown = "error" if is_answer else self.handle_unknown
        if not is_answer or self.ignore_value is None:
            return self.vocabulary.encode(values, name, unknown)
        tokens = np.full(values.shape, IGNORE_LABEL, dtype=self.vocabulary.dtype)
        scored = values != self.ignore_value
        tokens[scored] = self.vocabulary.encode(values[scored], name, unknown)
        return tokens

    def visible(self, X: Grids, row: int, tokens: np.ndarray) -> Hashable:
        """Return what there is to see of ``tokens`` as the answer of a row of ``X``.

        Something to compare: cells outside the answer hold anything.
        """
        (answer,) = self.cut_out(tokens[None], tokens[None], X[row : row + 1])
        answer = np.abs(answer)
        return answer.shape, answer.tobytes()

    def decode(self, tokens: np.ndarray, X: Grids) -> Grids:
        """Return the answers that ``tokens`` (n, answer_cells) stand for.

        The magnitude of a token names the cell's best symbol; a negative one says that
        PAD, "no cell here", is likelier still.
        """
        table = np.empty(self.vocabulary.n_tokens, dtype=self.y_dtype)
        table[list(self.answer_tokens)] = self.classes
        values = np.empty(tokens.shape, dtype=table.dtype)
        for part in _chunks(tokens):
            values[part] = table[np.abs(tokens[part])]
        return self.cut_out(values, tokens, X)

    def cut_out(
        self, values: np.ndarray, tokens: np.ndarray, X: Grids
    ) -> np.ndarray | list[np.ndarray]:
        """Cut the answers' cells out of ``values`` (n, answer_cells, ...)."""
        n, rest = len(values), values.shape[2:]
        grids = values.reshape(n, *self.y_canvas, *rest)
        if self.y_shape is not None:
            inside = tuple(slice(size) for size in self.y_shape)
            return grids[:, *inside].reshape(n, *self.y_shape, *rest)
        sizes = self.answer_sizes(tokens, X)
        return [grid[:h, :w] for grid, (h, w) in zip(grids, sizes, strict=True)]

    def answer_sizes(self, tokens: np.ndarray, X: Grids) -> list[tuple[int, int]]:
        """Return height and width of each answer of a task with different sizes."""
        if self.y_follows_x:
            return [grid.shape for grid in X]
        inside = tokens.reshape(len(tokens), *self.y_canvas) > 0
        # A grid ends where its first column or row says "no cell here".
        heights = np.logical_and.accumulate(inside[:, :, 0], axis=1).sum(axis=1)
        widths = np.logical_and.accumulate(inside[:, 0, :], axis=1).sum(axis=1)
        return [
            (max(1, int(h)), max(1, int(w)))
            for h, w in zip(heights, widths, strict=True)
        ]


def _largest(grids: Grids) -> tuple[int, ...]:
    """Return the smallest shape that holds every row of ``grids``."""
    if isinstance(grids, np.ndarray):
        return grids.shape[1:]
    return tuple(max(sides) for sides in zip(*(g.shape for g in grids), strict=True))

"""Columns of tables to numbers: positions among knots, codes of categories."""

from collections.abc import Hashable, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_array

from sktrm._encoding import is_na, na_as_nan

UNKNOWN = -1.0  # code of a category that is not known
_FEW_KNOTS = 8  # of a column of numbers, however few the rows
_FENCE = 3.0  # Tukey's outer one: interquartile ranges beyond the quartiles
_REACH = 3.0  # of an outermost bin, in widths of those beside it
_INFINITE = "{} contains infinity; replace it or mark it missing."


class Table(NamedTuple):
    """A checked table, column by column."""

    columns: list[np.ndarray]  # each (n,), float64 or, of categories, object
    names: list[Any]  # how messages call a column

    def __len__(self) -> int:
        return len(self.columns[0])

    def take(self, rows: np.ndarray) -> "Table":
        """Return the rows at these indices."""
        return Table([column[rows] for column in self.columns], self.names)


def is_frame(X: Any) -> bool:
    """Tell whether ``X`` is a data frame, pandas' or polars'."""
    return hasattr(X, "columns") and hasattr(X, "dtypes")


def find_categorical(X: Any, wanted: Any, names: Sequence[str] | None) -> np.ndarray:
    """Return which columns of ``X`` hold categories, a mask (n_columns,).

    ``wanted`` is "from_dtype", None, a mask, indices or ``names``.
    """
    n_columns = X.shape[1]
    if wanted is None:
        return np.zeros(n_columns, dtype=bool)
    if isinstance(wanted, str):
        return np.array([_looks_categorical(X, i) for i in range(n_columns)])
    chosen = np.asarray(wanted)
    if chosen.size == 0:
        return np.zeros(n_columns, dtype=bool)
    if chosen.ndim != 1 or chosen.dtype.kind not in "biuUO":
        raise ValueError(
            f"categorical_features must be 'from_dtype', None, a mask, indices or "
            f"names of columns, got {wanted!r}."
        )
    if chosen.dtype.kind == "b":
        if len(chosen) != n_columns:
            raise ValueError(
                f"categorical_features as a mask must have one entry for each of the "
                f"{n_columns} columns, got {len(chosen)}."
            )
        return chosen
    if chosen.dtype.kind in "UO":
        chosen = np.array([_position(name, names) for name in chosen.tolist()])
    if chosen.min() < 0 or chosen.max() >= n_columns:
        raise ValueError(
            f"categorical_features must hold indices from 0 to {n_columns - 1}, got "
            f"{chosen.tolist()}."
        )
    mask = np.zeros(n_columns, dtype=bool)
    mask[chosen] = True
    return mask


def _position(name: Any, names: Sequence[str] | None) -> int:
    """Return the index of the column called ``name``."""
    if names is None:
        raise ValueError(
            f"categorical_features names {name!r}, but X has no column names: pass a "
            f"data frame, or indices."
        )
    if name not in names:
        raise ValueError(
            f"categorical_features names {name!r}, which is no column of X: "
            f"{list(names)}."
        )
    return list(names).index(name)


def _looks_categorical(X: Any, index: int) -> bool:
    """Tell by its dtype whether a column holds categories."""
    if is_frame(X):
        series = _safe_indexing(X, index, axis=1)
        return _kind(series) in "ObUST" and not _is_period(series)
    if X.dtype != object:
        return X.dtype.kind in "bUS"
    # Numbers come as objects, too: only strings and truth values are categories.
    return any(isinstance(value, str | bool | np.bool_) for value in X[:, index])


def _is_period(series: Any) -> bool:
    """Tell pandas' spans of time, which come as objects."""
    return str(series.dtype).startswith("period[")


def _kind(series: Any) -> str:
    """Return the kind of a column's dtype, in numpy's letters."""
    kind = getattr(series.dtype, "kind", None)
    if kind is None:  # polars
        if series.dtype.is_numeric():
            return "f"
        if str(series.dtype) == "Boolean":
            return "b"
        return "M" if series.dtype.is_temporal() else "O"
    return kind


def read_table(X: Any, categorical: np.ndarray, estimator_name: str) -> Table:
    """Check ``X`` and split it into columns of numbers and of categories."""
    if not is_frame(X):
        return _read_array(X, categorical, estimator_name)
    columns = []
    for index, (name, is_category) in enumerate(
        zip(X.columns, categorical, strict=True)
    ):
        series = _safe_indexing(X, index, axis=1)
        what = f"Column {name!r}"
        read = _categories_of if is_category else _numbers_of
        columns.append(read(series, what))
    if not columns or not len(columns[0]):
        raise ValueError(
            f"Found array with {X.shape[0]} sample(s) and {X.shape[1]} feature(s) "
            f"(shape={X.shape}) while a minimum of 1 is required by {estimator_name}."
        )
    return Table(columns, list(X.columns))


def _read_array(X: Any, categorical: np.ndarray, estimator_name: str) -> Table:
    """Split an array into columns; those of numbers are checked together."""
    if X.dtype.kind in "mM":  # as numbers they would be counts of an unnamed unit
        raise ValueError(
            f"X holds {X.dtype}; columns must hold numbers or categories. Derive "
            f"numbers from it, such as a duration or a month."
        )
    columns: list[np.ndarray] = [np.empty(0)] * X.shape[1]
    numeric = np.flatnonzero(~categorical)
    if len(numeric):
        numbers = check_array(
            na_as_nan(X[:, numeric]),
            dtype=np.float64,
            ensure_all_finite="allow-nan",
            estimator=estimator_name,
            input_name="X",
        )
        for index, column in zip(numeric, numbers.T, strict=True):
            columns[index] = column
    for index in np.flatnonzero(categorical):
        columns[index] = _categories_of(X[:, index], f"Column {index}")
    return Table(columns, list(range(X.shape[1])))


def _numbers_of(series: Any, what: str) -> np.ndarray:
    """Return a column of a data frame as float64, missing values as NaN."""
    kind = _kind(series)
    if kind in "OUST" and not _is_period(series):
        return _numbers_among_objects(series, what)
    if kind not in "biuf":
        raise ValueError(
            f"{what} holds {series.dtype}; columns must hold numbers or categories. "
            f"Derive numbers from it, such as a duration or a month."
        )
    if hasattr(series, "cast"):  # polars
        values = series.cast(float).fill_null(float("nan")).to_numpy()
    else:
        values = series.to_numpy(dtype=np.float64, na_value=np.nan)
    if np.isinf(values).any():
        raise ValueError(_INFINITE.format(what))
    return np.asarray(values, dtype=np.float64)


def _numbers_among_objects(series: Any, what: str) -> np.ndarray:
    """Return a column of objects, all of them numbers or missing, as float64.

    A column of numbers comes as objects if all its values are missing.
    """
    objects = _categories_of(series, what)
    if not all(value is None or isinstance(value, Real) for value in objects):
        raise ValueError(
            f"{what} holds {series.dtype}, not numbers, as a column must that held "
            f"numbers in fit or that categorical_features leaves out."
        )
    return np.array([np.nan if value is None else value for value in objects], float)


def _categories_of(series: Any, what: str) -> np.ndarray:
    """Return a column as objects, missing values as None."""
    if hasattr(series, "is_null"):  # polars
        values = series.to_list()
    else:
        values = np.asarray(series, dtype=object)
    if any(isinstance(v, float | np.floating) and np.isinf(v) for v in values):
        raise ValueError(_INFINITE.format(what))
    categories = (None if is_missing(value, what) else value for value in values)
    # np.array would make a second dimension of tuples.
    return np.fromiter(categories, dtype=object, count=len(values))


def is_missing(value: Any, what: str) -> bool:
    """Tell whether ``value`` is None, NaN, pandas.NA or pandas.NaT."""
    if value is None or is_na(value):
        return True
    try:
        hash(value)
    except TypeError as error:
        raise TypeError(
            f"{what} holds a category that cannot be looked up; the argument must be a "
            f"string or a number, or hashable at least: {error}."
        ) from error
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


class Numbers:
    """Positions among the quantiles of a column: 0 at its least knot, 1 at the next.

    ``is_between`` tells whether values stand between knots, as they do unless each has
    its own, as codes may. ``shares`` are the parts of the column's range that its bins,
    between two knots, take if it is ``smooth`` and there are such values; zero
    otherwise.
    """

    def __init__(self, n_knots: int, smooth: bool = False) -> None:
        self.n_knots = n_knots
        self.smooth = smooth

    def fit(self, values: np.ndarray, weights: np.ndarray) -> "Numbers":
        """Place the knots at weighted quantiles; a row of weight 2 counts as two."""
        there = ~np.isnan(values)
        self.saw_missing = not there.all()
        values, weights = values[there], weights[there]
        self.knots = np.unique(values)
        self.is_between = len(self.knots) > self.n_knots
        if self.is_between:
            levels = np.linspace(0, 1, self.n_knots)
            knots = np.unique(_quantiles(values, weights, levels))
            ends = [weights[values == end].sum() for end in (knots[0], knots[-1])]
            light = [end * (self.n_knots - 1) < weights.sum() for end in ends]
            self.knots = _drawn_in(knots, *light)
        self.shares = np.zeros(max(0, len(self.knots) - 1))
        if self.smooth and self.is_between:
            self.shares = _shares(self.knots)
        self.median = 0.0
        if len(values):
            median = _quantiles(values, weights, np.array([0.5]))
            self.median = float(self._positions(median)[0])
        return self

    def _positions(self, values: np.ndarray) -> np.ndarray:
        if len(self.knots) < 2:
            return np.zeros(len(values))
        knots = self.knots
        if np.abs(knots).max() > 1:
            values, knots = values / 4, knots / 4  # what floats span is a float then
        values = np.clip(values, knots[0], knots[-1])
        left = np.searchsorted(knots, values, side="right") - 1
        left = np.clip(left, 0, len(knots) - 2)
        # A slope, as np.interp takes it, is infinite between the smallest floats.
        parts = (values - knots[left]) / np.diff(knots)[left]
        return left + parts

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Return positions (n,); NaN stays if ``fit`` saw any, else is the median."""
        positions = self._positions(values)
        missing = np.isnan(values)
        positions[missing] = np.nan if self.saw_missing else self.median
        return positions


def _drawn_in(knots: np.ndarray, first: bool, last: bool) -> np.ndarray:
    """Draw in the first and the last knot, if allowed, where an outlier set them.

    An outermost bin is then no wider than ``_REACH`` times the one beside it, or the
    mean of the inner ones if that is more.
    """
    if len(knots) < 4:
        return knots
    knots = knots.copy()
    with np.errstate(over="ignore"):  # an infinite reach draws nothing in
        inner = np.diff(knots[1:-1])
        reach = _REACH * np.maximum(inner[[0, -1]], inner.mean())
        if first:
            knots[0] = max(knots[0], knots[1] - reach[0])
        if last:
            knots[-1] = min(knots[-1], knots[-2] + reach[1])
    return np.unique(knots)


def as_counts(weights: np.ndarray) -> np.ndarray:
    """Return for how many rows each counts: its weight, scaled if below 1 in the mean.

    Weights that sum to one must not make every category a rare one.
    """
    return weights / min(1.0, weights.mean())


def _shares(knots: np.ndarray) -> np.ndarray:
    """Return the parts of a column's range that its bins take, (n_bins,), sum 1.

    Half of a share is the same for each bin, so that none is nothing where values are
    skewed; half goes by value, within Tukey's outer fences around the quartiles of the
    knots.
    """
    if len(knots) < 2:
        return np.zeros(0)
    if np.abs(knots).max() > 1:
        knots = knots / 4  # so that what the largest floats span is a float
    lower, upper = np.quantile(knots, [0.25, 0.75])
    with np.errstate(over="ignore"):  # a fence at infinity keeps nothing out
        beyond = _FENCE * (upper - lower)
        within = np.clip(knots, lower - beyond, upper + beyond)
    ways = np.diff(within)
    alike = np.full(len(ways), 1 / len(ways))
    # Knots a last bit apart may all lie beyond fences that are one.
    by_value = ways / ways.sum() if ways.any() else alike
    shares: np.ndarray = (by_value + alike) / 2
    return shares


def _quantiles(
    values: np.ndarray, weights: np.ndarray, levels: np.ndarray
) -> np.ndarray:
    """Return the least values with at least so much of the weight up to them."""
    order = np.argsort(values, kind="stable")
    cumulated = np.cumsum(weights[order])
    # Rounding must not carry a level beyond the sum.
    wanted = np.minimum(levels * cumulated[-1], cumulated[-1])
    return values[order][np.searchsorted(cumulated, wanted)]


class Categories:
    """Codes of the categories of a column; rare ones share a code."""

    def __init__(self, min_frequency: int, max_categories: int) -> None:
        self.min_frequency = min_frequency
        self.max_categories = max_categories

    def fit(self, values: np.ndarray, weights: np.ndarray) -> "Categories":
        """Learn the categories, most frequent first."""
        counts: dict[Hashable, float] = {}
        for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
            counts[value] = counts.get(value, 0.0) + weight
        missing = counts.pop(None, 0.0)
        # Of equals the one that sorts first: the order of rows must not matter.
        by_count = sorted(counts, key=lambda v: (-counts[v], type(v).__name__, str(v)))
        least = self.min_frequency * (1 - 1e-9)  # scaled weights are rounded
        frequent = [v for v in by_count if counts[v] >= least]
        frequent = frequent[: self.max_categories]
        self.code_of: dict[Hashable, int] = {v: i for i, v in enumerate(frequent)}
        self.n_codes = len(frequent)
        # One more code for the rare, and for all that are new; one for the missing.
        self.rare = UNKNOWN
        if len(frequent) < len(by_count):
            self.rare = float(self.n_codes)
            self.n_codes += 1
        self.code_of_missing = UNKNOWN
        if missing:
            self.code_of_missing = float(self.n_codes)
            self.n_codes += 1
        return self

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Return codes (n,); what is unknown is rare or, if nothing is, UNKNOWN."""
        codes = [
            self.code_of_missing if v is None else self.code_of.get(v, self.rare)
            for v in values.tolist()
        ]
        return np.array(codes, dtype=np.float64)


class TableEncoder:
    """Map tables to rows of positions and codes, numbers first."""

    def __init__(
        self,
        n_knots: int,
        min_frequency: int,
        max_categories: int,
        *,
        smooth_numbers: bool = False,
    ) -> None:
        self.n_knots = n_knots
        self.smooth_numbers = smooth_numbers
        self.min_frequency = min_frequency
        self.max_categories = max_categories

    def fit(
        self, table: Table, categorical: np.ndarray, weights: np.ndarray
    ) -> "TableEncoder":
        """Learn knots and categories from rows of positive weight.

        A column has no more knots than the square root of the weight of all rows, or
        eight.
        """
        self.categorical = categorical
        kept = weights > 0
        weights = as_counts(weights[kept])
        # Between more knots than that, few rows would be told apart one by one.
        most = max(_FEW_KNOTS, int(np.sqrt(weights.sum() * (1 + 1e-9))))
        self.numbers = {
            index: Numbers(min(self.n_knots, most), self.smooth_numbers).fit(
                table.columns[index][kept], weights
            )
            for index in np.flatnonzero(~categorical).tolist()
        }
        self.categories = {
            index: Categories(self.min_frequency, self.max_categories).fit(
                table.columns[index][kept], weights
            )
            for index in np.flatnonzero(categorical).tolist()
        }
        return self

    @property
    def shares(self) -> list[list[float]]:
        """Parts of the range that its bins take, of each column of numbers."""
        return [numbers.shares.tolist() for numbers in self.numbers.values()]

    @property
    def share_between(self) -> float:
        """Share of the columns that have values between their knots."""
        n_between = sum(numbers.is_between for numbers in self.numbers.values())
        return n_between / len(self.categorical)

    @property
    def n_categories(self) -> list[int]:
        """Codes of each column of categories."""
        return [categories.n_codes for categories in self.categories.values()]

    def encode(self, table: Table) -> np.ndarray:
        """Return rows (n, columns) of positions, then of codes."""
        columns = table.columns
        numbers = [self.numbers[i].encode(columns[i]) for i in self.numbers]
        codes = [self.categories[i].encode(columns[i]) for i in self.categories]
        return np.column_stack(numbers + codes)

"""Columns of tables: what is taken as what, and how it is encoded."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from sktrm._tables import (
    UNKNOWN,
    Categories,
    Numbers,
    Table,
    TableEncoder,
    find_categorical,
    read_table,
)
from sktrm.nn.tables import TableEmbedding


def fit_numbers(values, n_knots=32, weights=None):
    values = np.asarray(values, dtype=float)
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, float)
    return Numbers(n_knots, smooth=True).fit(values, weights)


def fit_categories(values, min_frequency=1, max_categories=255, weights=None):
    values = np.array(values, dtype=object)
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, float)
    return Categories(min_frequency, max_categories).fit(values, weights)


def objects(*values):
    return np.array(values, dtype=object)


class TestNumbers:
    def test_positions_are_linear_between_knots(self):
        numbers = fit_numbers([0, 10, 40])
        np.testing.assert_array_equal(
            numbers.encode(np.array([0, 5, 10, 25, 40.0])), [0, 0.5, 1, 1.5, 2]
        )

    def test_values_beyond_the_knots_stand_at_the_ends(self):
        numbers = fit_numbers([0, 10, 40])
        np.testing.assert_array_equal(numbers.encode(np.array([-1e9, 1e9])), [0, 2])

    def test_many_values_are_cut_at_quantiles(self):
        values = np.random.RandomState(0).lognormal(size=1000)
        numbers = fit_numbers(values, n_knots=5)
        assert len(numbers.shares) == 4
        expected = np.quantile(values, np.linspace(0, 1, 5), method="inverted_cdf")
        np.testing.assert_array_equal(numbers.knots[:-1], expected[:-1])
        # The last bin reaches three times as far as the one before it.
        assert expected[-1] > numbers.knots[-1]
        assert np.diff(numbers.knots)[-1] == pytest.approx(3 * np.diff(expected)[-2])

    @pytest.mark.parametrize("outlier", [-1e3, 1e3, 1e300])
    def test_an_outlier_leaves_the_outermost_bin_to_the_others(self, outlier):
        values = np.random.RandomState(0).uniform(size=300)
        near = np.linspace(0.95, 1, 6) if outlier > 0 else np.linspace(0, 0.05, 6)
        at = fit_numbers(np.append(values, outlier), n_knots=17).encode(near)
        assert np.ptp(at) > 0.2

    def test_a_frequent_value_at_the_end_keeps_its_knot(self):
        """Zero in half of the rows is no outlier, however far the others are."""
        values = np.append(np.zeros(100), np.linspace(1000, 1010, 100))
        assert fit_numbers(values, n_knots=9).knots[0] == 0

    @pytest.mark.parametrize("unit", [1e-310, 1e-290, 1.0, 1e290, 4e307])
    def test_positions_do_not_depend_on_the_unit(self, unit):
        knots, between = np.array([-4, -1, 0, 1, 4.0]), np.array([-3.1, -0.5, 0.2, 2.5])
        expected = fit_numbers(knots).encode(between)
        found = fit_numbers(unit * knots).encode(unit * between)
        np.testing.assert_allclose(found, expected, rtol=1e-4)

    def test_an_outlier_beyond_all_knots_has_the_last_position(self):
        values = 1e-9 * np.random.RandomState(0).uniform(size=300)
        numbers = fit_numbers(np.append(values, 1e300), n_knots=17)
        assert numbers.encode(np.array([1e300, -1e300])).tolist() == [16, 0]

    def test_numbers_of_very_different_size_have_positions(self):
        numbers = fit_numbers(np.array([0, 1e-310, 2e-310, 1.0]))
        found = numbers.encode(np.array([0.5e-310, 1.5e-310, 0.5]))
        np.testing.assert_allclose(found, [0.5, 1.5, 2.5], rtol=1e-6)

    @pytest.mark.parametrize("n_knots", [2, 4, 32])
    def test_a_row_of_weight_two_counts_as_two_rows(self, n_knots):
        random = np.random.RandomState(0)
        values, weights = random.normal(size=40), random.randint(1, 4, size=40)
        weighted = fit_numbers(values, n_knots, weights)
        repeated = fit_numbers(np.repeat(values, weights), n_knots)
        np.testing.assert_array_equal(weighted.knots, repeated.knots)
        np.testing.assert_array_equal(weighted.shares, repeated.shares)
        assert weighted.median == repeated.median

    def test_shares_are_half_by_value_and_half_by_rank(self):
        values = np.random.RandomState(0).uniform(size=1000)
        numbers = fit_numbers(values, n_knots=5)
        by_value = np.diff(numbers.knots) / np.ptp(numbers.knots)
        np.testing.assert_allclose(numbers.shares, (by_value + 0.25) / 2)

    @pytest.mark.parametrize("unit", [1e-300, 1.0, 1e300])
    def test_unit_and_zero_of_a_column_do_not_change_shares(self, unit):
        values = np.random.RandomState(0).uniform(size=1000)
        shares = fit_numbers(values, n_knots=9).shares
        moved = fit_numbers(unit * (7 + values), n_knots=9).shares
        np.testing.assert_allclose(moved, shares)

    def test_shares_of_distant_numbers_are_exact(self):
        values = np.arange(65) / 8
        near, far = (fit_numbers(zero + values, n_knots=6) for zero in (0, 1e15))
        np.testing.assert_allclose(far.shares, near.shares)

    def test_numbers_that_are_not_smooth_have_no_shares(self):
        values, ones = np.arange(100.0), np.ones(100)
        numbers = Numbers(5).fit(values, ones)
        np.testing.assert_array_equal(numbers.shares, [0] * 4)
        np.testing.assert_array_equal(numbers.knots, fit_numbers(values, 5).knots)

    def test_few_values_may_be_codes_and_have_no_shares(self):
        values = np.arange(100) % 5
        np.testing.assert_array_equal(fit_numbers(values, n_knots=5).shares, [0] * 4)
        assert fit_numbers(values, n_knots=4).shares.sum() == pytest.approx(1)

    @pytest.mark.parametrize("outlier", [1e3, 1e100, np.finfo(float).max])
    @pytest.mark.parametrize("unit", [1.0, 1e-20])
    @pytest.mark.parametrize("tied", [0, 0.8])
    def test_an_outlier_does_not_take_the_line(self, outlier, unit, tied):
        random = np.random.RandomState(0)
        values = unit * np.where(
            random.rand(2000) < tied, 0, random.gamma(2, size=2000)
        )
        without = fit_numbers(values, n_knots=32).shares
        values[values.argmax()] = outlier
        shares = fit_numbers(values, n_knots=32).shares
        assert shares.max() < 0.3
        # Between all other knots it goes on as before, if in smaller steps.
        rest = shares[:-1] / shares[:-1].sum()
        np.testing.assert_allclose(rest, without[:-1] / without[:-1].sum(), rtol=0.5)

    def test_numbers_that_span_all_floats_have_shares(self):
        values = np.random.RandomState(0).uniform(-1, 1, size=1000)
        values[:2] = -1, 1
        small = fit_numbers(values).shares
        large = fit_numbers(values * np.finfo(float).max).shares
        np.testing.assert_allclose(large, small)

    def test_knots_a_last_bit_apart_share_alike(self):
        values = 1 + np.finfo(float).eps * np.array([41, 42, 43] * 10)
        found = fit_numbers(values, n_knots=2)
        np.testing.assert_allclose(found.shares, [1])

    def test_a_missing_value_stays_missing_if_fit_saw_one(self):
        numbers = fit_numbers([0, np.nan, 10])
        np.testing.assert_array_equal(
            numbers.encode(np.array([np.nan, 10.0])), [np.nan, 1]
        )

    def test_a_missing_value_that_is_new_is_the_median(self):
        numbers = fit_numbers([0, 1, 1, 3])
        np.testing.assert_array_equal(numbers.encode(np.array([np.nan])), [1])

    def test_the_share_of_columns_with_values_between_knots_is_known(self):
        numbers = np.arange(100.0)
        table = Table([numbers, numbers % 3, np.array(["a"] * 100, object)], [0, 1, 2])
        encoder = TableEncoder(8, 2, 255).fit(
            table, np.array([False, False, True]), np.ones(100)
        )
        assert encoder.share_between == pytest.approx(1 / 3)

    def test_a_constant_column_says_nothing(self):
        numbers = fit_numbers([7, 7, 7])
        assert len(numbers.shares) == 0
        np.testing.assert_array_equal(numbers.encode(np.array([7, 8.0])), [0, 0])

    def test_a_column_without_values_is_all_missing(self):
        numbers = fit_numbers([np.nan, np.nan])
        assert len(numbers.shares) == 0
        np.testing.assert_array_equal(
            numbers.encode(np.array([np.nan, 8.0])), [np.nan, 0]
        )


class TestCategories:
    def test_frequent_ones_come_first_and_ties_are_sorted(self):
        categories = fit_categories(["b", "a", "c", "c"])
        np.testing.assert_array_equal(
            categories.encode(objects("c", "a", "b")), [0, 1, 2]
        )

    def test_the_order_of_rows_does_not_matter(self):
        values = ["b", "a", "c", "a", None, "b"]
        one, other = fit_categories(values), fit_categories(values[::-1])
        assert one.code_of == other.code_of
        assert one.code_of_missing == other.code_of_missing

    def test_rare_and_new_ones_share_a_code(self):
        categories = fit_categories(["a", "a", "b", "c"], min_frequency=2)
        assert categories.n_codes == 2
        np.testing.assert_array_equal(
            categories.encode(objects("a", "b", "c", "new")), [0, 1, 1, 1]
        )

    def test_a_new_one_is_unknown_if_none_was_rare(self):
        categories = fit_categories(["a", "a", "b", "b"], min_frequency=2)
        np.testing.assert_array_equal(categories.encode(objects("new")), [UNKNOWN])

    def test_missing_has_a_code_of_its_own_if_fit_saw_it(self):
        categories = fit_categories(["a", None])
        np.testing.assert_array_equal(categories.encode(objects("a", None)), [0, 1])

    def test_missing_is_unknown_if_it_is_new(self):
        categories = fit_categories(["a", "b"])
        np.testing.assert_array_equal(categories.encode(objects(None)), [UNKNOWN])

    def test_ten_thousand_of_them_are_bounded(self):
        values = [f"user{i}" for i in range(10_000)] * 2
        categories = fit_categories(values, max_categories=255)
        assert categories.n_codes == 256  # and one that the others share
        codes = categories.encode(np.array(values, dtype=object))
        assert codes.min() == 0
        assert codes.max() == 255

    def test_weights_count_for_frequency(self):
        categories = fit_categories(["a", "b"], min_frequency=2, weights=[1, 2])
        assert categories.code_of == {"b": 0}


class TestEmbedding:
    def embed(self, embedding, *row):
        with torch.no_grad():
            return embedding(torch.tensor([row]))[0]

    def test_numbers_are_written_in_unary(self):
        embedding = TableEmbedding([[0.0] * 3], [], hidden_size=4, bend=0.5)
        at = {p: self.embed(embedding, float(p))[1] for p in (0, 1, 1.25, 2, 3)}
        torch.testing.assert_close(at[0], embedding.identity[1])
        torch.testing.assert_close(at[2] - at[1], embedding.numbers.bins[0, 1])
        torch.testing.assert_close(at[1.25], 0.75 * at[1] + 0.25 * at[2])
        torch.testing.assert_close(at[3] - at[0], embedding.numbers.bins[0].sum(0))

    def test_a_missing_number_has_a_vector_of_its_own(self):
        embedding = TableEmbedding([[0.0] * 3], [], hidden_size=4, bend=0.5)
        x = self.embed(embedding, float("nan"))[1]
        own = embedding.numbers.missing[0]
        torch.testing.assert_close(x, embedding.identity[1] + own)

    def test_numbers_move_along_a_line_that_bins_bend(self):
        straight, bent, more = (
            TableEmbedding(
                [[0.1, 0.9]],
                [],
                hidden_size=64,
                bend=bend,
                generator=torch.Generator().manual_seed(0),
            )
            for bend in (0.0, 0.05, 0.1)
        )
        paths = [
            torch.stack([self.embed(embedding, float(p))[1] for p in (0, 1, 2)])
            for embedding in (straight, bent, more)
        ]
        first, second = paths[0].diff(dim=0)
        torch.testing.assert_close(second, 9 * first)
        torch.testing.assert_close(paths[2] - paths[0], 2 * (paths[1] - paths[0]))
        assert (paths[1] - paths[0])[1:].norm() > 0

    def test_a_column_without_shares_has_no_line(self):
        embedding = TableEmbedding(
            [[0.0] * 2, [0.1, 0.9], [0.0]], [], hidden_size=4, bend=0.1
        )
        numbers = embedding.numbers
        assert len(numbers.line) == 1
        path = embedding(torch.tensor([[0.0] * 3, [1.0] * 3]))[:, 1:].diff(dim=0)[0]
        torch.testing.assert_close(path[0], numbers.bins[0, 0])
        line = 0.1 * numbers.line[0, 0] + 0.1 * numbers.bins[1, 0]
        torch.testing.assert_close(path[1], line)
        torch.testing.assert_close(path[2], numbers.bins[2, 0])

    def test_codes_of_different_columns_do_not_collide(self):
        embedding = TableEmbedding([], [2, 3], hidden_size=4, bend=0.5)
        x = self.embed(embedding, 1.0, 2.0)
        torch.testing.assert_close(
            x[1], embedding.identity[1] + embedding.categories.vectors[1]
        )
        torch.testing.assert_close(
            x[2], embedding.identity[2] + embedding.categories.vectors[4]
        )

    def test_an_unknown_category_leaves_the_identity_alone(self):
        embedding = TableEmbedding([], [2], hidden_size=4, bend=0.5)
        x = self.embed(embedding, UNKNOWN)[1]
        torch.testing.assert_close(x, embedding.identity[1])

    def test_the_answer_has_the_first_token(self):
        embedding = TableEmbedding([[0.0]], [1], hidden_size=4, bend=0.5)
        x = self.embed(embedding, 0.5, 0.0)
        assert x.shape == (3, 4)
        torch.testing.assert_close(x[0], embedding.identity[0])


FRAME = pd.DataFrame(
    {
        "number": [1.5, None, 2.0],
        "count": [1, 2, 3],
        "nullable": pd.array([1, None, 3], dtype="Int64"),
        "category": pd.Categorical([3, 1, None]),
        "text": pd.array(["a", None, "b"], dtype="string"),
        "object": np.array(["a", 1, None], dtype=object),
        "truth": [True, False, True],
        "maybe": pd.array([True, None, False], dtype="boolean"),
    }
)
CATEGORIES = ["category", "text", "object", "truth", "maybe"]


def names_of(mask, frame):
    return [name for name, chosen in zip(frame.columns, mask, strict=True) if chosen]


class TestColumns:
    def test_pandas_dtypes_tell_categories_from_numbers(self):
        mask = find_categorical(FRAME, "from_dtype", list(FRAME))
        assert names_of(mask, FRAME) == CATEGORIES

    def test_every_dtype_is_read_with_its_missing_values(self):
        mask = find_categorical(FRAME, "from_dtype", list(FRAME))
        columns = dict(
            zip(FRAME, read_table(FRAME, mask, "TRMClassifier").columns, strict=True)
        )
        np.testing.assert_array_equal(columns["number"], [1.5, np.nan, 2])
        np.testing.assert_array_equal(columns["count"], [1, 2, 3])
        np.testing.assert_array_equal(columns["nullable"], [1, np.nan, 3])
        assert columns["category"].tolist() == [3, 1, None]
        assert columns["text"].tolist() == ["a", None, "b"]
        assert columns["object"].tolist() == ["a", 1, None]
        assert columns["truth"].tolist() == [True, False, True]
        assert columns["maybe"].tolist() == [True, None, False]

    def test_polars_columns_are_read_like_those_of_pandas(self):
        pl = pytest.importorskip("polars")
        frame = pl.DataFrame(
            {
                "number": [1.5, None, 2.0],
                "count": [1, 2, 3],
                "text": ["a", None, "b"],
                "category": pl.Series(["x", None, "y"], dtype=pl.Categorical),
                "truth": [True, False, None],
            }
        )
        mask = find_categorical(frame, "from_dtype", frame.columns)
        assert names_of(mask, frame) == ["text", "category", "truth"]
        columns = read_table(frame, mask, "TRMClassifier").columns
        np.testing.assert_array_equal(columns[0], [1.5, np.nan, 2])
        assert columns[0].dtype == columns[1].dtype == np.float64
        assert [column.tolist() for column in columns[2:]] == [
            ["a", None, "b"],
            ["x", None, "y"],
            [True, False, None],
        ]

    def test_truth_values_may_be_taken_as_numbers(self):
        pl = pytest.importorskip("polars")
        values = {"truth": [True, False]}
        for frame in (pd.DataFrame(values), pl.DataFrame(values)):
            (column,) = read_table(frame, np.array([False]), "TRMClassifier").columns
            np.testing.assert_array_equal(column, [1, 0])

    def test_strings_in_an_array_are_categories_and_numbers_are_not(self):
        X = np.array([["a", 1, True], ["b", 2.5, False]], dtype=object)
        mask = find_categorical(X, "from_dtype", None)
        np.testing.assert_array_equal(mask, [True, False, True])
        columns = read_table(X, mask, "TRMClassifier").columns
        assert columns[1].dtype == np.float64

    @pytest.mark.parametrize(
        "wanted",
        [
            [0, 2],
            np.array([0, 2]),
            [True, False, True],
            np.array([True, False, True]),
            ["a", "c"],
            pd.Index(["a", "c"]),
            ("c", "a"),
        ],
        ids=str,
    )
    def test_indices_masks_and_names_say_the_same(self, wanted):
        X = pd.DataFrame(np.zeros((2, 3)), columns=["a", "b", "c"])
        mask = find_categorical(X, wanted, list(X))
        np.testing.assert_array_equal(mask, [True, False, True])

    @pytest.mark.parametrize("wanted", [None, []])
    def test_no_column_need_be_one_of_categories(self, wanted):
        assert not find_categorical(FRAME, wanted, list(FRAME)).any()

    @pytest.mark.parametrize(
        ("wanted", "message"),
        [
            ([3], r"categorical_features must hold indices from 0 to 2, got \[3\]"),
            ([-1], "indices from 0 to 2"),
            ([True, False], "one entry for each of the 3 columns, got 2"),
            (["d"], r"names 'd', which is no column of X: \['a', 'b', 'c'\]"),
            ([0.5], "must be 'from_dtype', None, a mask, indices or names of columns"),
            ([[0]], "must be 'from_dtype', None, a mask, indices or names of columns"),
        ],
    )
    def test_wrong_categorical_features(self, wanted, message):
        X = pd.DataFrame(np.zeros((2, 3)), columns=["a", "b", "c"])
        with pytest.raises(ValueError, match=message):
            find_categorical(X, wanted, list(X))

    def test_names_need_a_data_frame(self):
        with pytest.raises(ValueError, match="X has no column names"):
            find_categorical(np.zeros((2, 3)), ["a"], None)

    @pytest.mark.parametrize(
        ("column", "message"),
        [
            (
                ["a", "b"],
                "Column 'bad' holds .*, not numbers, as a column must",
            ),
            (pd.to_datetime(["2020", "2021"]), "must hold numbers or categories"),
            ([1 + 2j, 0], "must hold numbers or categories"),
            ([1.0, np.inf], "Column 'bad' contains infinity"),
        ],
        ids=["text", "dates", "complex", "infinity"],
    )
    def test_columns_that_hold_no_numbers(self, column, message):
        frame = pd.DataFrame({"good": [1, 2], "bad": column})
        with pytest.raises(ValueError, match=message):
            read_table(frame, np.zeros(2, dtype=bool), "TRMClassifier")

    def test_categories_that_cannot_be_looked_up(self):
        frame = pd.DataFrame({"bad": [[1], [2]]})
        with pytest.raises(TypeError, match="'bad' holds a category that cannot"):
            read_table(frame, np.ones(1, dtype=bool), "TRMClassifier")


def test_rows_of_weight_zero_teach_the_encoder_nothing():
    random = np.random.RandomState(0)
    frame = pd.DataFrame(
        {"number": random.normal(size=30), "word": random.choice(list("abcdef"), 30)}
    )
    weights = random.randint(0, 2, size=30)
    mask = np.array([False, True])
    table = read_table(frame, mask, "TRMClassifier")
    encoder = partial(TableEncoder, 8, 2, 255, smooth_numbers=True)
    weighted = encoder().fit(table, mask, weights)
    kept = read_table(frame[weights == 1], mask, "TRMClassifier")
    without = encoder().fit(kept, mask, np.ones(len(kept)))
    assert sum(without.shares[0]) > 0
    assert weighted.shares == without.shares
    assert weighted.n_categories == without.n_categories
    np.testing.assert_array_equal(weighted.encode(table), without.encode(table))


@pytest.mark.parametrize(
    ("n_rows", "n_knots"), [(20, 8), (100, 10), (400, 20), (2000, 32)]
)
def test_few_rows_make_few_knots(n_rows, n_knots):
    numbers = np.random.RandomState(0).normal(size=(n_rows, 1))
    mask = np.zeros(1, dtype=bool)
    table = read_table(numbers, mask, "TRMClassifier")
    for weight in (1.0, 0.5):
        encoder = TableEncoder(32, 2, 255)
        encoder.fit(table, mask, np.full(n_rows, weight))
        assert len(encoder.shares[0]) == n_knots - 1


@pytest.mark.parametrize("scale", [1 / 200, 1e-9, 1.0, 3.0])
def test_the_scale_of_small_weights_makes_no_category_rare(scale):
    words = np.random.RandomState(0).choice(["a", "b"], (200, 2)).astype(object)
    table = read_table(words, np.ones(2, dtype=bool), "TRMClassifier")
    encoder = TableEncoder(8, 2, 255)
    encoder.fit(table, np.ones(2, dtype=bool), np.full(200, scale))
    assert encoder.n_categories == [2, 2]
    assert len(np.unique(encoder.encode(table), axis=0)) == 4


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_tuples_are_categories_like_others(library):
    frames = pytest.importorskip(library)
    pairs = [(1, 2), (3, 4), (1, 2)]
    kind = {"dtype": frames.Object} if library == "polars" else {}
    frame = frames.DataFrame({"pair": frames.Series(pairs, **kind)})
    (column,) = read_table(frame, np.array([True]), "TRMClassifier").columns
    assert column.tolist() == pairs
    np.testing.assert_array_equal(fit_categories([*"ab"]).encode(column), [UNKNOWN] * 3)


@pytest.mark.parametrize("dtype", ["datetime64[D]", "timedelta64[s]"])
def test_arrays_of_times_are_no_numbers(dtype):
    X = np.arange(4).reshape(4, 1).astype(dtype)
    mask = find_categorical(X, "from_dtype", None)
    with pytest.raises(ValueError, match=r"X holds .*64\[.*must hold numbers or cat"):
        read_table(X, mask, "TRMClassifier")


def test_periods_are_no_categories():
    frame = pd.DataFrame({"month": pd.period_range("2020-01", periods=3, freq="M")})
    mask = find_categorical(frame, "from_dtype", list(frame))
    with pytest.raises(
        ValueError, match=r"'month' holds period.* must hold numbers or"
    ):
        read_table(frame, mask, "TRMClassifier")

"""Symbols survive the way to tokens and back."""

import numpy as np
import pytest
import torch
from conftest import tiny_solver

from sktrm import _encoding
from sktrm._encoding import GridEncoder, Vocabulary, as_grids
from sktrm.nn import losses


def round_trip(X, y, **parameters):
    encoder = GridEncoder(**parameters).fit(X, y)
    labels = encoder.encode_y(y)
    unscored = labels == _encoding.IGNORE_LABEL
    tokens = np.where(unscored, encoder.answer_tokens[0], labels)
    return encoder, encoder.decode(tokens[:, : encoder.answer_cells], X)


@pytest.mark.parametrize(
    "symbols",
    [
        np.array([3, -7, 1_000_000]),
        np.array([3.0, -7.0, 1e12]),
        np.array(["a", "long name", ""]),
        np.array([True, False, True]),
        np.array(["wall", 4, None], dtype=object),
        np.array([0, 255, 7], dtype=np.uint8),
        np.array([-128, 127, 0], dtype=np.int8),
    ],
    ids=lambda symbols: symbols.dtype.str + str(symbols[1]),
)
def test_values_and_dtype_come_back(symbols):
    y = symbols[np.random.RandomState(0).randint(3, size=(20, 2, 3))]
    _, back = round_trip(y, y)
    np.testing.assert_array_equal(back, y)
    assert back.dtype == y.dtype


@pytest.mark.parametrize(
    ("n_symbols", "dtype"), [(127, torch.int8), (130, torch.int16)]
)
def test_answers_take_as_few_bytes_as_tokens(n_symbols, dtype, monkeypatch):
    """The last symbol, too, survives the smallest type that holds its token."""
    monkeypatch.setattr(_encoding, "_CHUNK_CELLS", 20)
    y = np.arange(n_symbols)[:, None] * np.ones((1, 9), dtype=int)
    solver = tiny_solver(max_epochs=1).fit(y, y)
    logits = torch.zeros(n_symbols, 9, n_symbols + 1)
    logits[np.arange(n_symbols), :, np.arange(1, n_symbols + 1)] = 1.0
    tokens = solver._read_answers(logits)
    assert tokens.dtype == dtype
    for signed in (tokens, -tokens):  # negative: "no cell here" is likelier
        back = solver._encoder.decode(signed.numpy(), y)
        np.testing.assert_array_equal(back, y)


def test_ragged_grids_come_back():
    rng = np.random.RandomState(0)
    y = [rng.randint(5, size=rng.randint(1, 6, size=2)) for _ in range(20)]
    _, back = round_trip(y, y)
    assert all(np.array_equal(a, b) for a, b in zip(back, y, strict=True))


def test_question_and_answer_share_tokens_and_places():
    X, y = (
        [np.array([[1, 2]]), np.array([[3]])],
        [np.array([[2], [1]]), np.array([[3]])],
    )
    encoder = GridEncoder().fit(X, y)
    pad, ignore = _encoding.PAD, _encoding.IGNORE_LABEL
    assert encoder.encode_X(X).tolist() == [[1, 2, pad, pad], [3, pad, pad, pad]]
    # The size of an answer is to be learned: cells outside are scored as PAD.
    assert encoder.encode_y(y).tolist() == [[2, pad, 1, pad], [3, pad, pad, pad]]
    same = GridEncoder().fit(X, X)
    assert same.encode_y(X).tolist()[1] == [3] + [ignore] * (same.length - 1)


def test_shorter_answers_leave_the_rest_of_the_row_unscored():
    encoder = GridEncoder().fit(np.array([[1, 2, 3]]), np.array([[2]]))
    assert encoder.encode_y(np.array([[3]])).tolist() == [[3, -100, -100]]
    longer = GridEncoder().fit(np.array([[1]]), np.array([[2, 1]]))
    assert longer.encode_X(np.array([[1]])).tolist() == [[1, _encoding.PAD]]


def test_tokens_take_as_few_bytes_as_possible():
    assert Vocabulary(list(range(10))).dtype == np.int8
    assert Vocabulary(list(range(127))).dtype == np.int8
    assert Vocabulary(list(range(200))).dtype == np.int16
    symbols = np.arange(40_000)
    vocabulary = Vocabulary(symbols.tolist())
    assert vocabulary.encode(symbols, "X").tolist() == list(range(1, 40_001))


def test_ones_of_every_type_are_one_symbol():
    vocabulary = Vocabulary([1, 1.0, True, np.int8(1), 2])
    assert vocabulary.n_tokens == 3
    assert vocabulary.encode(np.array([1.0, 2.0]), "X").tolist() == [1, 2]


def test_unhashable_symbols_are_refused():
    X = np.array([[{}, 1]], dtype=object)
    with pytest.raises(TypeError, match="must be a string or a number"):
        GridEncoder().fit(X, X)


def test_lists_arrays_and_columns_of_arrays_are_the_same():
    grids = [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
    column = np.empty(2, dtype=object)
    column[:] = [np.array(grid) for grid in grids]
    for form in (grids, np.array(grids), column, tuple(grids)):
        np.testing.assert_array_equal(as_grids(form, "X"), np.array(grids))


def test_both_rooms_agree_on_the_label_of_unscored_cells():
    assert _encoding.IGNORE_LABEL == losses.IGNORE_LABEL


def test_questions_are_encoded_alike_whatever_messages_call_them():
    X, y = np.array([[0, 1], [1, 0]]), np.ones((2, 4), dtype=int)
    for ignored in (None, 0):
        encoder = GridEncoder(ignore_value=ignored).fit(X, y)
        expected = encoder.encode_X(X)
        assert (expected >= 0).all()
        np.testing.assert_array_equal(encoder.encode_X(X, "X_val"), expected)


def test_tuples_are_symbols_beside_cells_that_are_not_scored():
    y = np.empty((2, 2), dtype=object)
    y[0, 0], y[0, 1], y[1, 0], y[1, 1] = (1, 2), (3, 4), "?", (1, 2)
    encoder = GridEncoder(ignore_value="?").fit(y, y)
    labels = encoder.encode_y(y)
    assert labels[1, 0] == losses.IGNORE_LABEL
    assert labels[0, 0] == labels[1, 1] != labels[0, 1]


def test_one_ragged_grid_is_enough():
    """The other has weight zero, and is as if it were not there."""
    grids = [np.zeros((2, 2), int), np.ones((3, 3), int)]
    solver = tiny_solver(max_epochs=1).fit(grids, grids, sample_weight=[1, 0])
    assert solver.predict(grids[:1])[0].shape == (2, 2)
    with pytest.raises(ValueError, match=r"is \(2, 2\). Set canvas before fit for"):
        solver.predict(grids[1:])

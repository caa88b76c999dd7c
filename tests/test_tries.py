"""Several tries at a question, and the choice among them."""

import itertools
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from conftest import tiny_solver
from sklearn.base import clone

from sktrm._inference import solve
from sktrm._tries import Choice, Ranking, Tries, Verified, Vote, draw_views
from sktrm.augmentation import (
    Dihedral,
    SudokuGroup,
    SymbolPermutation,
    TokenSpace,
    compose,
)
from sktrm.datasets import is_solved_sudoku, make_sudoku


@pytest.fixture(scope="module")
def puzzles():
    """Harder 4 x 4 Sudokus, (60, 4, 4)."""
    return make_sudoku(60, box=(2, 2), n_clues=5, random_state=0)


@pytest.fixture(scope="module")
def guesser(puzzles):
    """A solver of Sudokus that is right now and then, in float64."""
    X, y = puzzles
    return tiny_solver(
        symbols="interchangeable",
        augmentation=SudokuGroup((2, 2)),
        max_epochs=30,
        n_supervision_steps=4,
        max_steps=4,
        dtype="float64",
        lr=5e-3,
        halt_threshold=0.6,
    ).fit(X, y)


def test_a_view_is_undone():
    space = TokenSpace((4, 4), 6, {d: d + 1 for d in range(5)}, (2, 3, 4, 5))
    draw = torch.Generator().manual_seed(1)
    views = [
        compose(a, 1, space, draw)
        for a in ([], [SudokuGroup((2, 2))], [Dihedral(), SymbolPermutation()])
    ]
    tries = Tries(2, views=views)
    assert len(tries) == 6
    questions = torch.randint(1, 6, (5, 16), generator=draw)
    for number in range(6):
        seen = tries.see(questions, number)
        assert bool((seen != questions).any()) == (number % 3 > 0)
        for question, view in zip(questions.numpy(), seen.numpy(), strict=True):
            assert (tries.undo(view, number) == question).all()
    # A negative token, "no cell here", stays one and moves with its cell.
    signs = torch.where(torch.rand(16, generator=draw) < 0.5, -1, 1)
    for number, view in enumerate(views * 2):
        moved = signs if view.cells is None else signs[view.cells[0]]
        answer = tries.see(questions[:1], number)[0] * moved
        undone = tries.undo(answer.numpy(), number)
        np.testing.assert_array_equal(undone, questions[0] * signs)


def test_a_ranking_is_by_votes_then_confidence():
    ranking = Ranking(1, 5)
    given = [(7, 0.2), (8, 0.9), (9, 0.5), (7, 0.1), (6, 0.4)]
    for number, (value, sure) in enumerate(given):
        ranking.judge(0, number, np.array([value]), sure, False)
    assert [int(a[0]) for a in ranking.best(0, 3)] == [7, 8, 9]


ENDS = [  # number, answer, confidence, halted
    (0, 7, 0.3, False),
    (1, 8, 0.9, False),
    (2, 7, 0.5, True),
    (3, 9, 0.99, True),
]


@pytest.mark.parametrize(
    ("make", "answer", "confidence", "last_try"),
    [
        (lambda: Choice(1, 4), 7, 0.5, 2),
        (lambda: Vote(1, 4), 7, 0.5, 3),
        (lambda: Verified(1, 4, lambda row, answer: answer[0] == 8), 8, 0.9, 1),
        (lambda: Verified(1, 4, lambda row, answer: False), 9, 0.99, 3),
    ],
    ids=["confidence", "vote", "accepted", "never accepted"],
)
def test_the_choice_does_not_depend_on_which_try_ends_first(
    make, answer, confidence, last_try
):
    for order in itertools.permutations(ENDS):
        choice = make()
        for number, value, sure, halted in order:
            choice.judge(0, number, np.array([value]), sure, halted)
        assert choice.answers[0] == answer
        assert choice.confidence[0] == np.float32(confidence)
        assert choice.last_try[0] == last_try


def test_a_vote_of_equals_goes_to_the_surer():
    vote = Vote(1, 4)
    for number, (value, sure) in enumerate([(5, 0.1), (6, 0.4), (5, 0.3), (6, 0.2)]):
        vote.judge(0, number, np.array([value]), sure, False)
    assert vote.answers[0] == 6


@pytest.mark.parametrize(
    "how",
    [
        {"n_rollouts": 4},
        {"n_rollouts": 5, "choose": "vote"},
        {"augment_votes": 3},
        {"n_rollouts": 2, "augment_votes": 2, "verifier": is_solved_sudoku},
    ],
    ids="-".join,
)
def test_a_row_is_answered_alike_whatever_is_around_it(guesser, puzzles, how):
    X, _ = puzzles
    reference = guesser.solve(X, **how)
    assert len(np.unique(reference.n_steps)) > 1 or "augment_votes" in how
    order = np.random.RandomState(0).permutation(len(X))
    for batch_size in (3, 1000):
        guesser.batch_size = batch_size
        answers, confidence, n_steps = guesser.solve(X[order], **how)
        guesser.batch_size = 16
        assert (answers == reference.answers[order]).all()
        assert (n_steps == reference.n_steps[order]).all()
        np.testing.assert_allclose(confidence, reference.confidence[order], rtol=1e-5)


def test_one_try_is_the_plain_prediction(guesser, puzzles):
    X, _ = puzzles
    plain = guesser.solve(X, n_rollouts=1)
    *_, staged = guesser.staged_solve(X)
    for one, other in zip(plain, staged, strict=True):
        np.testing.assert_allclose(one, other)


@contextmanager
def changed(solver, **parameters):
    before = solver.get_params()
    try:
        yield solver.set_params(**parameters)
    finally:
        solver.set_params(**{name: before[name] for name in parameters})


def test_rows_that_do_not_halt_are_tried_again_by_default(guesser, puzzles):
    """Where symbols are interchangeable, a row may halt, and there is no vote."""
    X, _ = puzzles
    one, some = guesser.solve(X, n_rollouts=1), guesser.solve(X, n_rollouts=4)
    assert (one.n_steps < 4).any()
    assert (some.n_steps[one.n_steps < 4] == one.n_steps[one.n_steps < 4]).all()
    assert (some.n_steps == 4 * guesser.max_steps).any()
    assert (guesser.solve(X).n_steps == some.n_steps).all()
    with changed(guesser, halt_threshold=1.0):
        assert (guesser.solve(X).n_steps == 4).all()
        never = guesser.solve(X, verifier=lambda *pair: False)
        assert (never.n_steps == 16).all()
    with changed(guesser, rollout_noise=0.0):
        assert (guesser.solve(X).n_steps == one.n_steps).all()
    with changed(guesser, n_rollouts=2):
        for how in ({}, {"augment_votes": 3}):
            two = guesser.solve(X, n_rollouts=2, **how)
            assert (guesser.solve(X, **how).n_steps == two.n_steps).all()
    assert (guesser.solve(X, choose="vote").n_steps == one.n_steps).all()
    assert guesser.solve(X, augment_votes=2).n_steps.max() <= 2 * guesser.max_steps
    top = guesser.predict_top_k(X[:3])  # of as many tries as answers are wanted
    assert str(top) == str(guesser.predict_top_k(X[:3], n_rollouts=2))
    assert max(map(len, top)) == 2


def test_probabilities_are_of_the_try_that_is_taken(guesser, puzzles):
    X, _ = puzzles
    for n_rollouts in (1, 4):
        with changed(guesser, n_rollouts=n_rollouts):
            likeliest = guesser.predict_proba(X).argmax(axis=-1)
            np.testing.assert_array_equal(
                guesser.classes_[likeliest], guesser.predict(X)
            )
            once = guesser.predict_proba(X, n_rollouts=1).argmax(axis=-1)
            np.testing.assert_array_equal(
                guesser.classes_[once], guesser.predict(X, n_rollouts=1)
            )


@pytest.mark.parametrize("how", [{"n_rollouts": 6}, {"choose": "vote"}])
def test_all_tries_rename_with_their_question(guesser, puzzles, how):
    """Random states are dealt to the symbols in the order in which they appear."""
    X, _ = puzzles
    with changed(guesser, n_rollouts=6):
        before = guesser.solve(X, **how)
        assert before.n_steps.max() > guesser.max_steps  # some need more than one try
        for names in ([3, 1, 4, 2], [2, 1, 3, 4]):
            rename = np.array([0, *names])
            after = guesser.solve(rename[X], **how)
            np.testing.assert_array_equal(after.answers, rename[before.answers])
            np.testing.assert_array_equal(after.n_steps, before.n_steps)
            np.testing.assert_allclose(after.confidence, before.confidence)


def test_more_tries_and_a_verifier_only_help(guesser, puzzles):
    X, y = puzzles
    scores = [
        guesser.score(X, y, n_rollouts=k, verifier=is_solved_sudoku) for k in (1, 4, 16)
    ]
    assert scores[0] >= guesser.score(X, y, n_rollouts=1)
    assert scores == sorted(scores)
    assert scores[2] > scores[0]


def test_rows_stop_when_the_verifier_accepts(guesser, puzzles):
    X, _ = puzzles
    asked = []

    def anything(question, answer):
        asked.append((question, answer))
        return True

    solutions = guesser.solve(X, n_rollouts=8, verifier=anything)
    assert (solutions.n_steps == 1).all()
    # Second tries of the last rows were on their way when these were accepted.
    assert len(X) <= len(asked) < len(X) + guesser.batch_size
    question, answer = asked[0]
    assert question.shape == answer.shape == (4, 4)
    assert question.dtype == answer.dtype == X.dtype
    assert (question == X[0]).all()


def test_a_verifier_that_never_accepts_leaves_the_most_confident(guesser, puzzles):
    X, _ = puzzles
    solutions = guesser.solve(X, n_rollouts=3, verifier=lambda *pair: False)
    assert (solutions.n_steps == 3 * guesser.n_supervision_steps).all()
    one = guesser.solve(X, n_rollouts=1)
    assert (solutions.confidence >= one.confidence).all()


def test_views_of_an_equivariant_network_agree(guesser, puzzles):
    inputs, _ = guesser._questions(puzzles[0])
    draw = torch.Generator().manual_seed(0)
    renamings = draw_views([SymbolPermutation()], 4, guesser._space(), draw, ())
    tries = Tries(views=[compose([], 1, guesser._space(), draw), *renamings])
    plain = guesser._solve(inputs, guesser._read_answers, None)
    vote = Vote(len(inputs), len(tries))
    votes = guesser._solve(inputs, guesser._read_answers, None, tries, vote)
    assert (plain.answers == votes.answers).all()
    assert (votes.n_steps == 5 * plain.n_steps).all()
    assert all(len(tally) == 1 for tally in vote._tallies)


def test_no_more_tries_are_in_flight_than_a_batch(guesser, puzzles, monkeypatch):
    X, _ = puzzles
    sizes = []
    forward = type(guesser.module_).forward

    def spy(self, inputs, *args, **kwargs):
        sizes.append(len(inputs))
        return forward(self, inputs, *args, **kwargs)

    monkeypatch.setattr(type(guesser.module_), "forward", spy)
    guesser.solve(X, n_rollouts=20, choose="vote")
    assert max(sizes) == guesser.batch_size
    # All but the last batches are full: those who leave are replaced at once.
    assert sum(size < guesser.batch_size for size in sizes) <= 4


def test_tries_that_cannot_matter_are_not_made(guesser, puzzles):
    X, _ = puzzles
    with changed(guesser, halt_threshold=0.0):
        assert (guesser.solve(X, n_rollouts=50).n_steps == 1).all()


def test_questions_on_the_device_or_not(guesser, puzzles):
    inputs = torch.as_tensor(guesser._encoder.encode_X(puzzles[0]))
    limits = {"batch_size": 7, "max_steps": 2, "halt_threshold": 0.5}
    solution = solve(
        guesser.module_, inputs, lambda logits: logits.argmax(-1), **limits
    )
    assert solution.answers.shape == (60, 16)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"n_rollouts": 0}, "n_rollouts must be an int >= 1, got 0"),
        ({"n_rollouts": 2.0}, "n_rollouts must be an int >= 1, got 2.0"),
        ({"augment_votes": -1}, "augment_votes must be an int >= 1, got -1"),
        ({"choose": "best"}, "choose must be 'auto', 'confidence' or 'vote'"),
        ({"verifier": "sudoku"}, "verifier must be a callable"),
        ({"verifier": bool, "choose": "vote"}, "must be 'auto' with a verifier"),
        ({"verifier": lambda X, y: y == X}, "verifier must return True or False"),
        ({"verifier": lambda X, y: None}, "must return True or False for a row, got N"),
    ],
)
def test_bad_ways_to_try(guesser, puzzles, how, message):
    with pytest.raises(ValueError, match=message):
        guesser.solve(puzzles[0], **how)


@pytest.mark.parametrize("value", [0, 2.5, "many", None])
def test_a_bad_number_of_tries_is_noticed_before_and_after_fit(guesser, puzzles, value):
    with pytest.raises(ValueError, match="'n_rollouts' parameter"):
        clone(guesser).set_params(n_rollouts=value).fit(*puzzles)
    with (
        changed(guesser, n_rollouts=value),
        pytest.raises(
            ValueError, match=f"n_rollouts must be an int >= 1, got {value!r}"
        ),
    ):
        guesser.predict(puzzles[0])


def test_votes_need_an_augmentation(trained, copies):
    with pytest.raises(ValueError, match="augment_votes=4 needs transforms"):
        trained.predict(copies[0], augment_votes=4)


def test_rollouts_need_noise(guesser, puzzles):
    with changed(guesser, rollout_noise=0.0):
        with pytest.raises(ValueError, match="n_rollouts=4 needs rollout_noise"):
            guesser.predict(puzzles[0], n_rollouts=4)
        with pytest.raises(ValueError, match="n_rollouts=4 needs rollout_noise"):
            clone(guesser).set_params(n_rollouts=4).fit(*puzzles)


def test_a_verifier_that_raises_says_at_which_row(guesser, puzzles):
    def fails(question, answer):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        guesser.predict(puzzles[0], verifier=fails)
    assert "row 0 of X" in caught.value.__notes__[0]


def test_checkers_of_puzzles():
    X, y = make_sudoku(3, box=(2, 3), random_state=0)
    assert all(is_solved_sudoku(*pair) for pair in zip(X, y, strict=True))
    assert is_solved_sudoku(X[0].ravel(), y[0].ravel())
    assert not is_solved_sudoku(X[0], y[1])
    assert not is_solved_sudoku(X[0], y[0].ravel())
    empty = np.zeros((6, 6), dtype=int)
    assert is_solved_sudoku(empty, y[0], box=(2, 3))
    # The same rows and columns, other boxes.
    assert not is_solved_sudoku(empty, y[0], box=(3, 2))
    latin = (np.arange(6)[:, None] + np.arange(6)) % 6 + 1
    assert not is_solved_sudoku(empty, latin)
    with pytest.raises(ValueError, match="puzzle must be a square grid"):
        is_solved_sudoku(np.zeros((2, 3), dtype=int), np.zeros((2, 3), dtype=int))
    with pytest.raises(ValueError, match=r"box=\(3, 3\)"):
        is_solved_sudoku(empty, y[0], box=(3, 3))


def test_tries_hold_no_states(guesser):
    tries = Tries(10**6, noise=1.0, seed=0)
    held = dict(vars(tries))
    model, questions = guesser.module_, torch.zeros(1, 16, dtype=torch.int32)
    starts = [tries.start(model, number, questions) for number in (0, 5, 5, 6)]
    assert vars(tries) == held
    torch.testing.assert_close(starts[1].y, starts[2].y, rtol=0, atol=0)
    assert not torch.equal(starts[2].y, starts[3].y)


def test_any_number_of_tries_is_bounded_by_what_is_thought(guesser, puzzles):
    X, _ = puzzles
    with changed(guesser, halt_threshold=0.0):  # each row is settled by its first try
        solutions = guesser.solve(X, n_rollouts=10**12)
    assert (solutions.n_steps == 1).all()


def test_steps_of_tries_are_added_up_whatever_ends_first():
    ends = [(0, 4, False), (1, 3, False), (2, 5, True), (3, 2, True)]
    for order in itertools.permutations(ends):
        choice = Choice(1, 10**9)
        for number, n_steps, halted in order:
            choice.judge(0, number, np.array([7]), 0.5, halted)
            choice.end(0, number, n_steps)
        assert choice.n_steps() == [4 + 3 + 5]
    # Those that have ended in order are not kept one by one.
    choice = Choice(1, 10**9)
    for number in range(1000):
        choice.end(0, number, 1)
    assert choice.n_steps() == [1000]
    assert not choice._later


def test_votes_count_what_can_be_seen():
    rng = np.random.RandomState(0)
    X = [rng.randint(3, size=(2, 2)), rng.randint(3, size=(3, 3))] * 6
    solver = tiny_solver(max_epochs=1).fit(X, X)
    choice = solver._choice(X, 3, "vote", 1, None)
    same = np.array([1, 2, 1, 1, 2, 3, 3, 3, 3], dtype=np.int32)
    other = same.copy()
    other[[2, 5, 6, 7, 8]] = 2  # outside of the 2 x 2 grid
    different = same.copy()
    different[0] = 2
    for number, (answer, sure) in enumerate(
        [(different, 0.9), (same, 0.1), (other, 0.2)]
    ):
        choice.judge(0, number, answer, sure, False)
    assert solver._encoder.visible(X, 0, choice.answers[0]) == solver._encoder.visible(
        X, 0, same
    )


def test_views_are_different_ones(guesser, puzzles):
    X, y = puzzles
    turning = tiny_solver(augmentation=Dihedral(), max_epochs=1).fit(X, y)
    views = turning._tries(1, 100).views
    assert len(views) == 8  # the symmetries of a square, the plain view among them
    renaming = tiny_solver(
        symbols="interchangeable", augmentation=SymbolPermutation(), max_epochs=1
    ).fit(X, y)
    with pytest.raises(ValueError, match="transforms that change what the network"):
        renaming.predict(X, augment_votes=4)


def test_threads_share_a_solver(puzzles):
    X, y = puzzles
    solver = tiny_solver(dtype="bfloat16", max_epochs=2).fit(X, y)
    expected = solver.predict(X)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: solver.predict(X), range(24)))
    finally:
        sys.setswitchinterval(before)
    for answer in answers:
        np.testing.assert_array_equal(answer, expected)


def test_a_verifier_cannot_change_the_questions(guesser, puzzles):
    X = puzzles[0].copy()

    def spoil(question, answer):
        question[:] = 0
        return False

    guesser.predict(X[:3], verifier=spoil)
    np.testing.assert_array_equal(X, puzzles[0])


def test_views_are_not_looked_for_once_all_are_found():
    """A square has eight, whatever is asked for."""
    space = TokenSpace((3, 3), 4, {1: 1, 2: 2, 3: 3}, (1, 2, 3))
    generator = torch.Generator().manual_seed(0)
    views = draw_views([Dihedral()], 10**9, space, generator, ())
    assert len(views) == 7  # beside the plain one


def test_a_solver_that_was_pickled_before_it_had_tries(guesser, puzzles):
    older = clone(guesser)
    state = guesser.__getstate__()
    del state["n_rollouts"]
    older.__setstate__(state)
    assert older.n_rollouts == "auto"
    np.testing.assert_array_equal(
        older.predict(puzzles[0]), guesser.predict(puzzles[0])
    )

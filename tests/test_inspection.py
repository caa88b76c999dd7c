"""The display shows every step, and marks what changed."""

import numpy as np
from conftest import tiny_solver

from sktrm.inspection import RecursionDisplay


def test_display_follows_the_solver_until_it_halts(trained, copies):
    X, _ = copies
    solutions = trained.solve(X)
    row = int(solutions.n_steps.argmax())
    display = RecursionDisplay.think(trained, X[row])
    assert len(display.answers) == solutions.n_steps[row]
    np.testing.assert_array_equal(display.answers[-1, 0], solutions.answers[row])
    assert display.halt_probabilities[-1] == solutions.confidence[row]


def test_changed_cells_are_marked():
    display = RecursionDisplay(
        np.array([[0, 2], [3, 0]]),
        np.array([[[1, 2], [3, 3]], [[1, 2], [3, 4]]]),
        np.array([0.25, 0.75]),
    )
    assert display.changed().tolist() == [
        [[True, False], [False, True]],
        [[False, False], [False, True]],
    ]
    lines = display.text().splitlines()
    assert lines[3] == "step 1: halting probability 0.25, 2 cells changed"
    assert lines[4:6] == ["  1* 2", "  3  3*"]
    assert lines[6] == "step 2: halting probability 0.75, 1 cell changed"


def test_plot_draws_question_and_steps(sudokus):
    solver = tiny_solver(max_epochs=1, max_steps=3).fit(*sudokus)
    display = RecursionDisplay.from_estimator(solver, sudokus[0][0], max_columns=3)
    titles = [ax.get_title() for ax in display.axes_]
    assert titles[0] == "question"
    assert titles[3] == f"step 3, halting {display.halt_probabilities[2]:.2f}"
    assert [len(ax.texts) for ax in display.axes_] == [16] * 4
    bold = [text.get_weight() == "bold" for text in display.axes_[1].texts]
    assert bold == (display.answers[0] == display.question).ravel().tolist()


def test_answers_of_another_size_can_be_shown(copies):
    X, y = copies
    solver = tiny_solver(max_epochs=1).fit(X, y[:, :2])
    display = RecursionDisplay.from_estimator(solver, X[0])
    assert display.answers.shape[1:] == (1, 2)
    assert display.changed()[0].all()


def test_answers_whose_size_changes_can_be_shown():
    """All cells of an answer of another size than the one before are new."""
    display = RecursionDisplay(
        np.array([[1, 2]]),
        [np.array([[1, 2]]), np.array([[1]]), np.array([[1]])],
        np.array([0.1, 0.2, 0.3]),
    )
    assert [mask.tolist() for mask in display.changed()] == [
        [[False, False]],
        [[True]],
        [[False]],
    ]
    assert "step 2: halting probability 0.20, 1 cell changed" in display.text()
    assert len(display.plot().axes_) == 4


def test_questions_of_tasks_can_be_shown():
    grids = [np.zeros((2, 2), int), np.ones((1, 3), int)]
    solver = tiny_solver(max_epochs=1, canvas=(3, 3), mixer="attention")
    solver.fit(grids, grids[::-1], task_ids=["a", "b"])
    display = RecursionDisplay.think(solver, grids[0], task_id="b", max_steps=2)
    answer = solver.predict(grids[:1], task_ids=["b"], max_steps=2)[0]
    np.testing.assert_array_equal(display.answers[-1], answer)

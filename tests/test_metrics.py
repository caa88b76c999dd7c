"""Scores count rows, cells and paths as their names say."""

import numpy as np
import pytest
from conftest import tiny_solver
from sklearn.model_selection import cross_validate

from sktrm.datasets import make_maze
from sktrm.metrics import (
    cell_accuracy_score,
    cell_accuracy_scorer,
    exact_match_score,
    exact_match_scorer,
    valid_shortest_path_score,
    valid_shortest_path_scorer,
)

TRUTH = np.array([[[1, 2], [3, 4]], [[1, 1], [1, 1]], [[0, 0], [0, 0]]])
ANSWER = np.array([[[1, 2], [3, 4]], [[1, 1], [1, 2]], [[1, 1], [1, 1]]])


def test_exact_match_counts_rows():
    assert exact_match_score(TRUTH, ANSWER) == pytest.approx(1 / 3)
    assert exact_match_score(TRUTH, ANSWER, sample_weight=[1, 0, 0]) == 1
    assert exact_match_score(TRUTH, ANSWER, ignore_value=0) == pytest.approx(2 / 3)
    assert exact_match_score([1, 2, 3], [1, 2, 4]) == pytest.approx(2 / 3)


def test_cell_accuracy_counts_cells():
    assert cell_accuracy_score(TRUTH, ANSWER) == pytest.approx((1 + 0.75 + 0) / 3)
    assert cell_accuracy_score(TRUTH, ANSWER, sample_weight=[0, 1, 0]) == 0.75
    assert cell_accuracy_score(TRUTH, ANSWER, ignore_value=0) == pytest.approx(2.75 / 3)


def test_a_grid_of_another_size_is_wrong():
    truth = [np.ones((2, 2)), np.ones((1, 2))]
    answers = [np.ones((2, 2)), np.ones((2, 1))]
    assert exact_match_score(truth, answers) == 0.5
    assert cell_accuracy_score(truth, answers) == 0.5


def test_numbers_of_rows_must_agree():
    with pytest.raises(ValueError, match="number of rows, got 3 and 2"):
        exact_match_score(TRUTH, ANSWER[:2])
    with pytest.raises(ValueError, match="number of mazes, got 3 and 2"):
        valid_shortest_path_score(TRUTH, ANSWER[:2])


def test_any_shortest_path_counts():
    X = np.array([[["S", " "], [" ", "G"]]] * 2)
    answers = np.array([[["S", "o"], [" ", "G"]], [["S", "o"], ["o", "G"]]])
    assert valid_shortest_path_score(X, answers) == 0.5
    assert valid_shortest_path_score(X, answers, sample_weight=[3, 1]) == 0.75


def test_scorers_go_through_cross_validation():
    X, y = make_maze(24, (4, 4), random_state=0)
    scoring = {
        "exact": exact_match_scorer,
        "cells": cell_accuracy_scorer,
        "paths": valid_shortest_path_scorer,
    }
    scores = cross_validate(tiny_solver(), X, y, cv=2, scoring=scoring)
    assert (scores["test_cells"] > scores["test_exact"]).all()
    assert (scores["test_paths"] >= scores["test_exact"]).all()

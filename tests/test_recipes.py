"""Recipes are what their table says, and fit the tasks that they are named after."""

import inspect
import re

import numpy as np
import pytest
from conftest import ROOT, TINY

from sktrm import TRMSolver
from sktrm._recipes import RECIPES
from sktrm.datasets import make_maze, make_sudoku

PAIRS = [(name, size) for name in RECIPES for size in RECIPES[name]]
PAGE = (ROOT / "docs" / "recipes.md").read_text()


def table(heading):
    """The rows of the table below a heading: parameter to the cells beside it."""
    section = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", section, flags=re.MULTILINE)
    assert rows
    return {name: [cell.strip() for cell in rest.split(" | ")] for name, rest in rows}


@pytest.mark.parametrize(
    ("column", "name"), list(enumerate(["sudoku-extreme", "maze-hard", "arc-agi-1"]))
)
@pytest.mark.parametrize(
    ("heading", "size"), [("The paper's settings", "paper"), ("Small", "small")]
)
def test_the_table_holds_the_values_of_the_recipe(column, name, heading, size):
    documented = {
        parameter: cells[column]
        for parameter, cells in table(heading).items()
        if cells[column] != "default"
    }
    recipe = RECIPES[name][size]
    assert set(documented) == set(recipe)
    for parameter, cell in documented.items():
        assert cell == f"`{recipe[parameter]!r}`", f"{name}, {size}: {parameter}"


@pytest.mark.parametrize("heading", ["The paper's settings", "Small"])
def test_every_value_of_the_table_has_a_source(heading):
    for parameter, cells in table(heading).items():
        assert len(cells) == 4, parameter
        assert len(cells[3]) > 5, parameter


def test_both_arcs_are_trained_alike():
    assert RECIPES["arc-agi-1"] == RECIPES["arc-agi-2"]


@pytest.mark.parametrize(("name", "size"), PAIRS)
def test_a_recipe_gives_a_solver_with_its_values(name, size):
    solver = TRMSolver.from_recipe(name, size)
    defaults = TRMSolver().get_params()
    assert solver.get_params() == {**defaults, **RECIPES[name][size]}
    assert TRMSolver.from_recipe(name, size, lr=0.5).lr == 0.5


def test_the_paper_comes_first():
    assert inspect.signature(TRMSolver.from_recipe).parameters["size"].default == (
        "paper"
    )


def task(name):
    """A small task of the benchmark's kind."""
    if name == "sudoku-extreme":
        return make_sudoku(4, n_clues=60, random_state=0)
    if name == "maze-hard":
        return make_maze(4, (12, 12), random_state=0)
    random = np.random.RandomState(0)
    X = [random.randint(10, size=(4 + i % 3, 5)) for i in range(30)]
    return X, [grid[:, ::-1].copy() for grid in X]


@pytest.mark.parametrize(("name", "size"), PAIRS)
def test_a_recipe_fits_its_task(name, size):
    """With a small network: everything but the sizes is the recipe's."""
    small = {"hidden_size": 32, "n_layers": 1, "n_latent_recursions": 1}
    small |= {"max_epochs": 1, "n_supervision_steps": 2, "max_steps": 2}
    small |= {"random_state": 0, "dtype": TINY["dtype"], "device": "cpu"}
    small |= {"canvas": None}
    X, y = task(name)
    solver = TRMSolver.from_recipe(name, size, **small).fit(X, y)
    assert [np.shape(a) for a in solver.predict(X)] == [np.shape(a) for a in y]


@pytest.mark.parametrize(
    ("arguments", "overrides", "message"),
    [
        (("sudoku",), {}, r"name must be one of \['arc-agi-1', 'arc-agi-2', 'maze-h"),
        (("maze-hard", "big"), {}, r"size must be one of \['paper', 'small'\], got 'b"),
        (("maze-hard",), {"lrr": 1}, r"(?s)'lrr' for.*Valid parameters.*'lr_schedule'"),
    ],
)
def test_a_typo_is_an_error_that_lists_the_choices(arguments, overrides, message):
    with pytest.raises(ValueError, match=message):
        TRMSolver.from_recipe(*arguments, **overrides)

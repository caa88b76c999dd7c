import os
from pathlib import Path

# Before scipy is imported: one of scikit-learn's checks needs it.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

import matplotlib
import numpy as np
import pytest
import torch

from sktrm import TRMClassifier, TRMSolver
from sktrm.datasets import make_sudoku

matplotlib.use("agg")
# The models of the tests are so small that threads would cost more than they give.
torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]


def shared(*parts):
    """A file that lies beside the checkout, or a skip that says which is absent."""
    folder = Path(os.environ.get("SKTRM_SHARED", ROOT.parent / "shared"))
    path = folder.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{'/'.join(parts)} is not beside the checkout (SKTRM_SHARED)")
    return path


TINY = {
    "hidden_size": 32,
    "n_layers": 1,
    "n_heads": 2,
    "expansion": 2.0,
    "n_latent_recursions": 1,
    "n_deep_recursions": 1,
    "n_supervision_steps": 2,
    "max_epochs": 2,
    "batch_size": 16,
    "dtype": "float32",
    "device": "cpu",
    "random_state": 0,
}


def tiny_solver(**parameters):
    """A solver that fits in a fraction of a second."""
    return TRMSolver(**{**TINY, **parameters})


def tiny_classifier(**parameters):
    """A classifier that fits in a fraction of a second."""
    return TRMClassifier(**{**TINY, "lr": 0.01, "lr_warmup_steps": 5, **parameters})


@pytest.fixture(scope="session")
def sudokus():
    """4 x 4 Sudokus, (60, 4, 4)."""
    return make_sudoku(60, box=(2, 2), n_clues=8, random_state=0)


@pytest.fixture(scope="session")
def copies():
    """A task learned at once: the answer is the question, shifted by one symbol."""
    X = np.random.RandomState(0).randint(4, size=(200, 6))
    return X, (X + 1) % 4


@pytest.fixture(scope="session")
def trained(copies):
    """A solver of the copy task whose rows halt at different steps."""
    X, y = copies
    solver = tiny_solver(
        hidden_size=64,
        n_supervision_steps=4,
        max_steps=4,
        max_epochs=40,
        lr=3e-3,
        batch_size=50,
    ).fit(X, y)
    # Of a task this easy, every row would halt at the first step: ask for more.
    solver.halt_threshold = float(np.median(next(solver.staged_solve(X)).confidence))
    return solver

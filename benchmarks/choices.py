"""The measurements behind the defaults of loss, halting threshold and symbols.

6x6 Sudokus of 18 clues, 500 to validate with, which are not those of the demo. Prints
one table; ``python benchmarks/choices.py`` takes eight minutes on two cores.
"""

import time

from sktrm import TRMSolver
from sktrm.augmentation import SudokuGroup
from sktrm.datasets import make_sudoku

# name, puzzles to train on, parameters
NETWORKS = (
    ("softmax", 10_000, {"max_epochs": 3}),
    ("stablemax", 10_000, {"max_epochs": 3, "loss": "stablemax"}),
    ("softmax, symbols", 4_000, {"max_epochs": 4, "symbols": "interchangeable"}),
)
# halting threshold, steps at most (None: as many as in training)
PREDICTIONS = ((0.5, None), (0.9, None), (0.95, None), (0.98, None), (1, None), (1, 32))


def main():
    X, y = make_sudoku(10_500, box=(2, 3), n_clues=18, random_state=100)
    X_val, y_val = X[-500:], y[-500:]
    print(f"{'network':<20}{'training':<12}{'threshold':<12}{'steps':<8}exact match")
    for name, n, parameters in NETWORKS:
        solver = TRMSolver(
            augmentation=SudokuGroup((2, 3)),
            n_rollouts=1,
            random_state=0,
            **parameters,
        )
        start = time.perf_counter()
        solver.fit(X[:n], y[:n])
        seconds = f"{time.perf_counter() - start:.0f} s"
        for threshold, max_steps in PREDICTIONS:
            solver.halt_threshold = threshold
            solutions = solver.solve(X_val, max_steps=max_steps)
            right = (solutions.answers == y_val).all(axis=(1, 2)).mean()
            steps = f"{solutions.n_steps.mean():.2f}"
            row = f"{name:<20}{seconds:<12}{threshold:<12}{steps:<8}{right:.3f}"
            print(row, flush=True)


if __name__ == "__main__":
    main()

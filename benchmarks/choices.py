"""The measurements behind the defaults of loss and halting threshold. Prints one table.

6x6 Sudokus of 18 clues, 10,000 to train on in three epochs, 500 to validate with, which
are not those of the demo. ``python benchmarks/choices.py`` takes four minutes on two
cores.
"""

import time

from sktrm import TRMSolver
from sktrm.augmentation import SudokuGroup
from sktrm.datasets import make_sudoku

# halting threshold, steps at most (None: as many as in training)
PREDICTIONS = ((0.5, None), (0.9, None), (1.0, None), (1.0, 32))


def main():
    X, y = make_sudoku(10_500, box=(2, 3), n_clues=18, random_state=100)
    X, y, X_val, y_val = X[:-500], y[:-500], X[-500:], y[-500:]
    print(f"{'loss':<12}{'threshold':<12}{'steps':<12}exact match")
    for loss in ("softmax", "stablemax"):
        solver = TRMSolver(
            loss=loss, augmentation=SudokuGroup((2, 3)), max_epochs=3, random_state=0
        )
        start = time.perf_counter()
        solver.fit(X, y, X_val=X_val, y_val=y_val)
        seconds = time.perf_counter() - start
        for threshold, max_steps in PREDICTIONS:
            solver.halt_threshold = threshold
            solutions = solver.solve(X_val, max_steps=max_steps)
            right = (solutions.answers == y_val).all(axis=(1, 2)).mean()
            steps = f"{solutions.n_steps.mean():.2f}"
            print(f"{loss:<12}{threshold:<12}{steps:<12}{right:.3f}")
        print(f"{loss:<12}training took {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()

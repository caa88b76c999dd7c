"""
Solve Sudokus
=============

A tiny recursive network learns 4x4 Sudokus in seconds. It looks at its own answer again
and again, and stops when it thinks that the answer is right.
"""

import matplotlib.pyplot as plt

from sktrm import TRMSolver
from sktrm.augmentation import SudokuGroup
from sktrm.datasets import make_sudoku
from sktrm.inspection import RecursionDisplay

# %%
# Puzzles
# -------
# The generator makes puzzles with exactly one solution; 0 is a blank.

X, y = make_sudoku(800, box=(2, 2), n_clues=6, random_state=0)
X_train, y_train, X_test, y_test = X[:600], y[:600], X[600:], y[600:]

# %%
# Training
# --------
# The symmetries of a Sudoku make new puzzles of old ones each time a row enters
# training.

solver = TRMSolver(
    hidden_size=64, augmentation=SudokuGroup((2, 2)), max_epochs=20, random_state=0
)
solver.fit(X_train, y_train)
print(f"solved completely: {solver.score(X_test, y_test):.3f} of {len(X_test)}")

# %%
# Thinking
# --------
# Easy puzzles take one step, others more. Cells that a step changed are shaded.

solutions = solver.solve(X_test)
print(f"steps taken: {solutions.n_steps.mean():.2f} of {solver.n_supervision_steps}")
longest = X_test[solutions.n_steps.argmax()]
display = RecursionDisplay.from_estimator(solver, longest)

# %%
# The halting probability is a good score to abstain by.

figure, ax = plt.subplots(figsize=(5, 3), layout="constrained")
right = (solutions.answers == y_test).all(axis=(1, 2))
for name, mask in (("right", right), ("wrong", ~right)):
    label = f"{name} ({mask.sum()})"
    ax.hist(solutions.confidence[mask], bins=20, range=(0, 1), alpha=0.6, label=label)
ax.set(xlabel="halting probability of the answer", ylabel="puzzles", yscale="log")
ax.legend()
plt.show()

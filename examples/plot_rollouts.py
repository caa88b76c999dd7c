"""
Think longer, try again
=======================

A trained solver has two more levers at prediction: more steps than in training, and
several tries from random starts. A checker that knows the rules chooses among them.
"""

import matplotlib.pyplot as plt
import numpy as np

from sktrm import TRMSolver
from sktrm.datasets import is_solved_sudoku, make_sudoku

# %%
# Puzzles with as few clues as there can be
# -----------------------------------------
# A short training leaves something to do.

X, y = make_sudoku(1100, box=(2, 3), n_clues=10, random_state=0)
X_train, y_train, X_test, y_test = X[:1000], y[:1000], X[1000:], y[1000:]
solver = TRMSolver(
    symbols="interchangeable",
    max_epochs=4,
    random_state=0,
).fit(X_train, y_train)

# %%
# More steps
# ----------
# Training took 4 steps at most.

solver.halt_threshold = 1.0  # take all steps
exact = [
    (answers == y_test).all(axis=(1, 2)).mean()
    for answers in solver.staged_predict(X_test, max_steps=32)
]
solver.halt_threshold = 0.95

# %%
# More tries
# ----------
# A row whose try halts, or is accepted by the verifier, is not tried again; a vote
# takes all tries.

tries = [1, 2, 4, 8]
chosen = {
    name: [
        solver.score(X_test, y_test, n_rollouts=k, max_steps=8, **how) for k in tries
    ]
    for name, how in (
        ("first that halts", {}),
        ("vote", {"choose": "vote"}),
        ("verifier", {"verifier": is_solved_sudoku}),
    )
}

figure, (left, right) = plt.subplots(
    1, 2, figsize=(8, 3), sharey=True, layout="constrained"
)
left.plot(np.arange(1, 33), exact)
left.axvline(solver.n_supervision_steps, color="gray", linestyle=":")
left.set(xscale="log", xlabel="supervision steps", ylabel="solved completely")
for name, scores in chosen.items():
    right.plot(tries, scores, marker="o", alpha=0.7, label=name)
    print(f"{name}: {scores[0]:.3f} with one try, {scores[-1]:.3f} with {tries[-1]}")
right.set(xscale="log", xlabel="tries")
right.legend()
plt.show()

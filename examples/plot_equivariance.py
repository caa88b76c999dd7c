"""
Interchangeable symbols
=======================

No digit of a Sudoku is special. A network that knows this, exactly and from the start,
learns in seconds what the paper's form of network needs minutes for.
"""

import matplotlib.pyplot as plt
import numpy as np

from sktrm import TRMSolver
from sktrm.datasets import make_sudoku

SECONDS = 15
X, y = make_sudoku(2100, box=(2, 3), n_clues=18, random_state=0)
X_train, y_train, X_test, y_test = X[:2000], y[:2000], X[2000:], y[2000:]


# %%
# The same time for both
# ----------------------
# Both see each puzzle in random guises, digits permuted, too.

solvers = {
    name: TRMSolver(
        symbols=symbols,
        max_epochs=10**6,
        max_time=SECONDS,
        lr=0.008,
        n_rollouts=1,
        random_state=0,
    ).fit(X_train, y_train)
    for name, symbols in (("plain", None), ("equivariant", "interchangeable"))
}

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
for name, solver in solvers.items():
    stages = solver.staged_predict(X_test)
    right_cells = [(answers == y_test).mean() for answers in stages]
    n_parameters = sum(p.numel() for p in solver.module_.parameters())
    label = f"{name}, {n_parameters // 1000} thousand parameters"
    left.plot(np.arange(1, len(right_cells) + 1), right_cells, marker="o", label=label)
    print(f"{label}: {solver.score(X_test, y_test):.3f} solved completely")
left.set(
    xlabel="supervision step", ylabel="right cells", title=f"{SECONDS} s of training"
)
left.legend()

# %%
# Exactly equivariant
# -------------------
# Rename the digits of a question, and the answer is renamed alike. The halting head is
# as sure as before; that of the plain network, which learned it from examples, is not.

renamed = np.array([0, 3, 1, 2, 6, 4, 5])
for name, solver in solvers.items():
    plain, other = solver.solve(X_test), solver.solve(renamed[X_test])
    same = (other.answers == renamed[plain.answers]).all(axis=(1, 2)).mean()
    print(f"{name}: {same:.3f} of the answers are the same up to the names")
    right.scatter(plain.confidence, other.confidence, s=8, label=name)
right.set(xlabel="confidence", ylabel="confidence, digits renamed")
right.legend()
plt.show()

"""
Solve Sudokus
=============

A tiny recursive network learns 4x4 Sudokus in seconds. It looks at its own answer again
and again, and stops when it thinks that the answer is right.
"""

import matplotlib.pyplot as plt
import numpy as np

from sktrm import TRMSolver
from sktrm.datasets import make_sudoku
from sktrm.inspection import RecursionDisplay

# %%
# Puzzles
# -------
# The generator makes puzzles with exactly one solution; 0 is a blank.

X, y = make_sudoku(1200, box=(2, 2), n_clues=4, random_state=0)
X_train, y_train, X_test, y_test = X[:1000], y[:1000], X[1000:], y[1000:]

# %%
# Training
# --------
# The solver sees that all answers are Sudokus, and makes new puzzles of old ones each
# time a row enters training.

solver = TRMSolver(hidden_size=64, max_epochs=12, random_state=0)
solver.fit(X_train, y_train)
print(f"solved completely: {solver.score(X_test, y_test):.3f} of {len(X_test)}")

# %%
# Thinking
# --------
# Easy puzzles take one step, others more. Cells that a step changed are shaded.

solutions = solver.solve(X_test)
stages = list(solver.staged_predict(X_test))
print(f"steps taken: {solutions.n_steps.mean():.2f} of {len(stages)}")
longest = X_test[solutions.n_steps.argmax()]
display = RecursionDisplay.from_estimator(solver, longest)

# %%
# Most puzzles are answered at once; the ones left gain from thinking on.

exact = [(answers == y_test).all(axis=(1, 2)).mean() for answers in stages]
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
steps = np.arange(1, len(stages) + 1)
left.bar(steps, [(solutions.n_steps == step).sum() for step in steps], log=True)
left.set(xlabel="supervision steps taken", ylabel="puzzles")
right.plot(steps, exact, marker="o")
right.set(xlabel="supervision step", ylabel="solved completely")
plt.show()

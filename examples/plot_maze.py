"""
Find the way through mazes
==========================

Symbols need not be digits: a maze is a grid of characters, its answer the same grid
with a shortest path drawn in. Mazes have many shortest paths and one label, so the
share of valid shortest paths says more than the exact match.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap

from sktrm import TRMSolver
from sktrm.datasets import make_maze
from sktrm.metrics import (
    cell_accuracy_score,
    exact_match_score,
    valid_shortest_path_score,
)

# %%
# Mazes
# -----
# ``#`` is a wall, ``S`` the start, ``G`` the goal, ``o`` a cell on the path.

X, y = make_maze(2200, (7, 7), random_state=0)
X_train, y_train, X_test, y_test = X[:2000], y[:2000], X[2000:], y[2000:]
print("\n".join("".join(row) for row in y[0]))

# %%
# Training
# --------
# What is free may be path and nothing else changes, so these two are the symbols to
# exchange. The rules are the same everywhere, so what is learned at one cell shall hold
# at all: ``mixer="convolution"``.

solver = TRMSolver(
    symbols=(" ", "o"),
    mixer="convolution",
    n_heads=8,
    n_latent_recursions=1,
    n_supervision_steps=2,
    lr=8e-3,
    max_epochs=12,
    random_state=0,
).fit(X_train, y_train)
answers = solver.predict(X_test)
print(f"cells right: {cell_accuracy_score(y_test, answers):.3f}")
print(f"as labelled: {exact_match_score(y_test, answers):.3f}")
print(f"valid and shortest: {valid_shortest_path_score(X_test, answers):.3f}")

# %%
# Paths
# -----

codes = {"#": 0, " ": 1, "S": 2, "G": 3, "o": 4}
colours = ListedColormap(["0.2", "0.95", "tab:blue", "tab:red", "tab:orange"])
figure, axes = plt.subplots(1, 4, figsize=(8, 2.3), layout="constrained")
for ax, answer in zip(axes, answers, strict=False):
    picture = np.vectorize(codes.get)(answer)
    ax.imshow(picture, cmap=colours, vmin=0, vmax=4)
    ax.set(xticks=[], yticks=[])
plt.show()

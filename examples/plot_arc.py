"""
Several tasks in one solver
===========================

In ARC a question alone does not say what to do with it: that is what the demonstrations
of its task are for. A solver fitted with ``task_ids`` learns an embedding of each task,
which the network reads before the grid. Here are four made-up tasks on the same kind of
grid, with many demonstrations; ``benchmarks/arc_agi.py`` learns the public ones.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap

from sktrm import TRMSolver
from sktrm.arc import arc_submission, pass_at_k

# %%
# Tasks
# -----
# Each turns a picture of 4 x 4 cells into another one. Colour 0 is the background.

RECOLOUR = np.array([0, 2, 3, 1])
TASKS = {
    "mirror": lambda grid: grid[:, ::-1],
    "turn": lambda grid: np.rot90(grid),
    "transpose": lambda grid: grid.T,
    "recolour": lambda grid: RECOLOUR[grid],
}
N_DEMONSTRATIONS, N_TESTS = 1000, 25


def pictures(n, random):
    """Draw pictures, half of whose cells are background."""
    grids = random.randint(1, 4, size=(n, 4, 4))
    return np.where(random.uniform(size=grids.shape) < 0.5, 0, grids)


def pairs(n, random):
    """Return questions, answers and tasks, ``n`` of each task."""
    X = pictures(n * len(TASKS), random)
    task_ids = np.repeat(list(TASKS), n)
    y = np.array([TASKS[task](grid) for task, grid in zip(task_ids, X, strict=True)])
    return X, y, task_ids


X, y, task_ids = pairs(N_DEMONSTRATIONS, np.random.RandomState(0))
X_test, y_test, test_ids = pairs(N_TESTS, np.random.RandomState(1))

# %%
# Training
# --------
# One network for all of them; nothing but the embedding tells the tasks apart.

solver = TRMSolver(
    hidden_size=64,
    n_latent_recursions=1,  # the tasks are easy: a shallow recursion learns fastest
    n_deep_recursions=1,
    n_supervision_steps=2,
    batch_size=64,
    lr=4e-3,
    max_epochs=10**6,
    max_time=35,
    random_state=0,
)
solver.fit(X, y, task_ids=task_ids)
print(f"tests solved: {solver.score(X_test, y_test, task_ids=test_ids):.2f}")
wrong_ids = np.roll(test_ids, N_TESTS)
print(f"with wrong ids: {solver.score(X_test, y_test, task_ids=wrong_ids):.2f}")

# %%
# A submission
# ------------
# The contest takes two attempts at each test: here the two answers that most of four
# tries give.

submission = arc_submission(solver, X_test, test_ids, n_rollouts=4)
solutions = {task: y_test[test_ids == task].tolist() for task in TASKS}
for k in (1, 2):
    print(f"pass@{k}: {pass_at_k(submission, solutions, k):.2f}")

# %%
# Demonstration, test, answer
# ---------------------------

colours = ListedColormap(["0.15", "tab:blue", "tab:orange", "tab:green"])
figure, axes = plt.subplots(len(TASKS), 4, figsize=(6, 6), layout="constrained")
for row, task in zip(axes, TASKS, strict=True):
    first, test = np.argmax(task_ids == task), np.argmax(test_ids == task)
    answer = submission[task][0]["attempt_1"]
    shown = [X[first], y[first], X_test[test], np.array(answer)]
    for ax, grid in zip(row, shown, strict=True):
        ax.imshow(grid, cmap=colours, vmin=0, vmax=3)
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(task)
titles = ["demonstration", "its answer", "test", "answer of the solver"]
for ax, title in zip(axes[0], titles, strict=True):
    ax.set_title(title, fontsize=9)
plt.show()

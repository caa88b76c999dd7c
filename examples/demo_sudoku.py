"""Train a tiny recursive network on Sudokus and watch it solve one it has never seen.

``make demo`` runs this on 9x9 Sudokus from the generator, ``make demo DATA=file.csv``
on your own (columns source, question, answer, rating).
"""

import argparse
import time

import numpy as np
from sklearn.model_selection import GroupShuffleSplit

from sktrm import TRMSolver
from sktrm.datasets import load_sudoku, make_sudoku
from sktrm.inspection import RecursionDisplay

# For thousands of puzzles and minutes of training; chosen by puzzles of another seed.
LARGER_STEPS = {"batch_size": 64, "lr": 8e-3}
N_TRIES = 16  # four times as many as by default
# Not 0.95: a minute's training may leave the halting head right, but unsure.
HALT_THRESHOLD = 0.9


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="CSV file of Sudokus instead of the generator")
    parser.add_argument("--max-rating", type=float, help="leave out harder puzzles")
    parser.add_argument(
        "--plain", action="store_true", help="the paper's form of network, slower"
    )
    parser.add_argument("--minutes", type=float, help="time to train, at most")
    parser.add_argument("--png", default="demo_sudoku.png", help="picture to write")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def generated(seed):
    """Make 8,000 puzzles to train on, 200 to validate with, 500 to test with."""
    X, y = make_sudoku(8700, n_clues=32, random_state=seed)
    return X, y, None, np.split(np.arange(len(X)), [8000, 8200])


def from_file(path, max_rating, seed):
    """Real puzzles, split so that no solution is in two parts."""
    bunch = load_sudoku(path)
    kept = bunch.rating <= (np.inf if max_rating is None else max_rating)
    X, y, rating = bunch.data[kept], bunch.target[kept], bunch.rating[kept]
    if len(X) < 20:
        raise SystemExit(f"{path} has {len(X)} puzzles up to that rating; need 20.")
    _, solution = np.unique(y.reshape(len(y), -1), axis=0, return_inverse=True)
    n_test = min(300, max(5, len(X) // 6))
    n_validation = min(100, max(5, len(X) // 12))
    train, test = split(np.arange(len(X)), solution, n_test, seed)
    train, validation = split(train, solution, n_validation, seed)
    return X, y, rating, (train, validation, test)


def split(rows, groups, n_held_out, seed):
    """Hold out about ``n_held_out`` rows, whole groups at a time."""
    splitter = GroupShuffleSplit(1, test_size=n_held_out / len(rows), random_state=seed)
    ((kept, held_out),) = splitter.split(rows, groups=groups[rows])
    return rows[kept], rows[held_out]


def report(solver, X, y, rating):
    """Print how the unseen puzzles went.

    Return which are right in several tries and in one, and the solutions of one try.
    """
    print(f"\nunseen puzzles, of {len(X)} solved completely, by the number of tries:")
    found, right = [], []
    for n_tries in sorted({1, solver.n_rollouts}, reverse=True):
        found.append(solver.solve(X, n_rollouts=n_tries))
        right.append((found[-1].answers == y).all(axis=(1, 2)))
        n_steps = found[-1].n_steps
        print(
            f"  {n_tries} at most: {right[-1].sum()}, in {n_steps.mean():.2f} steps on "
            f"average, {n_steps.max()} at most, all tries together"
        )
    print("A puzzle is tried again, from another state, if no try has halted before.")
    if rating is not None and len(np.unique(rating)) > 1:
        edges = np.unique(np.quantile(rating, [0, 0.25, 0.5, 0.75, 1]))
        bins = np.clip(np.digitize(rating, edges[1:-1]), 0, len(edges) - 2)
        for b in np.unique(bins):
            inside = bins == b
            print(
                f"  rating {rating[inside].min():g} to {rating[inside].max():g}: "
                f"{right[0][inside].mean():.3f} of {inside.sum()}"
            )
    return right[0], right[-1], found[-1]


def main():
    args = read_arguments()
    if args.data:
        X, y, rating, parts = from_file(args.data, args.max_rating, args.seed)
    else:
        X, y, rating, parts = generated(args.seed)
    train, validation, test = parts
    side = X.shape[1]
    minutes = args.minutes or (2.9 if not args.data else 4.0)
    print(
        f"{len(train)} Sudokus of {side} x {side} to learn from, {len(validation)} to "
        f"validate with, {len(test)} to test with; {minutes:g} minutes"
    )
    solver = TRMSolver(
        symbols=None if args.plain else "interchangeable",
        max_epochs=10**6,
        max_time=60 * minutes,
        n_rollouts=1 if args.plain else N_TRIES,
        random_state=args.seed,
        verbose=1,
    )
    if not args.plain and not args.data:
        solver.set_params(halt_threshold=HALT_THRESHOLD, **LARGER_STEPS)
    start = time.perf_counter()
    solver.fit(X[train], y[train], X_val=X[validation], y_val=y[validation])
    seconds = time.perf_counter() - start

    test_rating = None if rating is None else rating[test]
    right, in_one_try, solutions = report(solver, X[test], y[test], test_rating)
    # Of those solved in a few steps, the puzzle that took longest shows most.
    few = in_one_try & (solutions.n_steps <= 9)
    shown = test[np.where(few, solutions.n_steps, -1).argmax()]
    display = RecursionDisplay.think(solver, X[shown])
    print("\none of them, step by step (* marks a cell that changed, 0 a blank)")
    print(display.text())
    display.plot().figure_.savefig(args.png, dpi=150)
    print(f"\nthe same as a picture: {args.png}")
    print(
        f"exact_match={right.mean():.3f} "
        f"exact_match_in_one_try={in_one_try.mean():.3f} "
        f"n={len(test)} train_seconds={seconds:.0f}"
    )


if __name__ == "__main__":
    main()

"""Train on real Sudokus for a given time; then solve unseen ones, longer and oftener.

``python benchmarks/sudoku.py train.csv --budget 1800 [--test test.csv]`` holds out some
puzzles to choose the weights by and, without ``--test``, some to test with: no solution
in two parts, and none of those that chose the package's defaults. Prints one table:
exact match on the test puzzles by steps and by tries.
"""

import argparse
import json
import pickle
import time

import numpy as np
from _report import add_machine, choosing_part, interval, prepare, split

from sktrm import TRMSolver
from sktrm.datasets import is_solved_sudoku, load_sudoku


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", help="CSV file: source, question, answer, rating")
    parser.add_argument("--test", help="CSV file of test puzzles")
    parser.add_argument("--n-test", type=int, default=1000)
    parser.add_argument("--n-validation", type=int, default=100)
    parser.add_argument(
        "--passes", type=int, default=1, help="over the puzzles between validations"
    )
    parser.add_argument("--max-rating", type=float, default=np.inf)
    parser.add_argument("--budget", type=float, help="seconds of training")
    add_machine(parser)
    parser.add_argument(
        "--defaults",
        action="store_true",
        help="every parameter but symbols at its default, no validation",
    )
    parser.add_argument("--set", default="{}", help="parameters of TRMSolver, as JSON")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="append every figure to this file, as JSON lines")
    parser.add_argument("--save", help="pickle the solver into this file")
    parser.add_argument("--load", help="pickled solver to test instead of training")
    parser.add_argument("--png", help="draw exact match against steps into this file")
    return parser.parse_args()


def ways(n_steps):
    """Yield a name and parameters for each way to predict."""
    for times in (1, 2, 4, 8):
        how = {"n_rollouts": 1, "max_steps": times * n_steps}
        yield f"{times * n_steps} steps, one try", how
    yield "as by default", {}
    yield "16 tries, first that halts", {"n_rollouts": 16}
    yield "16 views, vote", {"augment_votes": 16}
    yield "verifier", {"n_rollouts": 1, "verifier": is_solved_sudoku}
    yield "16 tries, verifier", {"n_rollouts": 16, "verifier": is_solved_sudoku}
    yield "16 views, verifier", {"augment_votes": 16, "verifier": is_solved_sudoku}


def draw_depth(solver, X, y, path):
    """Plot exact match against steps, with and without halting."""
    import matplotlib.pyplot as plt

    trained, threshold = solver.n_supervision_steps, solver.halt_threshold
    figure, ax = plt.subplots(figsize=(5, 3.2), layout="constrained")
    lines = (("all steps taken", 1.0, "-"), ("rows halt", threshold, "--"))
    for name, halt, style in lines:
        solver.halt_threshold = halt
        exact = [
            (answers == y).all(axis=(1, 2)).mean()
            for answers in solver.staged_predict(X, max_steps=8 * trained)
        ]
        ax.plot(np.arange(1, 8 * trained + 1), exact, style, label=name)
        shown = " ".join(f"{exact[trained * k - 1]:.3f}" for k in (1, 2, 4, 8))
        print(f"{name}: {shown} after {trained} steps and 2, 4, 8 times as many")
    solver.halt_threshold = threshold
    ax.axvline(trained, color="gray", linestyle=":", label="trained depth")
    ax.set(xlabel="supervision steps", ylabel="solved completely", ylim=(0, 1))
    ax.legend()
    figure.savefig(path, dpi=150)


def fit(args, X, y, X_val, y_val):
    """Train; the puzzles of ``X_val`` choose the weights unless all is default."""
    if args.defaults:
        solver = TRMSolver(symbols=range(1, 10), random_state=args.seed, verbose=1)
        return solver.fit(X, y)
    parameters = {"symbols": "interchangeable", "max_epochs": 10**6}
    if args.budget:
        parameters["max_time"] = args.budget
    parameters.update(json.loads(args.set))
    solver = TRMSolver(random_state=args.seed, verbose=1, **parameters)
    rows = np.tile(np.arange(len(X)), args.passes)
    return solver.fit(X[rows], y[rows], X_val=X_val, y_val=y_val)


def read_puzzles(args):
    """Return the puzzles to train on, to choose the weights by and to test with."""
    bunch = load_sudoku(args.train)
    easy = bunch.rating <= args.max_rating
    n_validation = 0 if args.defaults else args.n_validation
    if args.test:
        train = bunch.data[easy], bunch.target[easy]
        validation = tuple(part[:0] for part in train)
        if n_validation:
            train, validation = split(*train, n_validation, args.seed)
        X, y = load_sudoku(args.test, return_X_y=True)
        rows = np.random.RandomState(args.seed).permutation(len(X))[: args.n_test]
        return train, validation, (X[rows], y[rows])
    (rest, _), (chooses, _) = choosing_part(np.arange(len(easy)), bunch.target)
    rest, chooses = rest[easy[rest]], chooses[easy[chooses]]
    (rest, _), (test, _) = split(rest, bunch.target[rest], args.n_test, args.seed)
    rest = np.concatenate((rest, chooses[n_validation:]))
    parts = rest, chooses[:n_validation], test
    return tuple((bunch.data[rows], bunch.target[rows]) for rows in parts)


def compare(solver, X, y, known, out):
    """Print one line for each way to predict; append it to the file ``out``."""
    print(f"{'way':<30}{'exact match':<14}{'95 %':<16}{'steps':<8}seconds")
    for name, how in ways(solver.n_supervision_steps):
        start = time.perf_counter()
        solutions = solver.solve(X, **how)
        took = time.perf_counter() - start
        exact = float((solutions.answers == y).all(axis=(1, 2)).mean())
        low, high = interval(exact, len(X))
        steps = float(solutions.n_steps.mean())
        bounds = f"{low:.3f} to {high:.3f}"
        print(
            f"{name:<30}{exact:<14.4f}{bounds:<16}{steps:<8.2f}{took:.0f}", flush=True
        )
        if out:
            row = {**known, "way": name, "exact_match": exact}
            row.update(mean_steps=steps, predict_s=took)
            with open(out, "a") as file:
                file.write(json.dumps(row) + "\n")


def main():
    args = read_arguments()
    prepare(args)
    train, validation, test = read_puzzles(args)
    start = time.perf_counter()
    if args.load:
        with open(args.load, "rb") as file:
            solver = pickle.load(file)
    else:
        solver = fit(args, *train, *validation)
    seconds = time.perf_counter() - start
    if args.save:
        with open(args.save, "wb") as file:
            pickle.dump(solver, file)
    n_parameters = sum(p.numel() for p in solver.module_.parameters())
    score = getattr(solver, "validation_score_", float("nan"))
    print(
        f"{len(train[0])} puzzles, {seconds:.0f} s, {n_parameters} parameters, "
        f"validation {score:.3f} of {len(validation[0])}; {len(test[0])} to test with"
    )
    if args.png:
        draw_depth(solver, *test, args.png)
    known = {**vars(args), "seconds": seconds, "n_parameters": n_parameters}
    compare(solver, *test, known, args.out)


if __name__ == "__main__":
    main()

"""The equivariant network against the paper's form, at equal time and tuned equally.

Three tasks: Sudokus and Latin squares, where symbols are interchangeable, and the
larger of two neighbours, where they are not. Each network trains for ``--seconds`` at
three learning rates, with the same optimiser and curriculum; the best on validation
rows meets the test rows. Prints one table.
"""

import argparse

import numpy as np
from _report import add_machine, prepare

from sktrm import TRMSolver
from sktrm.datasets import make_sudoku

N_TRAIN, N_HELD_OUT = 2000, 300
RATES = (1e-3, 2e-3, 4e-3)


def larger_neighbour(n):
    X = np.random.RandomState(0).randint(7, size=(n, 16))
    return X, np.maximum(X, np.roll(X, 1, axis=1))


def tasks(n):
    yield (
        "Sudoku, 6x6, 14 clues",
        make_sudoku(n, box=(2, 3), n_clues=14, random_state=10),
    )
    yield (
        "Latin square, 7x7, 18 clues",
        make_sudoku(n, box=(1, 7), n_clues=18, random_state=10),
    )
    yield "the larger of neighbours", larger_neighbour(n)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=75)
    parser.add_argument("--rates", type=float, nargs="*", default=RATES)
    parser.add_argument("--tasks", type=int, nargs="*", default=[0, 1, 2])
    add_machine(parser)
    args = parser.parse_args()
    seconds, rates = args.seconds, args.rates
    prepare(args)
    print(
        f"{'task':<30}{'network':<14}{'parameters':<12}{'rate':<8}"
        f"{'validation':<12}{'test':<8}cells"
    )
    every = list(tasks(N_TRAIN + 2 * N_HELD_OUT))
    for task, (X, y) in (every[i] for i in args.tasks):
        train, validation, test = np.split(
            np.arange(len(X)), [N_TRAIN, N_TRAIN + N_HELD_OUT]
        )
        for network, symbols in (("plain", None), ("equivariant", "interchangeable")):
            solvers = [
                TRMSolver(
                    symbols=symbols,
                    lr=lr,
                    optimizer="muon",
                    depth_curriculum=0.5,
                    max_epochs=10**6,
                    max_time=seconds,
                    n_rollouts=1,
                    random_state=0,
                ).fit(X[train], y[train])
                for lr in rates
            ]
            scores = [s.score(X[validation], y[validation]) for s in solvers]
            best = int(np.argmax(scores))
            answers = solvers[best].predict(X[test])
            right = answers == y[test]
            exact = right.reshape(len(test), -1).all(axis=1).mean()
            size = sum(p.numel() for p in solvers[best].module_.parameters())
            print(
                f"{task:<30}{network:<14}{size:<12}{rates[best]:<8}"
                f"{scores[best]:<12.3f}{exact:<8.3f}{right.mean():.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()

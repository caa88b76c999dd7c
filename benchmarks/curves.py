"""How straight the path of a number through its knots should be.

Rules of eight columns of numbers, of which one to three count, learned from few rows
and tested with 4,000: the path starts as a straight line that the bins bend a little,
by the factor of the first column, or each bin goes where it likes ("free"), as in a
column of few values. ``python benchmarks/curves.py`` takes half an hour on one core.
"""

import argparse
import json
from unittest import mock

import numpy as np
from _report import add_machine, prepare
from sklearn.metrics import log_loss

from sktrm import TRMClassifier
from sktrm import _tables as tables
from sktrm.nn import tables as network

N_TEST = 4_000
RULES = {
    "product": lambda X, noise: X[:, 0] * X[:, 1] + X[:, 2] > 0,
    "noisy product": lambda X, noise: X[:, 0] * X[:, 1] + X[:, 2] + noise > 0,
    "skewed product": lambda X, noise: X[:, 0] * X[:, 1] + X[:, 2] > 0,
    "interval": lambda X, noise: (np.abs(X[:, 0]) < 0.6) ^ (X[:, 1] > 0.3),
    "wave": lambda X, noise: np.sin(4 * X[:, 0]) + X[:, 1] > 0,
}


def draw(rule, n, seed):
    """Return rows and labels; skewed columns are log-normal."""
    random = np.random.RandomState(seed)
    X = random.normal(size=(n, 8))
    y = RULES[rule](X, random.normal(size=n))
    return (np.exp(2 * X) if rule == "skewed product" else X), y


def learn(bend, X, y, n_train, seed):
    """Return accuracy and log loss on the rows after the first ``n_train``."""
    free = mock.patch.object(
        tables, "_shares", lambda knots, *quartiles: np.zeros(len(knots) - 1)
    )
    bent = mock.patch.object(network, "_BEND", bend)
    with free if bend == "free" else bent:
        model = TRMClassifier(random_state=seed).fit(X[:n_train], y[:n_train])
    proba = model.predict_proba(X[n_train:])
    accuracy = (model.classes_[proba.argmax(axis=1)] == y[n_train:]).mean()
    return float(accuracy), float(log_loss(y[n_train:], proba))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bends", nargs="*", default=["free", 1, 0.1, 0.05, 0.02])
    parser.add_argument("--rows", nargs="*", type=int, default=[200, 700])
    parser.add_argument("--rules", nargs="*", choices=RULES, default=list(RULES))
    parser.add_argument("--seed", type=int, default=0, help="of rows and network")
    parser.add_argument("--out", help="append every figure to this file, as JSON lines")
    add_machine(parser)
    return parser.parse_args()


def main():
    args = arguments()
    prepare(args)
    print(f"{'rule':<18}{'rows':<7}{'bend':<7}{'accuracy':<10}log loss")
    means = {}
    for rule in args.rules:
        for n_rows in args.rows:
            X, y = draw(rule, n_rows + N_TEST, args.seed)
            for bend in args.bends:
                bend = bend if bend == "free" else float(bend)
                accuracy, loss = learn(bend, X, y, n_rows, args.seed)
                means.setdefault(bend, []).append((accuracy, loss))
                row = (rule, n_rows, bend, accuracy, loss)
                print(
                    f"{rule:<18}{n_rows:<7}{bend:<7}{accuracy:<10.4f}{loss:.4f}",
                    flush=True,
                )
                if args.out:
                    with open(args.out, "a") as file:
                        file.write(json.dumps([args.seed, *row]) + "\n")
    for bend, figures in means.items():
        accuracy, loss = np.mean(figures, axis=0)
        print(f"{'mean':<25}{bend:<7}{accuracy:<10.4f}{loss:.4f}")


if __name__ == "__main__":
    main()

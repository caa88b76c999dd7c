"""What ``smooth_numbers`` of ``TRMClassifier`` does, and how much a line should bend.

Rules of eight columns of numbers, of which two or three count, learned from few rows
and tested with 4,000: the path through the knots starts as a straight line that the
bins bend by a factor, or each bin moves alone ("free"), or what rows held out prefer is
taken ("auto", the default). Prints every figure, and means with their standard errors,
those of "free" taken off seed by seed.
``python benchmarks/curves.py --bends free 0.05 auto`` takes half an hour on one core.
"""

import argparse
import json
from itertools import product

import numpy as np
from _report import add_machine, prepare
from sklearn.metrics import log_loss

from sktrm import TRMClassifier

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


class BentClassifier(TRMClassifier):
    """Smooth numbers, whose ``bend`` may be another factor."""

    def _learn_columns(self, rows, smooth):
        super()._learn_columns(rows, smooth)
        self._sizes["bend"] = self.bend


def classifier(bend, seed):
    """Return a classifier with that bend: a factor, "free" or, by default, "auto"."""
    if bend in ("free", "auto"):
        smooth = "auto" if bend == "auto" else False
        return TRMClassifier(smooth_numbers=smooth, random_state=seed)
    model = BentClassifier(smooth_numbers=True, random_state=seed)
    model.bend = bend
    return model


def learn(model, X, y, n_train):
    """Return accuracy and log loss on the rows after the first ``n_train``."""
    model.fit(X[:n_train], y[:n_train])
    proba = model.predict_proba(X[n_train:])
    accuracy = (model.classes_[proba.argmax(axis=1)] == y[n_train:]).mean()
    return float(accuracy), float(log_loss(y[n_train:], proba))


def bend_of(text):
    return text if text in ("free", "auto") else float(text)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    bends = ["free", 0.4, 0.2, 0.1, 0.05, 0.025, "auto"]
    parser.add_argument("--bends", nargs="*", type=bend_of, default=bends)
    parser.add_argument("--rows", nargs="*", type=int, default=[200, 700])
    parser.add_argument("--rules", nargs="*", choices=RULES, default=list(RULES))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1])
    parser.add_argument("--out", help="append every figure to this file, as JSON lines")
    add_machine(parser)
    return parser.parse_args()


def main():
    args = arguments()
    prepare(args)
    print(f"{'rule':<18}{'rows':<7}{'seed':<7}{'bend':<9}{'accuracy':<10}log loss")
    found = {}
    for rule, n_rows, seed in product(args.rules, args.rows, args.seeds):
        X, y = draw(rule, n_rows + N_TEST, seed)
        for bend in args.bends:
            figures = learn(classifier(bend, seed), X, y, n_rows)
            found.setdefault((rule, n_rows, bend), []).append(figures)
            print(
                f"{rule:<18}{n_rows:<7}{seed:<7}{bend:<9}{figures[0]:<10.4f}"
                f"{figures[1]:.4f}",
                flush=True,
            )
            if args.out:
                with open(args.out, "a") as file:
                    file.write(json.dumps([rule, n_rows, seed, bend, *figures]) + "\n")
    show_means(found)


def show_means(found):
    """Print the means of the seeds, and those over all rules and rows."""
    print(f"{'mean of':<25}{'bend':<9}accuracy and log loss, each less that of free")
    every = {}
    for (rule, n_rows, bend), figures in found.items():
        less = np.array(figures) - found.get((rule, n_rows, "free"), np.nan)
        every.setdefault(bend, []).append((figures, less))
        show_mean(rule, n_rows, bend, np.array(figures), less)
    for bend, pairs in every.items():
        figures, less = (np.concatenate(part) for part in zip(*pairs, strict=True))
        show_mean("all", "", bend, figures, less)


def show_mean(rule, n_rows, bend, figures, less):
    """Print one line: both figures, and the difference with its standard error."""
    means, gains = figures.mean(axis=0), less.mean(axis=0)
    n_seeds = len(less)
    errors = less.std(axis=0, ddof=min(1, n_seeds - 1)) / np.sqrt(n_seeds)
    columns = [
        f"{mean:.4f}" + ("" if np.isnan(gain) else f" ({gain:+.4f} +- {error:.4f})")
        for mean, gain, error in zip(means, gains, errors, strict=True)
    ]
    print(f"{rule:<18}{n_rows:<7}{bend:<9}{columns[0]:<30}{columns[1]}")


if __name__ == "__main__":
    main()

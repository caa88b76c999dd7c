"""What ``weight_decay="auto"`` of ``TRMClassifier`` does where labels are noise.

Rules of six columns of three codes, of whose 729 rows 600 are drawn, with replacement,
and of their labels a share is turned around. Rows drawn twice show the noise, and the
default then has more decay than the number of rows asks for. Prints the accuracy by the
rule itself of the rows that were drawn and of those that were not, and the log loss of
labels with as much noise. ``--decays rows`` is the decay by the number of rows alone;
numbers are that decay times so much.
``python benchmarks/noisy_labels.py --threads 1`` takes 20 minutes on one core.
"""

import argparse
import json
from itertools import product

import numpy as np
import pandas as pd
from _report import add_machine, prepare
from tables import contenders

from sktrm import TRMClassifier

EVERY = np.array(list(product(range(3), repeat=6)))
N_ROWS = 600
RULES = {
    "equal or one": lambda X: (X[:, 0] == X[:, 1]) | (X[:, 4] == 1),
    "product": lambda X: X[:, 0] * X[:, 1] + X[:, 2] > X[:, 3] + X[:, 4],
    "selected": lambda X: X[np.arange(len(X)), 1 + X[:, 0]] >= X[:, 4],
}


def draw(rule, noise, seed):
    """Return the indices of rows, their labels, and those of every row by the rule."""
    random = np.random.RandomState(seed)
    right = RULES[rule](EVERY).astype(int)
    drawn = random.randint(len(EVERY), size=N_ROWS)
    return drawn, right[drawn] ^ (random.rand(N_ROWS) < noise), right


class DecayedClassifier(TRMClassifier):
    """The decay goes by the number of rows alone, times a factor."""

    factor = 1.0

    def _choose_decay(self, n_rows, noise=0.0):
        return self.factor * super()._choose_decay(n_rows)


def classifiers(decays, peers, seed):
    """Yield names and classifiers."""
    for decay in decays:
        kind = TRMClassifier if decay == "auto" else DecayedClassifier
        model = kind(random_state=seed)
        if decay not in ("auto", "rows"):
            model.factor = decay
        yield f"decay {decay}", model
    table = pd.DataFrame(EVERY)
    yield from (pair for pair in contenders(table, {}, 1) if pair[0] in peers)


def learn(model, drawn, labels, right, noise):
    """Return accuracy on rows drawn and others, and the log loss of both."""
    table = pd.DataFrame(EVERY)
    proba = model.fit(table.iloc[drawn], labels).predict_proba(table)
    rows = np.arange(len(EVERY))
    seen = np.isin(rows, drawn)
    hit = proba.argmax(axis=1) == right
    sure, wrong = (np.log(proba[rows, y].clip(1e-15)) for y in (right, 1 - right))
    loss = -((1 - noise) * sure + noise * wrong).mean()
    return [float(hit[seen].mean()), float(hit[~seen].mean()), float(loss)]


def decay_of(text):
    return text if text in ("auto", "rows") else float(text)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--decays", nargs="*", type=decay_of, default=["auto", "rows"])
    add("--peers", nargs="*", default=["HGB", "forest", "MLP"])
    add("--noise", nargs="*", type=float, default=[0, 0.01, 0.04, 0.15])
    add("--rules", nargs="*", choices=RULES, default=list(RULES))
    add("--seeds", nargs="*", type=int, default=[0, 1])
    add("--out", help="append every figure to this file, as JSON lines")
    add_machine(parser)
    return parser.parse_args()


def show(*columns, figures):
    print(
        "".join(f"{column:<14}" for column in columns)
        + "".join(f"{figure:<10.4f}" for figure in figures),
        flush=True,
    )


def main():
    args = arguments()
    prepare(args)
    print(
        "rule          noise         model         drawn     others    log loss  decay"
    )
    found = {}
    for rule, noise, seed in product(args.rules, args.noise, args.seeds):
        rows = draw(rule, noise, seed)
        for name, model in classifiers(args.decays, args.peers, seed):
            figures = learn(model, *rows, noise)
            found.setdefault((noise, name), []).append(figures)
            decay = getattr(model, "weight_decay_", np.nan)
            show(rule, noise, name, figures=[*figures, decay])
            if args.out:
                with open(args.out, "a") as file:
                    row = [rule, noise, seed, name, *figures]
                    file.write(json.dumps(row) + "\n")
    for (noise, name), figures in found.items():
        show("mean", noise, name, figures=np.mean(figures, axis=0))


if __name__ == "__main__":
    main()

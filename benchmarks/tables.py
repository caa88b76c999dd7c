"""TRMClassifier with its defaults against other classifiers, on tables.

``python benchmarks/tables.py ../shared/data/tabular`` takes every file ``*.csv`` there
(the last column is the class) and four tables of scikit-learn, in 5 stratified folds,
or learns ``--n-train`` rows and tests with the others. ``--tables generated`` is 20,000
rows of 20 numbers, of which three make a rule.
It prints, for each table and classifier, the means over the folds of accuracy, log
loss, expected calibration error and seconds, and at the end the means over the tables.
Two twins train for as long as ours did, with its ``weight_decay``: one without
recursion, and one whose calls of the network have weights of their own. With
``--average 4`` a mean of four of ours joins, with the seeds 0 to 3.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _report import add_machine, prepare
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    OneHotEncoder,
    OrdinalEncoder,
    StandardScaler,
)

from sktrm import TRMClassifier
from sktrm.metrics import expected_calibration_error

TWINS = ("one supervision step", "untied")
FEW = 12  # whole numbers of so many values at most are one-hot encoded for the MLP


class UntiedNet(torch.nn.Module):
    """Takes another of its networks at each call."""

    def __init__(self, nets):
        super().__init__()
        self.nets = torch.nn.ModuleList(nets)
        self.n_calls = 0

    def forward(self, h):
        """Apply the next network."""
        self.n_calls += 1
        return self.nets[(self.n_calls - 1) % len(self.nets)](h)


class UntiedClassifier(TRMClassifier):
    """As many calls of the network as a supervision step has, each untied."""

    def _make_model(self, generator):
        models = [super()._make_model(generator)]
        n_calls = self.n_deep_recursions * (self.n_latent_recursions + 1)
        while len(models) < n_calls:
            models.append(super()._make_model(generator))
        models[0].net = UntiedNet([model.net for model in models])
        return models[0]


def tables(folder):
    for path in sorted(folder.glob("*.csv")) if folder else []:
        table = pd.read_csv(path)
        yield path.stem, table.iloc[:, :-1], table.iloc[:, -1].to_numpy()
    for load in (load_iris, load_wine, load_breast_cancer, load_digits):
        X, y = load(return_X_y=True, as_frame=True)
        yield load.__name__.removeprefix("load_"), X, y.to_numpy()


def generated():
    """Return 20 columns of numbers, and a rule of three of them."""
    X = np.random.RandomState(0).normal(size=(20_000, 20))
    y = X[:, 0] * X[:, 1] + X[:, 2] > 0
    return pd.DataFrame(X, columns=[f"x{i}" for i in range(20)]), y.astype(int)


def one_hot_or_scaled(X):
    few = [
        name
        for name in X
        if X[name].dtype.kind not in "iuf"
        or (X[name].nunique() <= FEW and (X[name] % 1 == 0).all())
    ]
    return make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), few), remainder=StandardScaler()
    )


def with_categories(X):
    words = [name for name in X if X[name].dtype.kind not in "iufb"]
    return X.astype(dict.fromkeys(words, "category"))


def ordinal(X):
    words = [name for name in X if X[name].dtype.kind not in "iuf"]
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    return make_column_transformer((encoder, words), remainder="passthrough")


def averaged(model, n_models):
    """Return a classifier that averages the probabilities of so many seeds."""
    seeds = ((str(s), clone(model).set_params(random_state=s)) for s in range(n_models))
    return VotingClassifier(list(seeds), voting="soft")


def contenders(X, given, n_average):
    ours = TRMClassifier(random_state=0).set_params(**given)
    yield "TRM", ours
    if n_average > 1:
        yield f"mean of {n_average} TRMs", averaged(ours, n_average)
    yield (
        "HGB",
        make_pipeline(
            FunctionTransformer(with_categories),
            HistGradientBoostingClassifier(
                categorical_features="from_dtype", random_state=0
            ),
        ),
    )
    yield "forest", make_pipeline(ordinal(X), RandomForestClassifier(random_state=0))
    yield (
        "MLP",
        make_pipeline(
            one_hot_or_scaled(X),
            MLPClassifier((128, 128), max_iter=500, random_state=0),
        ),
    )
    try:
        from pytabkit import RealMLP_TD_Classifier, TabM_D_Classifier
    except ImportError:
        pass
    else:
        yield "RealMLP", RealMLP_TD_Classifier(random_state=0, device="cpu")
        yield "TabM", TabM_D_Classifier(random_state=0, device="cpu")
    yield (
        "one supervision step",
        TRMClassifier(
            n_latent_recursions=1,
            n_deep_recursions=1,
            n_supervision_steps=1,
            max_epochs=10**6,
            random_state=0,
        ),
    )
    yield (
        "untied",
        UntiedClassifier(
            n_latent_recursions=3,
            n_deep_recursions=1,
            n_supervision_steps=1,
            max_epochs=10**6,
            random_state=0,
        ),
    )


def size(model):
    """Return the number of parameters of a network; 0: none, or it cannot be told."""
    last = model[-1] if hasattr(model, "steps") else model
    if isinstance(last, VotingClassifier):
        return sum(size(one) for one in last.estimators_)
    if hasattr(last, "module_"):
        return sum(p.numel() for p in last.module_.parameters())
    if hasattr(last, "coefs_"):
        return sum(a.size for a in (*last.coefs_, *last.intercepts_))
    return 0


def measure(model, X, y, train, test, clock):
    start = clock()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X.iloc[train], y[train])
    fitted = clock()
    proba = model.predict_proba(X.iloc[test])
    predicted = clock()
    return {
        "accuracy": float((model.classes_[proba.argmax(axis=1)] == y[test]).mean()),
        "log loss": float(log_loss(y[test], proba, labels=model.classes_)),
        "calibration error": expected_calibration_error(
            y[test], proba, classes=model.classes_
        ),
        "fit s": fitted - start,
        "predict s": predicted - fitted,
        "parameters": size(model),
    }


def show_header():
    print(
        f"{'table':<20}{'model':<22}{'accuracy':<10}{'log loss':<10}{'calibration':<12}"
        f"{'fit s':<8}{'predict s':<11}parameters"
    )


def show(table, name, figures):
    parameters = f"{figures['parameters']:.0f}" if figures["parameters"] else "-"
    print(
        f"{table:<20}{name:<22}{figures['accuracy']:<10.4f}{figures['log loss']:<10.4f}"
        f"{figures['calibration error']:<12.4f}{figures['fit s']:<8.2f}"
        f"{figures['predict s']:<11.3f}{parameters}",
        flush=True,
    )


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--tables", nargs="*", help="names, of all")
    parser.add_argument("--models", nargs="*", help="names, TRM first, of all")
    parser.add_argument("--set", default="{}", help="TRM's parameters, as JSON")
    parser.add_argument("--average", type=int, default=1, help="a mean of so many TRMs")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the folds")
    parser.add_argument("--n-train", type=int, help="learn so many, drawn at random")
    parser.add_argument("--twin-folds", type=int, default=5, help="of the two twins")
    parser.add_argument("--out", help="append every figure to this file, as JSON lines")
    parser.add_argument(
        "--temperature", action="store_true", help="measure what it does instead"
    )
    add_machine(parser)
    args = parser.parse_args()
    if args.temperature and (args.models or args.out or args.average > 1):
        parser.error(
            "--temperature prints TRM's alone: leave out --models, --out and --average"
        )
    if args.average < 1:
        parser.error("--average must be at least 1")
    if args.models and "TRM" not in args.models and set(args.models) & set(TWINS):
        parser.error("twins train for as long as TRM did: add it to --models")
    return args


def folds_of(args, table, y, n_folds):
    """Return stratified folds, fewer for a class of fewer rows, or parts to learn."""
    if args.n_train:
        parts = StratifiedShuffleSplit(
            n_folds, train_size=args.n_train, random_state=args.seed
        )
        return list(parts.split(np.zeros(len(y)), y))
    rarest = np.unique(y, return_counts=True)[1].min()
    if rarest < n_folds:
        print(f"{table}: {rarest} folds, for the smallest class has no more rows")
    folds = StratifiedKFold(5, shuffle=True, random_state=args.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the rare class, just told
        return list(folds.split(np.zeros(len(y)), y))[: min(n_folds, rarest)]


def compare(args, table, X, y):
    """Yield each classifier's name and the means of its figures over the folds."""
    folds, seconds = folds_of(args, table, y, args.folds), []
    clock = time.process_time if args.own_time else time.perf_counter
    given = json.loads(args.set)
    for name, model in contenders(X, given, args.average):
        if args.models and name not in args.models:
            continue
        if name in TWINS and "weight_decay" in given:
            model.set_params(weight_decay=given["weight_decay"])
        found = []
        for i, fold in enumerate(folds[: args.twin_folds if name in TWINS else None]):
            model = clone(model)
            if name in TWINS:
                model.set_params(max_time=seconds[i])
            found.append(measure(model, X, y, *fold, clock))
        if name == "TRM":
            seconds = [figures["fit s"] for figures in found]
        yield name, {key: np.mean([f[key] for f in found]) for key in found[0]}


def temperatures(args):
    """Print what the temperature does, which early stopping finds on rows held out."""
    print(
        f"{'table':<20}{'temperature':<13}{'log loss':<10}{'at 1':<10}calibration, at 1"
    )
    gains = []
    for table, X, y in chosen(args):
        train, test = folds_of(args, table, y, 1)[0]
        model = TRMClassifier(early_stopping=True, random_state=0)
        model.set_params(**json.loads(args.set))
        model.fit(X.iloc[train], y[train])
        temperature, figures = model.temperature_, []
        for model.temperature_ in (temperature, 1.0):
            proba = model.predict_proba(X.iloc[test])
            loss = log_loss(y[test], proba, labels=model.classes_)
            error = expected_calibration_error(y[test], proba, classes=model.classes_)
            figures += [loss, error]
        gains.append(figures)
        loss, error, plain_loss, plain_error = figures
        print(
            f"{table:<20}{temperature:<13.3f}{loss:<10.4f}{plain_loss:<10.4f}"
            f"{error:.4f}, {plain_error:.4f}",
            flush=True,
        )
    loss, error, plain_loss, plain_error = np.mean(gains, axis=0)
    print(f"{'mean':<33}{loss:<10.4f}{plain_loss:<10.4f}{error:.4f}, {plain_error:.4f}")


def chosen(args):
    """Yield name, columns and labels of the tables asked for."""
    for name, X, y in tables(args.folder):
        if not args.tables or name in args.tables:
            yield name, X, y
    if args.tables and "generated" in args.tables:
        yield "generated", *generated()


def main():
    args = arguments()
    prepare(args)
    if args.folder is None or not args.folder.is_dir():
        print("No folder of tables given: scikit-learn's alone.")
        args.folder = None
    if args.temperature:
        temperatures(args)
        return
    show_header()
    means = {}
    for table, X, y in chosen(args):
        for name, figures in compare(args, table, X, y):
            show(table, name, figures)
            means.setdefault(name, []).append(figures)
            if args.out:
                with open(args.out, "a") as file:
                    about = {k: getattr(args, k) for k in ("folds", "seed", "n_train")}
                    row = {"table": table, "model": name, "set": args.set, **about}
                    row |= figures
                    file.write(json.dumps(row) + "\n")
    for name, rows in means.items():
        show("mean", name, {key: np.mean([r[key] for r in rows]) for key in rows[0]})


if __name__ == "__main__":
    main()

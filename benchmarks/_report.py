"""What the scripts of the published benchmarks share: arguments, splits, reports."""

import argparse
import json
import os
import platform
import resource
import time
from datetime import UTC, datetime

import numpy as np
import sklearn
import skorch
import torch
from _checkpoint import Checkpoint, read_checkpoint
from sklearn.model_selection import GroupShuffleSplit

import sktrm
from sktrm import _training as training
from sktrm.metrics import cell_accuracy_score, exact_match_score

# Arguments of which a training that is gone on with may have others than before.
_MAY_CHANGE = {
    *("budget", "device", "own_time", "threads", "verbose", "data_home"),
    *("out", "resume", "save", "submission", "tries", "votes", "n_test"),
}


def parser(description, *, budget, holds_out=True):
    """Return a parser with the arguments that these scripts share."""
    found = argparse.ArgumentParser(description=description)
    add = found.add_argument
    add("--size", choices=["small", "paper"], default="small", help="of the recipe")
    add("--set", default="{}", help="parameters of TRMSolver, as JSON")
    add("--device", default="auto")
    add("--budget", type=float, default=budget, help="seconds of training, all runs")
    add("--resume", help="checkpoint: written while training, gone on from if there")
    add("--save", help="safetensors file for the weights, in float16")
    add("--out", help="append every figure to this file, as JSON lines")
    if holds_out:
        add("--n-test", type=int, default=1000, help="test rows at most; 0 the file")
        add("--n-validation", type=int, default=100, help="training rows that choose")
    add("--data-home", help="folder of all data sets")
    add("--seed", type=int, default=0)
    add("--verbose", type=int, default=1)
    add_machine(found)
    return found


def add_machine(found):
    """Add the arguments about the machine that ``prepare`` heeds."""
    found.add_argument("--threads", type=int, help="for torch")
    found.add_argument(
        "--own-time", action="store_true", help="count the process's time, not the wall"
    )


def prepare(args):
    """Set up threads and the clock as the arguments say."""
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.own_time:
        training.perf_counter = time.process_time


def or_skip(read, *args):
    """Return what ``read(*args)`` returns; None, and say why, without the data."""
    try:
        return read(*args)
    except OSError as error:
        print(f"Skipped: {error}")
        return None


def split(X, y, n_held_out, seed):
    """Return rows to keep and about ``n_held_out`` others, no answer in both."""
    _, answer = np.unique(y.reshape(len(y), -1), axis=0, return_inverse=True)
    splitter = GroupShuffleSplit(1, test_size=n_held_out / len(y), random_state=seed)
    kept, held_out = next(splitter.split(X, groups=answer))
    return (X[kept], y[kept]), (X[held_out], y[held_out])


def choosing_part(X, y):
    """Return rows to train and test with, and those that chose the defaults, up to 500.

    What is measured on a file that the defaults were chosen with must not count these.
    """
    rest, (X_chosen, y_chosen) = split(X, y, min(500, len(y) // 10), 0)
    # Some of these are asked for at times: files may be sorted.
    order = np.random.RandomState(0).permutation(len(y_chosen))
    return rest, (X_chosen[order], y_chosen[order])


def three_parts(args, train, test):
    """Return rows to train on, to choose by, to test with, and the latter's ratings.

    ``train`` and ``test`` are Bunches, as the fetchers return them.
    """
    if not 0 < args.n_validation < len(train.data):
        raise SystemExit(
            f"--n-validation must be from 1 to {len(train.data) - 1}: the weights are "
            f"chosen by training rows held out, got {args.n_validation}."
        )
    kept, validation = split(train.data, train.target, args.n_validation, args.seed)
    return kept, validation, *test_part(args, test)


def test_part(args, test):
    """Return the rows of a Bunch to test with, and their ratings."""
    order = np.random.RandomState(args.seed).permutation(len(test.data))
    rows = order[: args.n_test or None]
    return (test.data[rows], test.target[rows]), test.rating[rows]


def interval(share, n):
    """Return Wilson's 95 % interval of a share of ``n``."""
    z = 1.96
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    return max(0.0, centre - half), min(1.0, centre + half)


def train(args, solver, X, y, **rows):
    """Fit ``solver`` for the budget, going on from the checkpoint if there is one.

    Returns the seconds of training, those of earlier runs included.
    """
    parameters = json.loads(args.set)
    about = {"n_rows": len(X), **vars(args)}
    about = {name: value for name, value in about.items() if name not in _MAY_CHANGE}
    callbacks = [Checkpoint(args.resume, about=about)] if args.resume else []
    solver.set_params(
        device=args.device,
        max_epochs=10**6,
        max_time=args.budget,
        random_state=args.seed,
        callbacks=callbacks,
        verbose=args.verbose,
    ).set_params(**parameters)
    if hasattr(solver, "net_"):  # a fitted solver would keep the callbacks it had
        solver.net_.callbacks = callbacks
        solver.net_.initialize_callbacks()
    before = read_checkpoint(args.resume)
    if before:
        print(f"going on after {before['seconds']:.0f} s in {args.resume}")
    solver.fit(X, y, **rows)
    seconds = training.perf_counter() - solver.net_.began_
    if args.save:
        sktrm.save_pretrained(solver, args.save, dtype="float16")
    return seconds


def figures(X, y, solutions, rating=None, valid=None):
    """Return every figure of ``solutions``; ``valid(X, answers)`` is one more score."""
    answers, n = solutions.answers, len(y)
    right = np.array([np.array_equal(a, b) for a, b in zip(answers, y, strict=True)])
    exact = exact_match_score(y, answers)
    found = {
        "n_test": n,
        "exact_match": exact,
        "interval": [round(float(bound), 4) for bound in interval(exact, n)],
        "cell_accuracy": cell_accuracy_score(y, answers),
        "mean_steps": float(solutions.n_steps.mean()),
    }
    if valid is not None:
        found["valid_shortest"] = valid(X, answers)
        found["valid_interval"] = list(interval(found["valid_shortest"], n))
    if rating is not None:
        found["by_rating"] = by_rating(rating, right)
    return found


def by_rating(rating, right):
    """Return rows [lowest rating, highest, rows, exact match] of four equal parts."""
    edges = np.unique(np.quantile(rating, [0, 0.25, 0.5, 0.75, 1]))
    bins = np.searchsorted(edges[1:-1], rating, side="right")
    return [
        [
            float(rating[bins == part].min()),
            float(rating[bins == part].max()),
            int((bins == part).sum()),
            float(right[bins == part].mean()),
        ]
        for part in np.unique(bins)
    ]


def show(name, found):
    """Print the figures of one way to predict."""
    low, high = found["interval"]
    parts = [f"exact match {found['exact_match']:.4f} (95 %: {low:.3f} to {high:.3f})"]
    if "valid_shortest" in found:
        low, high = found["valid_interval"]
        valid = found["valid_shortest"]
        parts.append(f"valid and shortest {valid:.4f} ({low:.3f} to {high:.3f})")
    parts.append(f"cells {found['cell_accuracy']:.4f}")
    parts.append(f"{found['mean_steps']:.2f} steps")
    print(f"{name}, {found['n_test']} rows: " + ", ".join(parts), flush=True)
    for low, high, n, exact in found.get("by_rating", []):
        print(f"  rating {low:g} to {high:g}: {exact:.3f} of {n}")


def show_literature(rows):
    """Print rows (system, figures, source) to compare with."""
    print("\nFrom the literature, on the whole test set:")
    for system, value, source in rows:
        print(f"  {system:<40}{value:<32} {source}")


def environment(device):
    """Return versions and machine, for the record."""
    cuda = torch.device(device).type == "cuda"
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "sktrm": sktrm.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "scikit-learn": sklearn.__version__,
            "skorch": skorch.__version__,
            "numpy": np.__version__,
        },
        "machine": {
            "device": torch.cuda.get_device_name(device) if cuda else str(device),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "cores": len(os.sched_getaffinity(0)),
            "threads": torch.get_num_threads(),
            # Linux counts kilobytes.
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        },
    }


def trained(solver, seconds):
    """Return what there is to know of a training, and print it."""
    net = solver.net_
    found = {
        "seconds": seconds,
        "n_optimizer_steps": net.n_optimizer_steps_,
        "n_parameters": sum(p.numel() for p in solver.module_.parameters()),
        "validation": getattr(solver, "validation_score_", None),
        "parameters": {n: repr(v) for n, v in sorted(solver.get_params().items())},
    }
    score = found["validation"]
    validated = "" if score is None else f", validation {score:.4f}"
    print(
        f"{found['n_parameters']} parameters, {seconds:.0f} s, "
        f"{found['n_optimizer_steps']} optimiser steps{validated}"
    )
    return found


def record(args, device, *parts):
    """Append one line of JSON with arguments, environment and ``parts``."""
    if not args.out:
        return
    row = {"arguments": vars(args), **environment(device)}
    for part in parts:
        row |= part
    with open(args.out, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")

"""How time and memory grow with the depth of the recursion and the length of a row.

``python benchmarks/growth.py`` changes one size at a time: latent recursions n, deep
recursions T, supervision steps at prediction, cells. For each value it prints the
operations of a training step's matrix products, the time of a training step and of a
prediction (medians), and the peak of memory, in another process (Linux): of three
training steps or, where the steps of prediction change, of a prediction. Batches have
32 rows; times are the process's own, all threads together.
"""

import argparse
import multiprocessing
import os
import statistics
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
from scale import megabytes
from sklearn.base import clone
from speed import Eager, Ours, flops, grids

from sktrm import TRMSolver

BATCH = 32
EQUIVARIANT = TRMSolver(hidden_size=32, symbols="interchangeable", compile=False)
ATTENTION = TRMSolver(
    hidden_size=64,
    mixer="attention",
    n_latent_recursions=2,
    n_deep_recursions=1,
    compile=False,
)
DEPTHS = (1, 2, 4, 8, 16)
# Else glibc holds much of what is free, and that grows as well; but it costs time.
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


class Growth(NamedTuple):
    """An estimator, its number of cells, and the size that changes."""

    estimator: TRMSolver
    n_cells: int
    size: str
    values: tuple[int, ...]


CASES = {
    "equivariant, n": Growth(EQUIVARIANT, 81, "n_latent_recursions", DEPTHS),
    "the same, checkpointed": Growth(
        clone(EQUIVARIANT).set_params(gradient_checkpointing=True),
        81,
        "n_latent_recursions",
        DEPTHS,
    ),
    "equivariant, T": Growth(EQUIVARIANT, 81, "n_deep_recursions", DEPTHS),
    "equivariant, steps": Growth(EQUIVARIANT, 81, "max_steps", DEPTHS),
    "attention, n": Growth(ATTENTION, 81, "n_latent_recursions", DEPTHS),
    "attention, cells": Growth(ATTENTION, 0, "n_cells", (81, 225, 450, 900)),
}


def contender(case, value):
    """Return the case's training and prediction with its size at ``value``."""
    estimator, n_cells = clone(case.estimator), case.n_cells
    if case.size == "n_cells":
        n_cells = value
    else:
        estimator.set_params(**{case.size: value})
    return Ours((estimator, grids, (n_cells, 9)), BATCH, "cpu")


def seconds(step, rounds):
    """Return the median of the process's own time for ``step``."""
    times = []
    for _ in range(rounds + 1):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    return statistics.median(times[1:])


def predict(ours, n_steps):
    """Step a batch ``n_steps`` times, from its start."""
    ours.carry = None
    for _ in range(n_steps):
        ours.predict()


def times(name, value, rounds, threads):
    """Return operations, seconds of a training step and of a prediction."""
    torch.set_num_threads(threads)
    ours = contender(CASES[name], value)
    n_steps = value if CASES[name].size == "max_steps" else 1
    train = seconds(ours.train, rounds)
    return flops(Eager(ours)), train, seconds(partial(predict, ours, n_steps), rounds)


def memory(name, value, threads):
    """Return the megabytes that steps take at their peak: of training, or as asked."""
    torch.set_num_threads(threads)
    case = CASES[name]
    ours = contender(case, value)
    # The peak is counted anew from here: building took a step, too.
    Path("/proc/self/clear_refs").write_text("5")
    before = megabytes("RSS")
    if case.size == "max_steps":
        predict(ours, value)
    else:
        for _ in range(3):
            ours.train()
    return megabytes("HWM") - before


def alone(function, *given, **environment):
    """Call ``function`` in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with mock.patch.dict(os.environ, environment), context.Pool(1) as pool:
        return pool.apply(function, given)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="for torch")
    args = parser.parse_args()
    print(
        f"{'case':<24}{'of':<8}{'GFLOP':<10}{'training step, ms':<20}"
        f"{'prediction, ms':<18}MB more"
    )
    for name in args.cases:
        for value in CASES[name].values:
            work, train, prediction = alone(
                times, name, value, args.rounds, args.threads
            )
            more = alone(memory, name, value, args.threads, **GIVEN_BACK)
            print(
                f"{name:<24}{value:<8}{work / 1e9:<10.2f}{1e3 * train:<20.1f}"
                f"{1e3 * prediction:<18.1f}{more:.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""How time and memory grow with the data: whole files, a stream of rows, 400,000 tasks.

``python benchmarks/scale.py --data-home ../shared/data`` reads a file as large as the
test set of Sudoku-Extreme (made of its test puzzles, repeated), answers all of it in
one call, a million short sequences in another, and encodes 400 tasks of
ARC-AGI with 1,000 transforms each. Every case has a process of its own, for its peak of
memory. Times are the process's own, all threads together.
"""

import argparse
import multiprocessing
import re
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from skorch.callbacks import Callback

from sktrm import TRMSolver
from sktrm.datasets import fetch_arc_agi, fetch_sudoku_extreme

N_SUDOKUS = 422_786  # of the test set
N_SHORT = 1_000_000


def megabytes(what):
    """Megabytes of this process: "RSS", at present, or "HWM", at its peak (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"Vm{what}:\s*(\d+) kB", status)[1]) / 1e3


def whole_test_set(data_home, folder):
    """Write a file of as many puzzles as the test set has; return its data home."""
    source = Path(data_home) / "sudoku-extreme" / "test.csv"
    header, *lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    path = Path(folder) / "sudoku-extreme" / "test.csv"
    path.parent.mkdir()
    with path.open("w", encoding="utf-8") as file:
        file.write(header)
        file.writelines(islice(cycle(lines), N_SUDOKUS))
    return folder


def read_sudokus(data_home):
    """Read the whole file."""
    with tempfile.TemporaryDirectory() as folder:
        home = whole_test_set(data_home, folder)
        before, start = megabytes("RSS"), time.process_time()
        X, y = fetch_sudoku_extreme("test", data_home=home, return_X_y=True)
        seconds = time.process_time() - start
    more = megabytes("HWM") - before
    return f"{len(X):,} puzzles", seconds, more, X.nbytes + y.nbytes


def answer_sudokus(data_home):
    """Answer as many puzzles in one call."""
    X, y = fetch_sudoku_extreme("test", data_home=data_home, return_X_y=True)
    return answer(X, y, N_SUDOKUS)


def answer_sequences(data_home):
    """Answer a million sequences of eight symbols."""
    X = np.random.RandomState(0).randint(4, size=(1000, 8))
    return answer(X, X, N_SHORT)


def answer(X, y, n_rows):
    """Answer so many rows in one call, one step each, by a small solver."""
    solver = TRMSolver(
        hidden_size=16,
        n_heads=2,
        n_latent_recursions=1,
        n_deep_recursions=1,
        max_epochs=1,
        max_steps=1,
        random_state=0,
    ).fit(X[:1000], y[:1000])
    rows = np.resize(X, (n_rows, *X.shape[1:]))
    before, start = megabytes("RSS"), time.process_time()
    answers = solver.predict(rows)
    seconds = time.process_time() - start
    return f"{n_rows:,} rows", seconds, megabytes("HWM") - before, answers.nbytes


class FirstStep(Callback):
    """Ends training after one step of the optimiser, and keeps the time."""

    seconds = None

    def on_batch_end(self, net, training=False, **kwargs):
        """Stop."""
        FirstStep.seconds = time.process_time()
        raise KeyboardInterrupt


def encode_tasks(data_home):
    """From the files to the first step: all evaluation tasks with 1,000 transforms."""
    before, start = megabytes("RSS"), time.process_time()
    arc = fetch_arc_agi(1, data_home=data_home)
    rows = np.flatnonzero((arc.subset == "evaluation") & ~arc.is_test)
    solver = TRMSolver.from_recipe(
        "arc-agi-1",
        n_layers=1,
        n_latent_recursions=1,
        n_deep_recursions=1,
        batch_size=2,
        device="cpu",
        callbacks=[FirstStep()],
        random_state=0,
    )
    X, y = ([source[i] for i in rows] for source in (arc.data, arc.target))
    solver.fit(X, y, task_ids=arc.task_ids[rows])
    embeddings = solver.module_.embedding.task.weight
    what = f"{len(embeddings):,} embeddings"
    return what, FirstStep.seconds - start, megabytes("HWM") - before, embeddings.nbytes


CASES = {
    "read a file": read_sudokus,
    "answer it, one step": answer_sudokus,
    "answer sequences, one step": answer_sequences,
    "ARC, to the first step": encode_tasks,
}


def run(name, data_home, threads):
    """Run a case, in a process of its own."""
    torch.set_num_threads(threads)
    return CASES[name](data_home)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-home", required=True, help="folder of all data sets")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--threads", type=int, default=1, help="for torch")
    args = parser.parse_args()
    print(f"{'case':<28}{'of':<22}{'s':<10}{'MB more':<10}MB of what it returns")
    context = multiprocessing.get_context("spawn")
    for name in args.cases:
        with context.Pool(1) as pool:
            given = (name, args.data_home, args.threads)
            what, seconds, more, size = pool.apply(run, given)
        print(f"{name:<28}{what:<22}{seconds:<10.1f}{more:<10.0f}{size / 1e6:.0f}")


if __name__ == "__main__":
    main()

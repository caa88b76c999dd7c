"""What surrounds the recursion: generator, memory, overhead. Prints one table.

``python benchmarks/foundation.py`` takes about two minutes on two cores. With
``--device cuda`` it measures the overhead alone, beside the paper's network at its
batch of 768.
"""

import argparse
import platform
import resource
import statistics
import time

import numpy as np
import torch

from sktrm import TRMSolver
from sktrm.datasets import make_sudoku


def wait(device):
    """Wait until the device has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize()


def overhead(solver, n_steps=10, n_rounds=5):
    """Share of a step that estimator and skorch add to the bare torch step."""
    batch_size, device = solver.batch_size, solver.device
    X, y = make_sudoku(512, box=(2, 3), n_clues=18, random_state=0)
    # More rows than a batch has.
    X, y = (np.tile(rows, (max(1, batch_size // 256), 1, 1)) for rows in (X, y))
    solver.set_params(max_epochs=1, random_state=0)
    solver.fit(np.concatenate([X, X]), np.concatenate([y, y]))
    net = solver.net_
    rows = solver._make_rows(X, y, None)

    def whole():
        """Epochs as fit runs them: slots, callbacks, history, guards."""
        net.history.new_epoch()
        wait(device)
        start, n_rows = time.perf_counter(), 0
        while n_rows < n_steps * batch_size:
            net.run_single_epoch(
                net.get_iterator(rows, training=True), True, "train", net.train_step
            )
            # Epochs may end in a step on fewer rows: count rows, not steps.
            n_rows = sum(net.history[-1, "batches", :, "train_batch_size"])
        wait(device)
        return (time.perf_counter() - start) / n_rows * batch_size

    module, optimizer, criterion = net.module_, net.optimizer_, net.criterion_
    inputs, labels = rows.inputs[:batch_size], rows.labels[:batch_size].long()

    def bare():
        """Forward, loss, backward, clipping, optimiser and average."""
        carry = module(inputs).carry
        wait(device)
        start = time.perf_counter()
        for _ in range(n_steps):
            output = module(inputs, carry)
            optimizer.zero_grad()
            criterion(output, labels).backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            net._move_average()
            carry = output.carry
        wait(device)
        return (time.perf_counter() - start) / n_steps

    times = [(bare(), whole()) for _ in range(n_rounds)]
    ratio = statistics.median(b / a for a, b in times) - 1
    milliseconds = 1e3 * statistics.median(a for a, _ in times)
    yield (
        f"estimator and skorch, batch {batch_size}, {device}",
        f"{100 * ratio:+.1f} % of a bare step of {milliseconds:.0f} ms",
    )


def memory():
    """Peak memory of a process as the data grow, at one batch size."""
    X = np.random.RandomState(0).randint(1, 10, size=(20_000, 81))
    for n in (1_000, 20_000, 200_000):
        data = X[:n] if n <= len(X) else np.tile(X, (n // len(X), 1))
        solver = TRMSolver(hidden_size=32, batch_size=64, random_state=0)
        encoded = solver.set_params(max_epochs=1)._check_X_y(data, data, reset=True)
        solver._learn_symbols(*encoded)
        rows = solver._make_rows(*encoded, None)
        solver._start_training(solver._space(), 64)
        epoch = solver.net_.slots.epoch(rows)
        for _ in range(3):
            solver.net_.train_step(next(epoch))
        held = sum(t.nbytes for t in (rows.inputs, rows.labels, rows.weights))
        in_flight = sum(
            t.nbytes for t in (*solver.net_.slots.data, *solver.net_.slots.carry)
        )
        yield (
            f"training data held, {n} rows of 81 cells",
            f"{held / 1e6:.1f} MB ({held / n:.0f} bytes a row), in flight "
            f"{in_flight / 1e6:.1f} MB",
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    yield "peak memory of this whole process", f"{peak:.2f} GB"


def generator():
    """Time of the Sudoku generator on one core."""
    start = time.perf_counter()
    make_sudoku(1000, n_clues=30, random_state=0)
    yield "1,000 9x9 Sudokus of 30 clues", f"{time.perf_counter() - start:.1f} s"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    print(
        f"python {platform.python_version()}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    )
    if args.device == "cpu":
        small = (TRMSolver(batch_size=n, device="cpu") for n in (128, 256))
        found = (generator(), memory(), *map(overhead, small))
    else:
        changes = {"augmentation": "auto", "device": args.device, "compile": False}
        paper = TRMSolver.from_recipe("sudoku-extreme", **changes)
        found = (overhead(paper, n_rounds=3),)
    for rows in found:
        for name, value in rows:
            print(f"{name:<45} {value}", flush=True)


if __name__ == "__main__":
    main()

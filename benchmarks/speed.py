"""What a step costs: ours, plain eager code and, if you have it, the authors' code.

``python benchmarks/speed.py`` takes about ten minutes on two cores. The contenders of a
case take turns, so that a noisy machine is noisy for all; medians, with the least and
the largest time behind them. A training step is that of the estimator's skorch net on a
full batch; what epochs and new rows cost beside, ``foundation.py`` measures. FLOP/s are
those of the network's matrix products, attention's included, as a share of what one
large product reaches here in bfloat16. ``--reference DIR`` adds
the authors' code from a checkout of theirs (it needs einops and pydantic).
"""

import argparse
import copy
import multiprocessing
import platform
import statistics
import time
from functools import partial
from unittest import mock

import numpy as np
import torch
from _authors import as_batch, make_head
from scale import megabytes
from sklearn.base import clone
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from sktrm import TRMClassifier, TRMSolver
from sktrm.datasets import make_sudoku
from sktrm.nn import fused

PAPER = {"n_latent_recursions": 6, "n_deep_recursions": 3, "n_supervision_steps": 16}


def grids(n, n_cells, n_symbols):
    X = np.random.RandomState(0).randint(1, n_symbols + 1, size=(n, n_cells))
    return X, X


def table(n):
    rng = np.random.RandomState(0)
    return rng.normal(size=(n, 20)), rng.randint(2, size=n)


def plain(width, mixer, n_cells):
    settings = {"hidden_size": width, "mixer": mixer, "n_heads": 8, **PAPER}
    return TRMSolver(**settings, n_prefix_tokens=16), grids, (n_cells, 9)


def equivariant(width):
    return TRMSolver(hidden_size=width, symbols="interchangeable"), grids, (81, 9)


# Name: estimator, data, their sizes.
CASES = {
    "512, mlp, 81 cells": plain(512, "mlp", 81),
    "512, attention, 81 cells": plain(512, "attention", 81),
    "128, mlp, 81 cells": plain(128, "mlp", 81),
    "128, attention, 81 cells": plain(128, "attention", 81),
    "128, attention, 900 cells": plain(128, "attention", 900),
    "equivariant 32, 81 x 9": equivariant(32),
    "equivariant 96, 81 x 9": equivariant(96),
    "table of 20 columns": (TRMClassifier(), table, ()),
}


class Ours:
    """A training step of the estimator's skorch net, and a step of prediction."""

    def __init__(self, case, batch_size, device, **parameters):
        estimator, make, sizes = case
        estimator = clone(estimator).set_params(
            batch_size=batch_size,
            max_epochs=1,
            max_time=1e-3,  # a step: an epoch of the paper's network takes minutes
            device=device,
            random_state=0,
            **parameters,
        )
        estimator.fit(*make(2 * batch_size, *sizes))
        self.net, self.module = estimator.net_, estimator.module_
        self.inputs, self.labels, _ = self.net.slots.data
        self.carry = None
        if estimator.compile is True:
            self.module.compile_prediction(self.inputs)

    def train(self):
        """One optimiser step on a full batch."""
        slots = self.net.slots
        slots.free[:] = False
        self.net.train_step(slots._batch())

    def predict(self):
        """One supervision step without gradient."""
        with torch.inference_mode():
            self.carry = self.module(self.inputs, self.carry).carry


def has_no_kernels(h):
    """Stand for ``is_fused``: a user of torch has no kernels of ours.

    No Mock, which would keep every ``h``.
    """
    return False


class Eager:
    """The same network, written down plainly: autocast, nothing compiled or cast once.

    What a user of torch would write first: the yardstick of the fast path.
    """

    def __init__(self, ours):
        self.inputs, self.labels = ours.inputs, ours.labels.long()
        net = ours.net
        self.module = copy.deepcopy(net.module_)  # copies are not compiled
        self.module.dtype = None
        self.criterion = net.criterion_
        parameters = [{"params": list(self.module.parameters())}]
        self.optimizer = type(net.optimizer_)(parameters, lr=1e-4)
        self.device = torch.device(ours.inputs.device).type
        self.carry = None

    def _step(self):
        plain = mock.patch.object(fused, "is_fused", has_no_kernels)
        with plain, torch.autocast(self.device, torch.bfloat16):
            output = self.module._step(self.inputs, self.carry, None, None)
        self.carry = output.carry
        return output

    def train(self):
        """One optimiser step on a full batch."""
        loss = self.criterion(self._step(), self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()

    def predict(self):
        """One supervision step without gradient."""
        with torch.inference_mode():
            self._step()
        self.carry = None


class Reference:
    """The authors' code in one of its modes, from a checkout of theirs."""

    def __init__(self, folder, estimator, batch_size, length, device, dtype, compiled):
        with torch.device(device):  # ".to" would leave buffers that are no leaves
            self.head = make_head(
                folder,
                batch_size=batch_size,
                seq_len=length,
                H_cycles=estimator.n_deep_recursions,
                L_cycles=estimator.n_latent_recursions,
                hidden_size=estimator.hidden_size,
                num_heads=estimator.n_heads,
                mlp_t=estimator.mixer == "mlp",
                forward_dtype=dtype,
            )
        self.optimizer = torch.optim.AdamW(self.head.parameters(), lr=1e-4)
        tokens = torch.randint(1, 10, (batch_size, length), device=device)
        self.batch = as_batch(tokens, tokens)
        with torch.device(device):
            self.carry = self.head.initial_carry(self.batch)
        self.head = torch.compile(self.head, dynamic=False) if compiled else self.head
        self.batch_size = batch_size

    def train(self):
        """One optimiser step on a full batch."""
        self.head.train()
        self.carry, loss, *_ = self.head(
            carry=self.carry, batch=self.batch, return_keys=[]
        )
        self.optimizer.zero_grad()
        (loss / self.batch_size).backward()
        self.optimizer.step()

    def predict(self):
        """One supervision step without gradient."""
        self.head.eval()
        with torch.inference_mode():
            self.head(carry=self.carry, batch=self.batch, return_keys=[])


def wait(device):
    if device != "cpu":
        torch.cuda.synchronize()


def seconds(step, device):
    wait(device)
    start = time.perf_counter()
    step()
    wait(device)
    return time.perf_counter() - start


def turn(contender, device):
    """Seconds of a training step and of a prediction step.

    A GPU does not hold the memory of all contenders at once: each takes what it needs,
    in steps that are not timed, and gives back what is not a graph's.
    """
    if device == "cpu":
        return seconds(contender.train, device), seconds(contender.predict, device)
    contender.train()
    contender.predict()
    found = seconds(contender.train, device), seconds(contender.predict, device)
    torch.cuda.empty_cache()
    return found


def matrix_rate(device):
    """FLOP/s of one large product in bfloat16, the best of ten."""
    n = 2048 if device == "cpu" else 8192
    # A GPU is faster with numbers that are all alike.
    a = torch.randn(n, n, device=device).to(torch.bfloat16)
    return 2 * n**3 / min(seconds(lambda: a @ a, device) for _ in range(10))


def attention(query, key, value, *_, out_shape=None, **__):
    """Operations of the attention kernel for CPUs, which torch does not count."""
    return sdpa_flop_count(query, key, value)


def attention_backward(grad_out, query, key, value, *_, out_shape=None, **__):
    """Operations of its backward pass."""
    return sdpa_backward_flop_count(grad_out, query, key, value)


KERNELS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        attention_backward
    ),
}


def flops(contender):
    """Operations of the matrix products in one train step of eager code."""
    with FlopCounterMode(display=False, custom_mapping=KERNELS) as counter:
        contender.train()
    return counter.get_total_flops()


# Precision of the authors' code, and whether it is compiled.
REFERENCE_MODES = {
    "float32": ("float32", False),
    "float32, compiled": ("float32", True),
    "bfloat16": ("bfloat16", False),
    "bfloat16, compiled": ("bfloat16", True),
}


def contenders(name, args):
    """Return, by name, what makes each contender."""
    estimator, _, sizes = CASES[name]
    ours = partial(Ours, CASES[name], args.batch_size, args.device)
    found = {"ours": ours, "eager": lambda: Eager(ours())}
    if not isinstance(estimator, TRMSolver):
        return found
    found = {"ours, compiled": partial(ours, compile=True), **found}
    if args.reference and estimator.symbols is None:
        for mode in args.reference_modes:
            found[f"authors, {mode}"] = partial(
                Reference,
                args.reference,
                estimator,
                args.batch_size,
                sizes[0],
                args.device,
                *REFERENCE_MODES[mode],
            )
    return found


def peak_memory(name, contender, args):
    """Peak megabytes of a fresh process that takes three training steps (Linux)."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak, (name, contender, args))


def _peak(name, contender, args):
    chosen = contenders(name, args)[contender]()
    if args.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        chosen.train()
    if args.device != "cpu":
        return torch.cuda.max_memory_allocated() / 1e6
    # What getrusage says includes the memory of the process that started this one.
    return megabytes("HWM")


def measure(name, args, rate):
    found = {c: make() for c, make in contenders(name, args).items()}
    work = flops(found["eager"])
    for contender in found.values():  # compile, warm up
        turn(contender, args.device)
    times = {c: [] for c in found}
    for _ in range(args.rounds):
        for c, contender in found.items():
            times[c].append(turn(contender, args.device))
    for c, taken in times.items():
        train, predict = zip(*taken, strict=True)
        share = work / statistics.median(train) / rate
        memory = f"{peak_memory(name, c, args):.0f}" if args.memory else "-"
        print(
            f"{name:<27}{c:<30}{spread(train):<30}{spread(predict):<30}"
            f"{100 * share:<10.0f}{memory}",
            flush=True,
        )


def spread(times):
    low, middle, high = min(times), statistics.median(times), max(times)
    return f"{1e3 * middle:.1f} ({1e3 * low:.1f}-{1e3 * high:.1f})"


def prediction(args):
    """Puzzles a second of a trained model: rows that halt, against always 16 steps."""
    X, y = make_sudoku(3000, box=(2, 3), n_clues=14, random_state=0)
    solver = TRMSolver(
        symbols="interchangeable",
        max_epochs=10**6,
        max_time=60,
        max_steps=16,
        n_rollouts=1,
        device=args.device,
        random_state=0,
    ).fit(X[:2000], y[:2000])
    ways = {
        "always 16 steps, eager": (1.0, False),
        "rows halt, eager": (solver.halt_threshold, False),
        "rows halt, compiled": (solver.halt_threshold, True),
    }
    solver.module_.compile_prediction(solver.net_.slots.data[0][:2])
    seconds, exact = {way: [] for way in ways}, {}
    for _ in range(args.rounds):
        for way, (threshold, compiled) in ways.items():
            solver.set_params(halt_threshold=threshold, compile=compiled)
            start = time.perf_counter()
            exact[way] = solver.score(X[2000:], y[2000:])
            seconds[way].append(time.perf_counter() - start)
    slowest = statistics.median(seconds["always 16 steps, eager"])
    print("\n1,000 Sudokus of 6 x 6, 14 clues")
    for way, times in seconds.items():
        middle = statistics.median(times)
        print(
            f"{way:<25}{1000 / middle:>6.0f} puzzles a second, "
            f"{slowest / middle:.1f} times as fast, exact match {exact[way]:.3f}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", help="a checkout of the authors' code")
    parser.add_argument(
        "--reference-modes",
        nargs="*",
        choices=REFERENCE_MODES,
        default=list(REFERENCE_MODES),
        help="of the authors' code",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cases", nargs="*", default=list(CASES))
    parser.add_argument("--memory", action="store_true", help="measure it, too")
    parser.add_argument("--predict", action="store_true", help="measure it, too")
    args = parser.parse_args()
    args.batch_size = args.batch_size or (32 if args.device == "cpu" else 768)
    rate = matrix_rate(args.device)
    print(
        f"python {platform.python_version()}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()},"
        f" {args.device}, bfloat16 products {rate / 1e9:.0f} GFLOP/s"
    )
    print(
        f"{'case, batch ' + str(args.batch_size):<27}{'code':<30}"
        f"{'training step, ms':<30}{'prediction step, ms':<30}{'% of rate':<10}MB"
    )
    for name in args.cases:
        measure(name, args, rate)
    if args.predict:
        prediction(args)


if __name__ == "__main__":
    main()

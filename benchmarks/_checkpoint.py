"""Training that can be cut off and gone on with, for the scripts beside this file."""

import os
from pathlib import Path
from pickle import UnpicklingError

import torch
from skorch.callbacks import Callback
from skorch.history import History

from sktrm import _training as supervision
from sktrm.nn import Carry

# Of the rows in flight; what else slots hold comes with the new net.
_SLOTS = ("steps", "min_steps", "free", "fresh", "data", "carry", "n_started")
_BEST = ("best_verdict_", "best_state_", "n_epochs_since_best_")


class Checkpoint(Callback):
    """Keeps a training in a file, and goes on from the file if it is there.

    The file holds weights, their average, the optimiser's moments, the best weights so
    far, the rows in flight, the generator's state and the seconds of training. It is
    written when an epoch ends and, ``seconds`` after the last time, within one; of an
    epoch that was cut off every row starts again. ``max_time`` counts all runs
    together, and so does the learning rate's schedule: give a training that was cut off
    the budget it had. With a larger one, the rate of one that had ended rises again.
    ``about`` tells trainings apart: a file about another one raises ValueError.
    """

    def __init__(self, path, seconds=60.0, about=None):
        self.path = path
        self.seconds = seconds
        self.about = about

    def on_train_begin(self, net, **kwargs):
        """Take the training where the file has it."""
        found = read_checkpoint(self.path, net.device)
        if found:
            check_about(found, self.about, self.path)
            restore(net, found)
        self.written_ = supervision.perf_counter()

    def on_batch_end(self, net, training=False, **kwargs):
        """Write once in a while."""
        if training:
            self._write_if_due(net, net.history[:-1])

    def on_epoch_end(self, net, **kwargs):
        """Write what an epoch brought."""
        self._write(net, net.history)

    def on_train_end(self, net, **kwargs):
        """Write the end, unless it is that of an epoch, which is written already."""
        if net.history and "train_loss" not in net.history[-1]:
            self._write(net, net.history[:-1])

    def _write_if_due(self, net, history):
        if supervision.perf_counter() - self.written_ >= self.seconds:
            self._write(net, history)

    def _write(self, net, history):
        write_checkpoint(net, history, self.path, self.about)
        self.written_ = supervision.perf_counter()


def write_checkpoint(net, history, path, about=None):
    """Write the state of a training into ``path``, which is whole at any time."""
    slots = net.slots
    found = {
        "about": about,
        "seconds": supervision.perf_counter() - net.began_,
        "trained": net.module_.state_dict(),
        "averaged": net.predictor_.state_dict(),
        "steps": (net.n_optimizer_steps_, net.n_averaged_),
        "optimizer": net.optimizer_.state_dict(),
        "best": {name: getattr(net, name) for name in _BEST},
        "slots": {name: getattr(slots, name) for name in _SLOTS},
        "generator": slots.generator.get_state(),
        "history": [{**epoch, "batches": []} for epoch in history],
    }
    unfinished = f"{path}.part"
    torch.save(found, unfinished)
    os.replace(unfinished, path)


def read_checkpoint(path, device="cpu"):
    """Return the state in ``path``, None if there is no such file."""
    if path is None or not Path(path).exists():
        return None
    # A file of one's own, which holds records beside tensors.
    try:
        return torch.load(path, map_location=device, weights_only=False)
    except (EOFError, RuntimeError, UnpicklingError) as error:
        raise ValueError(f"{path} is no whole checkpoint: {error}.") from error


def check_about(found, about, path):
    """Raise ValueError if a checkpoint is of another training than ``about``."""
    before = found.get("about") or {}
    for name, value in (about or {}).items():
        if before.get(name) != value:
            raise ValueError(
                f"{path} is of another training: {name} was {before.get(name)!r} and "
                f"is {value!r}. Give what it had, or another file."
            )


def restore(net, found):
    """Put ``net`` into the state of a checkpoint."""
    net.resume(found["trained"], found["averaged"], *found["steps"])
    net.optimizer_.load_state_dict(found["optimizer"])
    for name, value in found["best"].items():
        setattr(net, name, value)
    for name, value in found["slots"].items():
        setattr(net.slots, name, value)
    net.slots.carry = found["slots"]["carry"] and Carry(*found["slots"]["carry"])
    net.slots.generator.set_state(found["generator"].cpu())
    net.history = History(found["history"])
    net.began_ = supervision.perf_counter() - found["seconds"]

"""Levers of training that are in the literature, each against the defaults.

``python benchmarks/levers.py sudoku.csv --seconds 180`` trains on three tasks, the
puzzles of the file, generated 6x6 Sudokus without a clue too many and 8x8 Latin
squares, each lever for equally long, and prints one table: exact match on validation
puzzles. What does not pay is here and not in the package.
"""

import argparse

import torch
from _report import add_machine, choosing_part, prepare, split

from sktrm import TRMSolver
from sktrm import _training as training
from sktrm._tries import Tries
from sktrm.datasets import load_sudoku, make_sudoku
from sktrm.nn import Carry, StepOutput, TinyRecursionModel

N_STARTS = 4


class WinnerNet(training.DeepSupervisionNet):
    """Each row thinks from several starts; the best answer alone is trained."""

    def train_step(self, batch, **fit_params):
        """One supervision step from every start of every row."""
        n_rows, n_starts = len(batch.inputs), len(self.tries)
        starts = [
            self.tries.start(self.module_, k, batch.inputs) for k in range(n_starts)
        ]
        # (n_rows, n_starts, ...)
        carry = Carry(*(torch.stack(s, dim=1) for s in zip(*starts, strict=True)))
        if batch.carry is not None:
            fresh = batch.fresh.view(-1, *[1] * (carry.y.dim() - 1))
            both = zip(carry, batch.carry, strict=True)
            carry = Carry(*(torch.where(fresh, s, c) for s, c in both))
        carry = Carry(*(s.flatten(0, 1) for s in carry))
        labels = batch.labels.repeat_interleave(n_starts, 0)
        self._set_training(True)
        output = self.module_(batch.inputs.repeat_interleave(n_starts, 0), carry)
        answer, halt = self.criterion_.parts(output, labels)
        winner = answer.view(n_rows, n_starts).argmin(1)
        flat = torch.arange(n_rows) * n_starts + winner
        # Every try learns to judge itself; the best alone learns to answer.
        loss = answer[flat].mean() + training.HALT_WEIGHT * halt.mean()
        self.descend(loss, batch)
        kept = Carry(*(s.view(n_rows, n_starts, *s.shape[1:]) for s in output.carry))
        halts = output.halt_logit.view(n_rows, n_starts).amax(1)
        self.slots.advance(StepOutput(kept, output.answer_logits, halts))
        return {"loss": loss.detach(), "y_pred": output.answer_logits.detach()}


class WinnerSolver(TRMSolver):
    """Winner takes all over N_STARTS states (after Dillon, arXiv 2601.19085)."""

    def _make_net(self, model, slots):
        net = super()._make_net(model, slots)
        net.__class__ = WinnerNet
        net.tries = Tries(N_STARTS, self.rollout_noise, self._seeds[3])
        self._n_slots *= N_STARTS  # so many rows the compiled network sees
        return net


training.LR_SCHEDULES["linear"] = lambda progress: 1 - progress


class LinearSolver(TRMSolver):
    """A linear schedule instead of the cosine."""

    def _loop_parameters(self):
        return {**super()._loop_parameters(), "lr_schedule": "linear"}


class DampedModel(TinyRecursionModel):
    """Each call goes half of the way: fixed points stay, oscillations die down."""

    def latent_recursion(self, x, y, z):
        """Update z n times, then y, each by the mean of old and new."""
        for _ in range(self.n_latent_recursions):
            z = (z + self.net(x + y + z)) / 2
        return Carry((y + self.net(y + z)) / 2, z)


class DampedSolver(TRMSolver):
    """A stabilised residual: averaged (Krasnoselskii-Mann) iterations."""

    def _make_model(self, generator):
        model = super()._make_model(generator)
        model.__class__ = DampedModel
        return model


OLDER = {"optimizer": "adamw", "depth_curriculum": 0}  # the defaults before
# Class, parameters, and how to predict.
LEVERS = {
    "defaults": (TRMSolver, {}, {}),
    "AdamW": (TRMSolver, {"optimizer": "adamw"}, {}),
    "full depth": (TRMSolver, {"depth_curriculum": 0}, {}),
    "AdamW, full depth": (TRMSolver, OLDER, {}),
    "Muon, 8e-3": (TRMSolver, {"lr": 8e-3, "depth_curriculum": 0}, {}),
    "damped": (DampedSolver, {}, {}),
    "larger steps": (TRMSolver, {"batch_size": 64, "lr": 8e-3}, {}),
    "winner of 4 starts": (WinnerSolver, {"batch_size": 8, **OLDER}, {}),
    "the same, 4 tries": (None, {}, {"n_rollouts": N_STARTS}),
    "batches of 16": (TRMSolver, {"batch_size": 16, **OLDER}, {}),
    "batches of 64": (TRMSolver, {"batch_size": 64, **OLDER}, {}),
    "linear schedule": (LinearSolver, OLDER, {}),
    "constant rate": (TRMSolver, {"lr_schedule": "constant", **OLDER}, {}),
    "expansion 4": (TRMSolver, {"expansion": 4.0, **OLDER}, {}),
    "expansion 1": (TRMSolver, {"expansion": 1.0, **OLDER}, {}),
    "one layer": (TRMSolver, {"n_layers": 1, **OLDER}, {}),
    "one layer, n = 3": (
        TRMSolver,
        {"n_layers": 1, "n_latent_recursions": 3, **OLDER},
        {},
    ),
}


def tasks(path, data_seed=20):
    if path:
        train, chooses = choosing_part(*load_sudoku(path, return_X_y=True))
        yield path, (train, tuple(part[:300] for part in chooses))
    X, y = make_sudoku(3300, box=(2, 3), n_clues=10, random_state=data_seed)
    yield "6x6, about 10 clues", split(X, y, 300, 0)
    X, y = make_sudoku(3300, box=(1, 8), n_clues=25, random_state=data_seed)
    yield "Latin square, 25 clues", split(X, y, 300, 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sudoku", nargs="?", help="CSV file of 9x9 puzzles")
    parser.add_argument("--seconds", type=float, default=150, help="of training")
    parser.add_argument("--levers", nargs="*", default=list(LEVERS))
    parser.add_argument("--tasks", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument(
        "--data-seed",
        type=int,
        default=20,
        help="of generated puzzles; 20 chose the defaults",
    )
    add_machine(parser)
    args = parser.parse_args()
    prepare(args)
    print(f"{'task':<24}{'lever':<22}{'seed':<6}{'updates':<9}{'trained':<9}x 4")
    every = list(tasks(args.sudoku, args.data_seed))
    for task, data in (every[i] for i in args.tasks):
        for seed in args.seeds:
            compare(task, data, seed, args)


def compare(task, data, seed, args):
    """Train with each lever and print a row for it."""
    (X, y), (X_val, y_val) = data
    for lever in args.levers:
        solver_class, parameters, how = LEVERS[lever]
        if solver_class is not None:
            solver = solver_class(
                symbols="interchangeable",
                max_epochs=10**6,
                max_time=args.seconds,
                compile=True,
                n_rollouts=1,
                random_state=seed,
            ).set_params(**parameters)
            solver.fit(X, y)
        depth = solver.n_supervision_steps
        exact = [
            solver.score(X_val, y_val, max_steps=times * depth, **how)
            for times in (1, 4)
        ]
        print(
            f"{task[-22:]:<24}{lever:<22}{seed:<6}{solver.net_.n_optimizer_steps_:<9}"
            + "".join(f"{share:<9.3f}" for share in exact),
            flush=True,
        )


if __name__ == "__main__":
    main()

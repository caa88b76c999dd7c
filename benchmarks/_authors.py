"""The authors' code, imported from a checkout of theirs: nothing of it is copied.

It needs einops and pydantic. AdamW takes the place of their Adam-atan2, which needs a
compiler for CUDA.
"""

import json
import math
import sys

import numpy as np
import torch
from _report import figures, record, show

from sktrm import _training as supervision
from sktrm._answers import Solutions
from sktrm.augmentation import SudokuGroup, TokenSpace, augment

# For a CPU; the best of six in validation: see docs/sudoku_extreme.md.
SETTINGS = {
    "hidden_size": 64,
    "H_cycles": 2,
    "L_cycles": 2,
    "halt_max_steps": 16,
    "batch_size": 32,
    "lr": 1e-2,
    "weight_decay": 1.0,
    "warmup_steps": 200,
    "schedule": "cosine",
    "compile": True,
}
# Theirs: token 0 is "no cell", 1 a blank, 2 to 10 the digits.
SPACE = TokenSpace((9, 9), 11, {d: d + 1 for d in range(10)}, tuple(range(2, 11)))
EVALUATION_BATCH = 256
# Validations in the time of training.
N_VALIDATIONS = 6


def make_head(folder, **config):
    """Return their model and losses; ``config`` differs from their Sudoku's."""
    if folder not in sys.path:
        sys.path.insert(0, folder)
    from models.losses import ACTLossHead
    from models.recursive_reasoning.trm import TinyRecursiveReasoningModel_ACTV1

    model = TinyRecursiveReasoningModel_ACTV1(
        {
            "num_puzzle_identifiers": 1,
            "vocab_size": 11,
            "H_layers": 0,
            "L_layers": 2,
            "expansion": 4.0,
            "num_heads": 8,
            "pos_encodings": "rope",
            "halt_max_steps": 16,
            "halt_exploration_prob": 0.1,
            "puzzle_emb_ndim": config["hidden_size"],
            "puzzle_emb_len": 16,
            **config,
        }
    )
    return ACTLossHead(model, "stablemax_cross_entropy")


def as_batch(inputs, labels):
    """Return their form of a batch."""
    ids = torch.zeros(len(inputs), device=inputs.device, dtype=torch.int32)
    return {"inputs": inputs.int(), "labels": labels, "puzzle_identifiers": ids}


class Authors:
    """Their training loop in the form of their pretrain.py, on one device."""

    def __init__(self, folder, settings, device, seed):
        torch.manual_seed(seed)
        self.settings, self.device = settings, device
        sizes = ("hidden_size", "H_cycles", "L_cycles", "halt_max_steps", "batch_size")
        with torch.device(device):  # ".to" would leave buffers that are no leaves
            self.head = make_head(
                folder,
                seq_len=81,
                mlp_t=True,
                forward_dtype="bfloat16",
                **{name: settings[name] for name in sizes},
            )
        from models.ema import EMAHelper
        from models.sparse_embedding import CastedSparseEmbeddingSignSGD_Distributed

        decay = settings["weight_decay"]
        self.optimizers = [
            torch.optim.AdamW(
                self.head.parameters(), betas=(0.9, 0.95), weight_decay=decay
            ),
            CastedSparseEmbeddingSignSGD_Distributed(
                self.head.model.puzzle_emb.buffers(), weight_decay=decay, world_size=1
            ),
        ]
        self.average = EMAHelper(0.999)
        self.average.register(self.head)
        self.forward = (
            torch.compile(self.head, dynamic=False)
            if settings["compile"]
            else self.head
        )
        self.carry = None
        self.n_steps = 0

    def step(self, inputs, labels, progress):
        """Take one step of the optimisers, ``progress`` of the time being over."""
        batch = as_batch(inputs, labels)
        self.head.train()
        if self.carry is None:
            with torch.device(self.device):
                self.carry = self.head.initial_carry(batch)
        self.carry, loss, *_ = self.forward(
            carry=self.carry, batch=batch, return_keys=[]
        )
        (loss / len(inputs)).backward()
        self.n_steps += 1
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = self._rate(progress)
            optimizer.step()
            optimizer.zero_grad()
        self.average.update(self.head)

    def _rate(self, progress):
        """Return the learning rate: warm-up, then their schedule."""
        warm = min(1.0, self.n_steps / self.settings["warmup_steps"])
        if self.settings["schedule"] == "cosine":
            warm *= 0.5 + 0.5 * math.cos(math.pi * progress)
        return self.settings["lr"] * warm

    def averaged(self):
        """Return a copy of the model with the averaged weights."""
        return self.average.ema_copy(self.head).eval()


def answer(head, X, device):
    """Return the answers of all 16 steps, and the halting probability of each."""
    answers, confidence = [], []
    for part in np.array_split(X, math.ceil(len(X) / EVALUATION_BATCH)):
        inputs = torch.as_tensor(part.reshape(len(part), -1) + 1, device=device)
        batch = as_batch(inputs, inputs.long())
        with torch.device(device):
            carry = head.initial_carry(batch)
        over = False
        with torch.inference_mode():
            while not over:
                carry, _, _, found, over = head(
                    carry=carry, batch=batch, return_keys=["preds", "q_halt_logits"]
                )
        answers.append(found["preds"].cpu().numpy().reshape(part.shape) - 1)
        confidence.append(found["q_halt_logits"].sigmoid().cpu().numpy())
    n_steps = np.full(len(X), int(carry.steps.max()))
    return Solutions(np.concatenate(answers), np.concatenate(confidence), n_steps)


def batches(X, y, size, device, seed):
    """Yield full batches of transformed puzzles without end."""
    generator = torch.Generator(device).manual_seed(seed)
    inputs, labels = (
        torch.as_tensor(grids.reshape(len(grids), -1).astype(np.int64) + 1).to(device)
        for grids in (X, y)
    )
    waiting = torch.empty(0, dtype=torch.long, device=device)
    while True:
        while len(waiting) < size:
            order = torch.randperm(len(X), generator=generator, device=device)
            waiting = torch.cat((waiting, order))
        rows, waiting = waiting[:size], waiting[size:]
        yield augment([SudokuGroup()], inputs[rows], labels[rows], SPACE, generator)


def train_authors(authors, train, validation, budget, seed):
    """Train for ``budget`` seconds.

    Return the averaged model that was best in validation, its exact match there, and
    the seconds taken.
    """
    source = batches(*train, authors.settings["batch_size"], authors.device, seed)
    if authors.settings["compile"]:  # not counted, as ours is not
        first = as_batch(*next(source))
        with torch.device(authors.device):
            carry = authors.head.initial_carry(first)
        authors.forward(carry=carry, batch=first, return_keys=[])[1].backward()
        authors.head.zero_grad()
    start, best = supervision.perf_counter(), (-1.0, None, 0.0)
    due = budget / N_VALIDATIONS
    progress = 0.0
    while progress < 1:
        authors.step(*next(source), progress)
        seconds = supervision.perf_counter() - start
        progress = seconds / budget
        if seconds >= due or progress >= 1:
            due = seconds + budget / N_VALIDATIONS
            model = authors.averaged()
            right = answer(model, validation[0], authors.device).answers
            exact = float((right == validation[1]).all(axis=(1, 2)).mean())
            cells = float((right == validation[1]).mean())
            print(
                f"{seconds:.0f} s, step {authors.n_steps}, exact match {exact:.3f}, "
                f"cells {cells:.3f}",
                flush=True,
            )
            if exact + 1e-3 * cells >= best[0]:  # cells break ties
                best = exact + 1e-3 * cells, model, exact
    return *best[1:], seconds


def run_authors(args, train, validation, test, rating):
    """Train their code as ours is trained, and report; return the figures."""
    settings = {**SETTINGS, **json.loads(args.reference_set)}
    device = torch.device("cpu" if args.device == "auto" else args.device)
    authors = Authors(args.reference, settings, device, args.seed)
    n_parameters = sum(p.numel() for p in authors.head.parameters())
    print(f"the authors' code, {n_parameters} parameters, {settings}")
    model, score, seconds = train_authors(
        authors, train, validation, args.budget, args.seed
    )
    found = figures(*test, answer(model, test[0], device), rating)
    show("the authors' code, all steps", found)
    about = {
        "way": "the authors' code, all steps",
        "settings": settings,
        "n_parameters": n_parameters,
        "n_optimizer_steps": authors.n_steps,
        "seconds": seconds,
        "validation": score,
    }
    record(args, device, about, found)
    return {**about, **found}

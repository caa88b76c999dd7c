"""Deep supervision, loop 3 of the paper's Figure 3, as a skorch net."""

import copy
import math
from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Any

import torch
from skorch import NeuralNet
from skorch.callbacks import Callback, EpochTimer, LRScheduler, PassthroughScoring
from torch import Tensor, nn

from sktrm._guarding import EarlyStop, Guarding
from sktrm._inference import Verdict, evaluate
from sktrm._slots import Rows, SlotBatch, Slots
from sktrm.nn import StepOutput, TinyRecursionModel, answer_loss, halting_loss, is_right
from sktrm.nn.tasks import share_tasks, task_table

LR_SCHEDULES = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: 0.5 + 0.5 * math.cos(math.pi * progress),
}
# The halting loss counts half, as in the authors' code.
HALT_WEIGHT = 0.5


def checked_callbacks(callbacks: Sequence[Any] | None) -> list[Any]:
    """Return the callbacks; raise ValueError for one that would have no effect."""
    for callback in callbacks or ():
        found = callback[1] if isinstance(callback, tuple) else callback
        kind = found if isinstance(found, type) else type(found)
        if not issubclass(kind, Callback):
            raise ValueError(
                f"callbacks must hold skorch callbacks, or pairs of a name and one, "
                f"got {callback!r}."
            )
        if issubclass(kind, LRScheduler):
            raise ValueError(
                "callbacks must hold no LRScheduler: the learning rate follows "
                "lr_schedule and lr_warmup_steps."
            )
    return list(callbacks or ())


class SupervisionLoss(nn.Module):
    """Loss of one supervision step: answer loss plus half the halting loss."""

    def __init__(self, answer: str = "stablemax") -> None:
        super().__init__()
        self.answer = answer

    def parts(self, output: StepOutput, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return answer loss and halting loss of each row, both (batch,)."""
        right = is_right(output.answer_logits, labels)
        return (
            answer_loss(output.answer_logits, labels, self.answer),
            halting_loss(output.halt_logit, right),
        )

    def forward(
        self, output: StepOutput, labels: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """Return the mean over the rows, weighted by ``weights`` (batch,)."""
        answer, halt = self.parts(output, labels)
        losses = answer + HALT_WEIGHT * halt
        if weights is None:
            return losses.mean()
        return (weights * losses).sum() / weights.sum()


class DeepSupervisionNet(Guarding, NeuralNet):
    """skorch net whose train step is one supervision step on the rows in flight.

    Beside skorch's parameters it takes the ``slots``, the ``ema_decay`` (0 for no
    average), the learning rate's ``lr_schedule`` and ``lr_warmup_steps``,
    ``max_grad_norm``, the ``depth_curriculum``, the ``max_steps`` and
    ``halt_threshold`` of validation, ``max_time`` in seconds, ``n_iter_no_change``
    (None for no early stopping) with ``tol``, and ``task_lr`` and ``task_weight_decay``
    for embeddings of tasks. Answers are validated as made of ``answer_tokens`` alone
    (None: of all). With ``asynchronous`` no step waits for the device: what
    happens there, a loss that is not finite, say, is learned of some steps later.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        slots: Slots,
        ema_decay: float,
        lr_schedule: str,
        lr_warmup_steps: int,
        max_grad_norm: float | None,
        depth_curriculum: float,
        max_steps: int,
        halt_threshold: float,
        max_time: float | None = None,
        n_iter_no_change: int | None = None,
        tol: float = 0.0,
        task_lr: float = 0.0,
        task_weight_decay: float = 0.0,
        asynchronous: bool = False,
        answer_tokens: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(module, criterion=SupervisionLoss, **kwargs)
        self.slots = slots
        self.ema_decay = ema_decay
        self.lr_schedule = lr_schedule
        self.lr_warmup_steps = lr_warmup_steps
        self.max_grad_norm = max_grad_norm
        self.depth_curriculum = depth_curriculum
        self.max_steps = max_steps
        self.halt_threshold = halt_threshold
        self.max_time = max_time
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.task_lr = task_lr
        self.task_weight_decay = task_weight_decay
        self.asynchronous = asynchronous
        self.answer_tokens = answer_tokens

    @property
    def _default_callbacks(self) -> list[tuple[str, Any]]:
        return [
            ("epoch_timer", EpochTimer()),
            ("train_loss", PassthroughScoring("train_loss", on_train=True)),
        ]

    def initialize(self) -> "DeepSupervisionNet":
        """Prepare module and optimiser, the average and the record of the best."""
        super().initialize()
        # In a list, out of sight of skorch, which would hand it to the optimiser.
        average = copy.deepcopy(self.module_).requires_grad_(False)
        share_tasks(average, self.module_)
        self.average_ = [average] if self.ema_decay else []
        self.n_averaged_ = 0  # steps in the average
        self.n_optimizer_steps_ = 0
        self.is_resumed_ = False
        self.full_depth_ = self.module_.n_deep_recursions
        self.epoch_tasks_: Any = None
        self._begin_guard()
        self.begin(None)
        return self

    def begin(self, n_rows: int | None) -> None:
        """Forget the best weights and plan the schedule for ``n_rows`` to start.

        None plans a constant learning rate.
        """
        self.planned_rows_ = n_rows
        self.rows_before_ = self.slots.n_started
        self.began_ = perf_counter()
        self.starts_shallow_ = n_rows is not None and self._is_new()
        self.best_verdict_: Verdict | None = None
        self.best_state_: dict[str, Tensor] | None = None
        self.n_epochs_since_best_ = 0

    def _is_new(self) -> bool:
        """Tell whether nothing was trained here: what was, or elsewhere, is deep."""
        return self.n_optimizer_steps_ == 0 and not self.is_resumed_

    def resume(
        self,
        trained: dict[str, Tensor],
        averaged: dict[str, Tensor],
        n_optimizer_steps: int,
        n_averaged: int,
    ) -> None:
        """Take the weights of another net, as if its steps had been taken here."""
        self.module_.load_state_dict(trained)
        for average in self.average_:
            average.load_state_dict(averaged)
            # At 0 the next step would throw the average away.
            self.n_averaged_ = n_averaged
        self.n_optimizer_steps_ = n_optimizer_steps
        self.is_resumed_ = True
        self._begin_guard()

    @property
    def predictor_(self) -> TinyRecursionModel:
        """The module to predict with now: the average, if there is one."""
        return self.average_[0] if self.average_ else self.module_

    def final_state(self) -> dict[str, Tensor]:
        """Return a copy of the weights to predict with: the best, else the last."""
        return copy.deepcopy(self.best_state_ or self.predictor_.state_dict())

    def get_iterator(self, dataset: Rows, training: bool = False) -> Any:
        """Return an iterable over slots for training, the rows for validation."""
        return _Epochs(self, dataset) if training else dataset

    def train_step(self, batch: SlotBatch, **fit_params: Any) -> dict[str, Any]:
        """Figure 3, loop 3: one supervision step, one step of the optimiser."""
        self._set_training(True)
        self._set_depth()
        output = self.module_(batch.inputs, batch.carry, fresh=batch.fresh)
        loss = self.criterion_(output, batch.labels, batch.weights)
        self.descend(loss, batch)
        self.slots.advance(output)
        return {"loss": loss.detach(), "y_pred": output.answer_logits.detach()}

    def descend(self, loss: Tensor, batch: SlotBatch) -> None:
        """Take one step of the optimiser and of the average, or raise Divergence."""
        self._zero_grad_optimizer()
        loss.backward()
        self.notify(
            "on_grad_computed",
            named_parameters=list(self.module_.named_parameters()),
            batch=batch,
            training=True,
        )
        self._guard(loss, self._clip())
        share = self._set_lr()
        self.optimizer_.step()
        tasks = task_table(self.module_)
        if tasks is not None:
            tasks.step(share * self.task_lr, self.task_weight_decay)
        self.n_optimizer_steps_ += 1
        self._move_average()

    def _move_average(self) -> None:
        """Move the average towards the weights; early on faster than its decay says."""
        n = self.n_averaged_
        # (1 + n) / (10 + n): the average must not remember the random start for long.
        decay = min(self.ema_decay, (1 + n) / (10 + n)) if n else 0.0
        for average in self.average_:
            with torch.no_grad():
                weights: list[Tensor] = list(self.module_.parameters())
                averages: list[Tensor] = list(average.parameters())
                # One call for all; torch has no public one.
                torch._foreach_lerp_(averages, weights, 1 - decay)
            self.n_averaged_ += 1

    def _clip(self) -> Tensor:
        """Clip the gradient to ``max_grad_norm``; return its norm before."""
        limit = math.inf if self.max_grad_norm is None else self.max_grad_norm
        return nn.utils.clip_grad_norm_(self.module_.parameters(), limit)

    def _set_lr(self) -> float:
        """Warm up, then follow the schedule of rows started; return the share of lr."""
        warmup = min(1.0, (self.n_optimizer_steps_ + 1) / max(1, self.lr_warmup_steps))
        share = warmup * LR_SCHEDULES[self.lr_schedule](self._progress())
        for group in self.optimizer_.param_groups:
            group["lr"] = self.lr * share
        return share

    def _set_depth(self) -> None:
        """Recurse once in the first part of the training (arXiv 2511.08653)."""
        shallow = self.starts_shallow_ and self._progress() < self.depth_curriculum
        self.module_.n_deep_recursions = 1 if shallow else self.full_depth_

    def compile_module(self, inputs: Tensor, validates: bool = False) -> None:
        """Compile the step on ``inputs`` for training, and for validation if asked."""
        shallow = self.depth_curriculum and self._is_new()
        depths = sorted({1 if shallow else self.full_depth_, self.full_depth_})
        if not self.module_.is_compiled_for(len(inputs)):
            self.module_.compile_step(inputs, depths)
        if validates and self.module_.is_compiled_for(len(inputs)) and len(inputs) > 1:
            self.predictor_.compile_prediction(inputs)

    def step_eagerly(self) -> None:
        """Train and validate without compiling, whatever was compiled before."""
        for module in (self.module_, self.predictor_):
            module.step_eagerly()

    def _progress(self) -> float:
        """Return the share of the training that is over, by rows or by time."""
        progress = self._share_of_time()
        if self.planned_rows_ is not None:
            started = self.slots.n_started - self.rows_before_
            progress = max(progress, started / self.planned_rows_)
        return min(1.0, progress)

    def _share_of_time(self) -> float:
        """Return the share of ``max_time`` that is over, 0 if there is no limit.

        A pass without a plan, that of ``partial_fit``, has none.
        """
        if self.max_time is None or self.planned_rows_ is None:
            return 0.0
        return (perf_counter() - self.began_) / self.max_time

    def run_single_epoch(
        self, iterator: Any, training: bool, prefix: str, step_fn: Any, **kwargs: Any
    ) -> None:
        """Train for an epoch, or validate the predictor on the rows held out."""
        if training:
            if self.asynchronous:
                self._run_without_waiting(iterator, step_fn)
            else:
                super().run_single_epoch(iterator, training, prefix, step_fn, **kwargs)
            self._check_weights()
        elif iterator is not None:
            self._validate(iterator)

    def _run_without_waiting(self, iterator: Any, step_fn: Any) -> None:
        """Train for an epoch; skorch's own loop asks for the loss of each step."""
        losses = []
        for batch in iterator:
            self.notify("on_batch_begin", batch=batch, training=True)
            step = step_fn(batch)
            losses.append(step["loss"])
            self.history.record_batch("train_batch_size", len(batch.inputs))
            self.notify("on_batch_end", batch=batch, training=True, **step)
        self._heed_late()
        batches = self.history[-1]["batches"]
        for record, loss in zip(batches, torch.stack(losses).tolist(), strict=True):
            record["train_loss"] = loss
        self.history.record("train_batch_count", len(losses))

    def _validate(self, rows: Rows) -> None:
        """Record how the predictor does and keep the best one's weights."""
        predictor = self.predictor_.eval()
        predictor.n_deep_recursions = self.full_depth_
        verdict = evaluate(
            predictor,
            rows.inputs,
            rows.labels,
            rows.weights,
            batch_size=self.batch_size,
            max_steps=self.max_steps,
            halt_threshold=self.halt_threshold,
            tokens=self.answer_tokens,
        )
        for name, value in verdict._asdict().items():
            self.history.record(f"valid_{name}", value)
        self.n_epochs_since_best_ += 1
        best = self.best_verdict_
        if best is None or verdict.beats(best, self.tol):
            self.n_epochs_since_best_ = 0
        # Of equals the last: it is trained longer, and its halting head needs that.
        if best is None or not best.beats(verdict):
            self.best_verdict_ = verdict
            self.best_state_ = copy.deepcopy(predictor.state_dict())

    def notify(self, method_name: str, **cb_kwargs: Any) -> None:
        """Call the callbacks, then stop early if validation says so."""
        try:
            super().notify(method_name, **cb_kwargs)
        except KeyboardInterrupt as stop:
            # skorch's callbacks stop training with this; Ctrl-C is something else.
            raise EarlyStop from stop
        # Not among skorch's callbacks: in these, Ctrl-C is Ctrl-C.
        if self.epoch_tasks_ is not None:
            self.epoch_tasks_.notify(method_name)
        if method_name == "on_epoch_end":
            self._report()
            patience = self.n_iter_no_change
            if patience is not None and self.n_epochs_since_best_ >= patience:
                raise EarlyStop
            if self._share_of_time() >= 1:
                raise EarlyStop

    def _report(self) -> None:
        """Print one line on the epoch just finished."""
        if not self.verbose:
            return
        epoch = self.history[-1]
        parts = [
            f"epoch {epoch['epoch']:3d}",
            f"step {self.n_optimizer_steps_:6d}",
            f"loss {epoch['train_loss']:.4f}",
        ]
        if "valid_exact_match" in epoch:
            parts += [
                f"exact match {epoch['valid_exact_match']:.4f}",
                f"cells {epoch['valid_cell_accuracy']:.4f}",
                f"steps taken {epoch['valid_n_steps']:.2f}",
            ]
        print(", ".join([*parts, f"{epoch['dur']:.1f} s"]), flush=True)

    def partial_fit(
        self, X: Rows, y: None = None, classes: Any = None, **fit_params: Any
    ) -> "DeepSupervisionNet":
        """Train on; unlike skorch, let KeyboardInterrupt out."""
        if not self.initialized_:
            self.initialize()
        self.notify("on_train_begin", X=X, y=y)
        try:
            with self._guarded():
                self.fit_loop(X, y, **fit_params)
        except EarlyStop:
            pass
        finally:
            self.notify("on_train_end", X=X, y=y)
        return self


class _Epochs:
    """Iterates over one epoch of the slots, or as far as time allows."""

    def __init__(self, net: DeepSupervisionNet, rows: Rows) -> None:
        self.net = net
        self.rows = rows

    def __iter__(self) -> Iterator[SlotBatch]:
        for batch in self.net.slots.epoch(self.rows):
            yield batch
            if self.net._share_of_time() >= 1:
                return

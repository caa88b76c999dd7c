"""What keeps a training from being lost to a loss that is not finite."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from sktrm._asynchronous import LateGuard
from sktrm._slots import Slots
from sktrm.nn import TinyRecursionModel

# Optimiser steps between copies of weights that are known to give a finite loss.
SNAPSHOT_EVERY = 16


def _copied(module: nn.Module) -> dict[str, Tensor]:
    """Copy the state of ``module`` but its tasks: many rows, of which few change."""
    return {
        name: tensor.clone()
        for name, tensor in module.state_dict().items()
        if "embedding.task." not in name
    }


class EarlyStop(Exception):
    """Training ends before ``max_epochs``, because it was asked to."""


class Divergence(ArithmeticError):
    """What an optimiser step, counted from 1, met or left is not finite."""

    def __init__(self, step: int, figures: str = "", what: str = "loss was") -> None:
        super().__init__(figures)
        self.step = step
        self.what = what


class Guarding:
    """Watches loss and gradient, and goes back to the last good weights.

    The host class, :class:`~sktrm._training.DeepSupervisionNet`, has module and
    average. Where no step waits for the device, what happened is learned of later.
    """

    module_: TinyRecursionModel
    average_: list[TinyRecursionModel]
    asynchronous: bool
    n_optimizer_steps_: int
    slots: Slots

    def _begin_guard(self) -> None:
        """Start from weights that are taken to be good."""
        self.last_good_ = self._snapshot()
        self.late_guard_: LateGuard | None = None
        if self.asynchronous:
            device = next(self.module_.parameters()).device
            self.late_guard_ = LateGuard(device, self._snapshot)

    def _guard(self, loss: Tensor, grad_norm: Tensor) -> None:
        """Raise Divergence at a loss that is not finite, else remember the weights."""
        n, late = self.n_optimizer_steps_, self.late_guard_
        if late is not None:
            late.watch(self.module_, loss.detach() + grad_norm, n + 1)
            if n % SNAPSHOT_EVERY == 0:
                self._heed(late, late.look())
            return
        if not math.isfinite(loss.item() + grad_norm.item()):
            figures = f" (loss {loss.item():g}, gradient norm {grad_norm.item():g})"
            raise Divergence(n + 1, figures)
        if n % SNAPSHOT_EVERY == 0:
            self.last_good_ = self._snapshot()

    def _heed_late(self) -> None:
        """Wait for the device, and heed what is known then."""
        if self.late_guard_ is not None:
            self._heed(self.late_guard_, self.late_guard_.wait())

    def _heed(self, late: LateGuard, bad_step: int) -> None:
        """Take the late guard's good weights, and its word on the first bad step."""
        self.last_good_ = late.good
        if bad_step:
            raise Divergence(bad_step)

    def _snapshot(self) -> tuple[int, list[dict[str, Tensor]]]:
        """Copy the weights and their average."""
        modules = [self.module_, *self.average_]
        return self.n_optimizer_steps_, [_copied(module) for module in modules]

    def _check_weights(self) -> None:
        """Raise Divergence at weights that are not finite after the last step."""
        weights = list(self.module_.parameters())
        with torch.no_grad():
            if not math.isfinite(nn.utils.get_total_norm(weights).item()):
                raise Divergence(self.n_optimizer_steps_, what="weights were")

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Train within; whatever ends that, the weights that are left are good."""
        try:
            yield
        except Divergence as error:
            self._recover(error)
        except (EarlyStop, KeyboardInterrupt):
            # Of the last steps, no later one has told.
            try:
                self._heed_late()
                self._check_weights()
            except Divergence as error:
                self._recover(error)
            raise

    def _recover(self, error: Divergence) -> None:
        """Go back to the last weights that gave a finite loss, and warn."""
        good, states = self.last_good_
        for module, state in zip([self.module_, *self.average_], states, strict=True):
            module.load_state_dict(state, strict=False)
        if self.asynchronous:  # steps were taken since, with states that are not finite
            self.slots.release()
            self._begin_guard()
        warnings.warn(
            f"Training stopped: at optimiser step {error.step} the {error.what} not "
            f"finite{error}. The weights of step {good} are kept. A lower lr, more "
            f"lr_warmup_steps or a lower max_grad_norm may help.",
            ConvergenceWarning,
            stacklevel=2,
        )

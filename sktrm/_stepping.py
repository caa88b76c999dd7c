"""Stepping the model of a fitted estimator: rows to answers, all at once or staged."""

import math
from collections.abc import Callable, Iterator
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sktrm._compiling import Compiling
from sktrm._inference import Solution, solve, stages
from sktrm._tries import Choice, Tries
from sktrm.nn import TinyRecursionModel

# Steps at prediction for each in training: hard rows need them, others halt.
_DEEPER = 8
# Numbers in the states of rows predicted together on CUDA, at least: those of 337
# of the paper's Sudokus.
_LEAST_ON_CUDA = 2**24


class Stepping(Compiling):
    """Prediction with tokens and tensors, for the estimators.

    The host class, :class:`~sktrm._base.BaseTRM`, has model, device and parameters.
    """

    module_: TinyRecursionModel
    batch_size: int
    max_steps: int | str
    n_supervision_steps: int
    halt_threshold: float
    # Rows at a time in prediction; None takes ``batch_size``.
    _prediction_batch: int | None = None

    def __sklearn_is_fitted__(self) -> bool:
        """Tell whether there is a model to step."""
        return hasattr(self, "module_")

    def _forget(self) -> None:
        """Drop an earlier fit: its model would answer in the terms of a new one."""
        for name in ("net_", "module_"):
            self.__dict__.pop(name, None)

    def _stages(
        self,
        inputs: np.ndarray,
        read: Callable[[Tensor], Tensor],
        max_steps: int | None,
    ) -> Iterator[Solution]:
        """Yield answers, confidence and steps of all rows after each step."""
        limits = self._limits(max_steps)
        self.module_.compile_after = self._compile_after()
        # Keeping answers takes less memory than keeping the states of all rows.
        batches = [
            [
                Solution(*(part.copy() for part in stage))
                for stage in stages(self.module_, batch, read, **limits)
            ]
            for batch in self._batches(inputs)
        ]
        for parts in zip(*batches, strict=True):
            yield Solution(*map(np.concatenate, zip(*parts, strict=True)))

    def _solve(
        self,
        inputs: np.ndarray,
        read: Callable[[Tensor], Tensor],
        max_steps: int | None,
        tries: Tries | None = None,
        choice: Choice | None = None,
    ) -> Solution:
        """Return answers, confidence and steps of all rows."""
        self.module_.compile_after = self._compile_after()
        return solve(
            self.module_,
            torch.as_tensor(inputs),
            read,
            batch_size=self._rows_at_a_time(),
            tries=tries,
            choice=choice,
            **self._limits(max_steps),
        )

    def _steps_at_most(self) -> int:
        """Return ``max_steps``, or what stands for "auto"."""
        if isinstance(self.max_steps, str):
            return _DEEPER * int(self.n_supervision_steps)
        return int(self.max_steps)

    def _limits(self, max_steps: int | None) -> dict[str, Any]:
        """Return when a row halts at prediction."""
        if max_steps is None:
            max_steps = self._steps_at_most()
        if not isinstance(max_steps, Integral) or max_steps < 1:
            raise ValueError(f"max_steps must be an int >= 1, got {max_steps!r}.")
        return {"max_steps": int(max_steps), "halt_threshold": self.halt_threshold}

    def _rows_at_a_time(self) -> int:
        """Return how many rows to predict together."""
        size = int(self._prediction_batch or self.batch_size)
        if self._device.type == "cuda":
            size = max(size, _LEAST_ON_CUDA // math.prod(self.module_.state_shape))
        return size

    def _batches(self, inputs: np.ndarray) -> Iterator[Tensor]:
        """Yield the rows on the device, as many at a time as are predicted together."""
        size = self._rows_at_a_time()
        for start in range(0, len(inputs), size):
            batch = inputs[start : start + size]
            yield torch.as_tensor(batch, device=self._device)

"""Whether compiling pays: of a training that is planned, of predictions under way.

By what is planned and what was measured once, never by a clock: the same data give the
same numbers.
"""

import math
from collections.abc import Callable

import torch

from sktrm._training import DeepSupervisionNet
from sktrm.nn import TinyRecursionModel

# Numbers in the state of a 9x9 Sudoku in the equivariant network of width 32: the
# unit for other rows.
_SUDOKU = 81 * 9 * 32
# To be saved by compiling, which takes one to two minutes once and then, from torch's
# cache, some ten seconds: not worth the wait for less.
_SECONDS_WORTH_COMPILING = 30.0
# Sudokus to start for each row in flight, with a network twice as fast when compiled.
_SUDOKUS_A_SLOT_WORTH_COMPILING = 300
# On CUDA it is steps that count, not their rows: a compiled one saved 23 to 82 ms on an
# H200, for a minute and a half of compiling. So it pays when a slot starts 1,000 rows.
_SUDOKUS_A_ROW_ON_CUDA = 0.3
# As long as compiling takes, so many of their steps take without gradient.
_SUDOKUS_WORTH_COMPILING = 10_000
# As long as compiling takes on CUDA, so many batches take a step without gradient, more
# than they take compiled.
_BATCHES_WORTH_COMPILING = 1500


class Compiling:
    """What ``compile`` stands for, for the estimators.

    The host class, :class:`~sktrm._base.BaseTRM`, has model, device and parameters.
    """

    net_: DeepSupervisionNet
    module_: TinyRecursionModel
    _device: torch.device
    _n_slots: int
    _rows_at_a_time: Callable[[], int]
    compile: bool | str
    max_time: float | None

    def _is_worth_compiling(self, n_rows: int) -> bool:
        """Decide on a training of ``net_`` that starts ``n_rows`` rows."""
        if self.compile != "auto":
            return bool(self.compile)
        saved = self._saved_by_compiling()
        seconds = math.inf if self.max_time is None else self.max_time
        if not saved or seconds * saved < _SECONDS_WORTH_COMPILING:
            return False
        as_sudokus = n_rows * self._sudokus_a_row(self.net_.module_)
        return as_sudokus * 2 * saved >= _SUDOKUS_A_SLOT_WORTH_COMPILING * self._n_slots

    def _may_predict_compiled(self) -> bool:
        """Decide on predictions that are long enough."""
        if self.compile == "auto":
            # What saves a fifth of a training step saves a tenth of these.
            return self._saved_by_compiling() >= 0.5
        return bool(self.compile)

    def _compile_after(self) -> float:
        """Return after how many rows stepped in prediction to compile that, too."""
        if not self._may_predict_compiled():
            return math.inf
        if self._device.type == "cuda":
            return _BATCHES_WORTH_COMPILING * self._rows_at_a_time()
        return _SUDOKUS_WORTH_COMPILING / self._sudokus_a_row(self.module_)

    def _saved_by_compiling(self) -> float:
        """Return the share of a training step's time that compiling saves."""
        return 0.0

    def _sudokus_a_row(self, model: TinyRecursionModel) -> float:
        """Return the cost of a row in Sudokus in the equivariant network."""
        if self._device.type == "cuda":
            return _SUDOKUS_A_ROW_ON_CUDA
        numbers = math.prod(model.state_shape) / _SUDOKU
        return numbers * self._cost_of_a_number(model)

    def _cost_of_a_number(self, model: TinyRecursionModel) -> float:
        """Return the cost of a number of the state; in the equivariant network 1."""
        return 1.0

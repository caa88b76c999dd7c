"""Steps of a model compiled by torch, and what to do where it cannot compile."""

import inspect
import math
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, count
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor

from sktrm.nn.state import Carry, StepOutput, join_rows, split_rows

Step = Callable[..., StepOutput]

_CAN_ISOLATE = "isolate_recompiles" in inspect.signature(torch.compile).parameters
_number = count()


def _compile(step: Any, **options: Any) -> Step:
    """Return the bound method ``step`` compiled, apart from all other models.

    Else torch counts the models of a process together and soon gives up compiling.
    """
    if _CAN_ISOLATE:
        options["isolate_recompiles"] = True
    else:  # torch before 2.12 keeps what it compiled, and counts it, by code object
        function = step.__func__
        code = function.__code__
        code = code.replace(co_name=f"{code.co_name}_{next(_number)}")
        own = FunctionType(
            code,
            function.__globals__,
            function.__name__,
            function.__defaults__,
            function.__closure__,
        )
        step = MethodType(own, step.__self__)
    compiled: Step = torch.compile(step, **options)
    return compiled


# One thread at a time compiles; others that predict meanwhile step without.
_COMPILING = threading.RLock()


class CompiledSteps:
    """How a model takes its step compiled: in training, and in prediction.

    The host class, :class:`~sktrm.nn.TinyRecursionModel`, has the step. What is
    compiled is bound to its weights: copies begin without.
    """

    n_deep_recursions: int
    _step: Step
    initial_carry: Callable[[int], Carry]
    zero_grad: Callable[..., None]
    _rows_at_once: Callable[[torch.device], int]

    # Rows to step without gradient before that is compiled, too.
    compile_after: float = math.inf
    # A number of rows, and the step compiled for training with batches of so many.
    _compiled: tuple[int, Step] | None = None
    # The step compiled for prediction, whether that failed, and rows stepped without.
    _prediction: Step | None = None
    _prediction_fails: bool = False
    _n_predicted: int = 0

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is compiled."""
        return {name: v for name, v in self.__dict__.items() if name not in _NOT_COPIED}

    def is_compiled_for(self, n_rows: int) -> bool:
        """Tell whether there is a compiled training step for batches of ``n_rows``."""
        return self._compiled is not None and self._compiled[0] == n_rows

    def compile_step(self, inputs: Tensor, depths: Sequence[int] = ()) -> None:
        """Compile training steps on batches of the size of ``inputs``.

        For the present T, or for each of ``depths``. Batches of another size go on as
        they are. Takes long for the first model of a size and depth. Warns and
        changes nothing where torch cannot compile.
        """
        depth = self.n_deep_recursions
        mode = "reduce-overhead" if inputs.is_cuda else None
        try:
            with _or_warn() as attempt:
                step = _compile(self._step, dynamic=False, mode=mode)
                self._compiled = (len(inputs), step)
                for self.n_deep_recursions in depths or (depth,):
                    output = self._train_compiled(inputs, None, None, None)
                    # The backward pass is compiled when it is first needed.
                    total = output.answer_logits.sum() + output.halt_logit.sum()
                    torch.autograd.backward(total)
                    # Gradients lie in a CUDA graph's memory, which the next run takes.
                    self.zero_grad(set_to_none=True)
        finally:
            self.n_deep_recursions = depth
            self.zero_grad(set_to_none=True)
        if attempt.failed:
            self._compiled = None

    def step_eagerly(self) -> None:
        """Take steps without compiling, and without what was compiled before."""
        self._compiled = None
        self.compile_after = math.inf

    def _train_compiled(
        self,
        inputs: Tensor,
        carry: Carry | None,
        task_ids: Tensor | None,
        fresh: Tensor | None,
    ) -> StepOutput:
        """Take a compiled training step; on CUDA it is a graph, captured once."""
        assert self._compiled is not None
        n_rows, step = self._compiled
        # Always arguments of the same kinds and strides: nothing compiles anew.
        y, z = self.initial_carry(n_rows) if carry is None else carry
        carry = Carry(y.contiguous(), z.contiguous())
        if fresh is None:
            fresh = torch.zeros(n_rows, dtype=torch.bool, device=inputs.device)
        if not inputs.is_cuda:
            n_parts = self._even_parts(n_rows, inputs.device)
            parts = split_rows(n_parts, inputs, carry, task_ids, fresh)
            steps = [step(*part) for part in parts]
            return steps[0] if n_parts == 1 else join_rows(steps)
        begin: Callable[[], None] = torch.compiler.cudagraph_mark_step_begin
        begin()
        output = step(inputs, carry, task_ids, fresh)
        # The next replay writes where this one did.
        return output._replace(carry=Carry(*(s.clone() for s in output.carry)))

    def _even_parts(self, n_rows: int, device: torch.device) -> int:
        """Return in how many parts of one size, for one code, to step ``n_rows``."""
        fewest = math.ceil(n_rows / self._rows_at_once(device))
        # A few more than the caches ask for, else as many fewer as need be.
        for n_parts in chain(range(fewest, 2 * fewest), range(fewest - 1, 0, -1)):
            if n_rows % n_parts == 0:
                return n_parts
        return 1

    def _predicts_compiled(self, inputs: Tensor) -> bool:
        """Tell whether to predict these compiled, and compile if it is time to."""
        n_rows = len(inputs)
        if self.compile_after == math.inf or self._prediction_fails or n_rows == 1:
            return False  # of 1, because torch would compile anew for it
        if self._prediction is None:
            if self._n_predicted < self.compile_after:
                self._n_predicted += n_rows
                return False
            if _COMPILING.acquire(blocking=False):
                try:
                    if not self._prediction_fails:  # in another thread, until now
                        self.compile_prediction(inputs)
                finally:
                    _COMPILING.release()
        return self._prediction is not None

    def compile_prediction(self, inputs: Tensor) -> None:
        """Compile the step without gradient, for any number of rows but one.

        ``inputs`` are two rows or more, as they will come. Takes long at
        first. Warns and goes on as before where torch cannot compile.
        """
        self.compile_after = 0
        if self._prediction is not None:
            return
        with _or_warn() as attempt:
            step = _compile(self._step)
            self._predict_by(step, inputs, None)
            self._prediction = step  # now that it is there, for all threads
        self._prediction_fails = attempt.failed

    def _predict_compiled(self, inputs: Tensor, carry: Carry | None) -> StepOutput:
        """Take a compiled step without gradient."""
        assert self._prediction is not None
        return self._predict_by(self._prediction, inputs, carry)

    def _predict_by(
        self, step: Step, inputs: Tensor, carry: Carry | None
    ) -> StepOutput:
        """Take a step by code that serves all numbers of rows."""
        # Under no_grad alone, and for tensors with gaps, torch would compile anew.
        with torch.inference_mode():
            if carry is None:
                carry = self.initial_carry(len(inputs))
            inputs, y, z = (
                rows.clone(memory_format=torch.contiguous_format)
                for rows in (inputs, *carry)
            )
            for rows in (inputs, y, z):
                # torch's public way to say so refuses sizes that the code restricts.
                torch._dynamo.maybe_mark_dynamic(rows, 0)
            return step(inputs, Carry(y, z), None, None)


_NOT_COPIED = (
    *("_compiled", "compile_after"),
    *("_prediction", "_prediction_fails", "_n_predicted"),
)


class _Attempt:
    """Whether an attempt to compile failed."""

    failed = False


@contextmanager
def _or_warn() -> Iterator[_Attempt]:
    """Compile within; a failure is noted and a warning, not an error."""
    attempt = _Attempt()
    try:
        # Else torch, at its limit of code for a function, goes without and is silent.
        limited = torch._dynamo.config.patch(fail_on_recompile_limit_hit=True)
        with _COMPILING, warnings.catch_warnings(), limited:
            # torch's own, of no use to anyone.
            warnings.filterwarnings("ignore", module=r"torch\b")
            yield attempt
    # Whatever is missing, from a C++ compiler to a writable cache: go on without.
    except Exception as error:
        attempt.failed = True
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        warnings.warn(f"Could not compile the network: {reason}", stacklevel=4)

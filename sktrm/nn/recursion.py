"""The recursion of the paper's Figure 3: loops 1 and 2, and the two heads."""

import math
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sktrm.nn.blocks import (
    CastsAgain,
    Linear,
    TinyNetwork,
    check_sizes,
    truncated_normal,
    weights_cast_once,
)
from sktrm.nn.compiled import CompiledSteps
from sktrm.nn.state import Carry, StepOutput, join_rows, split_rows

# Bytes of the widest activations that are worked on at a time on a CPU. Measured on a
# machine with 1 MB of cache a core and 32 MB for all; from 2 to 8 MB it hardly matters.
_WIDEST = 7 * 2**20


class Embedding(nn.Module):
    """Tokens of the question to ``x``: symbols, positions, prefix, task."""

    def __init__(
        self,
        n_tokens: int,
        length: int,
        hidden_size: int,
        *,
        n_prefix_tokens: int = 0,
        task_size: int = 0,
        n_tasks: int = 0,
        learned_positions: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.n_prefix_tokens = n_prefix_tokens
        self.state_shape = (n_prefix_tokens + length, hidden_size)
        # Written at 1 / sqrt(size) and scaled up again: the optimiser then takes
        # larger relative steps, as in the authors' code.
        self.scale = math.sqrt(hidden_size)
        std = 1 / self.scale
        self.token = nn.Parameter(
            truncated_normal(n_tokens, hidden_size, std=std, generator=generator)
        )
        self.position: nn.Parameter | None = None
        if learned_positions:
            total = n_prefix_tokens + length
            self.position = nn.Parameter(
                truncated_normal(total, hidden_size, std=std, generator=generator)
            )
        self.task: nn.Parameter | nn.Module | None = None
        self.prefix: nn.Parameter | None = None
        if task_size:
            self.task = self._make_table(n_tasks, task_size)
        elif n_prefix_tokens:
            self.prefix = nn.Parameter(
                truncated_normal(
                    n_prefix_tokens, hidden_size, std=std, generator=generator
                )
            )

    def allot(self, state: Tensor, inputs: Tensor) -> Tensor:
        """Return the state (1, ...) for each of ``inputs`` (batch, length)."""
        return state.expand(len(inputs), *state.shape[1:])

    def _make_table(self, n_tasks: int, task_size: int) -> nn.Parameter | nn.Module:
        """Return what holds a vector for each task; here one dense parameter."""
        return nn.Parameter(torch.zeros(n_tasks, task_size))

    def _look_up(self, task_ids: Tensor) -> Tensor:
        """Return the vectors (batch, task_size) of tasks."""
        assert isinstance(self.task, nn.Parameter)
        return self.task[task_ids.long()]

    def forward(self, inputs: Tensor, task_ids: Tensor | None = None) -> Tensor:
        """Embed ``inputs`` (batch, length) as x (batch, prefix + length, hidden)."""
        x = F.embedding(inputs.long(), self.token)
        if self.n_prefix_tokens:
            x = torch.cat((self._prefix(len(inputs), task_ids), x), dim=1)
        if self.position is not None:
            # Halves the variance of the sum of two embeddings.
            x = math.sqrt(0.5) * (x + self.position)
        return self.scale * x

    def _prefix(self, batch: int, task_ids: Tensor | None) -> Tensor:
        """Return the tokens before the grid, (batch, n_prefix_tokens, hidden_size)."""
        if self.task is None:
            assert self.prefix is not None
            return self.prefix.expand(batch, -1, -1)
        if task_ids is None:
            raise ValueError("This model has a task embedding: task_ids is required.")
        task = self._look_up(task_ids)  # (batch, task_size)
        missing = self.n_prefix_tokens * self.hidden_size - task.shape[-1]
        task = F.pad(task, (0, missing))
        return task.view(batch, self.n_prefix_tokens, self.hidden_size)


class HaltHead(nn.Module):
    """Q_head: one logit from the first token, "the answer is right".

    The linear map has a second output, the authors' "continue", which nothing reads: a
    product with one column rounds differently, and the recursion amplifies last bits.
    """

    def __init__(
        self, hidden_size: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.linear = Linear(hidden_size, 2, bias=True, generator=generator)
        nn.init.zeros_(self.linear.weight)
        # sigmoid(-5) is 0.7 %: an untrained head must not end the recursion early.
        assert self.linear.bias is not None
        nn.init.constant_(self.linear.bias, -5.0)

    def forward(self, y: Tensor) -> Tensor:
        """Read ``y`` (batch, prefix + length, hidden_size); return (batch,)."""
        first = y[:, 0].to(self.linear.weight.dtype)  # (batch, hidden_size)
        logits: Tensor = self.linear(first)
        return logits[:, 0]


class TinyRecursionModel(CompiledSteps, nn.Module):
    """A tiny network applied to its own answer: one supervision step a call.

    ``embedding`` maps the question to x, ``net`` updates z and y, ``answer_head``
    and ``halt_head`` read y. States and products are computed in ``dtype``, weights
    stay in their own. With ``gradient_checkpointing`` a call of ``net`` keeps only its
    input for the gradient; the backward pass computes the rest again.
    """

    gradient_checkpointing = False
    y_init: Tensor
    z_init: Tensor

    def __init__(
        self,
        embedding: nn.Module,
        net: nn.Module,
        answer_head: nn.Module,
        halt_head: nn.Module,
        *,
        hidden_size: int,
        n_prefix_tokens: int = 0,
        n_latent_recursions: int = 6,
        n_deep_recursions: int = 3,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        # Of a row of x, y or z.
        self.state_shape: tuple[int, ...] = embedding.state_shape  # type: ignore[assignment]
        self.net = net
        self.answer_head = answer_head
        self.halt_head = halt_head
        self.n_prefix_tokens = n_prefix_tokens
        self.n_latent_recursions = n_latent_recursions
        self.n_deep_recursions = n_deep_recursions
        self.dtype = dtype
        for name in ("y_init", "z_init"):
            start = truncated_normal(hidden_size, std=1.0, generator=generator)
            self.register_buffer(name, start)

    @classmethod
    def build(
        cls,
        *,
        n_tokens: int,
        length: int,
        hidden_size: int = 512,
        n_layers: int = 2,
        n_heads: int = 8,
        expansion: float = 4.0,
        mixer: str = "attention",
        positions: str = "rope",
        n_prefix_tokens: int = 0,
        task_size: int = 0,
        n_tasks: int = 0,
        n_latent_recursions: int = 6,
        n_deep_recursions: int = 3,
        embedding_class: type[Embedding] = Embedding,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> "TinyRecursionModel":
        """Build the paper's form of model.

        Parameters
        ----------
        n_tokens : int
            Values of a cell.
        length : int
            Cells of a row.
        hidden_size, n_layers, n_heads, expansion, mixer, positions : optional
            Of the network, as in :class:`sktrm.TRMSolver`, where "auto" is no mixer;
            by default the paper's.
        n_prefix_tokens : int, default=0
            Learned tokens before the cells.
        task_size, n_tasks : int, default=0, 0
            Width and number of the vectors of tasks, which the prefix holds.
        n_latent_recursions, n_deep_recursions : int, default=6, 3
            ``n`` and ``T`` of arXiv:2510.04871.
        embedding_class : type, default=Embedding
            What makes x of a row.
        dtype : torch.dtype, default=None
            To work in; None: that of the weights.
        generator : torch.Generator, default=None
            Draws all weights; None: torch's global one does.

        Returns
        -------
        model : TinyRecursionModel
            Its answer logits are (batch, length, n_tokens).

        Raises
        ------
        ValueError
            If sizes do not fit together, or there is no such mixer or positions.
        """
        check_sizes(hidden_size, n_heads, mixer, positions)
        if task_size > n_prefix_tokens * hidden_size:
            raise ValueError(
                f"task_size must fit into the prefix, got task_size={task_size} > "
                f"n_prefix_tokens * hidden_size = {n_prefix_tokens * hidden_size}."
            )
        embedding = embedding_class(
            n_tokens,
            length,
            hidden_size,
            n_prefix_tokens=n_prefix_tokens,
            task_size=task_size,
            n_tasks=n_tasks,
            learned_positions=positions == "learned",
            generator=generator,
        )
        net = TinyNetwork.build(
            length=n_prefix_tokens + length,
            hidden_size=hidden_size,
            n_layers=n_layers,
            n_heads=n_heads,
            expansion=expansion,
            mixer=mixer,
            positions=positions,
            generator=generator,
        )
        return cls(
            embedding,
            net,
            Linear(hidden_size, n_tokens, generator=generator),
            HaltHead(hidden_size, generator),
            hidden_size=hidden_size,
            n_prefix_tokens=n_prefix_tokens,
            n_latent_recursions=n_latent_recursions,
            n_deep_recursions=n_deep_recursions,
            dtype=dtype,
            generator=generator,
        )

    @property
    def working_dtype(self) -> torch.dtype:
        """Precision of states and products."""
        return self.dtype or next(self.parameters()).dtype

    def initial_carry(
        self,
        n_rows: int,
        noise: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Carry:
        """Return the state of ``n_rows`` before the first supervision step.

        ``noise`` is the deviation of normal numbers from ``generator`` added to it.
        """
        shape = (n_rows, *self.state_shape)
        dtype = self.working_dtype
        start = Carry(
            self.y_init.to(dtype).expand(shape), self.z_init.to(dtype).expand(shape)
        )
        return start.noisy(noise, generator) if noise else start

    def random_carry(
        self, inputs: Tensor, noise: float, generator: torch.Generator | None = None
    ) -> Carry:
        """Return a state for each of ``inputs``: one draw of ``noise`` for all."""
        start = self.initial_carry(1, noise, generator)
        allot: Any = self.embedding.allot
        return Carry(*(allot(state, inputs) for state in start))

    def start(self, n_rows: int, carry: Carry | None, fresh: Tensor | None) -> Carry:
        """Return ``carry``, with the rows marked ``fresh`` put to the initial state."""
        initial = self.initial_carry(n_rows)
        if carry is None:
            return initial
        if fresh is None:
            return carry
        fresh = fresh.view(-1, *[1] * (initial.y.dim() - 1))
        return Carry(
            torch.where(fresh, initial.y, carry.y),
            torch.where(fresh, initial.z, carry.z),
        )

    def latent_recursion(self, x: Tensor, y: Tensor, z: Tensor) -> Carry:
        """Loop 1 of Figure 3: update z n times given x, y, z; then y given y, z."""
        for _ in range(self.n_latent_recursions):
            z = self._update(x + y + z)
        y = self._update(y + z)
        return Carry(y, z)

    def _update(self, state: Tensor) -> Tensor:
        """Apply ``net``; with checkpointing keep ``state`` alone for the gradient."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return _checkpoint(self.net, state)
        updated: Tensor = self.net(state)
        return updated

    def deep_recursion(self, x: Tensor, y: Tensor, z: Tensor) -> Carry:
        """Loop 2 of Figure 3: T - 1 latent recursions without gradient, one with."""
        with torch.no_grad():
            for _ in range(self.n_deep_recursions - 1):
                y, z = self.latent_recursion(x, y, z)
        return self.latent_recursion(x, y, z)

    def embed(self, inputs: Tensor, task_ids: Tensor | None = None) -> Tensor:
        """Return ``x`` of ``inputs`` (batch, length) in the working precision."""
        x: Tensor = self.embedding(inputs, task_ids)
        return x if self.dtype is None else x.to(self.dtype)

    def forward(
        self,
        inputs: Tensor,
        carry: Carry | None = None,
        task_ids: Tensor | None = None,
        fresh: Tensor | None = None,
    ) -> StepOutput:
        """Take one supervision step on ``inputs``, integers of shape (batch, length).

        Without ``carry`` every row starts afresh, with it those marked in ``fresh``
        (batch,). The returned carry is detached.
        """
        n_rows = len(inputs)
        if torch.is_grad_enabled():
            if self.is_compiled_for(n_rows):
                return self._train_compiled(inputs, carry, task_ids, fresh)
        elif task_ids is None and fresh is None and self._predicts_compiled(inputs):
            return self._predict_compiled(inputs, carry)
        n_parts = math.ceil(n_rows / self._rows_at_once(inputs.device))
        parts = split_rows(n_parts, inputs, carry, task_ids, fresh)
        with weights_cast_once(self.net, self.working_dtype):
            steps = [self._step(*part) for part in parts]
        return steps[0] if n_parts == 1 else join_rows(steps)

    def _rows_at_once(self, device: torch.device) -> int:
        """Return how many rows to step together: on a CPU, what its caches can hold."""
        if device.type != "cpu":
            return sys.maxsize
        maps = [layer.weight for layer in self.net.modules() if type(layer) is Linear]
        widening = max((w.shape[0] / w.shape[1] for w in maps), default=1.0)
        state = math.prod(self.state_shape) * self.working_dtype.itemsize
        return max(1, int(_WIDEST // (max(1.0, widening) * state)))

    def _step(
        self,
        inputs: Tensor,
        carry: Carry | None,
        task_ids: Tensor | None,
        fresh: Tensor | None,
    ) -> StepOutput:
        """Embed, recurse, read both heads."""
        x = self.embed(inputs, task_ids)
        y, z = self.deep_recursion(x, *self.start(len(x), carry, fresh))
        answer_logits = self.answer_head(y)[:, self.n_prefix_tokens :]
        return StepOutput(Carry(y, z).detach(), answer_logits, self.halt_head(y))


def _checkpoint(net: nn.Module, state: Tensor) -> Tensor:
    """Apply ``net``, once now and once more in the backward pass."""

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), CastsAgain(net)

    # Compiled code casts in each call, and knows no contexts but its own.
    given: Any = {} if torch.compiler.is_compiling() else {"context_fn": contexts}
    # Nothing in the network is random.
    given["preserve_rng_state"] = False
    updated: Tensor = checkpoint(net, state, use_reentrant=False, **given)
    return updated

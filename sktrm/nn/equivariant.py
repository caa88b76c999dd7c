"""The same recursion with one state per cell and interchangeable symbol.

States are (batch, length, n_symbols, hidden_size). Every map treats the symbols alike,
so permuting the interchangeable symbols of a question permutes those of its answer and
leaves the halting logit alone: exactly, not by training on permuted puzzles.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sktrm.nn.blocks import (
    EQUIVARIANT_MIXERS,
    Attention,
    AttentionMixer,
    Linear,
    Weighted,
    check_sizes,
    rms_norm,
    truncated_normal,
)
from sktrm.nn.recursion import TinyRecursionModel

# How fast weights of a convolution fall with distance; mazes of the generator chose it.
_DECAY = 2
# Cells of a grid in which matrices of any entry are learned well at the usual rates.
_LEARNED_WELL = 100


class EquivariantEmbedding(nn.Module):
    """Tokens to ``x`` (batch, length, n_symbols, hidden_size).

    A symbol's state at a cell says whether this symbol stands there, another one, or
    one of the tokens kept apart, of which each has a vector of its own.
    """

    symbols: Tensor
    shared: Tensor

    def __init__(
        self,
        n_tokens: int,
        symbols: Sequence[int],
        length: int,
        hidden_size: int,
        *,
        learned_positions: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.state_shape = (length, len(symbols), hidden_size)
        self.scale = math.sqrt(hidden_size)
        std = 1 / self.scale
        self.token = nn.Parameter(
            truncated_normal(n_tokens, hidden_size, std=std, generator=generator)
        )
        self.this = nn.Parameter(
            truncated_normal(hidden_size, std=std, generator=generator)
        )
        self.position: nn.Parameter | None = None
        if learned_positions:
            self.position = nn.Parameter(
                truncated_normal(length, 1, hidden_size, std=std, generator=generator)
            )
        # All interchangeable tokens look the same from another symbol's state.
        shared = torch.arange(n_tokens)
        shared[list(symbols)] = symbols[0]
        self.register_buffer("symbols", torch.tensor(symbols))
        self.register_buffer("shared", shared)

    def forward(self, inputs: Tensor, task_ids: Tensor | None = None) -> Tensor:
        """Embed ``inputs`` (batch, length)."""
        inputs = inputs.long()
        seen = F.embedding(self.shared[inputs], self.token).unsqueeze(2)
        here = inputs.unsqueeze(-1) == self.symbols  # (batch, length, n_symbols)
        x = torch.where(here.unsqueeze(-1), self.this, seen)
        if self.position is not None:
            x = math.sqrt(0.5) * (x + self.position)
        return self.scale * x

    def allot(self, state: Tensor, inputs: Tensor) -> Tensor:
        """Return the state (1, ...) for each of ``inputs`` (batch, length).

        Symbols take its parts in the order in which a question shows them, and those
        that it does not show share one: whatever their names, the same symbol of the
        same puzzle starts from the same state.
        """
        here = inputs.unsqueeze(-1) == self.symbols  # (batch, length, n_symbols)
        length = inputs.shape[1]
        places = torch.arange(length, device=inputs.device).unsqueeze(-1)
        first = torch.where(here, places, length).amin(dim=1)
        n_before = (first.unsqueeze(1) < first.unsqueeze(2)).sum(dim=2)
        # (n_symbols, length, hidden_size), then (batch, n_symbols, ...)
        parts = state[0].transpose(0, 1)
        return parts[n_before].transpose(1, 2).contiguous()


class HeadMixer(Weighted):
    """Post-norm residual mixing along the cells: one learned matrix for each head.

    Attention whose weights are learned instead of computed from the input, the "random
    synthesizer" of Tay et al., "Synthesizer: rethinking self-attention for transformer
    models", arXiv 2005.00743, section 3.2; here without the softmax.
    """

    def __init__(
        self,
        hidden_size: int,
        n_heads: int,
        length: int,
        generator: torch.Generator | None = None,
        *,
        weight_shape: Sequence[int] | None = None,
    ) -> None:
        shape = (length, length) if weight_shape is None else weight_shape
        super().__init__(
            truncated_normal(n_heads, *shape, std=length**-0.5, generator=generator)
        )
        self.n_heads = n_heads
        self.value = Linear(hidden_size, hidden_size, generator=generator)
        self.out = Linear(hidden_size, hidden_size, generator=generator)

    def forward(self, h: Tensor) -> Tensor:
        """Mix ``h`` (batch, length, n_symbols, hidden_size) along its length."""
        batch, length, n_symbols, hidden_size = h.shape
        n_heads = self.n_heads
        heads = (n_heads, hidden_size // n_heads)
        values = self.value(h).view(batch, length, n_symbols, *heads)
        # (n_heads, length, batch * n_symbols * head_size)
        values = values.permute(3, 1, 0, 2, 4).reshape(n_heads, length, -1)
        mixed = torch.bmm(self.weight_as(h), values)
        mixed = mixed.view(n_heads, length, batch, n_symbols, -1)
        mixed = mixed.permute(2, 1, 3, 0, 4).reshape(h.shape)
        return rms_norm(h + self.out(mixed))


class ConvolutionMixer(HeadMixer):
    """The same where a matrix knows of two cells only how they lie to each other.

    An entry depends on the offset between two cells of a grid, so that what is learned
    at one place holds at every other: a convolution with zeros outside of the grid and
    a kernel that reaches from every cell to every other. Offsets count, and learn, the
    less the farther they are; else a step of the optimiser, which moves all of them
    alike, would be too large for grids of many cells.
    """

    offset: Tensor
    decay: Tensor

    def __init__(
        self,
        hidden_size: int,
        n_heads: int,
        grid: Sequence[int],
        generator: torch.Generator | None = None,
    ) -> None:
        # A sequence is a grid of one line: a weight with three axes, as Muon leaves it.
        grid = (1, *grid) if len(grid) == 1 else grid
        n_offsets = [2 * side - 1 for side in grid]
        super().__init__(
            hidden_size, n_heads, _LEARNED_WELL, generator, weight_shape=n_offsets
        )
        offset, distance = torch.zeros((), dtype=torch.int64), torch.zeros(())
        cells = torch.meshgrid(*(torch.arange(side) for side in grid), indexing="ij")
        for where, n in zip(cells, n_offsets, strict=True):
            where = where.flatten()
            offset = offset * n + (where - where[:, None] + n // 2)
            distance = distance[..., None] + (torch.arange(n) - n // 2).square()
        decay = (1 + distance.sqrt()) ** -_DECAY
        decay *= math.sqrt(_LEARNED_WELL) / torch.linalg.vector_norm(decay)
        self.register_buffer("offset", offset, persistent=False)
        self.register_buffer("decay", decay, persistent=False)

    def cast(self, dtype: torch.dtype) -> Tensor:
        """Return the matrices (n_heads, length, length)."""
        kernel = (self.decay * self.weight).flatten(1)
        spread = kernel.index_select(1, self.offset.flatten())
        # A weight stands in many places: their gradients are not summed in bfloat16.
        return spread.view(-1, *self.offset.shape).to(dtype)


class SymbolwiseAttention(nn.Module):
    """Self-attention along the cells, each symbol for itself and all in one way."""

    def __init__(self, mixer: AttentionMixer) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, h: Tensor) -> Tensor:
        """Mix ``h`` (batch, length, n_symbols, hidden_size) along its length."""
        batch, length, n_symbols, _ = h.shape
        rows = h.transpose(1, 2).reshape(batch * n_symbols, length, -1)
        mixed: Tensor = self.mixer(rows).view(batch, n_symbols, length, -1)
        return mixed.transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear maps with a ReLU between: a third of a SwiGLU's time on a CPU."""

    def __init__(
        self, size: int, inner: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.up = Linear(size, inner, generator=generator)
        self.down = Linear(inner, size, generator=generator)

    def forward(self, h: Tensor) -> Tensor:
        """Transform the last axis, keeping its size."""
        out: Tensor = self.down(F.relu(self.up(h), inplace=True))
        return out


class EquivariantBlock(nn.Module):
    """One layer: mix along the cells, among the symbols, then along the width."""

    def __init__(
        self, mixer: nn.Module, among_symbols: Linear, feed_forward: FeedForward
    ) -> None:
        super().__init__()
        self.mixer = mixer
        self.among_symbols = among_symbols
        self.feed_forward = feed_forward

    def forward(self, h: Tensor) -> Tensor:
        """Transform ``h`` (batch, length, n_symbols, hidden_size)."""
        h = self.mixer(h)
        h = rms_norm(h + self.among_symbols(h.mean(dim=2, keepdim=True)))
        return rms_norm(h + self.feed_forward(h))


class EquivariantAnswerHead(nn.Module):
    """One logit per cell and token: a symbol's from its state, others from the mean."""

    symbols: Tensor

    def __init__(
        self,
        n_tokens: int,
        symbols: Sequence[int],
        hidden_size: int,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.this = Linear(hidden_size, 1, generator=generator)
        self.others = Linear(hidden_size, n_tokens, generator=generator)
        self.register_buffer("symbols", torch.tensor(symbols))

    def forward(self, y: Tensor) -> Tensor:
        """Read ``y`` (batch, length, n_symbols, hidden); return logits of tokens."""
        others: Tensor = self.others(y.mean(dim=2))
        return others.index_copy(2, self.symbols, self.this(y).squeeze(-1))


class EquivariantHaltHead(nn.Module):
    """One logit from all cells and symbols, "the answer is right".

    It reads the mean and, since one wrong cell is drowned in it, the largest values.
    """

    def __init__(
        self, hidden_size: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.linear = Linear(2 * hidden_size, 1, bias=True, generator=generator)
        nn.init.zeros_(self.linear.weight)
        # sigmoid(-5) is 0.7 %: an untrained head must not end the recursion early.
        assert self.linear.bias is not None
        nn.init.constant_(self.linear.bias, -5.0)

    def forward(self, y: Tensor) -> Tensor:
        """Read ``y`` (batch, length, n_symbols, hidden_size); return (batch,)."""
        y = y.to(self.linear.weight.dtype)
        pooled = torch.cat((y.mean(dim=(1, 2)), y.amax(dim=(1, 2))), dim=-1)
        logit: Tensor = self.linear(pooled)
        return logit.squeeze(-1)


def _make_mixer(
    mixer: str,
    hidden_size: int,
    n_heads: int,
    grid: Sequence[int],
    rope: bool,
    generator: torch.Generator | None,
) -> nn.Module:
    """Return what mixes along the cells."""
    if mixer == "convolution":
        return ConvolutionMixer(hidden_size, n_heads, grid, generator)
    length = math.prod(grid)
    if mixer == "mlp":
        return HeadMixer(hidden_size, n_heads, length, generator)
    attention = Attention(hidden_size, n_heads, length, rope=rope, generator=generator)
    return SymbolwiseAttention(AttentionMixer(attention))


def build_equivariant(
    *,
    n_tokens: int,
    symbols: Sequence[int],
    length: int,
    hidden_size: int = 32,
    n_layers: int = 2,
    n_heads: int = 4,
    expansion: float = 2.0,
    mixer: str = "mlp",
    positions: str = "rope",
    grid: Sequence[int] | None = None,
    n_latent_recursions: int = 6,
    n_deep_recursions: int = 3,
    generator: torch.Generator | None = None,
) -> TinyRecursionModel:
    """Build a model that is equivariant under permutations of some tokens.

    Parameters
    ----------
    n_tokens : int
        Values of a cell.
    symbols : sequence of int
        Tokens that are interchangeable.
    length : int
        Cells of a row.
    hidden_size, n_layers, n_heads, expansion, mixer, positions : optional
        Of the network, as in :class:`sktrm.TRMSolver`, where "auto" is no mixer.
    grid : sequence of int, default=None
        Shape of which the cells are, for ``mixer="convolution"``; None: a sequence.
    n_latent_recursions, n_deep_recursions : int, default=6, 3
        ``n`` and ``T`` of arXiv:2510.04871.
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
    check_sizes(hidden_size, n_heads, mixer, positions, mixers=EQUIVARIANT_MIXERS)
    if hidden_size % n_heads:
        raise ValueError(
            f"hidden_size must be a multiple of n_heads, got "
            f"hidden_size={hidden_size} and n_heads={n_heads}."
        )
    grid = (length,) if grid is None else grid
    if math.prod(grid) != length:
        raise ValueError(f"grid must have {length} cells, got shape {tuple(grid)}.")

    def make_block() -> EquivariantBlock:
        rope = positions == "rope"
        return EquivariantBlock(
            _make_mixer(mixer, hidden_size, n_heads, grid, rope, generator),
            Linear(hidden_size, hidden_size, generator=generator),
            FeedForward(hidden_size, max(1, round(expansion * hidden_size)), generator),
        )

    return TinyRecursionModel(
        EquivariantEmbedding(
            n_tokens,
            symbols,
            length,
            hidden_size,
            learned_positions=positions == "learned",
            generator=generator,
        ),
        nn.Sequential(*(make_block() for _ in range(n_layers))),
        EquivariantAnswerHead(n_tokens, symbols, hidden_size, generator),
        EquivariantHaltHead(hidden_size, generator),
        hidden_size=hidden_size,
        n_latent_recursions=n_latent_recursions,
        n_deep_recursions=n_deep_recursions,
        generator=generator,
    )

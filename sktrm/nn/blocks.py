"""The parts of the two-layer network: norms, SwiGLU, mixers, blocks."""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sktrm.nn import fused

MIXERS = ("attention", "mlp")
EQUIVARIANT_MIXERS = (*MIXERS, "convolution")
POSITIONS = ("rope", "learned", "none")
NORM_EPS = 1e-5
ROPE_BASE = 10_000.0
# Numbers in bfloat16 that torch takes together on CPUs with AVX-512.
_AT_A_TIME = 64
# Up to this length scores of attention are written out in bfloat16 on a CPU.
_SHORT = 256


def truncated_normal(
    *shape: int, std: float, generator: torch.Generator | None = None
) -> Tensor:
    """Draw a normal truncated at two deviations whose own deviation is ``std``."""
    # Cutting a unit normal at +-2 leaves a deviation of 0.8796.
    wide = std / 0.87962566103423978
    tensor = torch.empty(shape)
    return nn.init.trunc_normal_(
        tensor, std=wide, a=-2 * wide, b=2 * wide, generator=generator
    )


def _precise(dtype: torch.dtype) -> torch.dtype:
    """Precision for sums of ``dtype``: at least float32."""
    return torch.promote_types(dtype, torch.float32)


def rms_norm(h: Tensor) -> Tensor:
    """Scale the last axis to a root mean square of one, without a learned gain."""
    # Untrained recursions are chaotic: a last bit grows to a whole unit within three
    # supervision steps. The order of operations here is the authors', on purpose.
    mean_square = h.square().mean(-1, keepdim=True, dtype=_precise(h.dtype))
    return h * torch.rsqrt(mean_square + NORM_EPS).to(h.dtype)


def swiglu_width(size: int, expansion: float, multiple: int = 256) -> int:
    """Inner width of a SwiGLU: two thirds of the expansion, up to a ``multiple``."""
    return max(1, math.ceil(round(expansion * size * 2 / 3) / multiple)) * multiple


class Weighted(nn.Module):
    """Holds a weight and uses it in the precision of what it is applied to."""

    weight: nn.Parameter

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self._cast: Tensor | None = None

    def weight_as(self, h: Tensor) -> Tensor:
        """Return the weight in the precision of ``h``."""
        if torch.compiler.is_compiling():  # the code must not depend on other threads
            return self.cast(h.dtype)
        cast = self._cast  # read once: another thread's step may end meanwhile
        if cast is not None and cast.dtype == h.dtype:
            return cast
        return self.cast(h.dtype)

    def cast(self, dtype: torch.dtype) -> Tensor:
        """Return what to multiply with."""
        return self.weight.to(dtype)


class Linear(Weighted):
    """A linear map of the last axis."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        bias: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            truncated_normal(n_out, n_in, std=n_in**-0.5, generator=generator)
        )
        self.bias = nn.Parameter(torch.zeros(n_out)) if bias else None

    def forward(self, h: Tensor) -> Tensor:
        """Map the last axis from ``n_in`` to ``n_out``."""
        bias = None if self.bias is None else self.bias.to(h.dtype)
        return F.linear(h, self.weight_as(h), bias)


@contextmanager
def weights_cast_once(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Cast all weights of ``module`` to ``dtype`` for the time of a step.

    Otherwise each of the T(n + 1) calls of the network would cast them anew.
    """
    layers = [m for m in module.modules() if isinstance(m, Weighted)]
    for layer in layers:
        cast = layer.cast(dtype)
        # What needs no cast is the parameter, and would be registered once more.
        layer._cast = None if cast is layer.weight else cast
    try:
        yield
    finally:
        for layer in layers:
            layer._cast = None


class CastsAgain(AbstractContextManager[None]):
    """Puts the casts that ``module`` has now back, where a call is made once more.

    A call of a checkpointed network keeps what it did with these; with casts of its own
    the second call would take more time, and keep something else.
    """

    def __init__(self, module: nn.Module) -> None:
        layers = [m for m in module.modules() if isinstance(m, Weighted)]
        self.casts = [(layer, layer._cast) for layer in layers]

    def __enter__(self) -> None:
        for layer, cast in self.casts:
            layer._cast = cast

    def __exit__(self, *_: object) -> None:
        for layer, _cast in self.casts:
            layer._cast = None


def _as_one_row(gate: Tensor) -> Tensor:
    """Copy halves of rows where that makes their activation faster, on CPUs.

    With AVX-512 torch takes 64 numbers in bfloat16 at a time, and what is left at the
    end of each half row one by one: for rows of 96 a copy saves half of the time, and
    changes no bit.
    """
    is_slow = gate.dtype == torch.bfloat16 and gate.shape[-1] % _AT_A_TIME != 0
    if gate.device.type != "cpu" or not is_slow or torch.compiler.is_compiling():
        return gate
    return gate.contiguous()


class SwiGLU(nn.Module):
    """Gated feed-forward layer: ``down(silu(gate) * up)``."""

    def __init__(
        self,
        size: int,
        expansion: float = 4.0,
        *,
        multiple: int = 256,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        inner = swiglu_width(size, expansion, multiple)
        self.gate_up = Linear(size, 2 * inner, generator=generator)
        self.down = Linear(inner, size, generator=generator)

    def forward(self, h: Tensor) -> Tensor:
        """Transform the last axis, keeping its size."""
        gate_up = self.gate_up(h)
        if fused.is_fused(gate_up):
            gated = fused.gate(gate_up)
        else:
            gate, up = gate_up.chunk(2, dim=-1)
            gated = F.silu(_as_one_row(gate)) * up
        out: Tensor = self.down(gated)
        return out


def rope_tables(length: int, head_size: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of rotary positions, each (length, head_size)."""
    frequencies = 1.0 / ROPE_BASE ** (torch.arange(0, head_size, 2) / head_size)
    angles = torch.outer(torch.arange(length).float(), frequencies)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(h: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs of channels of ``h`` (..., length, head_size) by their position."""
    first, second = h.chunk(2, dim=-1)
    return h * cos + torch.cat((-second, first), dim=-1) * sin


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention of ``q``, ``k``, ``v`` (batch, heads, length, head_size)."""
    shape, (length, head_size) = q.shape, q.shape[-2:]
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or length > _SHORT:
        return F.scaled_dot_product_attention(q, k, v)
    # torch's fused kernel takes six times as long as two products here, most of it in
    # the backward pass; products want three axes.
    q, k, v = (t.reshape(-1, length, head_size) for t in (q * head_size**-0.5, k, v))
    mixed = torch.bmm(torch.bmm(q, k.mT).softmax(dim=-1), v)
    return mixed.view(shape)


class Attention(nn.Module):
    """Bidirectional multi-head self-attention, with rotary positions if asked for."""

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        hidden_size: int,
        n_heads: int,
        length: int,
        *,
        rope: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.rope = rope
        self.qkv = Linear(hidden_size, 3 * hidden_size, generator=generator)
        self.out = Linear(hidden_size, hidden_size, generator=generator)
        cos, sin = rope_tables(length, hidden_size // n_heads)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, h: Tensor) -> Tensor:
        """Mix the rows of ``h`` (batch, length, hidden_size) along the length."""
        batch, length, hidden_size = h.shape
        qkv = self.qkv(h).view(batch, length, 3, self.n_heads, -1)
        qk, v = qkv[:, :, :2], qkv[:, :, 2]
        if self.rope:
            cos, sin = (t.to(h.dtype)[:, None, None] for t in (self.cos, self.sin))
            qk = rotate(qk, cos, sin)
        q, k = qk.unbind(2)
        # Each (batch, heads, length, head_size).
        mixed = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        joined = mixed.transpose(1, 2).reshape(batch, length, hidden_size)
        out: Tensor = self.out(joined)
        return out


class AttentionMixer(nn.Module):
    """Post-norm residual self-attention along the sequence."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, h: Tensor) -> Tensor:
        """Mix ``h`` (batch, length, hidden_size) along its length."""
        return rms_norm(h + self.attention(h))


def _transposed(h: Tensor) -> Tensor:
    """Swap length and width; in bfloat16 by a copy."""
    h = h.transpose(1, 2)
    # oneDNN is twice as fast on contiguous bfloat16; float32 keeps the authors' bits.
    return h.contiguous() if h.dtype == torch.bfloat16 else h


class TokenMixer(nn.Module):
    """Post-norm residual SwiGLU along the sequence, for short fixed lengths."""

    def __init__(
        self,
        length: int,
        expansion: float = 4.0,
        *,
        multiple: int = 256,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.swiglu = SwiGLU(length, expansion, multiple=multiple, generator=generator)

    def forward(self, h: Tensor) -> Tensor:
        """Mix ``h`` (batch, length, hidden_size) along its length."""
        if fused.token_mixing_is_fused(h):
            gate_up, down = self.swiglu.gate_up, self.swiglu.down
            return fused.token_mixing(
                h, gate_up.weight_as(h), down.weight_as(h), NORM_EPS
            )
        h = _transposed(h)  # (batch, hidden_size, length)
        # The norm, too, runs along the sequence here, as in the authors' code.
        return _transposed(rms_norm(h + self.swiglu(h)))


class Block(nn.Module):
    """One layer: a mixer along the sequence, then a SwiGLU along the width."""

    def __init__(self, mixer: nn.Module, swiglu: SwiGLU) -> None:
        super().__init__()
        self.mixer = mixer
        self.swiglu = swiglu

    def forward(self, h: Tensor) -> Tensor:
        """Transform ``h`` (batch, length, hidden_size)."""
        h = self.mixer(h)
        return rms_norm(h + self.swiglu(h))


class TinyNetwork(nn.Sequential):
    """The tiny network ``net``: a few blocks, two in the paper."""

    @classmethod
    def build(
        cls,
        *,
        length: int,
        hidden_size: int,
        n_layers: int = 2,
        n_heads: int = 8,
        expansion: float = 4.0,
        mixer: str = "attention",
        positions: str = "rope",
        multiple: int = 256,
        generator: torch.Generator | None = None,
    ) -> "TinyNetwork":
        """Build ``n_layers`` blocks for sequences of ``length`` tokens.

        The SwiGLU layers' inner widths are rounded up to a ``multiple``.
        """
        check_sizes(hidden_size, n_heads, mixer, positions)

        def make_mixer() -> nn.Module:
            if mixer == "mlp":
                return TokenMixer(
                    length, expansion, multiple=multiple, generator=generator
                )
            rope = positions == "rope"
            return AttentionMixer(
                Attention(hidden_size, n_heads, length, rope=rope, generator=generator)
            )

        def make_block() -> Block:
            mixer = make_mixer()
            swiglu = SwiGLU(
                hidden_size, expansion, multiple=multiple, generator=generator
            )
            return Block(mixer, swiglu)

        return cls(*(make_block() for _ in range(n_layers)))


def check_sizes(
    hidden_size: int,
    n_heads: int,
    mixer: str,
    positions: str,
    mixers: Sequence[str] = MIXERS,
) -> None:
    """Raise ValueError if the sizes or choices of a network do not fit together."""
    if mixer not in mixers:
        raise ValueError(f"mixer must be one of {sorted(mixers)}, got {mixer!r}.")
    if positions not in POSITIONS:
        raise ValueError(
            f"positions must be one of {sorted(POSITIONS)}, got {positions!r}."
        )
    if mixer == "attention" and hidden_size % n_heads:
        raise ValueError(
            f"hidden_size must be a multiple of n_heads, got "
            f"hidden_size={hidden_size} and n_heads={n_heads}."
        )
    if mixer == "attention" and positions == "rope" and hidden_size // n_heads % 2:
        raise ValueError(
            f"Rotary positions need an even head size, got hidden_size / n_heads = "
            f"{hidden_size // n_heads}; change hidden_size or n_heads, or set "
            f"positions='learned'."
        )

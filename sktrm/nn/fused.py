"""Token mixing as one kernel, for GPUs where its intermediate results cost the time."""

# Annotations of the kernel name triton's types, which are there once it is loaded.
from __future__ import annotations

import importlib
import importlib.util
import math
from functools import cache
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from torch import Tensor

# The kernel keeps this many tokens of a channel in registers at most.
MAX_LENGTH = 128
# Products in a kernel are of 16 or more; chunks of the inner width divide this.
_MIN_LENGTH = 16
_INNER_MULTIPLE = 64
# Products of rows of a multiple of 16 bytes are fast.
_TOKENS_MULTIPLE = 8

# Block of channels, chunk of the inner width, warps, stages of the pipeline.
_CONFIGS = (
    (128, 64, 8, 3),
    (128, 64, 8, 2),
    (128, 32, 8, 3),
    (64, 64, 4, 2),
    (64, 32, 4, 2),
    (256, 32, 16, 2),
)

# ``triton.language``, once :func:`_load_kernel` has imported it.
tl: Any = None


def token_mixing_is_fused(h: Tensor) -> bool:
    """Tell whether to mix ``h`` (batch, length, hidden_size) by the kernel."""
    return (
        h.is_cuda
        and h.dtype == torch.bfloat16
        and h.shape[1] <= MAX_LENGTH
        and _can_launch(h.device.index)
    )


def _can_launch(device_index: int) -> bool:
    """Tell whether kernels can be built, and have bfloat16 on that GPU."""
    return _triton_builds() and torch.cuda.get_device_capability(device_index) >= (8, 0)


# As ``torch.compiler.assume_constant_result``, which would import all of the compiler.
_can_launch._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _triton_builds() -> bool:
    """Tell whether triton is installed, and finds its C compiler and a driver."""
    if torch.version.cuda is None or importlib.util.find_spec("triton") is None:
        return False
    try:
        # This builds the module that launches kernels, and launches nothing.
        driver = importlib.import_module("triton.runtime").driver
        return bool(driver.active.get_current_target().backend == "cuda")
    # Whatever is missing, from a compiler to Python's headers: go on without.
    except Exception:
        return False


def token_mixing(h: Tensor, gate_up: Tensor, down: Tensor, eps: float) -> Tensor:
    """Mix ``h`` along its length: ``rms_norm(h + swiglu(h))``, transposed.

    Parameters
    ----------
    h
        States (batch, length, hidden_size).
    gate_up, down
        Weights (2 * inner, length) and (length, inner) of the SwiGLU.
    eps
        Added to the mean square.
    """
    length, inner = down.shape
    # The kernel wants sizes without remainders. Zeros change no result, and torch
    # compiles these lines: there, weights are padded once for all calls of a step.
    n_tokens = max(_MIN_LENGTH, 1 << (length - 1).bit_length())
    pad = (0, n_tokens - length, 0, -inner % _INNER_MULTIPLE)
    gate_up = F.pad(gate_up.view(2, inner, length), pad)
    down = F.pad(down.t(), pad)
    mixed: Tensor = _token_mixing(
        h.contiguous(), gate_up.contiguous(), down.contiguous(), eps
    )[0]
    return mixed


# Raise the number whenever :func:`_backward` changes: torch keeps compiled code on disk
# by names and arguments of operators, and would go on with the backward pass before.
@torch.library.custom_op("sktrm::token_mixing_1", mutates_args=())
def _token_mixing(
    h: Tensor, gate_up: Tensor, down: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Return the mixed states, and by what each channel's norm multiplied.

    ``gate_up`` is (2, inner, tokens), ``down`` is transposed: (inner, tokens).
    """
    batch, length, hidden_size = h.shape
    inner, n_tokens = down.shape
    mixed = torch.empty_like(h)
    scale = h.new_empty(batch, hidden_size, dtype=torch.float32)
    kernel, cdiv = _load_kernel()

    def grid(meta: dict[str, int]) -> tuple[int, int]:
        return batch, cdiv(hidden_size, meta["BD"])

    sizes = (length, hidden_size, inner)
    # Triton launches on the current device.
    with torch.cuda.device_of(h):  # type: ignore[no-untyped-call]
        kernel[grid](h, gate_up, down, mixed, scale, *sizes, EPS=eps, LP=n_tokens)
    return mixed, scale


@_token_mixing.register_fake
def _(h: Tensor, gate_up: Tensor, down: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    batch, _, hidden_size = h.shape
    return torch.empty_like(h), h.new_empty(batch, hidden_size, dtype=torch.float32)


@cache
def _load_kernel() -> tuple[Any, Any]:
    """Return the kernel, which measures once which blocks suit it, and ``cdiv``."""
    global tl
    triton = importlib.import_module("triton")
    tl = importlib.import_module("triton.language")
    configs = [
        triton.Config({"BD": bd, "BI": bi}, num_warps=warps, num_stages=stages)
        for bd, bi, warps, stages in _CONFIGS
    ]
    tuned = triton.autotune(configs, key=["L", "D", "I"])
    return tuned(triton.jit(_mixing_kernel)), triton.cdiv


@no_type_check  # triton reads the annotations
def _mixing_kernel(
    h_ptr,
    gate_up_ptr,
    down_ptr,
    out_ptr,
    scale_ptr,
    L,
    D,
    I: tl.constexpr,  # noqa: E741
    EPS: tl.constexpr,
    LP: tl.constexpr,
    BD: tl.constexpr,
    BI: tl.constexpr,
):
    """Mix BD channels of one row; the results of the inner layer stay in registers."""
    row = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    token = tl.arange(0, LP)
    h_ptr += row * L * D
    mask = (token < L)[:, None] & (d < D)[None, :]
    x = tl.load(h_ptr + token[:, None] * D + d[None, :], mask=mask, other=0.0)
    x = tl.trans(x)
    mixed = tl.zeros((BD, LP), dtype=tl.float32)
    for start in range(0, I, BI):
        at = (start + tl.arange(0, BI))[:, None] * LP + token[None, :]
        gate = tl.dot(x, tl.trans(tl.load(gate_up_ptr + at)))
        up = tl.dot(x, tl.trans(tl.load(gate_up_ptr + I * LP + at)))
        # Rounded where torch rounds, here and below.
        gate = gate.to(tl.bfloat16).to(tl.float32)
        silu = (gate * tl.sigmoid(gate)).to(tl.bfloat16).to(tl.float32)
        gated = (silu * up.to(tl.bfloat16).to(tl.float32)).to(tl.bfloat16)
        mixed = tl.dot(gated, tl.load(down_ptr + at), mixed)
    # Read once more, from the cache: it would take a quarter of the registers.
    at = d[:, None] + token[None, :] * D
    mask = (d < D)[:, None] & (token < L)[None, :]
    residual = tl.load(h_ptr + at, mask=mask, other=0.0)
    s = residual.to(tl.float32) + mixed.to(tl.bfloat16).to(tl.float32)
    s = s.to(tl.bfloat16).to(tl.float32)
    scale = tl.rsqrt(tl.sum(s * s, axis=1) / L + EPS)
    out = s * scale.to(tl.bfloat16).to(tl.float32)[:, None]
    tl.store(out_ptr + row * L * D + at, out.to(tl.bfloat16), mask=mask)
    tl.store(scale_ptr + row * D + d, scale, mask=d < D)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Save what the backward pass needs; the rest it computes again."""
    h, gate_up, down, _ = inputs
    ctx.save_for_backward(h, gate_up, down, *output)


def _channels(h: Tensor, n_tokens: int) -> Tensor:
    """Return ``h`` as (batch * hidden_size, n_tokens), padded with zeros."""
    padded = F.pad(h.transpose(1, 2), (0, n_tokens - h.shape[1]))
    return padded.contiguous().view(-1, n_tokens)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    """Return the gradients of states and weights; torch can compile this."""
    h, gate_up, down, mixed, scale = ctx.saved_tensors
    batch, length, hidden_size = h.shape
    # Fewer zeros than in the kernel, where sizes are powers of two.
    n_tokens = math.ceil(length / _TOKENS_MULTIPLE) * _TOKENS_MULTIPLE
    pad = (0, gate_up.shape[-1] - n_tokens)
    w_in, w_out = gate_up.flatten(0, 1)[:, :n_tokens], down[:, :n_tokens]
    # Through the norm, of which ``mixed`` is the result.
    wide = grad.float()
    along = (wide * mixed).mean(1, keepdim=True)
    d_sum = ((wide - mixed * along) * scale[:, None]).to(h.dtype)
    # Through the SwiGLU.
    x, d_out = _channels(h, n_tokens), _channels(d_sum, n_tokens)
    gate, up = (x @ w_in.t()).chunk(2, dim=-1)
    d_gated = d_out @ w_out.t()
    silu = F.silu(gate)
    d_gate = torch.ops.aten.silu_backward(d_gated * up, gate)
    d_inner = torch.cat((d_gate, d_gated * silu), dim=-1)
    d_x = (d_inner @ w_in).view(batch, hidden_size, n_tokens)[..., :length]
    d_h = d_sum + d_x.transpose(1, 2)
    d_gate_up = F.pad(d_inner.t() @ x, pad).view_as(gate_up)
    d_down = F.pad((silu * up).t() @ d_out, pad)
    return d_h.contiguous(), d_gate_up, d_down, None


_token_mixing.register_autograd(_backward, setup_context=_save)

"""Kernels of our own for GPUs: gates, and token mixing as a whole.

What the inner layers make is several times as large as the states: torch's code writes
and reads it, here it stays where it is made or is passed over once.
"""

import importlib
import importlib.util
import math
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sktrm.nn import kernels

# The kernel of token mixing keeps this many tokens of a channel in registers at most.
MAX_LENGTH = 128
# Products in a kernel are of 16 or more; chunks of the inner width divide this.
_MIN_LENGTH = 16
_INNER_MULTIPLE = 64
# Products of rows of a multiple of 16 bytes are fast.
_TOKENS_MULTIPLE = 8
# Channels that a program mixes, its chunks of the inner width, warps and stages: the
# fastest of six on an H200 at the paper's sizes. Which one must not depend on the data.
_MIXING = {"BD": 64, "BI": 32, "num_warps": 4, "num_stages": 2}
# Rows and columns that a program gates.
_GATING = {"BN": 8, "BI": 256}


def is_fused(h: Tensor) -> bool:
    """Tell whether there are kernels for ``h``."""
    return h.is_cuda and h.dtype == torch.bfloat16 and _can_launch(h.device.index)


def token_mixing_is_fused(h: Tensor) -> bool:
    """Tell whether to mix ``h`` (batch, length, hidden_size) by the kernel."""
    return is_fused(h) and h.shape[1] <= MAX_LENGTH


def _can_launch(device_index: int) -> bool:
    """Tell whether kernels can be built, and have bfloat16 on that GPU."""
    return triton_builds() and torch.cuda.get_device_capability(device_index) >= (8, 0)


def can_compile(device: torch.device) -> bool:
    """Tell whether torch can compile for that GPU."""
    return triton_builds() and torch.cuda.get_device_capability(device) >= (7, 0)


# As ``torch.compiler.assume_constant_result``, which would import all of the compiler.
# To mypy a function has no attributes of others.
_can_launch._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def triton_builds() -> bool:
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


def gate(gate_up: Tensor) -> Tensor:
    """Return ``silu(gate) * up`` of ``gate_up`` (..., 2 * inner): (..., inner)."""
    gated: Tensor = _gate(gate_up.contiguous())
    return gated


# Raise the number in an operator's name whenever its backward pass changes: torch keeps
# compiled code on disk by names and arguments, and would go on with the one before.
@torch.library.custom_op("sktrm::gate_1", mutates_args=())
def _gate(gate_up: Tensor) -> Tensor:
    gated = gate_up.new_empty(*gate_up.shape[:-1], gate_up.shape[-1] // 2)
    _launch_gating(kernels.load().gating, gated.shape, gate_up, gated)
    return gated


@_gate.register_fake
def _(gate_up: Tensor) -> Tensor:
    return gate_up.new_empty(*gate_up.shape[:-1], gate_up.shape[-1] // 2)


def _launch_gating(
    kernel: Any, shape: torch.Size, *tensors: Tensor, **choices: bool
) -> None:
    """Let a kernel gate rows (..., inner) of ``shape``, all of them contiguous."""
    assert all(tensor.is_contiguous() for tensor in tensors)
    inner = shape[-1]
    n_rows = math.prod(shape[:-1])
    cdiv = kernels.load().cdiv
    grid = cdiv(n_rows, _GATING["BN"]), cdiv(inner, _GATING["BI"])
    with _on_device_of(tensors[0]):
        kernel[grid](*tensors, n_rows, inner, **choices, **_GATING)


def _on_device_of(h: Tensor) -> Any:
    """Return a context: triton launches on the current device."""
    # torch has not annotated it.
    return torch.cuda.device_of(h)  # type: ignore[no-untyped-call]


@torch.library.custom_op("sktrm::gate_gradient_1", mutates_args=())
def _gate_gradient(
    gate_up: Tensor, d_gated: Tensor, gates: bool
) -> tuple[Tensor, Tensor]:
    """Return the gradient of ``gate_up`` and, if ``gates``, what was gated."""
    d_gate_up = torch.empty_like(gate_up)
    gated = torch.empty_like(d_gated) if gates else d_gated.new_empty(0)
    kernel, tensors = kernels.load().gating_gradient, (gate_up, d_gated, d_gate_up)
    _launch_gating(kernel, d_gated.shape, *tensors, gated, GATES=gates)
    return d_gate_up, gated


@_gate_gradient.register_fake
def _(gate_up: Tensor, d_gated: Tensor, gates: bool) -> tuple[Tensor, Tensor]:
    gated = torch.empty_like(d_gated) if gates else d_gated.new_empty(0)
    return torch.empty_like(gate_up), gated


def _save_gate(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gate_backward(ctx: Any, d_gated: Tensor) -> Tensor:
    (gate_up,) = ctx.saved_tensors
    d_gate_up: Tensor = _gate_gradient(gate_up, d_gated.contiguous(), False)[0]
    return d_gate_up


_gate.register_autograd(_gate_backward, setup_context=_save_gate)


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
    gate_up = F.pad(gate_up.view(2, inner, length), pad).contiguous()
    down = F.pad(down.t(), pad).contiguous()
    mixed: Tensor = _token_mixing(h.contiguous(), gate_up, down, eps)[0]
    return mixed


@torch.library.custom_op("sktrm::token_mixing_2", mutates_args=())
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
    found = kernels.load()
    grid = batch, found.cdiv(hidden_size, _MIXING["BD"])
    assert all(tensor.is_contiguous() for tensor in (h, gate_up, down))
    with _on_device_of(h):
        found.mixing[grid](
            *(h, gate_up, down, mixed, scale),
            *(length, hidden_size, inner),
            EPS=eps,
            LP=n_tokens,
            **_MIXING,
        )
    return mixed, scale


@_token_mixing.register_fake
def _(h: Tensor, gate_up: Tensor, down: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    batch, _, hidden_size = h.shape
    return torch.empty_like(h), h.new_empty(batch, hidden_size, dtype=torch.float32)


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
    d_inner, gated = _gate_gradient(x @ w_in.t(), d_out @ w_out.t(), True)
    d_x = (d_inner @ w_in).view(batch, hidden_size, n_tokens)[..., :length]
    d_h = d_sum + d_x.transpose(1, 2)
    d_gate_up = F.pad(d_inner.t() @ x, pad).view_as(gate_up)
    d_down = F.pad(gated.t() @ d_out, pad)
    return d_h.contiguous(), d_gate_up, d_down, None


_token_mixing.register_autograd(_backward, setup_context=_save)

"""Kernels in triton's language, which is loaded when the first is needed."""

# Annotations of the kernels name triton's types, which are there once it is loaded.
from __future__ import annotations

import importlib
from functools import cache
from typing import Any, NamedTuple, no_type_check

# ``triton.language``, once :func:`load` has imported it.
tl: Any = None


class Kernels(NamedTuple):
    """What can be launched, and what the size of a grid is counted with."""

    mixing: Any
    gating: Any
    gating_gradient: Any
    cdiv: Any


@cache
def load() -> Kernels:
    """Return the kernels."""
    global tl
    triton = importlib.import_module("triton")
    tl = importlib.import_module("triton.language")
    functions = (_mixing, _gating, _gating_gradient)
    mixing, gating, gating_gradient = map(triton.jit, functions)
    return Kernels(mixing, gating, gating_gradient, triton.cdiv)


@no_type_check  # triton reads the annotations
def _mixing(
    h_ptr,
    gate_up_ptr,
    down_ptr,
    out_ptr,
    scale_ptr,
    L,
    D,
    INNER: tl.constexpr,
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
    for start in range(0, INNER, BI):
        at = (start + tl.arange(0, BI))[:, None] * LP + token[None, :]
        gate = tl.dot(x, tl.trans(tl.load(gate_up_ptr + at)))
        up = tl.dot(x, tl.trans(tl.load(gate_up_ptr + INNER * LP + at)))
        gated = (gate * tl.sigmoid(gate) * up).to(tl.bfloat16)
        mixed = tl.dot(gated, tl.load(down_ptr + at), mixed)
    # Read once more, from the cache: it would take a quarter of the registers.
    at = d[:, None] + token[None, :] * D
    mask = (d < D)[:, None] & (token < L)[None, :]
    residual = tl.load(h_ptr + at, mask=mask, other=0.0)
    s = residual.to(tl.float32) + mixed
    scale = tl.rsqrt(tl.sum(s * s, axis=1) / L + EPS)
    out = (s * scale[:, None]).to(tl.bfloat16)
    tl.store(out_ptr + row * L * D + at, out, mask=mask)
    tl.store(scale_ptr + row * D + d, scale, mask=d < D)


@no_type_check  # as above
def _gating(
    gate_up_ptr,
    gated_ptr,
    N,
    INNER,
    BN: tl.constexpr,
    BI: tl.constexpr,
):
    """Gate BN rows and BI columns."""
    n = (tl.program_id(0) * BN + tl.arange(0, BN)).to(tl.int64)[:, None]
    i = (tl.program_id(1) * BI + tl.arange(0, BI))[None, :]
    mask = (n < N) & (i < INNER)
    at = n * 2 * INNER + i
    gate = tl.load(gate_up_ptr + at, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + at + INNER, mask=mask, other=0.0).to(tl.float32)
    gated = gate * tl.sigmoid(gate) * up
    tl.store(gated_ptr + n * INNER + i, gated.to(tl.bfloat16), mask=mask)


@no_type_check  # as above
def _gating_gradient(
    gate_up_ptr,
    d_gated_ptr,
    d_gate_up_ptr,
    gated_ptr,
    N,
    INNER,
    GATES: tl.constexpr,
    BN: tl.constexpr,
    BI: tl.constexpr,
):
    """Gradient of BN rows and BI columns; with GATES what was gated once more."""
    n = (tl.program_id(0) * BN + tl.arange(0, BN)).to(tl.int64)[:, None]
    i = (tl.program_id(1) * BI + tl.arange(0, BI))[None, :]
    mask = (n < N) & (i < INNER)
    at = n * 2 * INNER + i
    gate = tl.load(gate_up_ptr + at, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + at + INNER, mask=mask, other=0.0).to(tl.float32)
    d_gated = tl.load(d_gated_ptr + n * INNER + i, mask=mask, other=0.0).to(tl.float32)
    opened = tl.sigmoid(gate)
    silu = gate * opened
    d_gate = d_gated * up * opened * (1 + gate * (1 - opened))
    tl.store(d_gate_up_ptr + at, d_gate.to(tl.bfloat16), mask=mask)
    tl.store(d_gate_up_ptr + at + INNER, (d_gated * silu).to(tl.bfloat16), mask=mask)
    if GATES:
        tl.store(gated_ptr + n * INNER + i, (silu * up).to(tl.bfloat16), mask=mask)

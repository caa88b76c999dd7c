"""Where and how precisely to compute."""

import functools
import math
import os
import shutil
import sys
import time

import torch

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
}


def choose_device(device: str) -> torch.device:
    """Return the torch device named ``device``; "auto" prefers an accelerator."""
    if device != "auto":
        try:
            return torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"device must be 'auto' or a device that torch can use here, got "
                f"{device!r}: {str(error).splitlines()[0]}"
            ) from error
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return the working precision; "auto" takes bfloat16 where that is faster."""
    if dtype != "auto":
        return DTYPES[dtype]
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and _bfloat16_speedup() > 1.5
    return torch.bfloat16 if fast else torch.float32


def has_cxx_compiler() -> bool:
    """Tell whether the C++ compiler is there that torch would compile with."""
    usual = "clang++" if sys.platform == "darwin" else "g++"
    return shutil.which(os.environ.get("CXX", usual)) is not None


@functools.cache
def _bfloat16_speedup() -> float:
    """Time one matrix product in float32 against bfloat16 on this CPU, once."""
    factors = {
        dtype: torch.ones(1024, 256, dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    }
    seconds = dict.fromkeys(factors, math.inf)
    # In turns, of which the best counts: other work on the machine must not decide.
    for _ in range(10):
        for dtype, a in factors.items():
            start = time.perf_counter()
            a @ a.T
            seconds[dtype] = min(seconds[dtype], time.perf_counter() - start)
    return seconds[torch.float32] / seconds[torch.bfloat16]

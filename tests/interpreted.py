"""The kernels in triton's interpreter: errors, as JSON."""

import json

import torch
import triton
from triton.runtime import interpreter

from sktrm.nn import fused
from sktrm.nn.blocks import SwiGLU, TokenMixer

# Length, hidden size, and a multiple of the inner width: of blocks and of none.
CASES = [(5, 40, 256), (16, 16, 10), (81, 72, 128), (97, 130, 100), (128, 24, 33)]


def convert(values, source, target, _):
    """Round to the nearest, where the interpreter cuts off."""
    if source == triton.language.float32:
        return torch.from_numpy(values.copy()).bfloat16().view(torch.uint16).numpy()
    wide = torch.from_numpy(values.copy()).view(torch.bfloat16).float()
    return wide.numpy()


def multiply_with(create_dot):
    """Multiply as float32, where the interpreter takes bfloat16 for integers."""

    def dot(self, a, b, *rest):
        a, b = (self.cast_impl(t, triton.language.float32) for t in (a, b))
        return create_dot(self, a, b, *rest)

    return dot


def use(by_kernel):
    """Take the kernels, or what they stand for."""
    fused.is_fused = lambda h: by_kernel


def mix(mixer, h, weights, direction, dtype, by_kernel=False):
    """Return the mixed states, and gradients of states and weights."""
    use(by_kernel)
    mixer.to(dtype).load_state_dict(weights)
    mixer.zero_grad()
    h = h.to(dtype, copy=True).requires_grad_()
    out = mixer(h)
    (out * direction.to(dtype)).sum().backward()
    return [out.detach(), h.grad, *(p.grad for p in mixer.parameters())]


def case_errors(kind, length, hidden_size, multiple):
    """Return relative errors of all results, by the kernels and without."""
    generator = torch.Generator().manual_seed(length)
    size = length if kind is TokenMixer else hidden_size
    mixer = kind(size, multiple=multiple, generator=generator)
    h, direction = torch.randn(2, 2, length, hidden_size, generator=generator)
    h, direction = h.bfloat16(), direction.bfloat16()
    weights = {name: w.bfloat16() for name, w in mixer.state_dict().items()}
    narrow = torch.bfloat16
    exact = mix(mixer, h, weights, direction, torch.float64)
    plain = mix(mixer, h, weights, direction, narrow)
    ours = mix(mixer, h, weights, direction, narrow, by_kernel=True)

    def errors(results, expected):
        return [
            ((a.double() - b).norm() / b.norm()).item()
            for a, b in zip(results, expected, strict=True)
        ]

    return {
        "plain": errors(plain, exact),
        "ours": errors(ours, exact),
        "difference": errors(ours, [r.double() for r in plain]),
    }


def stray_values():
    """Return how many results are no numbers, with all memory poisoned before.

    States are part of a larger tensor of NaN, results are written into NaN.
    """
    mixer = TokenMixer(97, multiple=100).bfloat16()
    gate_up, down = (p.detach() for p in mixer.parameters())
    around = torch.full((3, 97, 70), torch.nan, dtype=torch.bfloat16)
    around[1] = torch.randn(97, 70)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)
    empty = torch.empty_like(around)
    assert empty.isnan().all()
    out = fused.token_mixing(around[1:2], gate_up, down, 1e-5)
    gate_up = around[1:2].requires_grad_()
    gated = fused.gate(gate_up)
    gated.sum().backward()
    torch.use_deterministic_algorithms(False)
    results = (out, gated, gate_up.grad)
    return sum((~result.isfinite()).sum().item() for result in results)


def compiled_differences(kind):
    """Return differences of results compiled in one graph, forward and backward."""
    use(True)
    mixer = kind(5, multiple=64).bfloat16()
    h = torch.randn(3, 5, 5, dtype=torch.bfloat16)
    compiled = torch.compile(mixer, backend="aot_eager", fullgraph=True)
    results = []
    for function in (mixer, compiled):
        mixer.zero_grad()
        x = h.clone().requires_grad_()
        out = function(x)
        out.square().sum().backward()
        results.append([out, x.grad, *(p.grad for p in mixer.parameters())])
    return [(a - b).abs().max().item() for a, b in zip(*results, strict=True)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    interpreter._convert_float = convert
    builder = interpreter.InterpreterBuilder
    builder.create_dot = multiply_with(builder.create_dot)
    report = {
        kind.__name__: {
            "errors": {str(case[0]): case_errors(kind, *case) for case in CASES},
            "compiled": compiled_differences(kind),
        }
        for kind in (TokenMixer, SwiGLU)
    }
    print(json.dumps({**report, "stray": stray_values()}))

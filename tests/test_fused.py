"""What kernels compute is what torch computes, as far as bfloat16 tells."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sktrm.nn import fused
from sktrm.nn.blocks import TokenMixer

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def interpreted():
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    # Triton decides when it is imported whether to interpret.
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, HERE / "interpreted.py"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", ["TokenMixer", "SwiGLU"])
@pytest.mark.parametrize("length", [5, 16, 81, 97, 128])
def test_results_and_gradients_are_as_precise_as_without_kernels(
    interpreted, kind, length
):
    errors = interpreted[kind]["errors"][str(length)]
    for plain, ours in zip(errors["plain"], errors["ours"], strict=True):
        assert 0 < ours < 1.2 * plain
    # Not zero: kernels were taken, and round elsewhere.
    assert 0 < max(errors["difference"]) < 1e-2


def test_neighbours_do_not_leak_and_all_is_written(interpreted):
    assert interpreted["stray"] == 0


@pytest.mark.parametrize("kind", ["TokenMixer", "SwiGLU"])
def test_compiles_into_one_graph(interpreted, kind):
    assert interpreted[kind]["compiled"] == [0, 0, 0, 0]


def test_cpus_do_without():
    h = torch.randn(2, 5, 16, dtype=torch.bfloat16)
    assert not fused.token_mixing_is_fused(h)
    mixer = TokenMixer(5, multiple=16).bfloat16()
    compiled = torch.compile(mixer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(h), mixer(h), rtol=0, atol=0)


def test_compiled_code_takes_for_constant_whether_there_is_a_kernel():
    def function(h):
        return h + 1 if fused._can_launch(0) else h

    h = torch.zeros(3)
    compiled = torch.compile(function, backend="eager", fullgraph=True)
    assert torch.equal(compiled(h), function(h))


def test_neither_triton_nor_the_compiler_is_imported_before_it_is_needed():
    code = """if True:
        import sys
        import sktrm.nn
        assert not {"triton", "torch._dynamo"} & set(sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

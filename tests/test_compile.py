"""A compiled network is the same network, and nothing breaks where there is none."""

import copy
import math
import pickle
import threading
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from conftest import tiny_solver

from sktrm import TRMSolver
from sktrm._device import has_cxx_compiler
from sktrm.nn import TinyRecursionModel
from sktrm.nn.blocks import weights_cast_once
from sktrm.nn.compiled import _CAN_ISOLATE


def losses(X, y, **parameters):
    solver = tiny_solver(
        symbols="interchangeable", max_epochs=4, dtype="float64", **parameters
    )
    solver.fit(X, y)
    return solver, [epoch["train_loss"] for epoch in solver.history_]


def worth_compiling(n_rows, solver, monkeypatch):
    """Let prediction be compiled after so many rows."""
    sudokus = (n_rows - 0.5) * solver._sudokus_a_row(solver.module_)
    monkeypatch.setattr("sktrm._compiling._SUDOKUS_WORTH_COMPILING", sudokus)


@pytest.mark.skipif(not has_cxx_compiler(), reason="torch has no C++ compiler here")
def test_compiled_training_is_the_plain_one(sudokus):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, while it compiles
        compiled, its_losses = losses(*sudokus, compile=True)
    plain, expected = losses(*sudokus, compile=False)
    np.testing.assert_allclose(its_losses, expected, rtol=1e-9)
    rows, _ = compiled.net_.module_._compiled
    assert rows == compiled.batch_size
    assert plain.net_.module_._compiled is None
    assert (compiled.predict(sudokus[0]) == plain.predict(sudokus[0])).all()
    # Names of the weights stay, so that pickles and state dicts are exchangeable.
    assert list(compiled.net_.module_.state_dict()) == list(plain.module_.state_dict())


@pytest.mark.parametrize("can_isolate", sorted({_CAN_ISOLATE, False}))
def test_a_process_compiles_any_number_of_models(monkeypatch, can_isolate):
    """Where torch cannot tell them apart (before 2.12), each has code of its own."""
    monkeypatch.setattr("sktrm.nn.compiled._CAN_ISOLATE", can_isolate)
    limit = torch._dynamo.config.recompile_limit
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch\b")
        for n in range(limit + 2):
            model = TinyRecursionModel.build(
                n_tokens=3, length=4, hidden_size=8 * (n + 1), n_heads=2, n_layers=1
            )
            model.compile_step(torch.ones(2, 4, dtype=torch.long), depths=(1, 2))
            assert model.is_compiled_for(2)


def test_compiling_leaves_no_gradients_behind(monkeypatch):
    """On CUDA they lie in memory that the next run of a graph takes."""
    model = TinyRecursionModel.build(n_tokens=3, length=4, hidden_size=8, n_heads=2)
    left = []
    step = model._train_compiled

    def watched(*args):
        left.append([p for p in model.parameters() if p.grad is not None])
        return step(*args)

    monkeypatch.setattr(torch, "compile", lambda step, **options: step)
    monkeypatch.setattr(model, "_train_compiled", watched)
    model.compile_step(torch.ones(2, 4, dtype=torch.long), depths=(1, 2))
    assert left == [[], []]
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(("n_rows", "sizes"), [(12, [4] * 3), (14, [7, 7]), (7, [7])])
def test_compiled_steps_take_parts_of_one_size(sudokus, monkeypatch, n_rows, sizes):
    """Those the caches hold, if the rows can be dealt so; else larger ones."""
    seen = []

    def compile_(step, **options):
        def counting(inputs, *args):
            seen.append(len(inputs))
            return step(inputs, *args)

        return counting

    monkeypatch.setattr(torch, "compile", compile_)
    inputs = torch.as_tensor(sudokus[0][:n_rows].reshape(n_rows, -1))
    solver = tiny_solver(symbols="interchangeable", max_epochs=1, dtype="float64")
    model = solver.fit(*sudokus).net_.module_
    monkeypatch.setattr(model, "_rows_at_once", lambda device: 5)
    results = []
    for compiled in (False, True):
        if compiled:
            model.compile_step(inputs)
            seen.clear()
        model.zero_grad()
        output = model(inputs)
        (output.answer_logits.square().sum() + output.halt_logit.sum()).backward()
        grads = [p.grad.clone() for p in model.parameters()]
        results.append((*output.carry, *output[1:], grads))
    assert seen == sizes
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-12)


@pytest.mark.skipif(not has_cxx_compiler(), reason="torch has no C++ compiler here")
def test_compiled_prediction_is_the_plain_one_for_any_number_of_rows(
    sudokus, monkeypatch
):
    X, y = sudokus
    solver = tiny_solver(
        symbols="interchangeable", max_epochs=4, dtype="float64", compile=False
    ).fit(X, y)
    plain = [solver.solve(X[:n], max_steps=4) for n in (20, 16, 7, 1)]
    worth_compiling(5, solver, monkeypatch)
    solver.set_params(compile=True)
    solver.predict(X[:10])
    assert solver.module_._prediction is not None
    with torch._dynamo.config.patch(error_on_recompile=True):
        for expected in plain:
            found = solver.solve(X[: len(expected.answers)], max_steps=4)
            assert (found.answers == expected.answers).all()
            assert (found.n_steps == expected.n_steps).all()
            np.testing.assert_allclose(found.confidence, expected.confidence)
        for _ in solver.staged_predict(X[:9]):
            pass


def test_prediction_is_compiled_once_it_has_taken_long(sudokus, monkeypatch):
    X, y = sudokus
    solver = tiny_solver(max_epochs=1, halt_threshold=1.0).fit(X, y)
    calls = []

    def compile_(step, **options):
        calls.append(options)
        return step

    monkeypatch.setattr(torch, "compile", compile_)
    worth_compiling(50, solver, monkeypatch)
    solver.set_params(compile=True)
    solver.solve(X[:10], max_steps=4)
    assert not calls
    solver.solve(X[:10], max_steps=3)  # after 50 rows
    assert len(calls) == 1
    solver.predict(X)
    assert len(calls) == 1
    for copied in (solver.module_, copy.deepcopy(solver.module_)):
        copied = pickle.loads(pickle.dumps(copied))
        assert copied._prediction is None
        assert copied.compile_after == math.inf


@pytest.mark.parametrize(("batch_size", "compiled"), [(1, False), (16, True)])
def test_validation_is_compiled_with_training(
    sudokus, monkeypatch, batch_size, compiled
):
    """For a single row torch would compile anew: it would never be used."""
    monkeypatch.setattr(torch, "compile", lambda step, **options: step)
    X, y = sudokus
    solver = tiny_solver(max_epochs=1, compile=True, batch_size=batch_size)
    solver.fit(X[:20], y[:20], X_val=X[20:30], y_val=y[20:30])
    assert solver.net_.module_.is_compiled_for(batch_size)
    assert (solver.net_.predictor_._prediction is not None) == compiled


def test_where_prediction_cannot_be_compiled_it_says_so_once(sudokus, monkeypatch):
    X, y = sudokus
    solver = tiny_solver(max_epochs=1, compile=False).fit(X, y)
    expected = solver.predict(X)

    def broken(step, **options):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", broken)
    worth_compiling(0, solver, monkeypatch)
    solver.set_params(compile=True)
    with pytest.warns(UserWarning, match="Could not compile the network: no compiler$"):
        assert (solver.predict(X) == expected).all()
    assert (solver.predict(X) == expected).all()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("no compiler\nand a long story"), "no compiler"),
        (NotImplementedError(), "NotImplementedError"),  # an error without a text
    ],
)
def test_without_a_compiler_training_goes_on_with_a_warning(
    sudokus, monkeypatch, error, reason
):
    def broken(function, **options):
        def call(*args):
            raise error

        return call

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.warns(UserWarning, match=f"Could not compile the network: {reason}$"):
        solver, _ = losses(*sudokus, compile=True)
    assert solver.net_.module_._compiled is None
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not has_cxx_compiler()


def test_copies_of_a_compiled_model_are_not_bound_to_it(sudokus, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda step, **options: step)
    solver, _ = losses(*sudokus, compile=True, warm_start=True)
    module = solver.net_.module_
    assert module.is_compiled_for(solver.batch_size)
    assert copy.deepcopy(module)._compiled is None
    assert pickle.loads(pickle.dumps(module))._compiled is None
    # It serves training alone, and the next fit, too.
    monkeypatch.setattr(torch, "compile", None)
    steps = module._compiled
    with torch.no_grad():
        module._compiled = steps[0], None
        module(torch.zeros(steps[0], 16, dtype=torch.int8))
    module._compiled = steps
    solver.fit(*sudokus)


@pytest.mark.parametrize(
    ("parameters", "n_rows", "worth"),
    [
        ({"symbols": [1, 2]}, 10**7, True),
        # 300 Sudokus of 9 x 9 in each slot; here a row has 16 * 2 * 32 numbers.
        ({"symbols": [1, 2]}, 16 * 300 * 81 * 9 * 32 // 1024 - 1, False),
        ({"symbols": [1, 2]}, 16 * 300 * 81 * 9 * 32 // 1024, True),
        ({"symbols": [1, 2], "max_time": 30.0}, 10**7, False),
        ({"symbols": [1, 2], "mixer": "attention"}, 10**7, False),
        ({"symbols": [1, 2], "compile": False}, 10**7, False),
        ({"symbols": [1, 2], "hidden_size": 64}, 16 * 300 * 729 // 64, True),
        ({"symbols": [1, 2], "hidden_size": 64}, 16 * 300 * 729 // 64 - 1, False),
        # Without symbols a fifth is saved, not half, of rows that cost more.
        ({}, 16 * 375 * 81 * 9 * 32 // 512, True),
        ({}, 16 * 375 * 81 * 9 * 32 // 512 - 1, False),
        ({"hidden_size": 64}, 16 * 750 * 81 * 9 * 32 // (4 * 1024) + 1, True),
        ({"hidden_size": 64}, 16 * 750 * 81 * 9 * 32 // (4 * 1024), False),
        ({"max_time": 149.0}, 10**7, False),
        ({"max_time": 150.0}, 10**7, True),
        ({"mixer": "attention"}, 10**7, False),
        ({"compile": True}, 1, True),
        # On CUDA all networks, if each of 16 slots starts 1,000 rows.
        ({"device": "cuda"}, 16_001, True),
        ({"device": "cuda"}, 15_999, False),
        ({"device": "cuda", "symbols": [1, 2], "mixer": "attention"}, 16_001, True),
        ({"device": "cuda", "compile": False}, 10**7, False),
    ],
    ids=str,
)
def test_what_is_worth_compiling(sudokus, monkeypatch, parameters, n_rows, worth):
    monkeypatch.setattr("sktrm._task.has_cxx_compiler", lambda: True)
    monkeypatch.setattr("sktrm._task.can_compile", lambda device: True)
    solver: TRMSolver = tiny_solver(max_epochs=1).fit(*sudokus)
    solver.set_params(**parameters)
    solver._device = torch.device(solver.device)
    solver._sizes = {**solver._model_sizes()}
    solver.net_.module_ = solver._make_model(torch.Generator())
    assert solver._is_worth_compiling(n_rows) == worth


@pytest.mark.parametrize(
    ("parameters", "n_rows"),
    [
        # 10,000 Sudokus of 9 x 9; here a row has 16 * 4 * 32 numbers.
        ({"symbols": "interchangeable"}, 10_000 * 81 * 9 * 32 / 2048),
        (
            {"symbols": "interchangeable", "mixer": "convolution"},
            10_000 * 81 * 9 * 32 / 2048,
        ),
        ({"symbols": "interchangeable", "mixer": "attention"}, math.inf),
        ({"symbols": "interchangeable", "compile": False}, math.inf),
        ({}, math.inf),
    ],
    ids=str,
)
def test_when_prediction_is_worth_compiling(sudokus, monkeypatch, parameters, n_rows):
    monkeypatch.setattr("sktrm._task.has_cxx_compiler", lambda: True)
    solver = tiny_solver(max_epochs=1).set_params(**parameters).fit(*sudokus)
    assert solver._compile_after() == pytest.approx(n_rows)


def test_on_cuda_nothing_is_compiled_where_torch_cannot(sudokus, monkeypatch):
    monkeypatch.setattr("sktrm._task.can_compile", lambda device: False)
    solver = tiny_solver(max_epochs=1, compile="auto").fit(*sudokus)
    solver._device = torch.device("cuda")
    assert not solver._is_worth_compiling(10**7)
    assert solver._compile_after() == math.inf


@pytest.mark.parametrize(
    ("device", "batch_size", "n_rows"),
    [("cpu", 16, 16), ("cuda", 16, 2**24 // 512), ("cuda", 2**16, 2**16)],
)
def test_how_many_rows_are_predicted_together(
    sudokus, monkeypatch, device, batch_size, n_rows
):
    """On CUDA states of 2**24 numbers at least, 16 * 32 a row here."""
    monkeypatch.setattr("sktrm._task.can_compile", lambda device: True)
    solver = tiny_solver(max_epochs=1).fit(*sudokus).set_params(batch_size=batch_size)
    solver._device = torch.device(device)
    assert solver._rows_at_a_time() == n_rows
    if device == "cuda":  # and compiled after 1,500 steps of such batches
        solver.set_params(compile="auto")
        assert solver._compile_after() == 1500 * n_rows


def test_what_is_compiled_follows_the_parameter(sudokus, monkeypatch):
    """Not what an earlier fit was told."""
    monkeypatch.setattr(torch, "compile", lambda step, **options: step)
    X, y = sudokus
    solver = tiny_solver(max_epochs=1, compile=True, warm_start=True).fit(X, y)
    module = solver.net_.module_
    assert module.is_compiled_for(solver.batch_size)
    solver.fit(X, y, X_val=X[:9], y_val=y[:9])  # what came later is compiled, too
    assert solver.net_.predictor_._prediction is not None
    solver.set_params(compile=False).fit(X, y)
    assert not module.is_compiled_for(solver.batch_size)
    assert solver.net_.predictor_.compile_after == math.inf


def test_other_threads_do_not_wait_for_the_compiler(sudokus, monkeypatch):
    """Nor use a step that is not there yet, or that never will be."""
    X, y = sudokus
    solver = tiny_solver(max_epochs=1, compile=False).fit(X, y)
    expected = solver.predict(X)
    meanwhile = []

    def compile_(step, **options):
        def call(*args):
            if not meanwhile:
                thread = threading.Thread(
                    target=lambda: meanwhile.append(solver.predict(X))
                )
                thread.start()
                thread.join(timeout=60)
            raise RuntimeError("no compiler")

        return call

    monkeypatch.setattr(torch, "compile", compile_)
    worth_compiling(0, solver, monkeypatch)
    solver.set_params(compile=True)
    with pytest.warns(UserWarning, match="Could not compile the network"):
        assert (solver.predict(X) == expected).all()
    assert len(meanwhile) == 1
    assert (meanwhile[0] == expected).all()


@pytest.mark.parametrize(
    ("mixer", "symbols"),
    [
        ("mlp", None),
        ("attention", None),
        ("mlp", "interchangeable"),
        ("convolution", "interchangeable"),
        ("attention", "interchangeable"),
    ],
)
@pytest.mark.parametrize("n_parts", [1, 4])
def test_training_compiles_nothing_anew(sudokus, monkeypatch, mixer, symbols, n_parts):
    """Neither for the states that a step returns, nor when others predict."""
    torch._dynamo.reset()
    X, y = sudokus
    counted = []

    def count(graph, example_inputs):
        counted.append(graph)
        return graph

    solver = tiny_solver(max_epochs=1, symbols=symbols, mixer=mixer, dtype="bfloat16")
    solver.fit(X, y)
    module, inputs = solver.net_.module_, solver.net_.slots.data[0][:16]
    monkeypatch.setattr(module, "_rows_at_once", lambda device: 16 / n_parts)
    with pytest.MonkeyPatch.context() as patch:
        compile_ = torch.compile
        patch.setattr(torch, "compile", lambda step, **_: compile_(step, backend=count))
        module.compile_step(inputs)
    n_graphs = len(counted)
    carry = None
    for _ in range(3):
        with weights_cast_once(module.net, module.working_dtype):  # another thread
            carry = module(inputs, carry).carry
    assert n_graphs == len(counted) > 0

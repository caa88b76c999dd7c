"""A compiled network is the same network, and nothing breaks where there is none."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from conftest import tiny_solver

from sktrm import TRMSolver
from sktrm._device import has_cxx_compiler


def losses(X, y, **parameters):
    solver = tiny_solver(
        symbols="interchangeable", max_epochs=4, dtype="float64", **parameters
    )
    solver.fit(X, y)
    return solver, [epoch["train_loss"] for epoch in solver.history_]


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


@pytest.mark.skipif(not has_cxx_compiler(), reason="torch has no C++ compiler here")
def test_compiled_prediction_is_the_plain_one_for_any_number_of_rows(
    sudokus, monkeypatch
):
    X, y = sudokus
    solver = tiny_solver(
        symbols="interchangeable", max_epochs=4, dtype="float64", compile=False
    ).fit(X, y)
    plain = [solver.solve(X[:n], max_steps=4) for n in (20, 16, 7, 1)]
    monkeypatch.setattr("sktrm._stepping._ROWS_WORTH_COMPILING", 5)
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
    monkeypatch.setattr("sktrm._stepping._ROWS_WORTH_COMPILING", 50)
    solver.set_params(compile=True)
    solver.solve(X[:10], max_steps=4)
    assert not calls
    solver.solve(X[:10], max_steps=3)  # after 50 rows
    assert len(calls) == 1
    solver.predict(X)
    assert len(calls) == 1
    assert pickle.loads(pickle.dumps(solver)).module_._prediction is None


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
    monkeypatch.setattr("sktrm._stepping._ROWS_WORTH_COMPILING", 0)
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
        ({"symbols": [1, 2]}, 10**5, True),
        ({"symbols": [1, 2]}, 300 * 16 - 1, False),
        ({"symbols": [1, 2], "max_time": 30.0}, 10**5, False),
        ({"symbols": [1, 2], "mixer": "attention"}, 10**5, False),
        ({"symbols": [1, 2], "compile": False}, 10**5, False),
        ({}, 10**5, False),
        ({"compile": True}, 1, True),
    ],
    ids=str,
)
def test_what_is_worth_compiling(sudokus, monkeypatch, parameters, n_rows, worth):
    monkeypatch.setattr("sktrm._task.has_cxx_compiler", lambda: True)
    solver: TRMSolver = tiny_solver(max_epochs=1).fit(*sudokus)
    solver.set_params(**parameters)
    solver._sizes = {**solver._model_sizes()}
    assert solver._is_worth_compiling(n_rows) == worth

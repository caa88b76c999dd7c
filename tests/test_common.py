"""scikit-learn's contract: its own checks, and what they leave out."""

import inspect
import os
from functools import partial

import numpy as np
import pytest
import sklearn
import torch
from conftest import TINY
from joblib import parallel_config
from sklearn.base import clone
from sklearn.model_selection import cross_validate
from sklearn.utils import estimator_checks, get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.fixes import parse_version

import sktrm
from sktrm import TRMClassifier, TRMSolver

SMALL = {
    name: value
    for name, value in TINY.items()
    if name not in ("max_epochs", "batch_size", "dtype", "random_state")
}
# Few steps, so large ones.
SMALL |= {"hidden_size": 16, "lr": 0.01, "lr_warmup_steps": 10, "max_epochs": 30}
EXACT = {"dtype": "float64", "batch_size": 10_000, "halt_exploration": 0.0}
# In float32, weighted and repeated rows add up to different last bits.
INEXACT = {
    "check_sample_weight_equivalence_on_dense_data": "float32 rounds",
}
# Of scikit-learn 1.6, which subtracts a mean in place from the symbols.
WHOLE_NUMBERS = (
    {"check_positive_only_tag_during_fit": "the check cannot handle whole numbers"}
    if parse_version(sklearn.__version__) < parse_version("1.7")
    else {}
)


def exact(estimator, **parameters):
    return estimator(**{**SMALL, **EXACT, **parameters})


def usual(estimator, **parameters):
    return estimator(**{**SMALL, "dtype": "float32", **parameters})


# By token mixing it learns too little of check_classifiers_train in so few epochs.
SOLVER = {"mixer": "attention"}
ESTIMATORS = [
    # The check of weights predicts rows whose symbols have weight zero.
    (
        exact(
            TRMSolver, **SOLVER, max_epochs=40, ema_decay=0.0, handle_unknown="ignore"
        ),
        WHOLE_NUMBERS,
    ),
    (exact(TRMClassifier), {}),
    (
        usual(TRMSolver, **SOLVER, max_epochs=30, lr=0.003, batch_size=16),
        INEXACT | WHOLE_NUMBERS,
    ),
    (usual(TRMClassifier), INEXACT),
]
EXPECTED = {repr(estimator): failures for estimator, failures in ESTIMATORS}
STRICT = (
    {"xfail_strict": True}
    if "xfail_strict" in inspect.signature(parametrize_with_checks).parameters
    else {}  # before scikit-learn 1.8, pytest's own setting says so
)


@parametrize_with_checks(
    [estimator for estimator, _ in ESTIMATORS],
    expected_failed_checks=lambda estimator: EXPECTED[repr(estimator)],
    **STRICT,
)
def test_contract_of_scikit_learn(estimator, check):
    # Without it, one of the checks is skipped.
    assert os.environ["SCIPY_ARRAY_API"] == "1"
    check(estimator)


def test_no_estimator_is_left_out():
    public = {getattr(sktrm, name) for name in sktrm.__all__}
    estimators = {c for c in public if isinstance(c, type)}
    assert estimators == {type(estimator) for estimator, _ in ESTIMATORS}


@pytest.mark.parametrize("estimator", [TRMSolver, TRMClassifier])
class TestBeyondTheChecks:
    @pytest.mark.parametrize(
        "check",
        ["check_dataframe_column_names_consistency", "check_inplace_ensure_writeable"],
    )
    def test_checks_that_are_not_among_the_usual(self, estimator, check):
        instance = usual(estimator, max_epochs=2, random_state=0)
        if estimator is TRMSolver:
            instance.set_params(handle_unknown="ignore")
        before = repr(instance)
        # The check raises an AssertionError of its own where the contract is broken.
        getattr(estimator_checks, check)(estimator.__name__, instance)
        assert repr(instance) == before

    def test_same_seed_same_model(self, estimator):
        X = np.random.RandomState(0).randint(4, size=(40, 5))
        y = X[:, 0] if estimator is TRMClassifier else X
        instance = usual(estimator, max_epochs=2, random_state=0)
        assert not get_tags(instance).non_deterministic
        first, second = (clone(instance).fit(X, y).module_ for _ in range(2))
        torch.testing.assert_close(
            dict(first.state_dict()), dict(second.state_dict()), rtol=0, atol=0
        )

    def test_every_parameter_survives_clone_and_set_params(self, estimator):
        for name, default in estimator().get_params().items():
            for value in (default, object()):
                instance = estimator(**{name: value})
                assert getattr(instance, name) is value
                assert (
                    estimator().set_params(**{name: value}).get_params()[name] is value
                )
                if value is default:
                    assert clone(instance).get_params()[name] == value
            # One of another type, which clone takes as it is.
            assert clone(estimator(**{name: "other"})).get_params()[name] == "other"

    def test_every_parameter_is_validated(self, estimator):
        parameters = set(estimator().get_params())
        assert set(estimator._parameter_constraints) == parameters

    @pytest.mark.parametrize("n_columns", [5, 40])
    def test_parallel_fits_give_the_scores_of_serial_ones(self, estimator, n_columns):
        X = np.random.RandomState(0).randint(4, size=(60, n_columns))
        y = X[:, 0] if estimator is TRMClassifier else X
        # "auto" may be bfloat16 for all but narrow tables, and that shows how many
        # threads there are.
        narrow = estimator is TRMClassifier and n_columns == 5
        dtype = "auto" if narrow else "float64"
        instance = estimator(**SMALL).set_params(
            max_epochs=3, random_state=0, dtype=dtype
        )
        scoring = ["accuracy", "neg_log_loss"] if estimator is TRMClassifier else None
        fit = partial(cross_validate, instance, X, y, cv=3, scoring=scoring)
        threads = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            serial = fit(n_jobs=1)
        finally:
            torch.set_num_threads(threads)
        for backend in ("loky", "threading"):
            with parallel_config(backend=backend):
                scores = fit(n_jobs=2)
            for name in (n for n in scores if n.startswith("test_")):
                # The log loss shows the last bits.
                rtol = 1e-6 if "loss" in name else 0
                np.testing.assert_allclose(scores[name], serial[name], rtol=rtol)

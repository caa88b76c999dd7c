"""TRMClassifier within scikit-learn's tools, and callbacks within TRMClassifier."""

import importlib.util

import joblib
import numpy as np
import pandas as pd
import pytest
from conftest import tiny_classifier, tiny_solver
from sklearn import set_config
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.experimental import (
    enable_halving_search_cv,  # noqa: F401 - to import it is to enable the search
)
from sklearn.frozen import FrozenEstimator
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, recall_score
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    TunedThresholdClassifierCV,
    cross_val_predict,
    cross_validate,
    learning_curve,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils import estimator_html_repr
from skorch.callbacks import EarlyStopping, EpochScoring, LRScheduler

import sktrm._base
from sktrm.metrics import exact_match_scorer


@pytest.fixture(scope="module")
def table():
    """Numbers and a category; the label is a rule, and now and then an exception."""
    random = np.random.RandomState(0)
    X = pd.DataFrame(
        {
            "size": random.normal(size=120),
            "colour": pd.Categorical(random.choice(["red", "green"], 120)),
            "noise": random.normal(size=120),
        }
    )
    rule = (X["size"] > 0) ^ (X["colour"] == "red")
    return X, (rule ^ (random.rand(120) < 0.1)).astype(int).to_numpy()


@pytest.fixture(scope="module")
def fitted(table):
    return fast(max_epochs=15).fit(*table)


@pytest.fixture
def routing():
    set_config(enable_metadata_routing=True)
    yield
    set_config(enable_metadata_routing=False)


def fast(**parameters):
    return tiny_classifier(**{"hidden_size": 16, "batch_size": 40, **parameters})


def scaled(scaler=None, **transformer):
    return make_column_transformer(
        (scaler or StandardScaler(), make_column_selector(dtype_include="number")),
        **{"remainder": "passthrough", **transformer},
    )


class CountingScaler(StandardScaler):
    """Counts how often any of its kind is fitted."""

    n_fits = 0

    def fit(self, X, y=None, sample_weight=None):
        CountingScaler.n_fits += 1
        return super().fit(X, y, sample_weight)


class TestPipelines:
    def test_columns_transformed_to_arrays(self, table):
        X, y = table
        encoded = make_column_transformer(
            (OneHotEncoder(sparse_output=False), ["colour"]),
            remainder=StandardScaler(),
        )
        pipeline = make_pipeline(encoded, fast(max_epochs=30)).fit(X, y)
        assert pipeline.score(X, y) > 0.8
        assert pipeline[-1].n_features_in_ == 4

    def test_set_output_keeps_dtypes_and_names(self, table):
        X, y = table
        columns = scaled(verbose_feature_names_out=False)
        pipeline = make_pipeline(columns, fast()).set_output(transform="pandas")
        pipeline.fit(X, y)
        assert pipeline[-1].feature_names_in_.tolist() == ["size", "noise", "colour"]
        assert pipeline[-1].is_categorical_.tolist() == [False, False, True]

    def test_memory_fits_the_steps_before_once(self, table, tmp_path):
        X, y = table
        before = CountingScaler.n_fits
        for lr in (0.01, 0.02):
            pipeline = make_pipeline(
                scaled(CountingScaler()), fast(lr=lr), memory=str(tmp_path)
            )
            pipeline.fit(X, y)
        assert CountingScaler.n_fits == before + 1

    def test_memory_keeps_what_fit_returns(self, table, tmp_path):
        X, y = table
        calls = []

        def fit(model, X, y):
            calls.append(model)
            return model.fit(X, y)

        cached = joblib.Memory(tmp_path, verbose=0).cache(fit)
        first, second = cached(fast(), X, y), cached(fast(), X, y)
        assert len(calls) == 1
        np.testing.assert_array_equal(second.predict_proba(X), first.predict_proba(X))
        cached(fast(lr=0.02), X, y)
        assert len(calls) == 2


class TestSearches:
    GRID = {"lr": [1e-8, 0.02]}

    def test_grid(self, table):
        search = GridSearchCV(fast(max_epochs=10), self.GRID, cv=2).fit(*table)
        assert search.best_params_ == {"lr": 0.02}

    def test_random(self, table):
        search = RandomizedSearchCV(
            fast(max_epochs=10), self.GRID, n_iter=2, cv=2, random_state=0
        ).fit(*table)
        assert search.best_params_ == {"lr": 0.02}

    def test_halving_by_epochs(self, table):
        search = HalvingGridSearchCV(
            fast(),
            self.GRID,
            resource="max_epochs",
            min_resources=5,
            max_resources=10,
            factor=2,
            cv=2,
            random_state=0,
        ).fit(*table)
        assert search.n_resources_ == [5, 10]
        assert search.best_params_ == {"lr": 0.02, "max_epochs": 10}

    def test_grid_over_a_pipeline(self, table):
        pipeline = make_pipeline(scaled(), fast(categorical_features=[2]))
        pipeline.set_params(trmclassifier__max_epochs=10)
        grid = {"trmclassifier__lr": self.GRID["lr"]}
        search = GridSearchCV(pipeline, grid, cv=2).fit(*table)
        assert search.best_params_ == {"trmclassifier__lr": 0.02}


class TestValidation:
    def test_several_scores(self, table):
        scores = cross_validate(
            fast(max_epochs=10),
            *table,
            cv=2,
            scoring=["accuracy", "roc_auc", "neg_log_loss", "neg_brier_score"],
            return_estimator=True,
        )
        assert scores["test_roc_auc"].mean() > 0.7
        assert np.isfinite(scores["test_neg_log_loss"]).all()
        assert len(scores["estimator"]) == 2

    def test_predictions_out_of_fold(self, table):
        X, y = table
        model = fast(max_epochs=15)
        proba = cross_val_predict(model, X, y, cv=3, method="predict_proba")
        assert proba.shape == (len(X), 2)
        np.testing.assert_allclose(proba.sum(axis=1), 1)
        labels = cross_val_predict(model, X, y, cv=3)
        np.testing.assert_array_equal(labels, proba.argmax(axis=1))
        assert (labels == y).mean() > 0.7

    def test_learning_curve(self, table):
        model = fast(max_epochs=30)
        sizes, train, test = learning_curve(model, *table, train_sizes=[10, 60], cv=2)
        assert sizes.tolist() == [10, 60]
        assert train.shape == test.shape == (2, 2)
        few, many = test.mean(axis=1)
        assert many > few


class TestAround:
    def test_calibration_of_probabilities(self, table):
        X, y = table
        calibrated = CalibratedClassifierCV(fast(max_epochs=10), cv=2).fit(X, y)
        assert log_loss(y, calibrated.predict_proba(X)) < np.log(2)

    def test_frozen_it_is_not_trained_again(self, fitted, table):
        X, y = table
        before = fitted.predict_proba(X)
        frozen = FrozenEstimator(fitted)
        calibrated = CalibratedClassifierCV(frozen, method="isotonic").fit(X, y)
        assert clone(frozen).estimator is fitted
        np.testing.assert_array_equal(fitted.predict_proba(X), before)
        assert calibrated.score(X, y) >= 0.8

    def test_threshold_tuned_for_a_metric(self, table):
        X, y = table
        tuned = TunedThresholdClassifierCV(
            fast(max_epochs=10), scoring="recall", cv=2
        ).fit(X, y)
        assert recall_score(y, tuned.predict(X)) >= recall_score(
            y, tuned.estimator_.predict(X)
        )

    def test_stacking(self, table):
        X, y = table
        numbers = make_pipeline(scaled(remainder="drop"), LogisticRegression())
        trm = fast(max_epochs=15)
        stack = StackingClassifier([("trm", trm), ("linear", numbers)], cv=2).fit(X, y)
        assert stack.predict_proba(X).shape == (len(X), 2)
        # The rule takes both columns, so the linear model alone is of little use.
        of_trm, of_linear = stack.final_estimator_.coef_[0]
        assert of_trm > abs(of_linear)

    def test_voting(self, table):
        X, y = table
        seeds = [(f"seed{i}", fast(random_state=i)) for i in range(2)]
        vote = VotingClassifier(seeds, voting="soft").fit(X, y)
        mean = np.mean([e.predict_proba(X) for e in vote.estimators_], axis=0)
        np.testing.assert_allclose(vote.predict_proba(X), mean)

    def test_permutation_importance(self, fitted, table):
        result = permutation_importance(fitted, *table, n_repeats=3, random_state=0)
        size, colour, noise = result.importances_mean
        assert min(size, colour) > noise


class TestRouting:
    def test_weights_reach_fit_and_score(self, table, routing):
        X, y = table
        weights = np.where(y == 1, 1.0, 0.0)
        model = fast(max_epochs=10).set_fit_request(sample_weight=True)
        model.set_score_request(sample_weight=True)
        result = cross_validate(model, X, y, cv=2, params={"sample_weight": weights})
        # With labels of one class left, that class is always the answer.
        assert result["test_score"].tolist() == [1, 1]

    def test_a_pipeline_transforms_the_validation_rows(self, table, routing):
        X, y = table
        model = fast(max_epochs=3).set_fit_request(
            sample_weight=True, X_val=True, y_val=True
        )
        seen = {}

        class Watched(type(model)):
            def fit(self, X, y, sample_weight=None, *, X_val=None, y_val=None):
                seen.update(X=X, X_val=X_val, sample_weight=sample_weight)
                return super().fit(X, y, sample_weight, X_val=X_val, y_val=y_val)

        model.__class__ = Watched
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        columns = scaled(scaler, verbose_feature_names_out=False)
        pipeline = make_pipeline(columns, model, transform_input=["X_val"])
        pipeline.set_output(transform="pandas")
        train, held_out = slice(0, 80), slice(80, None)
        pipeline.fit(
            X[train],
            y[train],
            sample_weight=np.ones(80),
            X_val=X[held_out],
            y_val=y[held_out],
        )
        assert len(seen["sample_weight"]) == 80
        expected = pipeline[:-1].transform(X[held_out])
        pd.testing.assert_frame_equal(seen["X_val"], expected)
        assert "valid_exact_match" in pipeline[-1].history_[0]


class TestDisplay:
    @pytest.mark.parametrize("make", [tiny_classifier, tiny_solver])
    def test_html_links_to_the_documentation(self, make, monkeypatch):
        monkeypatch.setattr(
            sktrm._base, "documentation_page", lambda: "https://example.org/api"
        )
        model = make()
        anchor = type(model).__name__.lower()
        assert f'href="https://example.org/api#{anchor}' in estimator_html_repr(model)

    def test_without_a_page_there_is_no_link(self, monkeypatch):
        monkeypatch.setattr(sktrm._base, "documentation_page", lambda: "")
        html = estimator_html_repr(make_pipeline(scaled(), fast()))
        assert "TRMClassifier" in html
        assert "#trmclassifier" not in html

    @pytest.mark.parametrize(
        ("entries", "page"),
        [
            (["Documentation, https://example.org/api"], "https://example.org/api"),
            (["Source, https://example.org"], ""),
            ([], ""),
        ],
    )
    def test_the_page_is_that_of_the_metadata(self, entries, page, monkeypatch):
        class Metadata:
            def get_all(self, name, default):
                assert name == "Project-URL"
                return entries or default

        monkeypatch.setattr(sktrm._base, "metadata", lambda package: Metadata())
        assert sktrm._base.documentation_page() == page


class TestCallbacks:
    def test_skorch_callbacks_are_cloned(self, table):
        score = EpochScoring(
            lambda net, X, y: 1.0, name="one", on_train=True, use_caching=False
        )
        stopping = EarlyStopping(monitor="train_loss", patience=1, threshold=1e9)
        model = fast(max_epochs=10, callbacks=[("stop", stopping), score])
        before = [dict(vars(callback)) for callback in (stopping, score)]
        model.fit(*table)
        assert [vars(callback) for callback in (stopping, score)] == before
        assert model.n_iter_ == 2
        assert clone(model).get_params()["callbacks"] is not None

    @pytest.mark.parametrize(
        "callback", [LRScheduler(), LRScheduler, ("rate", LRScheduler())]
    )
    def test_a_schedule_that_would_have_no_effect_is_refused(self, table, callback):
        with pytest.raises(ValueError, match=r"no LRScheduler: .* lr_schedule"):
            fast(callbacks=[callback]).fit(*table)

    def test_skorch_callbacks_may_watch_the_validation(self, table):
        X, y = table
        stopping = EarlyStopping(
            monitor="valid_exact_match", lower_is_better=False, patience=1, threshold=9
        )
        model = fast(max_epochs=10, callbacks=[stopping])
        assert model.fit(X, y, X_val=X, y_val=y).n_iter_ == 2

    def test_skorch_callbacks_add_to_the_history(self, table):
        def n_weights(net, X, y):
            return sum(p.numel() for p in net.module_.parameters())

        score = EpochScoring(
            n_weights, name="n_weights", on_train=True, use_caching=False
        )
        model = fast(callbacks=[score]).fit(*table)
        expected = sum(p.numel() for p in model.module_.parameters())
        assert [epoch["n_weights"] for epoch in model.history_] == [expected] * 2


HAS_CALLBACKS = importlib.util.find_spec("sklearn.callback") is not None


def test_there_are_callbacks_if_scikit_learn_has_them():
    assert hasattr(fast(), "set_callbacks") == HAS_CALLBACKS


# There is nothing to test where scikit-learn has no callbacks; `make check` has them.
@pytest.mark.skipif(not HAS_CALLBACKS, reason="they came with scikit-learn 1.9")
class TestProgress:
    """scikit-learn's own callbacks."""

    @property
    def callback(self):
        return importlib.import_module("sklearn.callback")

    def test_scores_are_monitored_epoch_by_epoch(self, table):
        X, y = table
        monitor = self.callback.ScoringMonitor(scoring=["accuracy", "neg_log_loss"])
        model = fast(max_epochs=4).set_callbacks(monitor).fit(X, y)
        log = monitor.get_logs().data
        fit, *epochs = log
        assert [row["task_name"] for row in log] == ["fit"] + ["epoch"] * 4
        assert fit["accuracy"] == model.score(X, y)
        assert epochs[-1]["accuracy"] == fit["accuracy"]
        assert epochs[-1]["neg_log_loss"] > epochs[0]["neg_log_loss"]

    def test_the_fit_is_scored_with_the_weights_that_are_kept(self, table):
        X, y = table
        monitor = self.callback.ScoringMonitor(scoring=["accuracy", "neg_log_loss"])
        model = fast(max_epochs=6, lr=0.05, early_stopping=False)
        model.set_callbacks(monitor).fit(X, y, X_val=X, y_val=y)
        fit, *epochs = monitor.get_logs().data
        best = max(epoch["accuracy"] for epoch in epochs)
        assert fit["accuracy"] == best == model.score(X, y)
        assert model.temperature_ != 1
        assert fit["neg_log_loss"] == -log_loss(y, model.predict_proba(X))

    def test_weights_are_metadata_of_the_scores(self, table):
        X, y = table
        monitor = self.callback.ScoringMonitor(scoring="accuracy")
        weights = np.where(y == 1, 1.0, 0.0)
        fast(max_epochs=4).set_callbacks(monitor).fit(X, y, sample_weight=weights)
        assert monitor.get_logs().data[0]["accuracy"] == 1

    def test_progress_passes_through_searches(self, table, capsys):
        pytest.importorskip("rich")
        bar = self.callback.ProgressBar(max_propagation_depth=None)
        search = GridSearchCV(fast(), {"lr": [0.01, 0.02]}, cv=2).set_callbacks(bar)
        search.fit(*table)
        shown = capsys.readouterr().out
        assert "GridSearchCV" in shown
        assert "TRMClassifier - fit" in shown

    def test_a_callback_may_end_training(self, table):
        class Enough:
            def setup(self, estimator, context):
                self.ended = 0

            def teardown(self, estimator, context):
                self.torn_down = True

            def on_fit_task_begin(self, estimator, context):
                pass

            def on_fit_task_end(self, estimator, context):
                self.ended += 1
                return self.ended == 3

        enough = Enough()
        model = fast(max_epochs=10).set_callbacks(enough).fit(*table)
        assert model.n_iter_ == 3
        assert enough.torn_down

    @pytest.mark.parametrize("moment", ["begin", "end"])
    def test_ctrl_c_in_a_callback_is_ctrl_c(self, table, moment):
        class Impatient:
            def setup(self, estimator, context): ...

            def teardown(self, estimator, context): ...

            def on_fit_task_begin(self, estimator, context):
                self.interrupt("begin", context)

            def on_fit_task_end(self, estimator, context):
                self.interrupt("end", context)

            def interrupt(self, now, context):
                if now == moment and context.task_name == "epoch":
                    raise KeyboardInterrupt

        model = fast().set_callbacks(Impatient())
        with pytest.raises(KeyboardInterrupt):
            model.fit(*table)
        assert len(model.predict(table[0])) == len(table[0])
        assert model.net_.epoch_tasks_ is None

    def test_warm_starts_and_partial_fits_are_followed_too(self, table):
        X, y = table
        monitor = self.callback.ScoringMonitor(scoring="accuracy")
        model = fast(warm_start=True).set_callbacks(monitor).fit(X, y)
        model.fit(X, y)
        model.partial_fit(X, y)
        runs = [len(log.data) for log in monitor.get_logs(select="all")]
        assert runs == [3, 3, 2]
        assert model.net_.epoch_tasks_ is None

    def test_a_solver_is_followed_too(self, copies):
        seen = []

        class Names:
            def setup(self, estimator, context): ...

            def teardown(self, estimator, context): ...

            def on_fit_task_begin(self, estimator, context, *, fitted_estimator):
                seen.append(context.task_name)

            def on_fit_task_end(self, estimator, context, *, fitted_estimator):
                assert len(fitted_estimator.predict(copies[0])) == len(copies[0])

        tiny_solver().set_callbacks(Names()).fit(*copies)
        assert seen == ["fit", "epoch", "epoch"]

    def test_a_solver_is_scored_after_each_epoch(self, copies):
        X, y = copies
        monitor = self.callback.ScoringMonitor(scoring=exact_match_scorer)
        solver = tiny_solver(max_epochs=3).set_callbacks(monitor).fit(X, y)
        fit, *epochs = (row["score"] for row in monitor.get_logs().data)
        assert len(epochs) == 3
        assert fit == epochs[-1] == solver.score(X, y)

"""TRMClassifier: what it learns, says and refuses."""

import pickle
import re
import warnings
from argparse import Namespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY, tiny_classifier
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import log_loss
from skorch.callbacks import Callback

from sktrm import TRMClassifier, _classifier, _table_probes
from sktrm._inference import Solution
from sktrm._slots import Rows
from sktrm._table_task import label_noise
from sktrm._tables import UNKNOWN

EXACT = {"dtype": "float64", "batch_size": 10_000, "halt_exploration": 0.0}


def make_table(n_rows, random_state=0):
    """Numbers and categories, some missing; the label follows a rule of three."""
    random = np.random.RandomState(random_state)
    X = pd.DataFrame(
        {
            "size": random.normal(size=n_rows),
            "colour": random.choice(["red", "green", "blue"], n_rows),
            "old": random.rand(n_rows) < 0.5,
            "noise": random.normal(size=n_rows),
        }
    )
    y = np.where((X["size"] > 0) ^ X["old"], "yes", "no")
    y = np.where(X["colour"] == "blue", "maybe", y)
    X.loc[::10, "noise"] = np.nan
    return X, y


@pytest.fixture(scope="module")
def table():
    return make_table(300)


@pytest.fixture(scope="module")
def fitted(table):
    return tiny_classifier(max_epochs=20, batch_size=50).fit(*table)


class TestAnswers:
    def test_it_learns_a_rule_between_columns(self, fitted):
        assert fitted.score(*make_table(300, random_state=1)) > 0.9

    def test_what_it_says_agrees(self, fitted, table):
        X, _ = table
        proba = fitted.predict_proba(X)
        np.testing.assert_allclose(proba.sum(axis=1), 1)
        np.testing.assert_allclose(np.exp(fitted.predict_log_proba(X)), proba)
        np.testing.assert_array_equal(
            fitted.classes_[proba.argmax(axis=1)], fitted.predict(X)
        )
        *_, last = fitted.staged_predict(X)
        np.testing.assert_array_equal(last, fitted.predict(X))
        *_, last = fitted.staged_predict_proba(X)
        np.testing.assert_allclose(last, proba)

    def test_there_is_a_stage_for_each_step(self, fitted, table):
        X, _ = table
        assert len(list(fitted.staged_predict(X))) == fitted.n_supervision_steps
        assert len(list(fitted.staged_predict_proba(X, max_steps=5))) == 5

    def test_the_answer_of_a_row_depends_on_that_row_alone(self, fitted, table):
        X, _ = table
        one = np.vstack([fitted.predict_proba(X.iloc[[i]]) for i in range(20)])
        np.testing.assert_allclose(fitted.predict_proba(X)[:20], one, atol=1e-6)

    def test_it_is_less_sure_where_labels_follow_no_rule(self, table):
        X, y = table
        random = np.random.RandomState(0)
        green = (X["colour"] == "green").to_numpy()
        y = np.where(green, random.choice(["yes", "no"], len(y)), y)
        model = tiny_classifier(max_epochs=15, batch_size=50).fit(X, y)
        X, _ = make_table(300, random_state=1)
        confidence = model.predict_confidence(X)
        assert ((confidence > 0) & (confidence < 1)).all()
        green = (X["colour"] == "green").to_numpy()
        assert confidence[green].mean() < confidence[~green].mean()

    def test_frames_of_pandas_and_polars_say_the_same(self, fitted, table):
        pl = pytest.importorskip("polars")
        X, y = table
        other = pl.DataFrame({name: X[name].tolist() for name in X})
        from_polars = clone(fitted).fit(other, y)
        np.testing.assert_array_equal(
            from_polars.predict_proba(other), fitted.predict_proba(X)
        )

    def test_arrays_say_the_same_as_frames(self, table):
        X, y = table
        X = X[["size", "noise"]]
        frame = tiny_classifier().fit(X, y)
        array = tiny_classifier().fit(X.to_numpy(), y)
        np.testing.assert_array_equal(
            frame.predict_proba(X), array.predict_proba(X.to_numpy())
        )
        assert not hasattr(array, "feature_names_in_")

    def test_codes_named_as_categories_are_learned_as_such(self):
        # Of 12 codes every other means one: no threshold separates them.
        X = np.random.RandomState(0).randint(12, size=(300, 1))
        y = X[:, 0] % 2
        model = tiny_classifier(categorical_features=[0], max_epochs=20).fit(X, y)
        np.testing.assert_array_equal(model.is_categorical_, [True])
        assert model.score(X, y) == 1

    def test_a_category_that_is_new_is_treated_as_a_rare_one(self, table):
        X, y = table
        X = X.copy()
        X.loc[0, "colour"] = "once"
        model = tiny_classifier().fit(X, y)
        new = X.iloc[[0]].assign(colour="never")
        np.testing.assert_array_equal(
            model.predict_proba(new), model.predict_proba(X.iloc[[0]])
        )

    @pytest.mark.parametrize("smooth", [False, True])
    def test_pickled_it_says_the_same_and_trains_on(self, table, smooth):
        X, y = table
        model = tiny_classifier(smooth_numbers=smooth).fit(X, y)
        loaded = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
        loaded.partial_fit(X, y)
        assert loaded.n_iter_ == model.n_iter_ + 1
        assert not np.array_equal(loaded.predict_proba(X), model.predict_proba(X))

    def test_pickled_it_keeps_its_average(self, fitted, table):
        X, y = table
        still = {"lr": 1e-12, "weight_decay": 0.0}
        model = clone(fitted).set_params(weight_decay=0.0, max_epochs=5).fit(X, y)
        loaded = pickle.loads(pickle.dumps(model))
        assert loaded.net_.n_optimizer_steps_ == model.net_.n_optimizer_steps_
        here, there = (
            one.set_params(**still).partial_fit(X, y) for one in (model, loaded)
        )
        np.testing.assert_allclose(
            here.predict_proba(X), there.predict_proba(X), atol=1e-3
        )

    def test_unpickled_it_recovers_the_weights_it_had(self, fitted):
        loaded = pickle.loads(pickle.dumps(fitted))
        trained = loaded.net_.module_.state_dict()
        _, (good, _) = loaded.net_.last_good_
        assert all(torch.equal(good[name], trained[name]) for name in trained)

    def test_the_loss_is_that_of_fit(self, fitted, table):
        X, _ = table
        before = fitted.predict_proba(X)
        changed = pickle.loads(pickle.dumps(fitted)).set_params(loss="stablemax")
        for model in (changed, pickle.loads(pickle.dumps(changed))):
            np.testing.assert_array_equal(model.predict_proba(X), before)
            assert model.net_.criterion_.answer == "softmax"

    def test_wide_tables_take_attention(self):
        X, y = np.random.RandomState(0).normal(size=(20, 130)), np.arange(20) % 2
        model = tiny_classifier(max_epochs=1)
        assert model.fit(X, y)._sizes["mixer"] == "attention"
        assert model.fit(X[:, :128], y)._sizes["mixer"] == "mlp"


class TestWeights:
    def exact(self, **parameters):
        return tiny_classifier(**EXACT, **parameters)

    def test_rows_of_weight_zero_are_as_good_as_absent(self, table):
        X, y = table
        weights = np.arange(len(y)) % 2
        weighted = self.exact().fit(X, y, sample_weight=weights)
        without = self.exact().fit(X[weights == 1], y[weights == 1])
        np.testing.assert_allclose(weighted.predict_proba(X), without.predict_proba(X))

    def test_class_weights_are_weights_of_rows(self):
        X = np.random.RandomState(0).randint(4, size=(60, 2))
        y = X[:, 0]
        # What "auto" stands for goes by the weights of rows alone.
        fixed = self.exact(weight_decay=1.0)
        named = clone(fixed).set_params(class_weight={0: 1, 1: 2, 2: 3, 3: 4}).fit(X, y)
        given = clone(fixed).fit(X, y, sample_weight=y + 1)
        plain = fixed.fit(X, y)
        proba = named.predict_proba(X)
        np.testing.assert_allclose(given.predict_proba(X), proba)
        assert not np.allclose(plain.predict_proba(X), proba)

    def test_balanced_classes_weigh_the_same(self):
        X = np.zeros((40, 1))
        y = np.repeat([0, 1], [30, 10])
        plain, balanced = (
            tiny_classifier(class_weight=weight, batch_size=40, max_epochs=100).fit(
                X, y
            )
            for weight in (None, "balanced")
        )
        np.testing.assert_allclose(plain.predict_proba(X)[0], [0.75, 0.25], atol=0.05)
        np.testing.assert_allclose(balanced.predict_proba(X)[0], [0.5, 0.5], atol=0.05)

    def test_weights_that_sum_to_one_leave_categories_known(self):
        X = np.random.RandomState(0).choice(["a", "b"], (200, 2)).astype(object)
        y = X[:, 0] == X[:, 1]
        model = tiny_classifier(max_epochs=20)
        assert model.fit(X, y, sample_weight=np.full(200, 1 / 200)).score(X, y) == 1

    def test_balance_is_that_of_the_rows_that_weigh(self):
        X, y = np.zeros((60, 1)), np.repeat([0, 1, 2], [20, 20, 20])
        weights = np.repeat([1, 0, 1, 0, 2], [15, 5, 5, 15, 20])
        model = tiny_classifier(class_weight="balanced", warm_start=True, max_epochs=1)
        model.fit(X, y, weights)
        expected = 60 / (3 * np.array([15, 5, 40]))
        np.testing.assert_allclose(model._class_weight, expected)
        # Neither what validates nor what a warm start sees changes it.
        model.fit(X[15:], y[15:], X_val=X[:1], y_val=y[:1])
        np.testing.assert_allclose(model._class_weight, expected)
        val = model._make_rows(
            model._label(*model._check_rows(X, y, None, reset=False))
        )
        np.testing.assert_allclose(val.weights, expected[y], rtol=1e-6)

    def test_a_class_of_weight_zero_rows_only_can_be_balanced(self):
        X, y = np.zeros((30, 1)), np.repeat([0, 1, 2], 10)
        model = tiny_classifier(class_weight="balanced", max_epochs=1)
        model.fit(X, y, sample_weight=np.repeat([1, 1, 0], 10))
        np.testing.assert_array_equal(model._class_weight, np.ones(3))

    def test_classes_that_weigh_nothing(self, table):
        X, y = table
        weight = {"yes": 0, "no": 0, "maybe": 1}
        some = y != "maybe"
        model = tiny_classifier(class_weight=weight)
        message = "class_weight must leave a row of y with a positive sample_weight so"
        with pytest.raises(ValueError, match=message):
            model.partial_fit(X[some], y[some], classes=np.unique(y))
        message = "class_weight must leave a row of y_val .* sample_weight_val some"
        with pytest.raises(ValueError, match=message):
            model.fit(X, y, X_val=X[some], y_val=y[some])

    @pytest.mark.parametrize("weight", [-1.0, np.inf, np.nan, "much"])
    def test_weights_of_classes_that_are_none(self, table, weight):
        message = (
            rf"class_weight must hold finite numbers .* got {weight!r} for .*'yes'"
        )
        with pytest.raises(ValueError, match=message):
            tiny_classifier(class_weight={"yes": weight}).fit(*table)

    def test_a_weight_of_a_class_that_is_none(self, table):
        with pytest.raises(ValueError, match="are not in class_weight"):
            tiny_classifier(class_weight={"perhaps": 2.0}).fit(*table)


@pytest.mark.parametrize(
    ("n_rows", "n_columns", "epochs"),
    [(2000, 5, 60), (2000, 48, 30), (100, 5, 400), (10, 5, 400), (50_000, 5, 20)],
)
def test_auto_epochs_start_so_many_rows_and_fewer_wide_ones(n_rows, n_columns, epochs):
    model = TRMClassifier()
    model.n_features_in_ = n_columns
    model._encoder = Namespace(share_between=0.0)
    assert model._n_epochs(n_rows) == epochs
    model._encoder.share_between = 0.4
    assert model._n_epochs(n_rows) == max(20, round(0.8 * epochs))
    model._encoder.share_between = 1.0
    assert model._n_epochs(n_rows) == max(20, epochs / 2)
    assert model.set_params(max_epochs=7)._n_epochs(n_rows) == 7


@pytest.mark.parametrize(("n_codes", "lr"), [(4, 4e-3), (2, 3e-3), (0, 2e-3)])
def test_the_auto_rate_is_lower_where_numbers_lie_between_knots(n_codes, lr):
    X = np.random.RandomState(0).normal(size=(80, 4))
    X[:, :n_codes] = np.sign(X[:, :n_codes])
    rates = []

    class Rates(Callback):
        def on_batch_end(self, net, **_):
            rates.append(net.optimizer_.param_groups[0]["lr"])

    course = {"lr_schedule": "constant", "lr_warmup_steps": 0, "callbacks": [Rates()]}
    for given, used in (("auto", lr), (1e-3, 1e-3)):
        tiny_classifier(lr=given, **course).fit(X, X[:, 0] > 0)
        assert set(rates) == {used}
        rates.clear()


class TestDecayOfTheWeights:
    def used(self, model):
        return {group["weight_decay"] for group in model.net_.optimizer_.param_groups}

    @pytest.mark.parametrize(
        ("n_rows", "decay"),
        [(4000, 0.5), (1800, 0.5), (450, 1.0), (50, 3.0), (20, 3.0)],
    )
    def test_auto_grows_where_rows_are_few(self, n_rows, decay):
        X = np.random.RandomState(0).normal(size=(n_rows, 4))
        model = tiny_classifier(weight_decay="auto", max_epochs=1)
        assert self.used(model.fit(X, X[:, 0] > 0)) == {decay}
        again = pickle.loads(pickle.dumps(model))
        assert self.used(again) == {decay}

    def test_rows_of_weight_zero_do_not_count(self):
        X = np.random.RandomState(0).normal(size=(450, 4))
        model = tiny_classifier(weight_decay="auto", max_epochs=1)
        weights = np.repeat([1.0, 0.0], [200, 250])
        assert self.used(model.fit(X, X[:, 0] > 0, weights)) == {1.5}

    @pytest.mark.parametrize(
        ("weight", "decay"), [(2, 1.5), (1, 2.12132), (0.01, 2.12132)]
    )
    def test_rows_count_by_their_weight_and_one_in_the_mean_at_least(
        self, weight, decay
    ):
        X = np.random.RandomState(0).normal(size=(100, 4))
        model = tiny_classifier(weight_decay="auto", max_epochs=1)
        fitted = model.fit(X, X[:, 0] > 0, np.full(100, weight))
        np.testing.assert_allclose(list(self.used(fitted)), [decay], rtol=1e-5)

    def test_rows_that_come_in_parts_do_not_count(self):
        X = np.random.RandomState(0).normal(size=(50, 4))
        model = tiny_classifier(weight_decay="auto")
        assert self.used(model.partial_fit(X, X[:, 0] > 0, [False, True])) == {0.5}

    @pytest.mark.parametrize(
        ("n_turned", "factor"), [(0, 1.0), (2, 2.425), (3, 3.1375), (30, 4.0)]
    )
    def test_rows_alike_with_other_labels_raise_it(self, n_turned, factor):
        model = self.paired(100, n_turned)
        assert model.weight_decay_ == pytest.approx(factor * 0.5)
        assert self.used(model) == {model.weight_decay_}

    def paired(self, n_pairs, n_turned):
        """Return a model of 2,000 rows, of which so many have a twin."""
        X = np.arange(2000)[:, None]
        X[2000 - n_pairs :] = X[:n_pairs]
        y = X[:, 0] % 2
        turned = slice(2000 - n_turned, None)
        y[turned] = 1 - y[turned]
        return tiny_classifier(
            weight_decay="auto",
            max_epochs=1,
            categorical_features=[0],
            min_frequency=1,
            max_categories=2000,
        ).fit(X, y)

    def test_one_pair_shows_little(self):
        assert 0.5 < self.paired(1, 1).weight_decay_ < 1.3

    def test_what_cannot_be_learned_by_heart_counts_little(self):
        X = np.arange(2000)[:, None] % 4
        y = np.random.RandomState(0).rand(2000) < 0.3
        model = tiny_classifier(weight_decay="auto", max_epochs=1)
        assert 0.5 < model.fit(X, y).weight_decay_ < 0.6

    def test_it_has_a_limit_where_rows_are_few_and_labels_noise(self):
        X = np.repeat(np.arange(20.0), 2)[:, None]
        model = tiny_classifier(weight_decay="auto", max_epochs=1)
        assert model.fit(X, np.arange(40) % 2).weight_decay_ == 4.0

    def test_noise_in_rows_that_come_in_parts_does_not_count(self):
        X = np.repeat(np.arange(20.0), 2)[:, None]
        model = tiny_classifier(weight_decay="auto")
        model.partial_fit(X, np.arange(40) % 2, [0, 1])
        assert model.weight_decay_ == 0.5

    def test_a_number_is_taken_as_it_is(self):
        X = np.repeat(np.arange(25.0), 2)[:, None]
        model = tiny_classifier(weight_decay=0.25, max_epochs=1)
        assert self.used(model.fit(X, np.arange(50) % 2)) == {0.25}


class TestLabelNoise:
    """What rows that no column tells apart say about their labels."""

    X = np.array([[0, np.nan], [0, np.nan], [1, 1], [1, 1], [1, 1], [2, 0]])
    y = np.array([0, 1, 1, 1, 0, 1])

    def test_is_the_share_outside_the_majority_of_rows_alike(self):
        # Three kinds of six rows: three labels beyond the first of each, two differ.
        expected = 2 / (3 + 100) * 3 / 6
        assert label_noise(self.X, self.y, np.ones(6)) == pytest.approx(expected)

    @pytest.mark.parametrize("classes", [2, 5])
    def test_a_row_of_weight_two_is_two_rows(self, classes):
        random = np.random.RandomState(0)
        X, y = random.randint(4, size=(60, 3)), random.randint(classes, size=60)
        counts = random.randint(1, 4, size=60)
        weighted = label_noise(X, y, counts.astype(float))
        repeated = label_noise(
            X.repeat(counts, axis=0), y.repeat(counts), np.ones(counts.sum())
        )
        assert weighted == pytest.approx(repeated)
        assert weighted > 0

    def test_is_none_where_rows_alike_agree_or_none_are(self):
        alone = [0, 2, 5]
        assert label_noise(self.X[alone], self.y[alone], np.array([1.0, 2, 0.7])) == 0
        assert label_noise(self.X[2:4], self.y[2:4], np.array([0.3, 1.2])) == 0


class TestSmoothNumbers:
    def test_noise_is_learned_less_by_heart(self):
        random = np.random.RandomState(1)
        X = random.normal(size=(1150, 4))
        y = X[:, 0] * X[:, 1] + X[:, 2] + random.normal(size=1150) > 0
        losses = []
        for smooth in (False, True):
            model = tiny_classifier(smooth_numbers=smooth, max_epochs=100)
            model.set_params(batch_size=150).fit(X[:150], y[:150])
            losses.append(log_loss(y[150:], model.predict_proba(X[150:])))
        assert losses[1] < 0.8 * losses[0]

    @pytest.mark.parametrize("smooth", [False, True])
    def test_columns_of_many_values_have_a_line(self, smooth):
        few = np.arange(100) % 5
        X = np.column_stack((np.random.RandomState(0).normal(size=100), few))
        model = tiny_classifier(smooth_numbers=smooth, max_epochs=1).fit(X, few > 1)
        numbers = model.module_.embedding.numbers
        assert numbers.shares.flatten(1).any(dim=1).tolist() == [smooth, False]
        assert (numbers.line is not None) == smooth
        assert model.smooth_numbers_ is smooth

    @pytest.mark.parametrize(("sharp", "smooth"), [(False, True), (True, False)])
    def test_auto_takes_what_rows_held_out_prefer(self, sharp, smooth, capsys):
        random = np.random.RandomState(0)
        X = random.uniform(-2, 2, size=(200, 3))
        y = X[:, 0] + X[:, 1] + random.normal(size=200) > 0
        if sharp:
            y = X[:, 0] % 1 < 0.5
        model = tiny_classifier(max_epochs=120, batch_size=50, verbose=1).fit(X, y)
        assert model.smooth_numbers_ is smooth
        assert model.n_iter_ == 120
        printed = capsys.readouterr().out.splitlines()[0]
        lines, free = map(float, re.findall(r"\d\.\d+", printed))
        assert printed.startswith("log loss of 50 rows held out after 60 epochs")
        assert (lines < free) == smooth

    @pytest.mark.parametrize(
        ("n_val", "sizes"), [(None, (112, 38)), (24, (112, 38)), (25, (150, 25))]
    )
    def test_auto_asks_rows_held_out(self, monkeypatch, n_val, sizes):
        """Those of the fit, if they are enough to tell."""
        X = np.random.RandomState(0).normal(size=(150, 3))
        y, asked = X[:, 0] > 0, []

        def log_loss_of(probe, rows, held_out, smooth, n_epochs):
            asked.append((len(rows.labels), len(held_out.labels), smooth, n_epochs))
            return 1.0

        monkeypatch.setattr(_table_probes, "_log_loss", log_loss_of)
        val = {} if n_val is None else {"X_val": X[:n_val], "y_val": y[:n_val]}
        tiny_classifier(max_epochs=9).fit(X, y, **val)
        assert asked == [(*sizes, True, 5), (*sizes, False, 5)]

    @pytest.mark.parametrize(
        ("n_rows", "max_epochs", "n_epochs"),
        [
            (200, "auto", 100),  # half of 200, a quarter of 400
            (200, 7, 4),
            (200, 10**6, 100),  # of what a callback or early stopping ends
            (10_000, "auto", 5),
        ],
    )
    def test_auto_tries_for_less_time_than_the_fit(self, n_rows, max_epochs, n_epochs):
        model = tiny_classifier(max_epochs=max_epochs)
        model.n_features_in_ = 3
        model._encoder = Namespace(share_between=1.0)
        assert _table_probes._epochs(model, n_rows) == n_epochs

    def test_auto_tries_nothing_that_cannot_be_told(self, monkeypatch):
        X = np.random.RandomState(0).normal(size=(300, 3))
        y = X[:, 0] > 0
        monkeypatch.setattr(_table_probes, "_log_loss", lambda *_: 1 / 0)
        models = [
            tiny_classifier().fit(X[:99], y[:99]),
            tiny_classifier().fit(np.sign(X), y),  # codes have no lines
            tiny_classifier().fit(X, np.ones(300)),
            tiny_classifier().partial_fit(X, y, classes=[False, True]),
        ]
        assert [model.smooth_numbers_ for model in models] == [False] * 4
        with warnings.catch_warnings():
            # scikit-learn warns of so many classes, but not every version of it.
            warnings.simplefilter("ignore", UserWarning)
            nobody_held_out = tiny_classifier().fit(X, np.arange(300))
        assert not nobody_held_out.smooth_numbers_
        with pytest.raises(ZeroDivisionError):
            tiny_classifier().fit(X[:100], y[:100], np.full(100, 0.14))

    @pytest.mark.parametrize("chosen", [True, np.True_])
    def test_lines_that_are_asked_for_are_taken(self, chosen):
        X = np.random.RandomState(0).normal(size=(40, 3))
        model = tiny_classifier(smooth_numbers=chosen)
        assert model.fit(X, X[:, 0] > 0).smooth_numbers_
        assert clone(model).partial_fit(X, X[:, 0] > 0, [False, True]).smooth_numbers_

    def test_auto_hides_its_probes(self):
        """From callbacks, from warnings, from what the fit leaves behind."""
        X = np.random.RandomState(0).normal(size=(120, 3))
        calls = []

        class Count(Callback):
            def on_epoch_end(self, net, **kwargs):
                calls.append("skorch")

        class Tell:
            def setup(self, estimator, context):
                calls.append("setup")

            def teardown(self, estimator, context):
                calls.append("teardown")

            def on_fit_task_begin(self, estimator, context, **data):
                """Told of each task's end, too."""

            def on_fit_task_end(self, estimator, context, **data):
                calls.append(context.task_name)

        model = tiny_classifier(max_epochs=8, callbacks=[Count()])
        told = hasattr(model, "set_callbacks")  # from scikit-learn 1.9 on
        if told:
            model.set_callbacks(Tell())
        model.fit(X, X[:, 0] > 0)
        assert calls.count("skorch") == len(model.history_) == model.n_iter_ == 8
        if told:
            assert [calls.count(name) for name in ("setup", "epoch", "fit")] == [
                1,
                8,
                1,
            ]
            assert calls[-1] == "teardown"
        model = tiny_classifier(lr=1e30, optimizer="adamw", max_epochs=8)
        with pytest.warns(ConvergenceWarning) as warned:
            model.fit(X, X[:, 0] > 0)
        assert len(warned) == 1

    def test_a_subclass_with_other_parameters_fits(self):
        class Small(TRMClassifier):
            def __init__(self, random_state=None):
                super().__init__(max_epochs=2, random_state=random_state)

        X = np.random.RandomState(0).normal(size=(120, 3))
        assert Small(random_state=0).fit(X, X[:, 0] > 0).n_iter_ == 2


class TestRepeatedRows:
    """A row of weight two is two rows where all fit into a batch."""

    @pytest.mark.parametrize("smooth", [False, True])
    @pytest.mark.parametrize("seed", range(3))
    def test_they_train_the_same_model(self, seed, smooth):
        random = np.random.RandomState(seed)
        X, y = random.rand(15, 30), random.randint(3, size=15)
        weights = random.randint(13, size=15)
        assert weights.sum() > 50  # with more rows weight_decay="auto" is less
        # Long enough that rows halt one by one, and so start apart from each other.
        model = tiny_classifier(smooth_numbers=smooth, max_epochs=60, **EXACT)
        weighted = clone(model).fit(X, y, sample_weight=weights)
        repeated = model.fit(np.repeat(X, weights, axis=0), np.repeat(y, weights))
        np.testing.assert_allclose(
            weighted.predict_proba(X), repeated.predict_proba(X), atol=1e-7
        )


class TestTrainingOn:
    def test_warm_start_goes_on_with_the_model(self, table):
        X, y = table
        model = tiny_classifier(warm_start=True).fit(X, y)
        net = model.net_
        model.fit(X, y)
        assert model.net_ is net
        assert model.n_iter_ == 2 * TINY["max_epochs"]
        model.set_params(warm_start=False).fit(X, y)
        assert model.net_ is not net
        assert model.n_iter_ == TINY["max_epochs"]

    def test_warm_start_knows_no_other_labels(self, table):
        X, y = table
        model = tiny_classifier(warm_start=True).fit(X, y)
        with pytest.raises(ValueError, match=r"y holds 'new', .* none of the classes"):
            model.fit(X, np.full(len(X), "new"))

    def test_partial_fit_takes_classes_and_trains_for_an_epoch(self, table):
        X, y = table
        model = tiny_classifier()
        model.partial_fit(X[:50], y[:50], classes=["no", "maybe", "yes", "unseen"])
        model.partial_fit(X[50:], y[50:])
        assert model.n_iter_ == 2
        assert model.predict_proba(X).shape == (len(X), 4)
        assert model.temperature_ == 1

    def test_partial_fit_goes_on_after_fit(self, table):
        model = tiny_classifier().fit(*table)
        assert model.partial_fit(*table).n_iter_ == TINY["max_epochs"] + 1

    def test_partial_fit_first_needs_classes(self, table):
        with pytest.raises(
            ValueError, match="classes must be passed on the first call"
        ):
            tiny_classifier().partial_fit(*table)

    def test_partial_fit_weighs_classes_that_a_batch_lacks(self, table):
        X, y = table
        model = tiny_classifier(class_weight={"yes": 2.0, "no": 3.0})
        one = y == "yes"
        model.partial_fit(X[one], y[one], classes=np.unique(y))
        model.partial_fit(X, y)
        assert model.n_iter_ == 2

    def test_partial_fit_takes_weights(self, table):
        X, y = table
        weights = np.where(y == "yes", 1.0, 0.0)
        model = tiny_classifier()
        for _ in range(4):
            model.partial_fit(X, y, classes=np.unique(y), sample_weight=weights)
        assert (model.predict(X) == "yes").all()

    def test_partial_fit_cannot_balance(self, table):
        X, y = table
        with pytest.raises(ValueError, match="class_weight='balanced' needs all rows"):
            tiny_classifier(class_weight="balanced").partial_fit(
                X, y, classes=np.unique(y)
            )


class TestValidation:
    @pytest.mark.parametrize(
        ("many", "early_stopping", "validated"),
        [
            (299, "auto", True),
            (300, "auto", False),
            (300, True, True),
            (300, False, False),
        ],
    )
    def test_auto_holds_out_of_many_rows(
        self, table, monkeypatch, many, early_stopping, validated
    ):
        monkeypatch.setattr(_classifier, "_MANY_ROWS", many)
        model = tiny_classifier(early_stopping=early_stopping).fit(*table)
        assert hasattr(model, "validation_score_") == validated
        assert ("valid_exact_match" in model.history_[0]) == validated

    def test_auto_stops_on_the_rows_given(self, table):
        X, y = table
        X, y = X[:60], y[:60]
        model = tiny_classifier(max_epochs=6, n_iter_no_change=2, lr=1e-6)
        assert model.fit(X, y).n_iter_ == 6
        assert model.fit(X, y, X_val=X, y_val=y).n_iter_ < 6
        model.set_params(early_stopping=False)
        assert model.fit(X, y, X_val=X, y_val=y).n_iter_ == 6

    def test_the_best_weights_are_kept(self, table):
        X, y = table
        model = tiny_classifier(max_epochs=10, lr=0.05, early_stopping=False)
        model.fit(X, y, X_val=X[:50], y_val=y[:50])
        best = max(epoch["valid_exact_match"] for epoch in model.history_)
        assert model.validation_score_ == pytest.approx(best)
        assert model.score(X[:50], y[:50]) == pytest.approx(best)

    def test_every_class_keeps_a_row_to_learn_from(self):
        X = np.random.RandomState(0).normal(size=(41, 2))
        y = np.array(["a"] * 20 + ["b"] * 18 + ["c"] * 2 + ["alone"])
        model = tiny_classifier(early_stopping=True, validation_fraction=0.5)
        model.fit(X, y)
        labels = np.searchsorted(model.classes_, y)
        kept, held_out = model._choose_held_out(len(y), labels)
        assert np.unique(labels[kept]).tolist() == [0, 1, 2, 3]
        a, alone, b, _ = np.bincount(labels[held_out], minlength=4)
        assert alone == 0
        assert abs(a - b) <= 2
        assert len(held_out) == round(0.5 * 41)

    def test_rows_held_out_teach_the_encoder_nothing(self):
        X = np.random.RandomState(0).normal(size=(41, 1))
        y = (X[:, 0] > 0).astype(int)
        model = tiny_classifier(early_stopping=True).fit(X, y)
        kept, held_out = model._choose_held_out(len(y), y)
        X[held_out[0]] = np.nan
        model.fit(X, y)
        median = [[np.median(X[kept])]]
        np.testing.assert_array_equal(
            model.predict_proba([[np.nan]]), model.predict_proba(median)
        )

    def test_the_score_is_that_of_the_last_training(self, table):
        X, y = table
        model = tiny_classifier(max_epochs=1).fit(X, y, X_val=X, y_val=y)
        assert hasattr(model, "validation_score_")
        assert not hasattr(model.partial_fit(X, y), "validation_score_")
        model.fit(X, y, X_val=X, y_val=y)
        assert not hasattr(model.fit(X, y), "validation_score_")

    def test_no_class_has_a_second_row(self):
        with pytest.raises(ValueError, match="no class in y has a second row"):
            tiny_classifier(early_stopping=True).fit(np.zeros((20, 1)), np.arange(20))

    def test_too_few_rows_to_hold_any_out(self):
        with pytest.raises(ValueError, match=r"validation_fraction=0.1 of 4 rows"):
            tiny_classifier(early_stopping=True).fit(np.zeros((4, 1)), [0, 1, 0, 1])

    def test_the_temperature_is_that_of_the_least_loss(self, table):
        X, y = table
        random = np.random.RandomState(0)
        y = np.where(random.rand(len(y)) < 0.3, random.permutation(y), y)
        X_val, y_val = X[200:], y[200:]
        model = tiny_classifier(max_epochs=30, batch_size=50, early_stopping=False)
        model.fit(X[:200], y[:200])
        assert model.temperature_ == 1
        model.fit(X[:200], y[:200], X_val=X_val, y_val=y_val)
        fitted, answers = model.temperature_, model.predict(X_val)
        losses = []
        for temperature in (fitted, 1.0):
            model.temperature_ = temperature
            losses.append(log_loss(y_val, model.predict_proba(X_val)))
            np.testing.assert_array_equal(model.predict(X_val), answers)
        assert fitted != 1
        assert losses[0] < losses[1]

    @pytest.mark.parametrize(
        ("n_rows", "n_wrong", "logit", "low", "high"),
        [
            (30, 0, 4.0, 0.85, 1.0),  # few rows without an error: next to nothing
            (1000, 200, 4.0, 2.6, 3.0),  # 80 % right, 98 % sure: 4 / log(4) = 2.9
            (30, 6, 4.0, 1.1, 2.6),
        ],
        ids=["clean", "overconfident", "few"],
    )
    def test_the_temperature_takes_rows_to_move(
        self, n_rows, n_wrong, logit, low, high, monkeypatch
    ):
        logits = np.tile([0.0, logit], (n_rows, 1))
        labels = torch.ones(n_rows, 1, dtype=torch.long)
        labels[:n_wrong] = 0
        model = tiny_classifier()
        answers = Solution(log_softmax(logits, axis=1), None, None)
        monkeypatch.setattr(model, "_solve", lambda *_: answers)
        rows = Rows(torch.zeros(n_rows, 1), labels, torch.ones(n_rows))
        assert low < model._find_temperature(rows) < high

    @pytest.mark.parametrize("scale", [1e-46, 1e39, 1e308])
    def test_weights_count_by_their_shares(self, table, scale):
        X, y = table
        weights = np.where(np.arange(len(y)) % 2, 1.0, 0.5)
        given, expected = (
            tiny_classifier().fit(
                *(X, y, by * weights),
                X_val=X,
                y_val=y,
                sample_weight_val=by * weights,
            )
            for by in (scale, 1.0)
        )
        assert given.validation_score_ == pytest.approx(expected.validation_score_)
        np.testing.assert_allclose(
            given.predict_proba(X), expected.predict_proba(X), atol=1e-4
        )

    def test_class_weights_count_in_validation(self, table):
        X, y = table
        weight = {"yes": 0.0, "no": 1.0, "maybe": 0.0}
        model = tiny_classifier(class_weight=weight, early_stopping=False)
        model.fit(X, y, X_val=X, y_val=y)
        assert model.validation_score_ == 1

    def test_rows_count_in_validation_by_their_weights(self, table):
        X, y = table
        wrong = np.arange(len(y)) % 3 == 0
        labels = np.where(wrong, np.where(y == "yes", "no", "yes"), y)
        model = tiny_classifier(max_epochs=10).fit(
            X, y, X_val=X, y_val=labels, sample_weight_val=np.where(wrong, 0.0, 3.0)
        )
        assert model.validation_score_ == model.score(X[~wrong], y[~wrong])
        assert model.validation_score_ != model.score(X, labels)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (("X_val",), "X_val and y_val must be given together"),
            (("y_val",), "X_val and y_val must be given together"),
            (("sample_weight_val",), "sample_weight_val must be None without X_val"),
        ],
    )
    def test_half_a_validation_set(self, table, given, message):
        X, y = table
        data = {"X_val": X, "y_val": y, "sample_weight_val": np.ones(len(y))}
        with pytest.raises(ValueError, match=message):
            tiny_classifier().fit(X, y, **{name: data[name] for name in given})

    def test_messages_name_the_validation_set(self, table):
        X, y = table
        model = tiny_classifier()
        with pytest.raises(ValueError, match="y_val holds 'new'"):
            model.fit(X, y, X_val=X[:1], y_val=["new"])
        with pytest.raises(ValueError, match="sample_weight_val must contain"):
            model.fit(X, y, X_val=X[:2], y_val=y[:2], sample_weight_val=[0, 0])
        with pytest.raises(ValueError, match="X_val: Column 'size' contains infinity"):
            model.fit(X, y, X_val=X[:2].assign(size=np.inf), y_val=y[:2])

    def test_a_fit_that_fails_leaves_no_other_model(self, table):
        """The old one would answer in the new one's labels."""
        X, y = table
        model = tiny_classifier().fit(X, y)
        with pytest.raises(ValueError, match="y_val holds 'new'"):
            model.fit(X, np.char.upper(y), X_val=X[:1], y_val=["new"])
        with pytest.raises(NotFittedError):
            model.predict(X)
        with pytest.raises(ValueError, match="classes must be passed on the first"):
            model.partial_fit(X, y)

    @pytest.mark.parametrize(
        ("n_columns", "dtype"), [(16, torch.float32), (17, torch.bfloat16)]
    )
    def test_precision_by_default(self, n_columns, dtype, monkeypatch):
        """Narrow tables gain nothing by less on a CPU."""
        monkeypatch.setattr("sktrm._device._bfloat16_speedup", lambda: 2.0)
        X = np.random.RandomState(0).normal(size=(20, n_columns))
        model = tiny_classifier(dtype="auto", max_epochs=1).fit(X, X[:, 0] > 0)
        assert model.module_.working_dtype == dtype


class TestInterruption:
    class CtrlC(Callback):
        """As if the user lost patience."""

        def on_batch_end(self, net, **kwargs):
            if net.n_optimizer_steps_ == 3:
                net.train_step = self.interrupt

        def interrupt(self, *args, **kwargs):
            raise KeyboardInterrupt

    def test_what_was_learned_until_then_predicts(self, table):
        X, y = table
        model = tiny_classifier(callbacks=[self.CtrlC()])
        with pytest.raises(KeyboardInterrupt):
            model.fit(X, y)
        assert model.predict_proba(X).shape == (len(X), 3)


class TestNames:
    def test_names_are_those_of_the_frame(self, fitted, table):
        X, _ = table
        assert fitted.n_features_in_ == 4
        assert fitted.feature_names_in_.tolist() == list(X)
        assert fitted.is_categorical_.tolist() == [False, True, True, False]

    @pytest.mark.parametrize("library", ["pandas", "polars"])
    def test_numbers_that_are_all_missing_come_without_a_dtype(
        self, fitted, table, library
    ):
        """One row at a time, say: they count as missing."""
        X = table[0][:3]
        expected = fitted.predict_proba(X.assign(size=np.nan))
        frame = X.assign(size=[None] * 3)
        if library == "polars":
            polars = pytest.importorskip("polars")
            columns = {name: X[name].tolist() for name in X}
            frame = polars.DataFrame(columns | {"size": [None] * 3})
        np.testing.assert_array_equal(fitted.predict_proba(frame), expected)

    def test_numbers_may_be_objects(self, fitted, table):
        X = table[0][:3]
        frame = X.astype({"size": object})
        assert (fitted.predict_proba(frame) == fitted.predict_proba(X)).all()
        with pytest.raises(ValueError, match=r"Column 'size' holds .*, not numbers"):
            fitted.predict(X.assign(size="large"))

    @pytest.mark.parametrize("missing", [pd.NA, pd.NaT, None, np.nan])
    def test_objects_may_be_missing(self, missing):
        random = np.random.RandomState(0)
        X = np.column_stack((random.normal(size=40), np.tile(["u", "v"], 20)))
        X = X.astype(object)
        X[:, 0] = X[:, 0].astype(float)
        y = X[:, 0] > 0
        expected = X.copy()
        expected[:5, 0], expected[5:10, 1] = np.nan, np.nan
        X[:5, 0], X[5:10, 1] = missing, missing
        found, known = (tiny_classifier().fit(part, y) for part in (X, expected))
        assert found.is_categorical_.tolist() == [False, True]
        np.testing.assert_array_equal(found.predict_proba(X), known.predict_proba(X))

    def test_a_list_with_strings_keeps_its_numbers(self):
        """numpy would write them out: every column would hold categories."""
        numbers = np.random.RandomState(0).normal(size=40).tolist()
        X = [
            [number, colour, 1]
            for number, colour in zip(numbers, "uv" * 20, strict=True)
        ]
        X[3][0] = float("nan")
        y = np.array(numbers) > 0
        listed = tiny_classifier().fit(X, y)
        array = tiny_classifier().fit(np.array(X, dtype=object), y)
        assert listed.is_categorical_.tolist() == [False, True, False]
        np.testing.assert_array_equal(
            listed.predict_proba(X), array.predict_proba(np.array(X, dtype=object))
        )

    def test_categories_are_finite(self, fitted, table):
        X = table[0][:3]
        with pytest.raises(ValueError, match="Column 'colour' contains infinity"):
            fitted.predict(X.assign(colour=np.inf))

    def test_columns_in_another_order(self, fitted, table):
        X, _ = table
        message = "Feature names must be in the same order as they were in fit"
        with pytest.raises(ValueError, match=message):
            fitted.predict(X[["colour", "size", "old", "noise"]])

    def test_columns_with_other_names(self, fitted, table):
        X, _ = table
        message = "The feature names should match those that were passed during fit"
        with pytest.raises(ValueError, match=message):
            fitted.predict(X.rename(columns={"old": "new"}))

    def test_another_number_of_columns(self, fitted, table):
        X, y = table
        model = tiny_classifier().fit(X[["size", "noise"]].to_numpy(), y)
        with pytest.raises(ValueError, match="X has 1 features, but TRMClassifier is"):
            model.predict(X[["size"]].to_numpy())


class TestBadInput:
    def test_columns_that_say_nothing(self):
        random = np.random.RandomState(0)
        X = pd.DataFrame(
            {
                "constant": np.ones(60),
                "missing": np.full(60, np.nan),
                "nothing": pd.Categorical([None] * 60, categories=["a"]),
                "always": ["same"] * 60,
                "bit": random.randint(2, size=60),
            }
        )
        y = X["bit"]
        model = tiny_classifier(max_epochs=30).fit(X, y)
        assert model.score(X, y) == 1
        seen = X.assign(constant=2.0, missing=3.0, nothing="a", always="other")
        assert model.score(seen, y) == 1

    def test_ten_thousand_categories(self):
        X = pd.DataFrame({"user": [f"user{i}" for i in range(10_000)] * 2})
        y = X.index % 2
        model = tiny_classifier(max_epochs=1, batch_size=4096).fit(X, y)
        embedding = model.module_.embedding
        assert len(embedding.categories.vectors) == model.max_categories + 1
        assert len(model.predict(X)) == len(X)

    def test_categories_never_seen(self, fitted, table):
        X, _ = table
        proba = fitted.predict_proba(X.assign(colour="violet"))
        other = fitted.predict_proba(X.assign(colour="mauve"))
        np.testing.assert_array_equal(other, proba)
        rows = fitted._questions(X)
        rows[:, 2] = UNKNOWN  # numbers stand first
        unknown = fitted._solve(rows, fitted._read, None).answers
        np.testing.assert_array_equal(np.exp(fitted._temper(unknown)), proba)
        assert not np.allclose(fitted.predict_proba(X), proba)

    @pytest.mark.parametrize("what", ["frame", "array"])
    def test_infinity(self, table, what):
        X, y = table
        X = X[["size"]].copy()
        X.iloc[3] = np.inf
        message = "Column 'size' contains infinity"
        if what == "array":
            X, message = X.to_numpy(), "Input X contains infinity"
        with pytest.raises(ValueError, match=message):
            tiny_classifier().fit(X, y)

    @pytest.mark.parametrize(
        "labels",
        [
            np.array([0.0, np.nan]),
            np.array(["a", np.nan], dtype=object),
            np.array(["a", None], dtype=object),
            pd.Series(["a", None], dtype="string"),
            np.array(["2026-01-01", "NaT"], dtype="datetime64[s]"),
        ],
        ids=["float", "object", "none", "string", "time"],
    )
    def test_labels_with_nan(self, labels):
        y = np.tile(labels, 20)
        with pytest.raises(ValueError, match="Input y contains NaN"):
            tiny_classifier().fit(np.zeros((40, 1)), y)

    def test_labels_that_are_numbers_of_a_measurement(self):
        with pytest.raises(ValueError, match="Unknown label type: continuous"):
            tiny_classifier().fit(np.zeros((4, 1)), [0.1, 0.2, 0.3, 0.4])

    def test_one_class_only_is_always_the_answer(self, table):
        X, _ = table
        model = tiny_classifier(early_stopping=True).fit(X, ["only"] * len(X))
        assert model.predict(X).tolist() == ["only"] * len(X)
        np.testing.assert_array_equal(model.predict_proba(X), np.ones((len(X), 1)))

    def test_a_class_with_one_member_under_early_stopping(self, table):
        X, y = table
        y = y.astype(object)
        y[7] = "hapax"
        model = tiny_classifier(early_stopping=True).fit(X, y)
        assert model.classes_.tolist() == ["hapax", "maybe", "no", "yes"]
        kept, held_out = model._choose_held_out(len(y), np.unique(y, False, True)[1])
        assert 7 in kept
        assert len(held_out) == 30

    def test_no_weight_is_left(self, table):
        X, y = table
        message = "sample_weight must contain at least one non-zero number"
        with pytest.raises(ValueError, match=message):
            tiny_classifier().fit(X, y, sample_weight=np.zeros(len(y)))

    def test_negative_weights(self, table):
        X, y = table
        with pytest.raises(ValueError, match=r"Negative values in .*sample_weight"):
            tiny_classifier().fit(X, y, sample_weight=-np.ones(len(y)))

    def test_rows_that_are_not_as_many_as_labels(self, table):
        X, y = table
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            tiny_classifier().fit(X, y[:-1])

    @pytest.mark.parametrize(
        "X",
        [pd.DataFrame({"a": []}), pd.DataFrame(index=range(2))],
        ids=["rows", "columns"],
    )
    def test_an_empty_frame(self, X):
        with pytest.raises(ValueError, match="while a minimum of 1 is required"):
            tiny_classifier().fit(X, [0, 1][: len(X)])

    def test_not_fitted(self, table):
        X, _ = table
        for method in ("predict", "predict_proba", "predict_confidence"):
            with pytest.raises(NotFittedError):
                getattr(tiny_classifier(), method)(X)

    def test_a_column_that_has_become_text(self, fitted, table):
        X, _ = table
        with pytest.raises(ValueError, match=r"Column 'size' holds .*, not numbers"):
            fitted.predict(X.assign(size="large"))

    def test_steps_must_be_whole(self, fitted, table):
        with pytest.raises(ValueError, match=r"max_steps must be an int >= 1, got 0\."):
            next(fitted.staged_predict(table[0], max_steps=0))

    def test_heads_that_do_not_divide_the_width(self, table):
        model = TRMClassifier(hidden_size=10, n_heads=4, mixer="attention")
        with pytest.raises(ValueError, match=r"hidden_size=10 and n_heads=4"):
            model.fit(*table)

    def test_a_row_of_labels_that_is_a_column_warns(self, table):
        X, y = table
        with pytest.warns(match="A column-vector y was passed"):
            tiny_classifier(max_epochs=1).fit(X, y[:, None])

    def test_usual_input_warns_of_nothing(self, table):
        X, y = table
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            answers = tiny_classifier(max_epochs=1).fit(X, y).predict(X)
        assert len(answers) == len(X)
        assert not caught

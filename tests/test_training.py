"""Deep supervision: average, schedule, guards, checkpoints, interruption."""

import copy
import math
import pickle
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from conftest import tiny_classifier, tiny_solver
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import Callback, EarlyStopping

from sktrm import load_pretrained, save_pretrained
from sktrm.nn.losses import (
    HALT_LOGIT_LIMIT,
    answer_loss,
    halting_loss,
    is_right,
    log_probabilities,
)


def test_stablemax_is_its_definition():
    logits = torch.linspace(-30, 30, 61, dtype=torch.float64)
    s = torch.where(logits < 0, 1 / (1 - logits), logits + 1)
    torch.testing.assert_close(
        log_probabilities(logits, "stablemax").exp(), s / s.sum()
    )


def test_an_unknown_loss_lists_the_known_ones():
    with pytest.raises(
        ValueError, match=r"one of \['softmax', 'stablemax'\], got 'l2'"
    ):
        log_probabilities(torch.zeros(2), "l2")


def test_cells_that_are_not_scored_change_nothing():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, generator=generator)
    labels = torch.tensor([[1, 2, -100, -100], [4, -100, 0, 3]])
    changed = logits.clone()
    changed[0, 2:] += 7
    torch.testing.assert_close(
        answer_loss(logits, labels), answer_loss(changed, labels)
    )
    best = logits.argmax(dim=-1)
    right = torch.where(labels == -100, labels, best)
    assert is_right(logits, right).tolist() == [True, True]
    assert torch.isfinite(answer_loss(logits, torch.full((2, 4), -100))).all()


@pytest.mark.parametrize("right", [True, False])
def test_halting_loss_has_no_gradient_beyond_its_limit(right):
    sign = 1.0 if right else -1.0
    logit = torch.tensor([20.0, 5.0, -5.0, -20.0]) * sign
    logit.requires_grad_()
    loss = halting_loss(logit, torch.tensor([right] * 4))
    loss.sum().backward()
    assert (loss >= 0).all()
    assert logit.grad[0] == 0  # confident and right: nothing to gain
    assert (logit.grad[1:] * sign < 0).all()  # else it is pulled to the right side
    assert math.isclose(
        loss[0].item(), math.log1p(math.exp(-HALT_LOGIT_LIMIT)), rel_tol=0.02
    )


class Depth(Callback):
    """Counts the calls of the network in each training step."""

    def initialize(self):
        """Start with none."""
        self.calls = []
        return self

    def on_train_begin(self, net, **kwargs):
        """Hear of every call."""
        net.module_.net.register_forward_hook(self.count)

    def on_batch_begin(self, net, **kwargs):
        """Begin a step."""
        self.calls.append(0)

    def count(self, *args):
        """Count one call."""
        self.calls[-1] += 1


def depths(sudokus, **parameters):
    """The calls of the network in each step."""
    solver = tiny_solver(
        n_latent_recursions=2,
        n_deep_recursions=3,
        max_epochs=4,
        callbacks=[Depth()],
        **parameters,
    ).fit(*sudokus)
    (watch,) = (c for _, c in solver.net_.callbacks_ if isinstance(c, Depth))
    return solver, watch.calls


@pytest.mark.parametrize("ema_decay", [0, 0.9])
def test_the_curriculum_is_shallow_first_and_deep_later(sudokus, ema_decay):
    solver, calls = depths(sudokus, depth_curriculum=0.5, ema_decay=ema_decay)
    shallow, deep = 3, 3 * 3  # n + 1 calls, T(n + 1)
    shallow_and_deep = list(calls)
    change = calls.index(deep)
    assert 0.3 < change / len(calls) < 0.7
    assert calls == [shallow] * change + [deep] * (len(calls) - change)
    # What goes on from that training has the full depth at once.
    solver.set_params(warm_start=True, max_epochs=1).fit(*sudokus)
    assert len(calls) > len(shallow_and_deep)
    twice = 2 * deep  # every training registers its hook
    assert set(calls[len(shallow_and_deep) :]) == {twice}


@pytest.mark.parametrize(
    ("parameters", "share"),
    [({}, 0.5), ({"early_stopping": True}, 0), ({"symbols": None}, 0)],
)
def test_the_auto_curriculum_is_for_symbols_and_trainings_of_known_length(
    sudokus, parameters, share
):
    solver = tiny_solver(**{"symbols": range(1, 5), "max_epochs": 1, **parameters})
    assert solver.fit(*sudokus).net_.depth_curriculum == share


def test_a_loaded_model_trains_on_at_full_depth(sudokus, tmp_path):
    solver = tiny_solver(n_deep_recursions=2, depth_curriculum=0.9, max_epochs=1)
    save_pretrained(solver.fit(*sudokus), tmp_path / "model.safetensors")
    loaded = load_pretrained(tmp_path / "model.safetensors")
    loaded.set_params(warm_start=True).fit(*sudokus)
    assert not loaded.net_.starts_shallow_
    assert loaded.net_.module_.n_deep_recursions == 2


def test_without_a_curriculum_every_step_is_deep(sudokus):
    _, calls = depths(sudokus, depth_curriculum=0)
    assert set(calls) == {9}


def test_validation_in_a_shallow_phase_is_deep(sudokus):
    X, y = sudokus
    seen = []

    def look(module, *args):
        if not torch.is_grad_enabled():
            seen.append(module.n_deep_recursions)

    class Look(Callback):
        def on_train_begin(self, net, **kwargs):
            net.module_.register_forward_pre_hook(look)

    tiny_solver(
        n_deep_recursions=2, depth_curriculum=0.9, ema_decay=0, callbacks=[Look()]
    ).fit(X, y, X_val=X, y_val=y)
    assert set(seen) == {2}


class Watch(Callback):
    """Keeps learning rates and averages after each optimiser step."""

    def initialize(self):
        self.lr, self.weights, self.averages = [], [], []
        return self

    def on_batch_end(self, net, training, **kwargs):
        self.lr.append(net.optimizer_.param_groups[0]["lr"])
        name = "answer_head.weight"
        self.weights.append(net.module_.state_dict()[name].clone())
        self.averages.append(net.predictor_.state_dict()[name].clone())


def watch(X, y, **parameters):
    solver = tiny_solver(callbacks=[("watch", Watch())], **parameters).fit(X, y)
    return solver, dict(solver.net_.callbacks_)["watch"]


def test_average_follows_the_weights_and_is_what_predicts(copies):
    solver, seen = watch(*copies, ema_decay=0.9)
    average = seen.weights[0]
    for n, weight in enumerate(seen.weights[1:], start=1):
        decay = min(0.9, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * weight
    torch.testing.assert_close(seen.averages[-1], average)
    predictor = solver.module_.state_dict()["answer_head.weight"]
    torch.testing.assert_close(predictor, average)
    assert not torch.allclose(predictor, seen.weights[-1])


def test_the_optimiser_does_not_see_the_average(copies):
    solver, _ = watch(*copies, ema_decay=0.9)
    held = {id(p) for g in solver.net_.optimizer_.param_groups for p in g["params"]}
    assert held == {id(p) for p in solver.net_.module_.parameters()}


def test_without_average_the_last_weights_predict(copies):
    solver, seen = watch(*copies, ema_decay=0.0)
    predictor = solver.module_.state_dict()["answer_head.weight"]
    torch.testing.assert_close(predictor, seen.weights[-1])


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_learning_rate_warms_up_and_follows_its_schedule(copies, schedule):
    _, seen = watch(*copies, lr=0.01, lr_warmup_steps=4, lr_schedule=schedule)
    assert seen.lr[0] == pytest.approx(0.01 / 4, rel=0.1)
    assert max(seen.lr) <= 0.01
    if schedule == "constant":
        assert seen.lr[4:] == [0.01] * len(seen.lr[4:])
    else:
        assert all(np.diff(seen.lr[4:]) <= 0)
        assert seen.lr[-1] == 0


class Poison(Callback):
    """Makes the gradient infinite at one optimiser step."""

    def __init__(self, at):
        self.at = at

    def on_grad_computed(self, net, named_parameters, **kwargs):
        if net.n_optimizer_steps_ == self.at:
            self.weights_ = copy.deepcopy(net.last_good_[1][0])
            dict(named_parameters)["answer_head.weight"].grad.fill_(math.inf)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_weights(copies):
    solver = tiny_solver(callbacks=[("poison", Poison(at=20))], ema_decay=0.0)
    with pytest.warns(ConvergenceWarning, match="at optimiser step 21 .* step 16 are"):
        solver.fit(*copies)
    good = dict(solver.net_.callbacks_)["poison"].weights_
    torch.testing.assert_close(dict(solver.module_.state_dict()), dict(good))
    assert np.isfinite(solver.predict_confidence(copies[0])).all()


class Spoil(Callback):
    """Makes a weight infinite after the last step of a training."""

    def on_batch_end(self, net, **kwargs):
        if net.slots.n_started == net.planned_rows_:
            with torch.no_grad():
                net.module_.answer_head.weight[0, 0] = math.inf


class SpoilAndStop(Callback):
    """Makes a weight infinite and stops training at once, in one way or the other."""

    def __init__(self, ctrl_c):
        self.ctrl_c = ctrl_c

    def on_batch_end(self, net, **kwargs):
        if net.n_optimizer_steps_ == 5:
            with torch.no_grad():
                net.module_.answer_head.weight[0, 0] = math.inf
            if not self.ctrl_c:
                raise KeyboardInterrupt
            net.slots.advance = Interrupt.press  # in the next step, which is not done
            net._guard = lambda *_: None


@pytest.mark.parametrize("ctrl_c", [False, True])
def test_the_last_step_is_looked_at_when_training_is_cut_off(copies, ctrl_c):
    X, y = copies
    solver = tiny_solver(callbacks=[SpoilAndStop(ctrl_c)], ema_decay=0.0)
    raised = pytest.raises(KeyboardInterrupt) if ctrl_c else nullcontext()
    warned = pytest.warns(ConvergenceWarning, match="weights were not finite")
    with warned, raised:
        solver.fit(X, y)
    assert np.isfinite(solver.predict_confidence(X)).all()


@pytest.mark.parametrize("validates", [False, True])
def test_the_last_step_is_looked_at_too(copies, validates):
    X, y = copies
    solver = tiny_solver(callbacks=[("spoil", Spoil())], ema_decay=0.0)
    held_out = {"X_val": X[:20], "y_val": y[:20]} if validates else {}
    with pytest.warns(ConvergenceWarning, match="weights were not finite"):
        solver.fit(X, y, **held_out)
    assert np.isfinite(solver.predict_confidence(X)).all()


def test_broken_weights_give_answers_without_confidence(copies):
    X, y = copies
    solver = tiny_solver(max_epochs=1).fit(X, y)
    with torch.no_grad():
        solver.module_.halt_head.linear.bias.fill_(math.nan)
    solutions = solver.solve(X)
    assert np.isin(solutions.answers, np.unique(y)).all()
    assert np.isnan(solutions.confidence).all()


class Interrupt(Callback):
    """Presses Ctrl-C in the middle of an epoch."""

    def __init__(self, at):
        self.at = at

    def on_batch_end(self, net, **kwargs):
        if net.n_optimizer_steps_ == self.at:
            # Not through notify, where a KeyboardInterrupt is a callback's wish.
            net.slots.advance = self.press

    @staticmethod
    def press(output):
        raise KeyboardInterrupt


def test_ctrl_c_is_raised_and_the_weights_are_kept(copies):
    X, y = copies
    solver = tiny_solver(callbacks=[("interrupt", Interrupt(at=5))])
    with pytest.raises(KeyboardInterrupt):
        solver.fit(X, y)
    trained = solver.net_.predictor_.state_dict()["answer_head.weight"]
    torch.testing.assert_close(
        solver.module_.state_dict()["answer_head.weight"], trained
    )
    assert solver.predict(X).shape == y.shape


def test_a_callback_may_stop_training(copies):
    stop = EarlyStopping(monitor="train_loss", patience=1, threshold=10.0, sink=str)
    solver = tiny_solver(max_epochs=20, callbacks=[("stop", stop)]).fit(*copies)
    assert solver.n_iter_ < 20


def test_early_stopping_keeps_the_weights_that_validate_best(copies):
    X, y = copies
    solver = tiny_solver(
        max_epochs=60, lr=0.03, early_stopping=True, n_iter_no_change=3, batch_size=60
    ).fit(X, y)
    scores = [epoch["valid_exact_match"] for epoch in solver.history_]
    assert solver.n_iter_ < 60
    assert solver.validation_score_ == max(scores)
    # The last n_iter_no_change epochs brought nothing.
    assert max(scores[:-3]) == max(scores)


def test_validation_data_choose_the_checkpoint_without_stopping(copies):
    X, y = copies
    solver = tiny_solver(max_epochs=4, ema_decay=0.0, lr=0.01)
    solver.fit(X[:150], y[:150], X_val=X[150:], y_val=y[150:])
    assert solver.n_iter_ == 4
    assert solver.score(X[150:], y[150:]) == pytest.approx(solver.validation_score_)


def test_global_generators_are_neither_read_nor_moved(copies):
    X, y = copies
    torch.manual_seed(1), np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = tiny_solver(ema_decay=0.0, random_state=3).fit(X, y)
    tiny_solver(random_state=None).fit(X, y)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()

    torch.manual_seed(2), np.random.seed(2)
    second = tiny_solver(ema_decay=0.0, random_state=3).fit(X, y)
    torch.testing.assert_close(
        dict(first.module_.state_dict()),
        dict(second.module_.state_dict()),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("make", [tiny_solver, tiny_classifier])
@pytest.mark.parametrize("dtypes", [("float32", "float64"), ("float64", "bfloat16")])
def test_weights_keep_the_precision_they_were_trained_in(make, dtypes, copies):
    """Whatever ``dtype`` says later: float64 is of a fit, as the loss is."""
    X, y = copies
    y = y if make is tiny_solver else y[:, 0]
    model = make(dtype=dtypes[0], warm_start=True).fit(X, y)
    before = model.predict_proba(X)
    model.set_params(dtype=dtypes[1])
    np.testing.assert_array_equal(model.predict_proba(X), before)
    for again in (model, pickle.loads(pickle.dumps(model))):
        again.fit(X, y).partial_fit(X, y)
        kept = {p.dtype for p in again.module_.parameters()}
        assert kept == {getattr(torch, dtypes[0])}


def test_weights_of_rows_count(copies):
    X, y = copies
    # Half of the rows teach another rule; with weight zero they are not there.
    y = np.where(np.arange(len(y))[:, None] < 100, y, (y + 1) % 4)
    weight = (np.arange(len(y)) < 100).astype(float)
    full_batch = {"batch_size": 200, "dtype": "float64", "ema_decay": 0.0}
    weighted = tiny_solver(**full_batch).fit(X, y, sample_weight=weight)
    without = tiny_solver(**full_batch).fit(X[:100], y[:100])
    np.testing.assert_array_equal(weighted.predict(X), without.predict(X))


@pytest.mark.parametrize("scale", [1e-46, 1e-30, 1e300])
def test_weights_count_by_their_shares(copies, scale):
    """However small or large: sums in float32 neither vanish nor overflow."""
    weights = np.where(np.arange(200) % 2, 2.0, 1.0)
    weights[:10] = 0
    given, expected = (
        tiny_solver(max_epochs=1).fit(*copies, sample_weight=weights * by)
        for by in (scale, 1.0)
    )
    np.testing.assert_allclose(
        given.history_[0]["train_loss"], expected.history_[0]["train_loss"], rtol=1e-5
    )


def test_a_row_of_next_to_no_weight_is_left_out(copies):
    X, y = copies
    weights = np.ones(200)
    weights[:100] = 1e-60
    given = tiny_solver().fit(X, y, sample_weight=weights)
    rest = tiny_solver().fit(X, y, sample_weight=np.where(weights == 1, 1.0, 0.0))
    assert given.history_[0]["train_loss"] == rest.history_[0]["train_loss"]


def test_validation_reads_answers_as_prediction_does():
    """A symbol of questions alone is no answer, however likely."""
    X = np.tile([0, 1, 2], (40, 1))
    y = np.where(X == 0, 1, X)
    solver = tiny_solver().fit(X, y, X_val=X, y_val=y)
    likely = torch.zeros(solver._encoder.vocabulary.n_tokens)
    likely[solver._encoder.vocabulary.token_of[0]] = 1e3
    for module in (solver.module_, solver.net_.predictor_):
        module.answer_head.register_forward_hook(lambda *given: given[-1] + likely)
    solver.net_._validate(solver._make_rows(X, y, None))
    validated = solver.net_.history[-1]["valid_cell_accuracy"]
    assert validated == (solver.predict(X) == y).mean() > 0


@pytest.mark.parametrize("verbose", [0, 1])
def test_progress_is_one_line_an_epoch_or_nothing(copies, capsys, verbose):
    X, y = copies
    tiny_solver(max_epochs=3, verbose=verbose).fit(X, y, X_val=X, y_val=y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 * verbose
    assert all("exact match" in line and "loss" in line for line in lines)


def test_training_holds_the_data_once():
    X = np.random.RandomState(0).randint(9, size=(500, 81))
    solver = tiny_solver(max_epochs=1, batch_size=100).fit(X, X)
    slots = solver.net_.slots
    assert slots.data[0].shape == (100, 81)
    assert slots.data[0].element_size() == 1  # a byte a cell: ten symbols fit


def test_time_ends_training_with_a_validated_epoch(copies):
    X, y = copies
    solver = tiny_solver(max_epochs=10**6, max_time=0.3, lr_warmup_steps=0, lr=2e-3)
    solver.fit(X, y, X_val=X[:20], y_val=y[:20])
    assert 0 < solver.n_iter_ < 10**6
    assert "valid_exact_match" in solver.history_[-1]
    # The schedule follows the time: the rate is near the end of the cosine.
    assert solver.net_.optimizer_.param_groups[0]["lr"] < 0.3 * solver.lr


def test_partial_fit_knows_no_time(sudokus):
    X, y = sudokus
    solver = tiny_solver(max_time=1e-9, lr_warmup_steps=0, lr=2e-3).partial_fit(X, y)
    assert solver.net_.slots.n_started == len(X)
    assert solver.net_.optimizer_.param_groups[0]["lr"] == 2e-3

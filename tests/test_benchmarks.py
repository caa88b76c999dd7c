"""The scripts of the published benchmarks, on files of a few puzzles."""

import copy
import gc
import itertools
import json
import os
import re
import sys
from argparse import Namespace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, tiny_solver
from sklearn.base import clone

sys.path.insert(0, str(ROOT / "benchmarks"))

import _authors
import _report
import curves
import growth
import levers
import maze_hard
import noisy_labels
import scale
import speed
import sudoku
import sudoku_extreme
import tables
from _checkpoint import Checkpoint
from sklearn.dummy import DummyClassifier

from sktrm import TRMClassifier, TRMSolver, load_pretrained
from sktrm.datasets import make_maze, make_sudoku

TINY = {
    "hidden_size": 8,
    "n_heads": 2,
    "n_supervision_steps": 1,
    "max_steps": 2,
    "compile": False,
}
TINY |= {"n_latent_recursions": 1, "n_deep_recursions": 1, "dtype": "float32"}


def write_csv(path, X, y):
    """Write puzzles in the layout of the public files."""
    path.parent.mkdir(exist_ok=True)
    lines = ["source,question,answer,rating"]
    for i, (question, answer) in enumerate(zip(X, y, strict=True)):
        text = ["".join(map(str, grid.ravel())) for grid in (question, answer)]
        lines.append(f"made,{text[0]},{text[1]},{i}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def home(tmp_path):
    """A data home with 30 puzzles to train on and 12 to test with."""
    sudokus = make_sudoku(42, n_clues=70, random_state=0)
    mazes = make_maze(42, (5, 5), wall_density=0.2, random_state=0)
    for folder, (X, y) in (
        ("sudoku-extreme", sudokus),
        ("maze-30x30-hard-1k", mazes),
    ):
        write_csv(tmp_path / folder / "train.csv", X[:30], y[:30])
        write_csv(tmp_path / folder / "test.csv", X[30:], y[30:])
    return tmp_path


def arguments(home, budget, *more):
    """Arguments of a run of a blink on the files of ``home``."""
    return [
        *("--data-home", str(home), "--n-validation", "6", "--n-test", "10"),
        *("--budget", str(budget), "--verbose", "0", "--device", "cpu"),
        *("--set", json.dumps(TINY), *more),
    ]


def lines(path):
    """What was reported of one try, or of the only way to predict."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    first = rows[0].get("way")
    return [row for row in rows if row.get("way") == first]


def weights_after(n_epochs, copies, path=None):
    """Weights, average and steps after so many epochs at a constant rate."""
    callbacks = [] if path is None else [Checkpoint(str(path))]
    solver = tiny_solver(
        max_epochs=n_epochs, lr_schedule="constant", callbacks=callbacks
    )
    solver.fit(*copies)
    net = solver.net_
    states = [*net.module_.parameters(), *net.predictor_.parameters()]
    return [s.detach().clone() for s in states], net.n_optimizer_steps_, solver.n_iter_


def test_a_training_in_two_runs_is_that_in_one(copies, tmp_path):
    """Moments, average, rows in flight and random numbers go on where they were."""
    path = tmp_path / "training.ckpt"
    straight, n_steps, n_epochs = weights_after(5, copies)
    weights_after(3, copies, path)
    resumed, n_resumed, n_resumed_epochs = weights_after(2, copies, path)
    assert (n_resumed, n_resumed_epochs) == (n_steps, n_epochs)
    for ours, theirs in zip(resumed, straight, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_run_that_was_cut_off_leaves_a_whole_file(copies, tmp_path):
    """Within an epoch: what is there to go on from has no half epoch in it."""
    path = tmp_path / "training.ckpt"
    checkpoint = Checkpoint(str(path), seconds=0.0)

    class Stop(Checkpoint):
        def on_epoch_end(self, net, **kwargs):
            raise KeyboardInterrupt

        def on_train_end(self, net, **kwargs):
            """Killed: nothing more is written."""

    checkpoint.__class__ = Stop
    solver = tiny_solver(callbacks=[checkpoint]).fit(*copies)
    found = torch.load(path, weights_only=False)
    assert found["steps"][0] == solver.net_.n_optimizer_steps_ > 0
    assert found["history"] == []
    assert not (tmp_path / "training.ckpt.part").exists()


@pytest.mark.parametrize("script", [sudoku_extreme, maze_hard])
def test_a_script_goes_on_where_it_was(script, home, capsys):
    """A second run within the same budget has nothing left to do but report."""
    out, checkpoint = home / "out.jsonl", home / "run.ckpt"
    weights = home / "run.safetensors"
    given = arguments(home, 0.2, "--resume", str(checkpoint), "--out", str(out))
    given += ["--save", str(weights)]
    for _ in range(2):
        script.run(script.read_arguments([*given, "--n-train", "30"]))
    first, second = lines(out)
    assert second["n_optimizer_steps"] == first["n_optimizer_steps"] + 1
    assert second["seconds"] > first["seconds"] >= 0.2
    assert f"going on after {first['seconds']:.0f} s" in capsys.readouterr().out
    assert second["n_test"] == 10
    assert sum(n for _, _, n, _ in second["by_rating"]) == 10
    assert {"time", "versions", "machine", "arguments", "validation"} <= set(second)
    assert load_pretrained(weights).validation_score_ == second["validation"]
    if script is sudoku_extreme:
        given = arguments(home, 0, "--load", str(weights), "--out", str(out))
        given += ["--n-train", "30"]
        found = script.run(script.read_arguments(given))
        # The weights were stored in float16.
        cells = second["cell_accuracy"]
        assert found[0]["cell_accuracy"] == pytest.approx(cells, abs=0.02)
        assert "seconds" not in lines(out)[-1]


def test_a_training_starts_from_weights_that_were_kept(home):
    """And leaves a checkpoint; at next to no learning rate, nothing changes."""
    first, second = home / "first.safetensors", home / "second.safetensors"
    checkpoint = home / "run.ckpt"
    given = arguments(home, 0.2, "--n-train", "30", "--save", str(first))
    sudoku_extreme.run(sudoku_extreme.read_arguments(given))
    given += ["--save", str(second), "--start-from", str(first)]
    given += ["--resume", str(checkpoint), "--set", json.dumps(TINY | {"lr": 1e-12})]
    sudoku_extreme.run(sudoku_extreme.read_arguments(given))
    assert torch.load(checkpoint, weights_only=False)["steps"][0] > 0
    before, after = (load_pretrained(path).module_ for path in (first, second))
    for ours, theirs in zip(after.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    with pytest.raises(SystemExit):
        sudoku_extreme.read_arguments(["--start-from", "a", "--load", "b"])


class FakeHead(torch.nn.Module):
    """With the interface of the authors': two steps that guess from a cell alone."""

    def __init__(self):
        super().__init__()
        self.read = torch.nn.Linear(11, 11)
        self.model = SimpleNamespace(puzzle_emb=torch.nn.BatchNorm1d(1))

    def initial_carry(self, batch):
        return SimpleNamespace(steps=torch.zeros(len(batch["inputs"])))

    def forward(self, carry, batch, return_keys):
        tokens = torch.nn.functional.one_hot(batch["inputs"].long(), 11).float()
        logits = self.read(tokens)
        nll = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), batch["labels"], reduction="sum"
        )
        found = {"preds": logits.argmax(-1), "q_halt_logits": logits[:, 0, 0]}
        carry = SimpleNamespace(steps=carry.steps + 1)
        return carry, nll / 81, {}, found, bool((carry.steps == 2).all())


class FakeAverage:
    """The last weights."""

    def __init__(self, decay):
        self.decay = decay

    def register(self, head): ...

    def update(self, head): ...

    def ema_copy(self, head):
        return copy.deepcopy(head)


def test_the_authors_code_is_trained_and_reported_on_alike(home, monkeypatch, capsys):
    ema, embedding = ModuleType("models.ema"), ModuleType("models.sparse_embedding")
    ema.EMAHelper = FakeAverage
    embedding.CastedSparseEmbeddingSignSGD_Distributed = (
        lambda buffers, weight_decay, world_size: torch.optim.SGD(
            [torch.zeros(1)], weight_decay=weight_decay
        )
    )
    for module in (ModuleType("models"), ema, embedding):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(_authors, "make_head", lambda folder, **config: FakeHead())
    # A step takes 1/128 s, however long it takes.
    clock = itertools.count(step=1 / 128)
    monkeypatch.setattr(_report.training, "perf_counter", lambda: next(clock))
    out = home / "authors.jsonl"
    settings = {"compile": False, "warmup_steps": 20, "lr": 0.1, "batch_size": 8}
    given = ["--reference", "theirs", "--reference-set", json.dumps(settings)]
    given += ["--n-train", "30", "--out", str(out)]
    sudoku_extreme.run(sudoku_extreme.read_arguments(arguments(home, 1.0, *given)))
    (found,) = map(json.loads, out.read_text().splitlines())
    assert found["way"] == "the authors' code, all steps"
    assert found["settings"] == {**_authors.SETTINGS, **settings}
    assert found["seconds"] == 1
    assert found["n_optimizer_steps"] == 128
    assert found["mean_steps"] == 2
    assert found["validation"] == 0 == found["exact_match"]
    # 70 of 81 cells are given, and it learned to copy those.
    assert found["cell_accuracy"] > 0.8
    assert capsys.readouterr().out.count(" s, step ") == _authors.N_VALIDATIONS


def test_the_authors_rate_warms_up_and_falls():
    authors = SimpleNamespace(settings={**_authors.SETTINGS, "lr": 1.0}, n_steps=50)
    assert _authors.Authors._rate(authors, 0.0) == 0.25
    authors.n_steps = 1000
    assert _authors.Authors._rate(authors, 0.5) == pytest.approx(0.5)
    authors.settings["schedule"] = "constant"
    assert _authors.Authors._rate(authors, 1.0) == 1


def test_a_checkpoint_of_another_training_is_refused(home):
    """Its rows in flight, its best weights and its tasks are not those of this one."""
    checkpoint = home / "run.ckpt"
    given = arguments(home, 0.1, "--resume", str(checkpoint), "--n-train", "30")
    maze_hard.run(maze_hard.read_arguments(given))
    with pytest.raises(ValueError, match="another training: seed was 0 and is 1"):
        maze_hard.run(maze_hard.read_arguments([*given, "--seed", "1"]))
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    with pytest.raises(ValueError, match="no whole checkpoint"):
        maze_hard.run(maze_hard.read_arguments(given))


def test_what_chose_the_defaults_is_not_tested_with(home, monkeypatch):
    """Neither the puzzles of levers.py nor, trivially, those that were learned."""
    path = str(home / "sudoku-extreme" / "train.csv")
    (_, (chosen, _)) = next(levers.tasks(path))[1]
    monkeypatch.setattr("sys.argv", ["sudoku.py", path, "--n-test", "9"])
    parts = sudoku.read_puzzles(sudoku.read_arguments())
    train, validation, test = ({x.tobytes() for x in X} for X, _ in parts)
    assert len(test) == 9
    assert {x.tobytes() for x in chosen} <= train | validation
    assert not test & (train | validation)


SMALL = {"hidden_size": 16, "n_heads": 2, "n_latent_recursions": 1}


@pytest.mark.parametrize(
    ("estimator", "n_cells", "attends"),
    [
        (TRMSolver(mixer="mlp", **SMALL), 16, False),
        (TRMSolver(mixer="attention", **SMALL), 16, True),
        (TRMSolver(symbols="interchangeable", compile=False, **SMALL), 16, False),
    ],
)
def test_the_speed_of_each_contender_is_measured(
    estimator, n_cells, attends, monkeypatch, capsys
):
    case = estimator, speed.grids, (n_cells, 4)
    monkeypatch.setitem(speed.CASES, "small", case)
    monkeypatch.setattr(torch, "compile", lambda step, **options: step)
    args = Namespace(batch_size=2, device="cpu", rounds=2, reference=None, memory=False)
    speed.measure("small", args, 1e9)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("small") for line in lines)
    with_kernels = speed.flops(speed.contenders("small", args)["eager"]())
    monkeypatch.setattr(speed, "KERNELS", {})
    without = speed.flops(speed.contenders("small", args)["eager"]())
    assert (with_kernels > without) == attends


def test_a_step_of_plain_code_leaves_nothing_behind():
    """A GPU's memory ends long before Python collects cycles of references."""
    case = TRMSolver(mixer="mlp", **SMALL), speed.grids, (16, 4)
    eager = speed.Eager(speed.Ours(case, 2, "cpu"))
    take_a_turn(eager)
    gc.collect()
    gc.disable()
    try:
        before = count_tensors()
        for _ in range(3):
            take_a_turn(eager)
        assert count_tensors() == before
    finally:
        gc.enable()


def take_a_turn(contender):
    contender.train()
    contender.predict()


def count_tensors():
    return sum(type(found) is torch.Tensor for found in gc.get_objects())


def test_a_training_is_told_with_its_validation_if_there_was_one(capsys):
    X = np.random.RandomState(0).randint(3, size=(20, 4))
    for given, end in (
        ({"X_val": X, "y_val": X}, r", validation [01]\.\d{4}$"),
        ({}, r"optimiser steps$"),
    ):
        solver = tiny_solver().fit(X, X, **given)
        _report.trained(solver, 3.2)
        line = capsys.readouterr().out.rstrip("\n")
        assert re.search(end, line)
        assert " 3 s, " in line


def test_no_solution_is_in_two_parts():
    X = np.arange(40).reshape(20, 2)
    y = X // 8
    kept, held_out = _report.split(X, y, 4, seed=0)
    answers = [{tuple(row) for row in part[1]} for part in (kept, held_out)]
    assert not answers[0] & answers[1]
    assert len(kept[0]) + len(held_out[0]) == 20


@pytest.mark.parametrize(("asked", "taken"), [(3, 3), (9, 8), (0, 8)])
def test_so_many_rows_are_tested_with_or_all(asked, taken):
    X = np.arange(8)
    test = SimpleNamespace(data=X, target=10 * X, rating=100 * X)
    (data, target), rating = _report.test_part(Namespace(seed=0, n_test=asked), test)
    assert len(set(data)) == taken
    assert (target == 10 * data).all()
    assert (rating == 100 * data).all()


def test_without_data_a_script_says_what_is_missing(tmp_path, capsys, monkeypatch):
    def refuse(*args, **kwargs):
        raise FileNotFoundError("Put the file there.")

    monkeypatch.setattr(maze_hard, "fetch_maze_hard", refuse)
    assert maze_hard.run(maze_hard.read_arguments(arguments(tmp_path, 1))) is None
    assert capsys.readouterr().out == "Skipped: Put the file there.\n"


def test_mazes_from_the_generator_are_judged_by_their_paths(tmp_path):
    more = ("--generated", "4", "--n-train", "20", "--size", "small")
    found = maze_hard.run(maze_hard.read_arguments(arguments(tmp_path, 0.2, *more)))
    assert 0 <= found["exact_match"] <= found["valid_shortest"] <= 1


def test_the_untied_twin_has_a_network_for_each_call():
    X = np.random.RandomState(0).randint(3, size=(60, 4))
    size = {name: TINY[name] for name in ("hidden_size", "n_heads", "dtype")}
    calls = {
        "n_latent_recursions": 3,
        "n_deep_recursions": 1,
        "n_supervision_steps": 1,
        "max_epochs": 2,
        "random_state": 0,
    }
    untied = tables.UntiedClassifier(**size, **calls).fit(X, X[:, 0])
    tied = TRMClassifier(**size, **calls).fit(X, X[:, 0])
    nets = untied.module_.net.nets
    assert len(nets) == 4
    others = tables.size(tied) - sum(p.numel() for p in tied.module_.net.parameters())
    per_net = sum(p.numel() for p in nets[0].parameters())
    assert tables.size(untied) == others + 4 * per_net
    # Each has learned: at the smaller rate they stay where they started.
    still = tables.UntiedClassifier(**size, **calls, lr=1e-12).fit(X, X[:, 0])
    for net, started in zip(nets, still.module_.net.nets, strict=True):
        change = next(net.parameters()) - next(started.parameters())
        assert change.abs().max() > 1e-5
    untied.predict(X)
    assert untied.module_.net.n_calls == 4


def test_twins_take_the_weight_decay_of_ours_and_no_more(monkeypatch):
    monkeypatch.setattr(
        tables,
        "measure",
        lambda model, *data: {
            "fit s": 1.0,
            "decay": getattr(model, "weight_decay", np.nan),
            "width": getattr(model, "hidden_size", np.nan),
        },
    )
    given = {"weight_decay": 0.25, "hidden_size": 8}
    args = Namespace(
        n_train=None,
        seed=0,
        folds=2,
        twin_folds=2,
        own_time=False,
        average=1,
        models=None,
        set=json.dumps(given),
    )
    X, y = tables.generated()
    found = dict(tables.compare(args, "some", X, y))
    assert found["TRM"]["decay"] == 0.25
    assert found["TRM"]["width"] == 8
    for twin in tables.TWINS:
        assert found[twin]["decay"] == 0.25
        assert found[twin]["width"] == TRMClassifier().hidden_size


def test_the_mean_of_ours_is_that_of_models_with_other_seeds():
    X = np.random.RandomState(0).randint(3, size=(40, 2))
    model = TRMClassifier(hidden_size=8, n_heads=2, max_epochs=2)
    mean = tables.averaged(model, 2).fit(X, X[:, 0])
    each = [clone(model).set_params(random_state=s).fit(X, X[:, 0]) for s in (0, 1)]
    probas = [one.predict_proba(X) for one in each]
    np.testing.assert_allclose(mean.predict_proba(X), np.mean(probas, axis=0))
    assert not np.allclose(*probas)
    assert tables.size(mean) == 2 * tables.size(each[0])


@pytest.mark.parametrize(("n", "name"), [(1, None), (3, "mean of 3 TRMs")])
def test_the_mean_joins_with_the_parameters_of_ours(n, name):
    found = dict(tables.contenders(tables.generated()[0], {"hidden_size": 8}, n))
    assert found["TRM"].hidden_size == 8
    assert {key for key in found if "mean" in key} == ({name} if name else set())
    if name:
        members = found[name].estimators
        assert [member.random_state for _, member in members] == [0, 1, 2]
        assert {member.hidden_size for _, member in members} == {8}


def test_tables_are_cut_into_folds_or_parts():
    y = np.repeat([0, 1, 2], [40, 17, 3])
    args = Namespace(n_train=None, seed=0)
    folds = tables.folds_of(args, "some", y, 5)
    assert len(folds) == 3  # as many as the rarest class has rows
    assert all(set(y[train]) == {0, 1, 2} for train, _ in folds)
    args.seed = 1
    (_, other), *_ = tables.folds_of(args, "some", y, 5)
    assert not np.array_equal(other, folds[0][1])
    args = Namespace(n_train=20, seed=0)
    parts = tables.folds_of(args, "some", y, 2)
    assert [(len(train), len(test)) for train, test in parts] == [(20, 40)] * 2
    args.seed = 1
    (train, _), *_ = tables.folds_of(args, "some", y, 2)
    assert not np.array_equal(train, parts[0][0])


def test_what_grows_is_measured(home, monkeypatch):
    monkeypatch.setattr(scale, "N_SUDOKUS", 30)
    monkeypatch.setattr(scale, "N_SHORT", 50)
    for case, what, size in (
        ("read a file", "30 puzzles", 2 * 30 * 81),
        ("answer it, one step", "30 rows", 30 * 81),
        ("answer sequences, one step", "50 rows", 8 * 50 * 8),
    ):
        found = scale.run(case, str(home), torch.get_num_threads())
        assert found[0] == what
        assert found[3] == size


def test_what_depth_costs_is_measured(monkeypatch):
    case = growth.Growth(TRMSolver(mixer="mlp", **SMALL), 16, "n_latent_recursions", ())
    longer = growth.Growth(TRMSolver(mixer="mlp", **SMALL), 0, "n_cells", ())
    cases = {"deeper": case, "longer": longer}
    monkeypatch.setattr(growth, "CASES", cases)
    threads = torch.get_num_threads()
    for name, values in (("deeper", (1, 2, 3)), ("longer", (8, 12, 16))):
        found = [growth.times(name, value, 1, threads) for value in values]
        work, *times = zip(*found, strict=True)
        assert work[0] < work[1] < work[2]
        assert all(number > 0 for numbers in times for number in numbers)


def test_memory_is_measured_beyond_what_there_was():
    """In a process of its own, which the environment reaches."""
    assert growth.alone(os.getenv, "SKTRM_TEST", SKTRM_TEST="reached") == "reached"
    assert os.getenv("SKTRM_TEST") is None
    given = (growth.memory, "equivariant, n")
    few, many = (growth.alone(*given, n, 1, **growth.GIVEN_BACK) for n in (1, 8))
    assert many > few + 100  # of 28 a call


def test_paths_of_numbers_are_compared(tmp_path, monkeypatch, capsys):
    models = []

    def learn(model, *data):
        models.append(model.set_params(max_epochs=2, hidden_size=8))
        return measured(model, *data)

    measured = curves.learn
    monkeypatch.setattr(curves, "learn", learn)
    out = tmp_path / "found"
    bends = ["free", "0.5", "0.1", "auto"]
    given = ["--bends", *bends, "--rows", "100", "--rules", "wave"]
    monkeypatch.setattr(
        "sys.argv", ["", *given, "--seeds", "0", "1", "--out", str(out)]
    )
    curves.main()
    free, half, tenth = (model.module_.embedding.numbers for model in models[:3])
    assert models[3].smooth_numbers == "auto"
    assert not free.shares.any()
    assert (free.bend == 1).all()
    assert (half.bend == 0.5).all()
    assert (tenth.bend == np.float32(0.1)).all()
    torch.testing.assert_close(half.shares.sum((1, 2)), torch.ones(8))
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row[3] for row in rows] == ["free", 0.5, 0.1, "auto"] * 2
    accuracy = np.array([row[4] for row in rows]).reshape(2, 4)
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("all "))
    assert f"{accuracy[:, 0].mean():.4f} (+0.0000 +- 0.0000)" in line


@pytest.mark.parametrize("rule", curves.RULES)
def test_rules_of_numbers_have_two_answers(rule):
    X, y = curves.draw(rule, 4000, seed=0)
    assert X.shape == (4000, 8)
    assert 0.4 < y.mean() < 0.6


def test_noisy_labels_measure_rules_without_noise(monkeypatch, tmp_path, capsys):
    models = []

    def learn(model, *data):
        models.append(model)
        if isinstance(model, TRMClassifier):
            model.set_params(max_epochs=2, hidden_size=8)
        return measured(model, *data)

    measured = noisy_labels.learn
    monkeypatch.setattr(noisy_labels, "learn", learn)
    out = tmp_path / "found"
    given = ["--decays", "auto", "rows", "2", "--peers", "HGB", "--noise", "0.15"]
    monkeypatch.setattr(
        "sys.argv",
        ["", *given, "--rules", "product", "--seeds", "0", "--out", str(out)],
    )
    noisy_labels.main()
    auto, rows, twice = (model.weight_decay_ for model in models[:3])
    assert rows == pytest.approx(np.sqrt(450 / 600))
    assert twice == pytest.approx(2 * rows)
    assert auto == pytest.approx(4 * rows)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row[3] for row in found] == ["decay auto", "decay rows", "decay 2.0", "HGB"]
    assert 0.9 < found[3][4] < 1  # trees: of labels with noise 85 % would be right
    assert f"{found[3][6]:.4f}" in capsys.readouterr().out.splitlines()[-1]


def test_noisy_labels_score_drawn_rows_and_others_by_the_rule():
    class Known(DummyClassifier):
        def predict_proba(self, X):
            ones = np.where(X[0] == 0, 0.9, 0.2)
            return np.column_stack((1 - ones, ones))

    drawn = np.arange(486)  # those that begin with 0 or 1
    right = np.ones(729, dtype=int)
    found = noisy_labels.learn(Known(), drawn, right[drawn], right, 0.1)
    loss = -(0.9 * np.log([0.9, 0.2, 0.2]) + 0.1 * np.log([0.1, 0.8, 0.8])).mean()
    assert found == pytest.approx([0.5, 0.0, loss])


@pytest.mark.parametrize("rule", noisy_labels.RULES)
def test_noisy_labels_are_turned_as_often_as_asked(rule):
    drawn, labels, right = noisy_labels.draw(rule, 0.15, seed=0)
    assert 0.3 < right.mean() < 0.7
    assert 0.1 < (labels != right[drawn]).mean() < 0.2
    _, labels, _ = noisy_labels.draw(rule, 0.0, seed=0)
    assert (labels == right[drawn]).all()


def test_the_generated_table_is_made_when_it_is_named():
    named = Namespace(folder=None, tables=["generated", "iris"])
    assert [name for name, _, _ in tables.chosen(named)] == ["iris", "generated"]
    everything = Namespace(folder=None, tables=None)
    assert "generated" not in [name for name, _, _ in tables.chosen(everything)]
    X, y = tables.generated()
    assert X.shape == (20_000, 20)
    assert 0.45 < y.mean() < 0.55


@pytest.mark.parametrize(
    ("share", "n", "low", "high"),
    [
        (0.0, 10, 0.0, 0.2775),
        (0.0, 1000, 0.0, 0.0038),
        (0.5, 100, 0.4038, 0.5962),
        (1.0, 1000, 0.9962, 1.0),
    ],
)
def test_the_interval_is_wilsons(share, n, low, high):
    """Figures of the formula in Newcombe, Statistics in Medicine 17, 1998, method 3."""
    found = _report.interval(share, n)
    assert found == pytest.approx((low, high), abs=1e-4)
    assert 0 <= found[0] <= found[1] <= 1  # not a last bit beyond


def test_ratings_are_cut_into_parts_that_hold_all_rows():
    rating, right = np.array([0, 0, 0, 5, 9, 30]), np.array([1, 1, 0, 1, 0, 0])
    rows = _report.by_rating(rating, right)
    assert [row[:3] for row in rows] == [[0, 0, 3], [5, 5, 1], [9, 30, 2]]
    assert rows[0][3] == pytest.approx(2 / 3)

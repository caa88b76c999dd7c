"""The scripts of the published benchmarks, on files of a few puzzles."""

import json
import sys
from argparse import Namespace

import numpy as np
import pytest
import torch
from conftest import ROOT, tiny_solver

sys.path.insert(0, str(ROOT / "benchmarks"))

import _report
import levers
import maze_hard
import speed
import sudoku
import sudoku_extreme
from _checkpoint import Checkpoint

from sktrm import TRMSolver, load_pretrained
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


def test_no_solution_is_in_two_parts():
    X = np.arange(40).reshape(20, 2)
    y = X // 8
    kept, held_out = _report.split(X, y, 4, seed=0)
    answers = [{tuple(row) for row in part[1]} for part in (kept, held_out)]
    assert not answers[0] & answers[1]
    assert len(kept[0]) + len(held_out[0]) == 20


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

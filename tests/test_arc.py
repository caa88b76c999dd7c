"""Several tasks in one solver, told apart by their ids alone."""

import json
import pickle
import sys

import numpy as np
import pytest
import sklearn
import torch
from conftest import ROOT, tiny_solver
from sklearn.base import clone
from sklearn.model_selection import KFold, cross_val_score

from sktrm import TRMSolver, load_pretrained, save_pretrained
from sktrm._tasks import check_task_ids
from sktrm.arc import arc_submission, pass_at_k
from sktrm.augmentation import Dihedral, SymbolPermutation, Translation
from sktrm.nn import recursion
from sktrm.nn.tasks import TaskTable, build_task_model, task_table

sys.path.insert(0, str(ROOT / "benchmarks"))

import arc_agi
from _checkpoint import Checkpoint, read_checkpoint


def shifts(n=24):
    """Two tasks on the same questions: add one to each cell, or two, modulo four."""
    X = np.random.RandomState(0).randint(4, size=(n, 2, 3))
    grids = np.concatenate((X, X))
    return grids, np.concatenate(((X + 1) % 4, (X + 2) % 4)), ["one"] * n + ["two"] * n


def ragged(n=8):
    """Two tasks whose answers are smaller than the questions: top row, left column."""
    random = np.random.RandomState(0)
    X = [random.randint(4, size=random.randint(1, 4, size=2)) for _ in range(n)]
    y = [grid[:1] for grid in X] + [grid[:, :1] for grid in X]
    return X + X, y, ["top"] * n + ["left"] * n


def table(solver):
    return task_table(solver.module_).weight


@pytest.fixture(scope="module")
def fitted():
    """A solver that has learned to tell the two shifts apart."""
    X, y, ids = shifts()
    solver = tiny_solver(
        hidden_size=64, max_epochs=60, lr=3e-3, task_lr=0.02, canvas=(2, 3)
    )
    return solver.fit(X, y, task_ids=ids)


@pytest.fixture(scope="module")
def viewed():
    """A solver with views of ragged tasks, hardly trained."""
    X, y, ids = ragged()
    solver = tiny_solver(
        augmentation=[Dihedral(), SymbolPermutation(range(1, 4)), Translation()],
        n_augmentations=3,
        canvas=(4, 4),
    )
    return solver.fit(X, y, task_ids=ids)


def test_the_same_question_has_another_answer_in_another_task(fitted):
    """Only the embedding tells the tasks apart."""
    X, y, ids = shifts()
    swapped = ids[::-1]
    assert fitted.score(X, y, task_ids=ids) > 0.9
    assert fitted.score(X, y, task_ids=swapped) == 0.0
    assert list(fitted.tasks_) == ["one", "two"]


class TestTable:
    def make(self):
        table = TaskTable(5, 3).train()
        table.weight.copy_(torch.arange(15.0).view(5, 3))
        return table

    def test_only_the_rows_of_the_batch_move_by_the_sign_of_their_gradient(self):
        table = self.make()
        before = table.weight.clone()
        values = table(torch.tensor([1, 3, 1]))
        # Row 1 comes twice: its gradients add up before the sign is taken.
        gradient = torch.tensor([[3.0, -1, 0], [2, 2, -9], [-1.0, -1, 0]])
        (values * gradient).sum().backward()
        table.step(lr=0.5, weight_decay=0.1)
        expected = before.clone()
        expected[1] = before[1] * 0.95 - 0.5 * torch.tensor([1.0, -1, 0])
        expected[3] = before[3] * 0.95 - 0.5 * torch.tensor([1.0, 1, -1])
        torch.testing.assert_close(table.weight, expected)

    def test_it_has_no_parameter_and_no_dense_gradient(self):
        table = self.make()
        table(torch.tensor([1])).sum().backward()
        assert not list(table.parameters())
        assert table.weight.grad is None
        assert table._gathered[0][1].grad.shape == (1, 3)

    def test_in_evaluation_nothing_is_gathered(self):
        table = self.make().eval()
        assert not table(torch.tensor([1])).requires_grad
        assert table._gathered == []


def test_average_and_network_share_one_table(fitted):
    """Of 400,000 rows there is no copy to keep in step."""
    net = fitted.net_
    ours, average = task_table(net.module_), task_table(net.predictor_)
    assert ours is not average
    assert ours.weight.data_ptr() == average.weight.data_ptr()
    assert not any("task" in name for name in net.last_good_[1][0])


def test_each_view_has_a_row_of_its_own(viewed):
    assert viewed._sizes["n_views"] == 4
    assert table(viewed).shape == (2 * 4, viewed.hidden_size)
    embedding = viewed.module_.embedding
    cells, tokens = embedding.view_cells, embedding.view_tokens
    assert torch.equal(cells[0], torch.arange(16, dtype=torch.int32))
    both = torch.cat((cells, tokens), dim=1)
    assert len(torch.unique(both, dim=0)) == 4


def test_views_and_rows_go_together_in_training(viewed):
    """What a slot holds is the question through the view that its row says."""
    X, y, ids = ragged()
    rows = viewed._make_rows(viewed._check_X(X, reset=False), y, None, task_ids=ids)
    slots = viewed._make_slots(
        viewed.module_,
        n_slots=len(rows),
        n_supervision_steps=1,
        halt_exploration=0.0,
        augmentations=[a for a in viewed.augmentation if not a.needs_rows],
        space=viewed._space(),
        generator=torch.Generator().manual_seed(0),
    )
    batch = next(slots.epoch(rows))
    embedding = viewed.module_.embedding
    for seen, plain in zip(batch.inputs, rows.inputs, strict=True):
        assert seen[0] // 4 == plain[0] // 4
        view = int(seen[0] % 4)
        moved = plain[1:][embedding.view_cells[view].long()]
        assert torch.equal(seen[1:], embedding.view_tokens[view][moved.long()])
    assert len(torch.unique(batch.inputs[:, 0] % 4)) > 1


def test_answers_have_sizes_of_their_own(viewed):
    """Also where the question is larger than any seen in training."""
    answers = viewed.predict([np.zeros((4, 4), dtype=int)], task_ids=["top"])
    assert answers[0].ndim == 2
    with pytest.raises(ValueError, match=r"has shape \(5, 1\), but canvas is \(4, 4\)"):
        viewed.predict([np.zeros((5, 1), dtype=int)], task_ids=["top"])


def test_with_a_canvas_grids_of_one_size_may_meet_others(fitted):
    answers = fitted.predict([[[1, 2]], [[3], [3]]], task_ids=["one", "two"])
    assert len(answers) == 2


def test_adapt_learns_a_new_task_and_leaves_the_others(fitted):
    X, _, ids = shifts()
    solver = pickle.loads(pickle.dumps(fitted))
    before = solver.predict(X, task_ids=ids)
    network = {n: p.clone() for n, p in solver.module_.named_parameters()}
    rows = table(solver).clone()
    solver.set_params(max_epochs=3).adapt(X[:9], (X[:9] + 3) % 4, ["three"] * 9)
    assert list(solver.tasks_) == ["one", "two", "three"]
    torch.testing.assert_close(table(solver)[:2], rows, rtol=0, atol=0)
    assert not torch.equal(table(solver)[2], rows.mean(dim=0))
    for name, parameter in solver.module_.named_parameters():
        assert torch.equal(parameter, network[name])
        assert parameter.requires_grad
    after = solver.predict(X, task_ids=ids)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert task_table(solver.net_.predictor_).weight is (
        task_table(solver.net_.module_).weight
    )
    three = table(solver)[2].clone()
    solver.partial_fit(X, X, task_ids=["three"] * len(X))
    assert len(table(solver)) == 3
    assert not torch.equal(table(solver)[2], three)


def test_adapt_finds_the_rule_of_a_task_among_those_it_knows(fitted):
    X, y, ids = shifts()
    solver = pickle.loads(pickle.dumps(fitted))
    two = np.flatnonzero(np.array(ids) == "two")
    solver.set_params(max_epochs=40)
    solver.adapt(X[two[:9]], y[two[:9]], ["again"] * 9)
    unseen = two[9:]
    answers = solver.predict(X[unseen], task_ids=["again"] * len(unseen))
    same = solver.predict(X[unseen], task_ids=["two"] * len(unseen))
    assert np.mean([(a == b).all() for a, b in zip(answers, same, strict=True)]) > 0.8


def test_what_adapt_refuses_leaves_no_task_behind(fitted):
    X, y, _ = shifts()
    solver = pickle.loads(pickle.dumps(fitted))
    unknown = [np.full_like(grid, 77) for grid in X[:3]]
    with pytest.raises(ValueError, match="77"):
        solver.adapt(unknown, y[:3], ["three"] * 3)
    assert list(solver.tasks_) == ["one", "two"]


def test_rows_of_tasks_learn_in_whichever_part_of_the_batch_they_are(monkeypatch):
    def trained(widest):
        monkeypatch.setattr(recursion, "_WIDEST", widest)
        generator = torch.Generator().manual_seed(0)
        model = build_task_model(
            n_tasks=4,
            n_views=1,
            n_prefix_tokens=1,
            n_tokens=5,
            length=6,
            hidden_size=16,
            n_heads=2,
            generator=generator,
        ).double()
        model.answer_head.weight.data.normal_(generator=generator)
        rows = torch.arange(4 * 7).reshape(4, 7) % 5
        rows[:, 0] = torch.tensor([0, 1, 2, 1])
        model.train()(rows).answer_logits.square().sum().backward()
        task_table(model).step(0.1, 0.0)
        return task_table(model).weight

    together, apart = trained(2**30), trained(1)
    torch.testing.assert_close(apart, together)
    assert (together[:3] != 0).any(dim=1).all()
    assert (together[3] == 0).all()


def test_pickles_and_files_know_the_tasks(fitted, tmp_path):
    X, _, ids = shifts()
    save_pretrained(fitted, tmp_path / "tasks.safetensors", dtype="float32")
    loaded = load_pretrained(tmp_path / "tasks.safetensors", device="cpu")
    for other in (pickle.loads(pickle.dumps(fitted)), loaded):
        assert list(other.tasks_) == ["one", "two"]
        pairs = zip(
            other.predict(X, task_ids=ids), fitted.predict(X, task_ids=ids), strict=True
        )
        assert all(np.array_equal(a, b) for a, b in pairs)


def test_scikit_learn_routes_task_ids():
    """clone, weights, and cross-validation that hands each fold its ids."""
    X, y, ids = shifts(6)
    solver = clone(tiny_solver())
    weights = np.array([1.0] * 6 + [0.0] * 6)
    assert list(solver.fit(X, y, weights, task_ids=ids).tasks_) == ["one"]
    with sklearn.config_context(enable_metadata_routing=True):
        solver.set_fit_request(task_ids=True).set_score_request(task_ids=True)
        folds = KFold(2, shuffle=True, random_state=0)
        scores = cross_val_score(solver, X, y, cv=folds, params={"task_ids": ids})
    assert scores.shape == (2,)


def test_early_stopping_holds_out_rows_with_their_tasks():
    X, y, ids = shifts(10)
    solver = tiny_solver(early_stopping=True).fit(X, y, task_ids=ids)
    assert 0 <= solver.validation_score_ <= 1
    solver.fit(X, y, task_ids=ids, X_val=X, y_val=y, task_ids_val=ids)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (None, "task_ids must name the task of each row: this solver was fitted with"),
        (["one"], r"of each of the 2 rows, got an array of shape \(1,\)"),
        (["one", "six"], "names the task 'six', which did not occur in fit: adapt"),
        (["one", None], "must name the task of each row, got None at row 1"),
        ([0.0, np.nan], "must name the task of each row, got nan at row 1"),
        ([0.5, 1.0], "must be whole numbers or names, got float64"),
    ],
)
def test_ids_that_cannot_be_are_refused(fitted, ids, message):
    with pytest.raises(ValueError, match=message):
        fitted.predict(shifts()[0][:2], task_ids=ids)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"symbols": range(4)}, "symbols must be None with task_ids"),
        ({"compile": True}, "compile must be 'auto' or False with task_ids, got True"),
        ({"canvas": (0, 3)}, r"canvas must be two whole numbers above 0.*\(0, 3\)"),
        ({"canvas": 3}, "canvas must be two whole numbers above 0.*got 3"),
    ],
)
def test_what_does_not_go_with_tasks_is_refused(parameters, message):
    X, y, ids = shifts(3)
    with pytest.raises(ValueError, match=message):
        tiny_solver(**parameters).fit(X, y, task_ids=ids)


def test_a_solver_without_tasks_takes_no_ids(trained, copies):
    X, y = copies
    with pytest.raises(ValueError, match="task_ids must be None: this solver was fit"):
        trained.predict(X, task_ids=[0] * len(X))
    with pytest.raises(ValueError, match="adapt learns embeddings of tasks, but"):
        trained.adapt(X, y, [0] * len(X))


def test_numbers_name_tasks_whatever_their_type():
    X = np.zeros((2, 1))
    assert list(check_task_ids(np.array([1, 2], dtype=np.int8), X)) == [1, 2]
    assert list(check_task_ids(["a", "b"], X)) == ["a", "b"]


def test_the_two_best_answers_are_submitted(viewed, tmp_path):
    X, _, ids = ragged(3)
    path = tmp_path / "submission.json"
    found = arc_submission(viewed, X, ids, augment_votes=4, path=path)
    assert json.loads(path.read_text()) == found
    assert {task: len(tests) for task, tests in found.items()} == {"top": 3, "left": 3}
    voted = viewed.predict(X, task_ids=ids, augment_votes=4)
    listed = [test["attempt_1"] for tests in found.values() for test in tests]
    assert listed == [grid.tolist() for grid in voted]
    best = viewed.predict_top_k(X, 5, task_ids=ids, augment_votes=4, n_rollouts=1)
    assert max(len(answers) for answers in best) > 1
    for answers in best:
        shown = {(a.shape, a.tobytes()) for a in answers}
        assert len(shown) == len(answers)
    second = [test["attempt_2"] for tests in found.values() for test in tests]
    assert second == [answers[:2][-1].tolist() for answers in best]


def test_answers_that_are_no_colours_are_no_submission(fitted):
    X, y, ids = shifts(2)
    solver = tiny_solver(canvas=(2, 3)).fit(X + 9, y + 9, task_ids=ids)
    with pytest.raises(ValueError, match="whole numbers from 0 to 9, got"):
        arc_submission(solver, X + 9, ids)


def test_a_task_counts_by_the_share_of_its_tests():
    def test(*grids):
        return {f"attempt_{i}": grid for i, grid in enumerate(grids, 1)}

    submission = {
        "a": [test([[1]], [[2]]), test([[3]], [[4]])],
        "b": [test([[5]], [[6, 6]])],
    }
    solutions = {"a": [[[1]], [[4]]], "b": [[[6], [6]]], "c": [[[1]]]}
    assert pass_at_k(submission, solutions, 1) == pytest.approx(0.5 / 3)
    assert pass_at_k(submission, solutions, 2) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="no entry for the task 'a'"):
        pass_at_k(submission, {"b": solutions["b"]})
    with pytest.raises(ValueError, match="'a' has 1 tests, but the submission has 2"):
        pass_at_k(submission, {**solutions, "a": [[[1]]]})
    with pytest.raises(ValueError, match="'a' has a test without 2 attempts"):
        pass_at_k({"a": [{"attempt_1": [[1]]}]}, {"a": [[[1]]]})
    with pytest.raises(ValueError, match="answers of a task at least"):
        pass_at_k({}, {})


def test_the_benchmark_runs_from_files_to_a_submission(tmp_path, capsys):
    """Tests of evaluation tasks are asked and never learned."""
    random = np.random.RandomState(0)
    for subset in ("training", "evaluation", "concept"):
        challenges, solutions = {}, {}
        for i in range(3):
            grids = random.randint(7, size=(4, 2, 3))
            pairs = [{"input": g.tolist(), "output": g.T.tolist()} for g in grids]
            tests = [{"input": grids[3].tolist()}]
            challenges[f"{subset}{i}"] = {"train": pairs[:3], "test": tests}
            solutions[f"{subset}{i}"] = [pairs[3]["output"]]
        folder = tmp_path / "arc-agi"
        folder.mkdir(exist_ok=True)
        for kind, content in (("challenges", challenges), ("solutions", solutions)):
            path = folder / f"arc-agi_{subset}_{kind}.json"
            path.write_text(json.dumps(content))
    tiny = {"hidden_size": 8, "n_supervision_steps": 1, "max_steps": 1}
    tiny |= {"n_augmentations": 2, "dtype": "float32"}
    given = [
        *("--data-home", str(tmp_path), "--budget", "0.2", "--n-tasks", "2"),
        *("--n-training-tasks", "1", "--max-side", "3", "--set", json.dumps(tiny)),
        *("--submission", str(tmp_path / "submission.json"), "--verbose", "0"),
        *("--out", str(tmp_path / "out.jsonl"), "--device", "cpu"),
    ]
    args = arc_agi.read_arguments(given)
    ((X, _, ids), (tests, _, test_ids)), n_tasks = arc_agi.read(args)
    assert n_tasks == len(tests) == 2
    assert set(test_ids) < set(ids)
    # Three demonstrations of each task, and the test of the one for training.
    assert len(X) == 3 * 3 + 1
    # The paper learns ConceptARC, too, and is judged by the same tasks.
    more = arc_agi.read_arguments([*given, "--size", "paper", "--n-training-tasks=-1"])
    ((_, _, all_ids), (_, _, same_ids)), _ = arc_agi.read(more)
    assert (same_ids == test_ids).all()
    assert {"concept0", "concept1", "concept2", "training0"} < set(all_ids)
    assert not any(str(task).startswith("concept") for task in ids)
    found = arc_agi.run(args)
    assert 0 <= found["pass@1"] <= found["pass@2"] <= 1
    low, high = found["pass@2_interval"]
    assert low <= found["pass@2"] <= high
    assert "is a valid submission" in capsys.readouterr().out
    # Within the same budget a second run takes the step after which time is looked at.
    resumed = [*given, "--resume", str(tmp_path / "run.ckpt")]
    arc_agi.run(arc_agi.read_arguments(resumed))
    before = read_checkpoint(tmp_path / "run.ckpt")["seconds"]
    assert before > 0
    arc_agi.run(arc_agi.read_arguments(resumed))
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines[-2:])
    assert second["n_optimizer_steps"] == first["n_optimizer_steps"] + 1
    assert second["seconds"] > before
    assert f"going on after {before:.0f} s" in capsys.readouterr().out


def test_tasks_go_on_where_a_checkpoint_left_them(tmp_path):
    """In two runs the network, the embeddings and their views are those of one."""
    X, y, ids = ragged()

    def after(n_epochs, *callbacks):
        solver = tiny_solver(
            augmentation=[Dihedral(), Translation()],
            n_augmentations=3,
            canvas=(4, 4),
            max_epochs=n_epochs,
            lr_schedule="constant",
            callbacks=callbacks,
        )
        return solver.fit(X, y, task_ids=ids).net_

    straight = after(4)
    path = str(tmp_path / "training.ckpt")
    after(2, Checkpoint(path))
    resumed = after(2, Checkpoint(path))
    assert resumed.n_optimizer_steps_ == straight.n_optimizer_steps_
    torch.testing.assert_close(
        resumed.predictor_.state_dict(),
        straight.predictor_.state_dict(),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("size", ["paper", "small"])
def test_the_recipe_takes_task_ids(size):
    X, y, ids = ragged(3)
    small = {"hidden_size": 32, "n_layers": 1, "n_latent_recursions": 1}
    small |= {"max_epochs": 1, "n_supervision_steps": 1, "max_steps": 1}
    small |= {"dtype": "float32", "device": "cpu", "canvas": (4, 4)}
    X, y = [grid + 6 for grid in X], [grid + 6 for grid in y]
    X.append(np.arange(1, 10).reshape(3, 3))
    y.append(np.array([[1]]))
    solver = TRMSolver.from_recipe("arc-agi-1", size, **small)
    solver.fit(X, y, task_ids=[*ids, "all"])
    n_views = 1 + solver.n_augmentations
    assert table(solver).shape == (3 * n_views, 32)

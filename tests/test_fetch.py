"""Public data sets: found where they lie, downloaded once, and never taken on trust."""

import hashlib
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import shared, tiny_solver

from sktrm.augmentation import Dihedral, SymbolPermutation, Translation
from sktrm.datasets import (
    _fetch,
    fetch_arc_agi,
    fetch_maze_hard,
    fetch_sudoku_extreme,
    is_shortest_path,
    is_solved_sudoku,
    make_maze,
    make_sudoku,
)


def csv_of(make, n, seed, blank):
    """A file of generated puzzles in the public layout."""
    X, y = make(n, random_state=seed)
    lines = ["source,question,answer,rating"]
    for i, pair in enumerate(zip(X, y, strict=True)):
        question, answer = ("".join(map(str, grid.ravel())) for grid in pair)
        lines.append(f"made {i},{question.replace('0', blank)},{answer},{i % 3}")
    return "\n".join(lines) + "\n"


def some_sudokus(n, random_state):
    return make_sudoku(n, n_clues=50, random_state=random_state)


FILES = {
    "sapientinc/sudoku-extreme": {
        "train.csv": csv_of(some_sudokus, 5, 0, "."),
        "test.csv": csv_of(some_sudokus, 3, 1, "."),
    },
    "sapientinc/maze-30x30-hard-1k": {
        "train.csv": csv_of(make_maze, 4, 0, " "),
        "test.csv": csv_of(make_maze, 2, 1, " "),
    },
}


class Hub:
    """Stands for huggingface_hub: serves FILES and remembers what was asked for."""

    def __init__(self):
        self.asked = []
        self.broken = None
        self.large = True
        self.n_received = None

    def get_paths_info(self, *, repo_id, paths, repo_type):
        """What is published: large files by SHA-256, small ones by git's name."""
        files = []
        for name in paths:
            content = FILES[repo_id][name].encode()
            lfs = None
            if self.large:
                lfs = SimpleNamespace(sha256=hashlib.sha256(content).hexdigest())
            git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            files.append(SimpleNamespace(path=name, lfs=lfs, blob_id=git))
        return files

    def hf_hub_download(self, *, repo_id, filename, repo_type, local_dir):
        self.asked.append((repo_id, filename, repo_type))
        if self.broken:
            raise self.broken
        local_dir.mkdir(parents=True, exist_ok=True)
        path = local_dir / filename
        path.write_text(FILES[repo_id][filename][: self.n_received])
        return str(path)


@pytest.fixture
def hub(monkeypatch):
    hub = Hub()
    module = SimpleNamespace(
        hf_hub_download=hub.hf_hub_download, get_paths_info=hub.get_paths_info
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return hub


@pytest.fixture
def no_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)


FETCHERS = [fetch_sudoku_extreme, fetch_maze_hard]


@pytest.mark.parametrize("fetch", FETCHERS)
def test_files_are_downloaded_once(fetch, hub, tmp_path):
    first = fetch("all", data_home=tmp_path)
    second = fetch("all", data_home=tmp_path)
    assert [(name, kind) for _, name, kind in hub.asked] == [
        ("train.csv", "dataset"),
        ("test.csv", "dataset"),
    ]
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_subsets_are_the_files_of_that_name(hub, tmp_path):
    train, test, both = (
        fetch_sudoku_extreme(subset, data_home=tmp_path)
        for subset in ("train", "test", "all")
    )
    assert (len(train.data), len(test.data)) == (5, 3)
    np.testing.assert_array_equal(both.target[:5], train.target)
    np.testing.assert_array_equal(both.target[5:], test.target)
    pairs = zip(both.data, both.target, strict=True)
    assert all(is_solved_sudoku(*pair) for pair in pairs)
    assert train.rating.tolist() == [0, 1, 2, 0, 1]
    assert train.source[4] == "made 4"
    assert "names no licence" in train.licence
    assert "tdoku" in train.DESCR


def test_mazes_are_characters(hub, tmp_path):
    mazes = fetch_maze_hard("train", data_home=tmp_path)
    pairs = zip(mazes.data, mazes.target, strict=True)
    assert all(is_shortest_path(*pair) for pair in pairs)


@pytest.mark.parametrize("fetch", FETCHERS)
def test_other_forms_hold_the_same(fetch, hub, tmp_path):
    pytest.importorskip("pandas")
    bunch = fetch(data_home=tmp_path)
    X, y = fetch(data_home=tmp_path, return_X_y=True)
    np.testing.assert_array_equal(X, bunch.data)
    np.testing.assert_array_equal(y, bunch.target)
    framed = fetch(data_home=tmp_path, as_frame=True)
    n, side, _ = X.shape
    np.testing.assert_array_equal(framed.data.to_numpy(), X.reshape(n, -1))
    np.testing.assert_array_equal(framed.target["r1c2"], y[:, 0, 1])
    assert framed.data.columns[-1] == f"r{side}c{side}"
    assert framed.frame.shape == (n, 2 * side * side + 2)
    np.testing.assert_array_equal(framed.frame["rating"], bunch.rating)


def test_a_sample_is_random_and_seeded(hub, tmp_path):
    def sample(n, seed):
        how = {"n_samples": n, "random_state": seed, "data_home": tmp_path}
        return fetch_sudoku_extreme(**how)

    names = [sample(3, seed).source.tolist() for seed in range(5)]
    assert all(len(set(some)) == 3 for some in names)
    assert len(set(map(tuple, names))) > 1
    one, same = sample(2, 0), sample(2, 0)
    np.testing.assert_array_equal(one.data, same.data)
    pairs = zip(one.data, one.target, strict=True)
    assert all(is_solved_sudoku(*pair) for pair in pairs)
    for wrong in (0, 6, 1.5):
        with pytest.raises(ValueError, match=f"an int from 1 to 5, .* got {wrong}"):
            sample(wrong, 0)


@pytest.mark.parametrize("change", ["truncated", "edited"])
def test_a_changed_file_is_noticed_at_every_later_load(change, hub, tmp_path):
    fetch_sudoku_extreme(data_home=tmp_path)
    path = tmp_path / "sudoku-extreme" / "train.csv"
    text = path.read_text()
    path.write_text(text[:-100] if change == "truncated" else text.replace(",0", ",7"))
    for _ in range(2):
        with pytest.raises(OSError, match="is not the file that was downloaded"):
            fetch_sudoku_extreme(data_home=tmp_path)
    path.write_text(text)
    fetch_sudoku_extreme(data_home=tmp_path)
    record = path.with_name("train.csv.sha256")
    record.write_text("")
    with pytest.raises(OSError, match=r"train.csv.sha256 says nothing. Remove both"):
        fetch_sudoku_extreme(data_home=tmp_path)


def test_the_record_is_that_of_sha256sum(hub, tmp_path):
    fetch_sudoku_extreme(data_home=tmp_path)
    path = tmp_path / "sudoku-extreme" / "train.csv"
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    record = path.with_name("train.csv.sha256").read_text()
    assert record == f"{expected}  train.csv\n"


@pytest.mark.parametrize(("large", "kind"), [(True, "SHA-256"), (False, "git id")])
def test_a_download_is_held_against_what_the_hub_publishes(large, kind, hub, tmp_path):
    hub.large, hub.n_received = large, -1
    with pytest.raises(OSError, match=f"has the {kind} .* is published there"):
        fetch_sudoku_extreme(data_home=tmp_path)
    assert not any((tmp_path / "sudoku-extreme").glob("train.csv*"))
    hub.n_received = None
    assert len(fetch_sudoku_extreme(data_home=tmp_path).data) == 5


def test_git_names_files_like_this(tmp_path):
    """The id of an empty file is known to everyone who uses git."""
    path = tmp_path / "empty"
    path.touch()
    assert _fetch._git_id(path) == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"


WHAT_TO_PUT = (
    r"Put the file test.csv of .*sudoku-extreme .* at .*sudoku-extreme.test.csv"
)


def test_without_files_the_error_says_what_to_put_where(no_hub, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"pip install sktrm\[data\]") as caught:
        fetch_sudoku_extreme("test", data_home=tmp_path)
    assert caught.match(WHAT_TO_PUT)
    with pytest.raises(FileNotFoundError, match=r"download_if_missing is False.*Put"):
        fetch_maze_hard(data_home=tmp_path, download_if_missing=False)


def test_without_network_the_error_says_what_to_put_where(hub, tmp_path):
    hub.broken = ConnectionError("no route to host.")
    with pytest.raises(OSError, match="not be downloaded: no route to host") as caught:
        fetch_sudoku_extreme("test", data_home=tmp_path)
    assert caught.match(WHAT_TO_PUT)


def test_files_put_there_by_hand_need_no_hub(no_hub, tmp_path):
    folder = tmp_path / "sudoku-extreme"
    folder.mkdir()
    (folder / "test.csv").write_text(FILES["sapientinc/sudoku-extreme"]["test.csv"])
    assert len(fetch_sudoku_extreme("test", data_home=tmp_path).data) == 3
    assert [path.name for path in folder.iterdir()] == ["test.csv"]


def test_the_data_home(hub, tmp_path, monkeypatch):
    def lies_in(folder, data_home=None):
        fetch_maze_hard(data_home=data_home)
        return (folder / "maze-30x30-hard-1k" / "train.csv").exists()

    given, ours, theirs = (tmp_path / name for name in ("given", "ours", "theirs"))
    monkeypatch.delenv("SKTRM_DATA", raising=False)
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(theirs))
    assert lies_in(theirs)
    monkeypatch.setenv("SKTRM_DATA", str(ours))
    assert lies_in(ours)
    assert lies_in(given, data_home=given)


@pytest.mark.parametrize("fetch", FETCHERS)
def test_a_subset_that_there_is_not(fetch, tmp_path):
    with pytest.raises(ValueError, match=r"one of \['all', 'test', 'train'\], got 'v"):
        fetch("validation", data_home=tmp_path)


TASK = {
    "train": [
        {"input": [[0, 1]], "output": [[1], [0]]},
        {"input": [[2, 3, 4]], "output": [[2], [3], [4]]},
    ],
    "test": [{"input": [[5, 0]]}, {"input": [[6, 7]]}],
}
ANSWERS = [[[5], [0]], [[6], [7]]]


def put_arc(home, subset, task_id="007bbfb7", task=TASK, answers=ANSWERS):
    folder = home / "arc-agi"
    folder.mkdir(exist_ok=True)
    for kind, content in (("challenges", task), ("solutions", answers)):
        path = folder / f"arc-agi_{subset}_{kind}.json"
        path.write_text(json.dumps({task_id: content}))


def test_arc_pairs_know_their_task_and_part(tmp_path):
    put_arc(tmp_path, "training", "one")
    put_arc(tmp_path, "evaluation", "two")
    arc = fetch_arc_agi(1, data_home=tmp_path)
    assert arc.task_ids.tolist() == ["one"] * 4 + ["two"] * 4
    assert arc.subset.tolist() == ["training"] * 4 + ["evaluation"] * 4
    assert arc.is_test.tolist() == [False, False, True, True] * 2
    assert arc.position.tolist() == [0, 1, 0, 1] * 2
    assert [x.tolist() for x in arc.data[:3]] == [[[0, 1]], [[2, 3, 4]], [[5, 0]]]
    assert [y.tolist() for y in arc.target[2:4]] == ANSWERS
    assert arc.data[0].dtype == arc.target[0].dtype == np.int8
    X, y = fetch_arc_agi(1, data_home=tmp_path, return_X_y=True)
    assert isinstance(X, list)
    assert [g.tolist() for g in X + y] == [g.tolist() for g in arc.data + arc.target]
    assert arc.licence == "ARC-AGI: Apache-2.0"


def test_arc_versions_and_concepts_are_other_files(tmp_path):
    for subset in ("training2", "evaluation2", "concept"):
        put_arc(tmp_path, subset, f"task of {subset}")
    arc = fetch_arc_agi(2, concept=True, data_home=tmp_path)
    assert set(arc.subset) == {"training2", "evaluation2", "concept"}
    assert "ConceptARC" in arc.DESCR
    assert "ConceptARC: MIT" in arc.licence
    for missing in (True, False):  # nothing is downloaded either way
        with pytest.raises(
            FileNotFoundError, match=r"put arc-agi_training_challenges.json"
        ):
            fetch_arc_agi(1, data_home=tmp_path, download_if_missing=missing)
    with pytest.raises(ValueError, match="version must be 1 or 2, got 3"):
        fetch_arc_agi(3, data_home=tmp_path)


@pytest.mark.parametrize(
    ("task", "answers", "message"),
    [
        ({"train": []}, ANSWERS, "Task bad of .*KeyError: 'test'"),
        (TASK, ANSWERS[:1], "Task bad of .*shorter"),
        (TASK, [[[5], [0]], [[6], [10]]], "whole numbers from 0 to 9"),
        (TASK, [[[5], [0]], [[6], [0.5]]], "whole numbers from 0 to 9"),
        (TASK, [[[5], [0]], [[6], [7, 7]]], "Task bad of .*inhomogeneous"),
        (TASK, [[[5], [0]], [[6] * 31]], r"1 to 30 cells, got shape \(1, 31\)"),
        (TASK, [[[5], [0]], [[]]], "1 to 30 cells"),
    ],
)
def test_arc_files_that_are_none(task, answers, message, tmp_path):
    put_arc(tmp_path, "training", "bad", task, answers)
    put_arc(tmp_path, "evaluation", "good")
    with pytest.raises(ValueError, match=message):
        fetch_arc_agi(1, data_home=tmp_path)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is no JSON file"), ("[]", "must hold tasks by their")]
)
def test_arc_files_that_are_no_tasks(text, message, tmp_path):
    put_arc(tmp_path, "training")
    path = tmp_path / "arc-agi" / "arc-agi_training_challenges.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        fetch_arc_agi(1, data_home=tmp_path)


def test_real_arc_tasks():
    home = shared("data", "arc-agi", "arc-agi_training_challenges.json").parents[1]
    arc = fetch_arc_agi(1, concept=True, data_home=home)
    tasks = {name: set(arc.task_ids[arc.subset == name]) for name in set(arc.subset)}
    sizes = {name: len(ids) for name, ids in tasks.items()}
    assert sizes == {"training": 400, "evaluation": 400, "concept": 160}
    assert set(arc.task_ids[arc.is_test]) == set(arc.task_ids[~arc.is_test])
    two = fetch_arc_agi(2, data_home=home)
    assert len(set(two.task_ids)) == 1120
    old, new = tasks["evaluation"], set(two.task_ids[two.subset == "training2"])
    assert len(old & new) > 300  # as the description warns


def test_a_solver_takes_arc_grids_and_their_augmentations():
    home = shared("data", "arc-agi", "arc-agi_training_challenges.json").parents[1]
    arc = fetch_arc_agi(1, data_home=home)
    small = [
        i for i, y in enumerate(arc.target) if max(*y.shape, *arc.data[i].shape) < 8
    ]
    X, y = ([part[i] for i in small[:60]] for part in (arc.data, arc.target))
    symmetries = [Dihedral(), SymbolPermutation(range(1, 10)), Translation()]
    solver = tiny_solver(max_epochs=1, mixer="attention", augmentation=symmetries)
    answers = solver.fit(X, y).predict(X[:5])
    assert all(answer.ndim == 2 for answer in answers)


def test_real_puzzles():
    home = shared("data", "sudoku-extreme", "train.csv").parents[1]
    sudokus = fetch_sudoku_extreme(data_home=home, download_if_missing=False)
    assert sudokus.data.shape == (1000, 9, 9)
    pairs = zip(sudokus.data[:20], sudokus.target[:20], strict=True)
    assert all(is_solved_sudoku(*pair) for pair in pairs)
    mazes = fetch_maze_hard("all", data_home=home, download_if_missing=False)
    assert mazes.data.shape == (1300, 30, 30)
    assert set(np.unique(mazes.target)) == set("# SGo")

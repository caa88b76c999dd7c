"""A stored solver answers as before; what is none is refused in a sentence."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import ROOT, tiny_solver
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.exceptions import NotFittedError

import sktrm._pretrained
from sktrm import TRMClassifier, TRMSolver, load_pretrained, save_pretrained
from sktrm.augmentation import (
    Augmentation,
    Dihedral,
    SudokuGroup,
    SymbolPermutation,
    Transform,
    Translation,
)
from sktrm.datasets import is_solved_sudoku, make_sudoku


def round_trip(solver, tmp_path, dtype="float32"):
    path = tmp_path / "model.safetensors"
    save_pretrained(solver, path, dtype=dtype)
    return load_pretrained(path)


def kinds_of_tasks():
    """Grids, words of letters with one answer, tuples of sizes, columns with names."""
    random = np.random.RandomState(0)
    grids = random.randint(4, size=(30, 3, 3))
    letters = np.array(list("abcd"))[random.randint(4, size=(30, 5))]
    ragged = [random.randint(4, size=(2 + i % 2, 3)) for i in range(30)]
    grown = [np.pad(grid, ((0, 1), (0, 0))) for grid in ragged]
    mixed = grids.astype(object)
    mixed[0, 0, 0], mixed[1, 0, 0] = None, "x"
    return {
        "grids": (grids, grids[:, ::-1]),
        "one letter": (letters, letters[:, 0]),
        "sizes like X": (ragged, ragged),
        "sizes of their own": (ragged, grown),
        "truth": (grids, grids > 1),
        "symbols of several types": (mixed, mixed),
    }


TASKS = kinds_of_tasks()


def assert_same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", TASKS)
def test_float32_answers_exactly_as_before(kind, tmp_path):
    X, y = TASKS[kind]
    solver = tiny_solver(max_epochs=1).fit(X, y)
    loaded = round_trip(solver, tmp_path)
    before, after = solver.solve(X), loaded.solve(X)
    assert_same(before.answers, after.answers)
    np.testing.assert_array_equal(before.confidence, after.confidence)
    np.testing.assert_array_equal(before.n_steps, after.n_steps)
    assert_same(solver.classes_, loaded.classes_)
    assert loaded.history_ == solver.history_
    assert loaded.n_features_in_ == solver.n_features_in_


def test_symmetries_and_tries_come_back(sudokus, tmp_path):
    solver = tiny_solver(symbols="interchangeable", n_heads=1).fit(*sudokus)
    assert solver._found_symmetries == [SudokuGroup((2, 2))]
    loaded = round_trip(solver, tmp_path)
    tries = {"n_rollouts": 2, "augment_votes": 2}
    X = sudokus[0][:8]
    assert_same(solver.predict(X, **tries), loaded.predict(X, **tries))


@pytest.mark.parametrize(("dtype", "atol"), [("bfloat16", 0.02), ("float16", 0.003)])
def test_half_precision_is_close_and_half_the_size(
    trained, copies, tmp_path, dtype, atol
):
    path = tmp_path / "half.safetensors"
    save_pretrained(trained, path, dtype=dtype)
    loaded = load_pretrained(path)
    X, y = copies
    assert loaded.score(X, y) == trained.score(X, y) == 1.0
    first = [next(s.staged_solve(X)).confidence for s in (trained, loaded)]
    np.testing.assert_allclose(*first, atol=atol)
    stored = {t.dtype for t in load_file(path).values() if t.is_floating_point()}
    assert stored == {getattr(torch, dtype)}


def test_names_of_columns_come_back(tmp_path):
    pd = pytest.importorskip("pandas")
    X = pd.DataFrame(np.arange(40).reshape(20, 2) % 3, columns=["a", "b"])
    loaded = round_trip(tiny_solver().fit(X, X.to_numpy()), tmp_path)
    assert loaded.feature_names_in_.tolist() == ["a", "b"]
    loaded.predict(X)
    with pytest.raises(ValueError, match="feature names"):
        loaded.predict(X.rename(columns={"b": "c"}))


@pytest.mark.parametrize(
    "augmentation",
    [
        None,
        SymbolPermutation([1, 2]),
        [Dihedral(), SymbolPermutation(range(1, 3)), Translation(outside=0)],
    ],
    ids=str,
)
def test_parameters_come_back(augmentation, tmp_path):
    X, y = TASKS["grids"]
    solver = tiny_solver(augmentation=augmentation, symbols=np.array([1, 2]))
    loaded = round_trip(solver.fit(X, y), tmp_path, dtype="bfloat16")
    changed = {"symbols", "random_state", "device", "augmentation"}
    before, after = solver.get_params(), loaded.get_params()
    assert {n: v for n, v in before.items() if n not in changed} == {
        n: v for n, v in after.items() if n not in changed
    }
    assert after["symbols"] == [1, 2]
    shown = (
        str(augmentation).replace("[1, 2]", "(1, 2)").replace("range(1, 3)", "(1, 2)")
    )
    assert str(after["augmentation"]) == shown
    assert (after["device"], after["random_state"]) == ("auto", None)


def test_training_goes_on(copies, tmp_path):
    loaded = round_trip(tiny_solver().fit(*copies), tmp_path)
    before = loaded.module_.state_dict()["answer_head.weight"].clone()
    loaded.partial_fit(*copies)
    assert loaded.n_iter_ == 3
    assert (loaded.module_.state_dict()["answer_head.weight"] != before).any()


def test_device_and_dtype_are_those_of_the_caller(copies, tmp_path):
    solver = tiny_solver(max_epochs=1).fit(*copies)
    path = tmp_path / "model.safetensors"
    save_pretrained(solver, path)
    loaded = load_pretrained(path, device="cpu", dtype="float64")
    assert (loaded.device, loaded.dtype) == ("cpu", "float64")
    assert {p.dtype for p in loaded.module_.parameters()} == {torch.float64}


def test_files_hold_no_pickle(copies, tmp_path):
    path = tmp_path / "model.safetensors"
    save_pretrained(tiny_solver(max_epochs=1).fit(*copies), path)
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["sktrm"])
    assert description["parameters"]["hidden_size"] == 32
    assert description["encoder"]["vocabulary"] == [0, 1, 2, 3]


class Mine(Augmentation):
    """One of a user."""

    def draw(self, n_rows, space, generator):
        return Transform()


@pytest.mark.parametrize(
    ("parameters", "X", "message"),
    [
        ({"augmentation": Mine()}, TASKS["grids"][0], "classes of sktrm.augmentation"),
        (
            {},
            np.array([[("a", 1), 2], [3, 4]], dtype=object),
            "symbols must be strings",
        ),
    ],
)
def test_what_json_cannot_hold_is_refused(parameters, X, message, tmp_path):
    solver = tiny_solver(max_epochs=1, **parameters).fit(X, X)
    path = tmp_path / "model.safetensors"
    with pytest.raises(ValueError, match=message):
        save_pretrained(solver, path)
    assert not path.exists()


def test_saving_says_what_it_needs(copies, tmp_path):
    with pytest.raises(NotFittedError):
        save_pretrained(TRMSolver(), tmp_path / "model.safetensors")
    solver = tiny_solver(max_epochs=1).fit(*copies)
    with pytest.raises(ValueError, match=r"dtype must be one of \['bfloat16', 'fl"):
        save_pretrained(solver, tmp_path / "model.safetensors", dtype="int8")
    with pytest.raises(TypeError, match="must be a TRMSolver, got TRMClassifier: pi"):
        save_pretrained(TRMClassifier(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"path must end in \.safetensors"):
        save_pretrained(solver, tmp_path / "model.bin")
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        save_pretrained(solver, tmp_path / "none" / "model.safetensors")


def test_a_set_of_symbols_can_be_stored(sudokus, tmp_path):
    solver = tiny_solver(symbols={1, 2, 3, 4}, max_epochs=1).fit(*sudokus)
    save_pretrained(solver, tmp_path / "model.safetensors", dtype="float32")
    loaded = load_pretrained(tmp_path / "model.safetensors")
    assert (loaded.predict(sudokus[0]) == solver.predict(sudokus[0])).all()


def test_loading_says_what_it_needs(stored):
    """A device that is asked for is not quietly another."""
    with pytest.raises(ValueError, match="device must be 'auto' or a device"):
        load_pretrained(stored, device="banana")
    with pytest.raises(ValueError, match=r"dtype must be one of .* got 'int8'"):
        load_pretrained(stored, dtype="int8")


@pytest.fixture
def stored(copies, tmp_path):
    path = tmp_path / "model.safetensors"
    save_pretrained(tiny_solver(max_epochs=1).fit(*copies), path)
    return path


def rewrite(path, change):
    """Write the file anew with a changed description."""
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["sktrm"])
    change(description)
    save_file(load_file(path), path, metadata={"sktrm": json.dumps(description)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=2), "description of format 2; this version"),
        (lambda d: d.pop("encoder"), "KeyError: 'encoder'"),
        (lambda d: d["encoder"].pop("y_canvas"), "'y_canvas'.* in its encoder"),
        (lambda d: d["parameters"].update(depth=3), "argument 'depth'"),
        (lambda d: d["parameters"].update(lr=-1), "'lr' parameter"),
        (lambda d: d["fitted"]["_sizes"].update(hidden_size=16), "size mismatch"),
        (
            lambda d: d["parameters"].update(augmentation={"augmentation": "os"}),
            "KeyError: 'os'",
        ),
    ],
)
def test_a_description_that_does_not_fit_is_refused(stored, change, message):
    rewrite(stored, change)
    with pytest.raises(ValueError, match=message):
        load_pretrained(stored)


def test_broken_and_foreign_files_are_refused(stored, tmp_path):
    whole = stored.read_bytes()
    stored.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        load_pretrained(stored)
    stored.write_text("weights")
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        load_pretrained(stored)
    save_file({"w": torch.full((2,), torch.nan)}, stored)
    with pytest.raises(ValueError, match="is broken: not all values of w are finite"):
        load_pretrained(stored)
    save_file({"w": torch.zeros(2)}, stored)
    with pytest.raises(ValueError, match="not written by sktrm"):
        load_pretrained(stored)
    save_file({"w": torch.zeros(2)}, stored, metadata={"sktrm": "{"})
    with pytest.raises(ValueError, match="broken description"):
        load_pretrained(stored)
    with pytest.raises(FileNotFoundError, match="There is no file"):
        load_pretrained(tmp_path / "none.safetensors")


def test_models_are_found_by_name(stored, copies, tmp_path, monkeypatch):
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setattr(sktrm._pretrained, "WEIGHTS", folder)
    with pytest.raises(ValueError, match="no model comes with sktrm yet"):
        load_pretrained("copies")
    shutil.copy(stored, folder / "copies.safetensors")
    shutil.copy(stored, folder / "b.safetensors")
    assert load_pretrained("copies").predict(copies[0]).shape == copies[1].shape
    with pytest.raises(ValueError, match=r"one of \['b', 'copies'\], or .* got 'c'"):
        load_pretrained("c")


FOLDER = ROOT / "sktrm" / "weights"


def test_every_model_of_the_package_loads_and_has_a_card():
    cards = {path.stem for path in FOLDER.glob("*.md")} - {"README"}
    models = {path.stem for path in FOLDER.glob("*.safetensors")}
    assert cards == models
    for name in models:
        assert (FOLDER / f"{name}.safetensors").stat().st_size <= 12e6
        assert load_pretrained(name).module_.training is False


def test_the_folder_is_part_of_the_package():
    """Hatch packs what lies in sktrm and git does not ignore."""
    ignored = (ROOT / ".gitignore").read_text().split()
    assert not [p for p in ignored if re.search(r"weights|safetensors|\.md", p)]
    assert sktrm._pretrained.WEIGHTS == FOLDER


def test_the_model_of_the_package_solves_sudokus():
    X, y = make_sudoku(20, n_clues=30, random_state=0)
    solver = load_pretrained("sudoku-extreme", device="cpu", dtype="float32")
    assert solver.score(X, y, n_rollouts=4, verifier=is_solved_sudoku) == 1
    found = re.search(r'"([.\d]{81})"', (ROOT / "README.md").read_text())
    assert found is not None
    grid = np.array(list(found[1].replace(".", "0")), dtype=int).reshape(1, 9, 9)
    assert is_solved_sudoku(grid, solver.predict(grid))

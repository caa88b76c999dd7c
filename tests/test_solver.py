"""TRMSolver as a user calls it: forms of data, halting, scikit-learn, bad input."""

import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny_solver
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sktrm import TRMSolver
from sktrm.augmentation import Dihedral, SudokuGroup, SymbolPermutation
from sktrm.nn.blocks import TokenMixer


def ragged(n=12, seed=0, grow=0):
    """Grids of different sizes; answers are ``grow`` rows and columns larger."""
    rng = np.random.RandomState(seed)
    X = [rng.randint(1, 5, size=rng.randint(2, 5, size=2)) for _ in range(n)]
    return X, [np.pad(g, ((0, grow), (0, grow)), mode="edge") for g in X]


class TestForms:
    def test_sequences(self, copies):
        X, y = copies
        solver = tiny_solver().fit(X, y)
        assert solver.predict(X).shape == y.shape
        assert solver.predict(X).dtype == y.dtype
        assert solver.n_features_in_ == solver.n_outputs_ == 6
        assert solver.classes_.tolist() == [0, 1, 2, 3]

    def test_grids(self, sudokus):
        X, y = sudokus
        solver = tiny_solver().fit(X, y)
        assert solver.predict(X).shape == y.shape
        assert solver.n_features_in_ == 16
        assert solver.classes_.tolist() == [1, 2, 3, 4]  # blanks are no answer
        assert np.isin(solver.predict(X), solver.classes_).all()

    def test_strings_and_data_frames(self, copies):
        X, y = (np.array(list("abcd"))[a] for a in copies)
        frame = pd.DataFrame(X, columns=[f"c{i}" for i in range(6)])
        solver = tiny_solver().fit(frame, y)
        assert solver.feature_names_in_.tolist() == list(frame.columns)
        assert solver.predict(frame).dtype == y.dtype
        np.testing.assert_array_equal(
            solver.predict(frame), tiny_solver().fit(X, y).predict(X)
        )
        with pytest.raises(ValueError, match="feature names should match"):
            solver.predict(frame.rename(columns={"c0": "other"}))

    def test_mixed_hashable_symbols(self, copies):
        table = np.array(["wall", 1, ("a", "pair"), None], dtype=object)
        X, y = (table[a] for a in copies)
        solver = tiny_solver(
            max_epochs=40,
            lr=3e-3,
            hidden_size=64,
            batch_size=50,
            n_supervision_steps=4,
        ).fit(X, y)
        assert set(solver.predict(X).ravel()) <= set(table)
        assert solver.score(X, y) > 0.5

    @pytest.mark.parametrize("shape", [(), (3,), (2, 5), (8, 8)])
    def test_answers_of_another_size(self, shape):
        rng = np.random.RandomState(0)
        X, y = rng.randint(3, size=(20, 4, 4)), rng.randint(5, 8, size=(20, *shape))
        solver = tiny_solver().fit(X, y)
        assert solver.predict(X).shape == (20, *shape)
        assert solver.n_outputs_ == max(1, np.prod(shape, dtype=int))

    def test_ragged_answers_as_large_as_their_question(self):
        X, y = ragged()
        answers = tiny_solver().fit(X, y).predict(X)
        assert [a.shape for a in answers] == [g.shape for g in X]

    def test_ragged_answers_of_another_size_are_learned(self):
        X, _ = ragged(8)
        y = [g[:1] for g in X]  # the first row
        solver = tiny_solver(
            max_epochs=150, lr=0.01, hidden_size=64, n_supervision_steps=1
        )
        solver.fit(X, y)
        sizes = [a.shape == g.shape for a, g in zip(solver.predict(X), y, strict=True)]
        assert np.mean(sizes) == 1
        assert solver.score(X, y) > 0.8

    @pytest.mark.parametrize(
        ("y_shape", "expected"), [((), (20, 3)), ((2, 5), (20, 2, 5, 3))]
    )
    def test_probabilities_have_the_form_of_the_answer(self, y_shape, expected):
        rng = np.random.RandomState(0)
        X, y = rng.randint(3, size=(20, 4)), rng.randint(3, size=(20, *y_shape))
        solver = tiny_solver().fit(X, y)
        proba = solver.predict_proba(X)
        assert proba.shape == expected
        np.testing.assert_allclose(proba.sum(axis=-1), 1)
        best = solver.classes_[proba.argmax(axis=-1)]
        np.testing.assert_array_equal(best, solver.predict(X))

    def test_probabilities_of_several_outputs_are_a_list(self, copies):
        X, y = copies
        proba = tiny_solver().fit(X, y).predict_proba(X)
        assert [p.shape for p in proba] == [(200, 4)] * 6

    def test_probabilities_of_ragged_answers(self):
        X, y = ragged(grow=1)
        solver = tiny_solver().fit(X, y)
        shapes = [a.shape for a in solver.predict(X)]
        assert [p.shape for p in solver.predict_proba(X)] == [(*s, 4) for s in shapes]

    def test_unscored_cells_are_not_learned(self, copies):
        X, y = copies
        hidden = y.copy()
        hidden[:, 3:] = -1
        other = np.where(hidden == -1, -1, y)
        solver = tiny_solver(ignore_value=-1).fit(X, hidden)
        assert -1 not in solver.classes_
        assert -1 not in solver.predict(X)
        partly = hidden.copy()
        partly[:, :3] = solver.predict(X)[:, :3]
        assert solver.score(X, partly) == 1  # whatever it says of the others
        np.testing.assert_array_equal(
            solver.predict(X), tiny_solver(ignore_value=-1).fit(X, other).predict(X)
        )

    def test_unknown_symbols_can_be_ignored(self, copies):
        X, y = copies
        solver = tiny_solver(handle_unknown="ignore").fit(X, y)
        assert solver.predict(np.full((1, 6), 9)).shape == (1, 6)

    def test_mixer_follows_the_task(self, copies):
        X, y = copies
        short = tiny_solver().fit(X, y).module_
        assert isinstance(short.net[0].mixer, TokenMixer)
        long = tiny_solver(max_epochs=1).fit(np.tile(X, 25), y).module_
        assert not isinstance(long.net[0].mixer, TokenMixer)
        differing = tiny_solver().fit(*ragged()).module_
        assert not isinstance(differing.net[0].mixer, TokenMixer)


class TestHalting:
    def test_rows_halt_at_different_steps_and_early(self, trained, copies):
        X, y = copies
        solutions = trained.solve(X)
        assert trained.score(X, y) > 0.95
        assert solutions.n_steps.mean() < 0.75 * trained.n_supervision_steps
        assert len(set(solutions.n_steps)) > 1

    def test_the_answer_depends_on_nothing_but_the_row(self, trained, copies):
        X, _ = copies
        whole = trained.solve(X)
        order = np.random.RandomState(0).permutation(len(X))
        shuffled = trained.solve(X[order])
        for batch_size in (1, 7, 64):
            other = clone_fitted(trained, batch_size=batch_size).solve(X)
            np.testing.assert_array_equal(other.answers, whole.answers)
            np.testing.assert_array_equal(other.n_steps, whole.n_steps)
        np.testing.assert_array_equal(shuffled.answers, whole.answers[order])
        np.testing.assert_array_equal(shuffled.n_steps, whole.n_steps[order])
        parts = [trained.predict(part) for part in np.array_split(X, 9)]
        np.testing.assert_array_equal(np.concatenate(parts), whole.answers)

    def test_a_row_halts_when_its_probability_passes_the_threshold(
        self, trained, copies
    ):
        X, _ = copies
        solutions = trained.solve(X)
        early = solutions.n_steps < trained.n_supervision_steps
        assert (solutions.confidence[early] > trained.halt_threshold).all()
        everything = clone_fitted(trained, halt_threshold=1.0).solve(X)
        assert (everything.n_steps == trained.n_supervision_steps).all()

    def test_the_batch_shrinks(self, trained, copies):
        X, _ = copies
        sizes = []
        handle = trained.module_.register_forward_hook(
            lambda module, args, output: sizes.append(len(args[0]))
        )
        solver = clone_fitted(trained, batch_size=len(X))
        solver.module_ = trained.module_
        steps = solver.solve(X).n_steps
        handle.remove()
        expected = [(steps > i).sum() for i in range(trained.n_supervision_steps)]
        assert sizes == [n for n in expected if n]

    def test_stages_end_in_the_prediction(self, trained, copies):
        X, _ = copies
        stages = list(trained.staged_solve(X))
        final = trained.solve(X)
        assert len(stages) == trained.n_supervision_steps
        for i, stage in enumerate(stages, start=1):
            np.testing.assert_array_equal(stage.n_steps, np.minimum(final.n_steps, i))
            done = final.n_steps <= i
            np.testing.assert_array_equal(stage.answers[done], final.answers[done])
        *_, last = trained.staged_predict(X)
        np.testing.assert_array_equal(last, trained.predict(X))
        np.testing.assert_array_equal(final.confidence, trained.predict_confidence(X))

    def test_more_steps_than_in_training_are_allowed(self, trained, copies):
        X, _ = copies
        tireless = clone_fitted(trained, halt_threshold=1.0)
        assert (tireless.solve(X, max_steps=9).n_steps == 9).all()
        assert len(list(tireless.staged_predict(X, max_steps=7))) == 7
        with pytest.raises(ValueError, match="max_steps must be an int >= 1, got 0"):
            trained.predict(X, max_steps=0)


def clone_fitted(solver, **parameters):
    """A copy of a fitted solver with other parameters."""
    return pickle.loads(pickle.dumps(solver)).set_params(**parameters)


class TestScikitLearn:
    def test_clone_keeps_parameters(self):
        solver = TRMSolver(augmentation=SudokuGroup((2, 2)), lr=0.5, random_state=1)
        assert repr(clone(solver)) == repr(solver)

    def test_pickle_predicts_the_same_and_trains_on(self, copies):
        X, y = copies
        solver = tiny_solver(max_epochs=4).fit(X, y)
        copy = pickle.loads(pickle.dumps(solver))
        before, after = solver.solve(X), copy.solve(X)
        np.testing.assert_array_equal(before.confidence, after.confidence)
        np.testing.assert_array_equal(before.answers, after.answers)
        weight = copy.net_.module_.state_dict()["answer_head.weight"].clone()
        torch.testing.assert_close(
            weight, solver.net_.module_.state_dict()["answer_head.weight"]
        )
        copy.partial_fit(X, y)
        assert not torch.allclose(
            weight, copy.net_.module_.state_dict()["answer_head.weight"]
        )

    def test_it_loads_from_a_memory_map(self, trained, copies, tmp_path):
        X, _ = copies
        joblib.dump(trained, tmp_path / "solver.joblib")
        mapped = joblib.load(tmp_path / "solver.joblib", mmap_mode="r")
        np.testing.assert_array_equal(mapped.predict_proba(X), trained.predict_proba(X))

    def test_pickle_holds_arrays_and_no_tensors(self, trained):
        assert b"torch" not in pickle.dumps(trained)

    @pytest.mark.parametrize("grids", [False, True])
    def test_cross_val_score(self, copies, grids):
        X, y = copies
        if grids:
            X, y = X.reshape(-1, 2, 3), y.reshape(-1, 2, 3)
        scores = cross_val_score(tiny_solver(max_epochs=1), X, y, cv=3)
        assert np.isfinite(scores).all()

    def test_cross_val_score_on_grids_of_different_sizes(self):
        X, y = ragged()
        X[0] = y[0] = X[-1] = y[-1] = np.ones(
            (4, 4), dtype=int
        )  # in every training set
        assert len(cross_val_score(tiny_solver(), X, y, cv=3, error_score="raise")) == 3

    def test_grid_search_in_two_processes(self, sudokus):
        X, y = sudokus
        grid = {"lr": [1e-3, 1e-2], "hidden_size": [16, 32]}
        search = GridSearchCV(tiny_solver(max_epochs=1), grid, cv=2, n_jobs=2)
        search.fit(X, y)
        assert search.predict(X).shape == y.shape
        serial = GridSearchCV(tiny_solver(max_epochs=1), grid, cv=2).fit(X, y)
        np.testing.assert_array_equal(
            search.cv_results_["mean_test_score"], serial.cv_results_["mean_test_score"]
        )

    def test_pipeline(self, sudokus):
        X, y = sudokus
        blanks = FunctionTransformer(lambda grids: np.where(grids == 0, 9, grids))
        pipeline = make_pipeline(blanks, tiny_solver()).fit(X, y)
        assert pipeline.predict(X).shape == y.shape
        assert 0 <= pipeline.score(X, y) <= 1

    def test_warm_start_goes_on(self, copies):
        X, y = copies
        solver = tiny_solver(warm_start=True, max_epochs=3).fit(X, y)
        net = solver.net_
        solver.fit(X, y)
        assert solver.net_ is net
        assert solver.n_iter_ == 6
        assert tiny_solver(max_epochs=3).fit(X, y).fit(X, y).n_iter_ == 3

    def test_the_loss_is_that_of_fit(self, copies):
        X, y = copies
        solver = tiny_solver().fit(X, y)
        before = solver.predict_proba(X[:5])
        solver.set_params(loss="stablemax")
        np.testing.assert_array_equal(solver.predict_proba(X[:5]), before)

    def test_partial_fit_learns_over_many_calls(self, copies):
        X, y = copies
        solver = tiny_solver(lr=3e-3, n_supervision_steps=4, hidden_size=64)
        for _ in range(30):
            for start in range(0, len(X), 50):
                part = slice(start, start + 50)
                solver.partial_fit(X[part], y[part], classes=[0, 1, 2, 3])
        assert solver.score(X, y) > 0.9

    def test_partial_fit_takes_all_classes_in_the_first_call(self, copies):
        X, y = copies
        solver = tiny_solver().partial_fit(X, np.zeros_like(y), classes=[0, 7])
        solver.partial_fit(X, np.full_like(y, 7))
        assert solver.classes_.tolist() == [0, 7]
        with pytest.raises(ValueError, match="y holds 8, which did not occur in fit"):
            solver.partial_fit(X, np.full_like(y, 8))

    @pytest.mark.parametrize(
        ("first", "later", "dtype"),
        [
            ("no", "a wall", "<U6"),
            (np.int8(0), 300, "<i8"),
            (np.int8(0), 7, "i1"),
            (0, "a wall", "O"),
            ("no", 5, "O"),
        ],
    )
    def test_answers_are_of_a_dtype_that_holds_all_classes(self, first, later, dtype):
        X = np.arange(12).reshape(6, 2) % 3
        solver = tiny_solver(lr=0.01)
        solver.partial_fit(X, np.full((6, 2), first), classes=[first, later])
        for _ in range(30):
            solver.partial_fit(X, np.full((6, 2), later, dtype=dtype))
        answers = solver.predict(X)
        assert answers.dtype == solver.classes_.dtype == dtype
        assert (answers == later).all()

    def test_same_seed_same_answers(self, sudokus):
        X, y = sudokus
        first, second = (
            tiny_solver(augmentation=SudokuGroup((2, 2))).fit(X, y).solve(X)
            for _ in range(2)
        )
        np.testing.assert_array_equal(first.confidence, second.confidence)


class TestBadInput:
    @pytest.mark.parametrize(
        ("X", "y", "message"),
        [
            (np.empty((0, 4)), np.empty((0, 4)), "Found array with 0 sample"),
            (np.zeros((3, 4)), np.zeros((2, 4)), "inconsistent numbers of samples"),
            ([[1, 2], [1]], [[1, 2], [1, 2]], "rows of X must have one shape"),
            ([[[1, 2], [1]]], [[[1, 2]]], "Row 0 of X is no rectangular grid"),
            (np.full((3, 4), np.nan), np.zeros((3, 4)), "Input X contains NaN"),
            (np.zeros((3, 4)), np.full((3, 4), np.nan), "Input y contains NaN"),
            (np.full((3, 4), 0.5), np.zeros((3, 4)), "continuous value 0.5"),
            (np.zeros((3, 4)), np.full((3, 4), 0.5), "continuous value 0.5"),
            (np.zeros(4), np.zeros(4), "Expected 2D array, got 1D array"),
            (
                pd.DataFrame({"a": pd.array([1, None], dtype="Int64")}),
                np.zeros((2, 1)),
                "contains NaN",
            ),
            ([[pd.NA, 1], [1, 2]], np.zeros((2, 1)), "contains NaN"),
            (np.zeros((3, 4)), None, "requires y to be passed"),
        ],
    )
    def test_data(self, X, y, message):
        with pytest.raises(ValueError, match=message):
            tiny_solver().fit(X, y)

    def test_one_row_is_enough(self):
        X = np.array([[1, 2, 3]])
        assert tiny_solver().fit(X, X).predict(X).shape == (1, 3)

    def test_validation_rows_are_named(self, copies):
        X, y = copies
        solver = tiny_solver()
        for name, given in (("X_val", (X + 9, y)), ("y_val", (X, y + 9))):
            with pytest.raises(ValueError, match=f"{name} holds 9, "):
                solver.fit(X, y, X_val=given[0], y_val=given[1])
        with pytest.raises(ValueError, match="Input X_val contains NaN"):
            solver.fit(X, y, X_val=np.full(X.shape, np.nan), y_val=y)

    def test_symbols_may_be_the_largest_integers(self):
        X = np.tile(np.array([2**63, 2**64 - 1, 3], dtype=np.uint64), (5, 1))
        solver = tiny_solver().fit(X, X)
        assert set(solver.predict(X).ravel()) <= set(X[0])

    def test_a_callback_that_is_none_is_named(self, copies):
        with pytest.raises(ValueError, match=r"skorch callbacks.* got 'early'"):
            tiny_solver(callbacks=["early"]).fit(*copies)

    def test_a_very_narrow_swiglu_has_some_width(self, copies):
        X, y = copies
        assert tiny_solver(expansion=1e-3).fit(X, y).predict(X).shape == y.shape

    def test_unknown_symbols_are_named(self, trained, copies):
        X = copies[0].copy()
        X[3, 2] = 17
        with pytest.raises(ValueError, match="X holds 17, which did not occur in fit"):
            trained.predict(X)

    def test_other_sizes(self, trained, sudokus):
        with pytest.raises(
            ValueError, match="5 features, but TRMSolver is expecting 6"
        ):
            trained.predict(np.zeros((2, 5), dtype=int))
        solver = tiny_solver(max_epochs=1).fit(*sudokus)
        with pytest.raises(ValueError, match=r"rows of shape \(4, 4\), but row 0 has"):
            solver.predict(np.ones((2, 5, 4), dtype=int))

    def test_a_grid_larger_than_those_seen_in_fit(self):
        solver = tiny_solver().fit(*ragged())
        large = [np.ones((2, 2), dtype=int), np.ones((9, 2), dtype=int)]
        with pytest.raises(ValueError, match=r"Row 1 of X has shape \(9, 2\)"):
            solver.predict(large)

    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            (
                {"hidden_size": 30, "n_heads": 4, "mixer": "attention"},
                "multiple of n_he",
            ),
            ({"hidden_size": 6, "n_heads": 2, "mixer": "attention"}, "even head size"),
            ({"mixer": "mpl"}, "a str among .*'attention'.*Got 'mpl'"),
            ({"loss": "l2"}, "a str among .*'stablemax'"),
            ({"positions": None}, "a str among .*'learned'"),
            ({"dtype": "float16"}, "a str among .*'bfloat16'"),
            ({"lr_schedule": "cos"}, "a str among .*'cosine'"),
            ({"n_layers": 0}, "n_layers.* must be an int in the range"),
            ({"halt_threshold": 1.5}, "halt_threshold.* must be a float in the range"),
            ({"device": "gpu"}, "device must be 'auto' or a device that torch can use"),
            ({"augmentation": ["flip"]}, "must hold sktrm.augmentation objects"),
            ({"augmentation": SudokuGroup((3, 3))}, "needs grids of 9 x 9 cells"),
            (
                {"augmentation": SymbolPermutation([8])},
                "symbols of which none occurs in X or y",
            ),
            ({"early_stopping": True, "validation_fraction": 0.001}, "leaves no row"),
        ],
    )
    def test_parameters(self, sudokus, parameters, message):
        with pytest.raises(ValueError, match=message):
            tiny_solver(**parameters).fit(*sudokus)

    def test_augmentation_that_does_not_fit_the_task(self, copies):
        with pytest.raises(ValueError, match=r"arrays of shape \(n, H, W\)"):
            tiny_solver(augmentation=Dihedral()).fit(*copies)
        with pytest.raises(ValueError, match="must be grids on one canvas"):
            tiny_solver(augmentation=Dihedral()).fit(copies[0], copies[1][:, 0])
        with pytest.raises(ValueError, match="got grids of different sizes"):
            tiny_solver(augmentation=SudokuGroup((2, 2))).fit(*ragged())

    def test_validation_data_come_in_pairs(self, copies):
        with pytest.raises(ValueError, match="X_val and y_val must be given together"):
            tiny_solver().fit(*copies, X_val=copies[0])

    def test_all_weights_zero(self, copies):
        with pytest.raises(ValueError, match="sample_weight must contain at least"):
            tiny_solver().fit(*copies, sample_weight=np.zeros(200))

    def test_all_weights_of_validation_zero(self, copies):
        val = {"X_val": copies[0], "y_val": copies[1]}
        with pytest.raises(ValueError, match="sample_weight_val must contain at"):
            tiny_solver().fit(*copies, **val, sample_weight_val=np.zeros(200))

    def test_nothing_to_learn(self, copies):
        X, y = copies
        with pytest.raises(ValueError, match="Every cell of y equals ignore_value"):
            tiny_solver(ignore_value=0).fit(X, np.zeros_like(y))

    def test_not_fitted(self, copies):
        for method in ("predict", "predict_proba", "predict_confidence", "solve"):
            with pytest.raises(NotFittedError):
                getattr(tiny_solver(), method)(copies[0])

"""What a solver learns of its task before it trains: symbols, sizes, symmetries."""

import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import (
    check_consistent_length,
    validate_data,
)

from sktrm._base import BaseTRM
from sktrm._checks import check_validation_rows, check_weights, check_y_is_given
from sktrm._choosing import check_rollouts
from sktrm._device import has_cxx_compiler
from sktrm._encoding import PAD, GridEncoder, Grids, as_grids
from sktrm._slots import Rows, Slots
from sktrm._tasks import TaskLearning
from sktrm._training import DeepSupervisionNet
from sktrm.augmentation import Augmentation, TokenSpace, find_symmetries
from sktrm.nn import TinyRecursionModel, build_equivariant, build_task_model
from sktrm.nn.blocks import EQUIVARIANT_MIXERS, POSITIONS
from sktrm.nn.fused import can_compile


class GridTask(TaskLearning):
    """From grids and parameters to encoded rows and the sizes of a model.

    The host class, :class:`~sktrm.TRMSolver`, has the parameters.
    """

    _parameter_constraints: dict[str, Any] = {
        **BaseTRM._parameter_constraints,
        "expansion": [
            Interval(Real, 0, None, closed="neither"),
            StrOptions({"auto"}),
        ],
        "mixer": [StrOptions({"auto", *EQUIVARIANT_MIXERS})],
        "positions": [StrOptions(set(POSITIONS))],
        "depth_curriculum": [
            Interval(Real, 0, 1, closed="left"),
            StrOptions({"auto"}),
        ],
        "n_prefix_tokens": [Interval(Integral, 0, None, closed="left")],
        "n_rollouts": [
            Interval(Integral, 1, None, closed="left"),
            StrOptions({"auto"}),
        ],
        "rollout_noise": [Interval(Real, 0, None, closed="left")],
        "augmentation": [Augmentation, list, tuple, StrOptions({"auto"}), None],
        "canvas": "no_validation",
        "n_augmentations": [Interval(Integral, 0, None, closed="left")],
        "task_lr": [Interval(Real, 0, None, closed="neither")],
        "gradient_checkpointing": ["boolean"],
        "symbols": "no_validation",
        "ignore_value": "no_validation",
        "handle_unknown": [StrOptions({"error", "ignore"})],
    }

    ignore_value: Any
    n_rollouts: Any
    rollout_noise: float
    handle_unknown: str
    augmentation: Any
    canvas: Any
    n_prefix_tokens: int
    gradient_checkpointing: bool
    positions: str
    # What augmentation="auto" found in the data.
    _found_symmetries: Sequence[Augmentation] = ()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild a solver; an older one gets the defaults of what it did not know."""
        later = {"n_rollouts": "auto", "gradient_checkpointing": False}
        super().__setstate__({**later, **state})

    def _validate_params(self) -> None:
        """Check parameters, each and together."""
        super()._validate_params()
        if self.n_rollouts != "auto":
            check_rollouts(self.n_rollouts, self.rollout_noise)

    def _check_X_y(self, X: Any, y: Any, *, reset: bool) -> tuple[Grids, Grids]:
        """Check questions and answers of training."""
        check_y_is_given(self, y)
        X, y = self._check_X(X, reset=reset), as_grids(y, "y")
        check_consistent_length(X, y)
        return X, y

    def _check_X(self, X: Any, *, reset: bool, name: str = "X") -> Grids:
        """Check questions; learn or compare their number of cells and their names."""
        if reset:
            self._forget()
        if hasattr(X, "columns"):  # wrong names first: they may explain the rest
            validate_data(self, X, skip_check_array=True, reset=reset)
        # Where unknown symbols are ignored, any number may be one.
        ignores = self.handle_unknown == "ignore"
        grids = as_grids(X, name, continuous=ignores)
        if isinstance(grids, np.ndarray) and grids.ndim == 2:
            validate_data(self, X, skip_check_array=True, reset=reset)
        return grids

    def _learn_symbols(
        self, X: Grids, y: Grids, classes: Any = None, task_ids: Any = None
    ) -> None:
        """Learn the encoding and the tasks; settle what a fit does not change later."""
        canvas = None if self.canvas is None else _two_sides(self.canvas)
        encoder = GridEncoder(self.ignore_value, self.handle_unknown, canvas)
        self._encoder = encoder.fit(X, y, classes)
        self.classes_ = encoder.classes
        self.n_features_in_ = encoder.n_features
        self.n_outputs_ = encoder.n_outputs
        self._begin_fit()
        self._learn_tasks(task_ids)
        self._sizes = self._model_sizes()

    def _make_net(self, model: TinyRecursionModel, slots: Slots) -> DeepSupervisionNet:
        """Wrap ``model`` in a skorch net that validates as ``predict`` answers."""
        encoder = self._encoder
        sizes = (PAD,) if encoder.predicts_size else ()
        net = super()._make_net(model, slots)
        return net.set_params(answer_tokens=(*sizes, *encoder.answer_tokens))

    def _model_sizes(self) -> dict[str, Any]:
        """Return the sizes of the model for the symbols and grids seen in fit."""
        # Grids of different sizes have no cells in common to mix.
        fixed = self._encoder.x_shape is not None
        ragged = self.mixer == "auto" and not fixed
        mixer = "attention" if ragged else self._choose_mixer(self._encoder.length)
        hidden_size, expansion = self.hidden_size, self.expansion
        if hidden_size == "auto":
            hidden_size = 128 if self.symbols is None else 32
        if expansion == "auto":
            expansion = 4.0 if self.symbols is None else 2.0
        if mixer == "convolution":
            self._check_convolution()
        sizes = {
            "n_tokens": self._encoder.vocabulary.n_tokens,
            "length": self._encoder.length,
            "hidden_size": hidden_size,
            "n_layers": self.n_layers,
            "n_heads": self.n_heads,
            "expansion": expansion,
            "mixer": mixer,
            "positions": self.positions,
            "n_latent_recursions": self.n_latent_recursions,
            "n_deep_recursions": self.n_deep_recursions,
        }
        if self.symbols is None:
            sizes["n_prefix_tokens"] = self.n_prefix_tokens
            if self._has_tasks:
                space = self._space()
                return self._task_sizes(sizes, space, self._augmentations(space))
            return sizes
        sizes["symbols"] = self._symbol_tokens()
        if mixer == "convolution":
            sizes["grid"] = self._encoder.x_canvas
        return sizes

    def _check_convolution(self) -> None:
        """Raise ValueError if there is no grid with offsets between its cells."""
        encoder = self._encoder
        ragged = encoder.x_shape is None or encoder.y_shape is None
        one_grid = math.prod(encoder.x_canvas) == encoder.length
        if self.symbols is None or ragged or not one_grid:
            raise ValueError(
                "mixer='convolution' needs symbols, and questions and answers on one "
                "grid; mixer='attention' does not."
            )

    def _symbol_tokens(self) -> tuple[int, ...]:
        """Return the tokens of the interchangeable symbols."""
        token_of, symbols = self._encoder.vocabulary.token_of, self.symbols
        if isinstance(symbols, str):
            if symbols != "interchangeable":
                raise ValueError(
                    f"symbols must be 'interchangeable', a sequence or None, "
                    f"got {symbols!r}."
                )
            symbols = self._encoder.answer_symbols
        symbols = _listed(symbols)
        if self.ignore_value is not None and self.ignore_value in symbols:
            raise ValueError(
                f"symbols must not hold ignore_value, {self.ignore_value!r}: cells "
                f"that are not scored cannot be exchanged for others."
            )
        unknown = [symbol for symbol in symbols if symbol not in token_of]
        if unknown:
            raise ValueError(
                f"symbols names {unknown[0]!r}, which occurs neither in X nor in y."
            )
        if len(symbols) < 2:
            raise ValueError(
                f"symbols must hold at least two symbols to exchange, got {symbols}."
            )
        if self.n_prefix_tokens:
            raise ValueError("n_prefix_tokens must be 0 with symbols.")
        return tuple(token_of[symbol] for symbol in symbols)

    def _augmentations(self, space: TokenSpace) -> list[Augmentation]:
        """Return the augmentations as a list, each checked against the task."""
        given = self.augmentation
        if given is None:
            return []
        if isinstance(given, str):
            return list(self._found_symmetries)
        augmentations = [given] if isinstance(given, Augmentation) else list(given)
        for augmentation in augmentations:
            if not isinstance(augmentation, Augmentation):
                raise ValueError(
                    f"augmentation must hold sktrm.augmentation objects, got "
                    f"{augmentation!r}."
                )
            augmentation.check(space)
        return augmentations

    def _find_symmetries(self, rows: Rows) -> None:
        """Look for the symmetries that ``augmentation="auto"`` takes."""
        self._found_symmetries = ()
        if isinstance(self.augmentation, str) and not self._has_tasks:
            inputs, labels = rows.inputs.cpu().numpy(), rows.labels.cpu().numpy()
            self._found_symmetries = find_symmetries(inputs, labels, self._space())

    def _space(self) -> TokenSpace:
        """Describe the task to augmentations."""
        encoder = self._encoder
        return TokenSpace(
            canvas=encoder.canvas,
            n_tokens=encoder.vocabulary.n_tokens,
            token_of=encoder.vocabulary.token_of,
            answer_tokens=encoder.answer_tokens,
            ragged=encoder.one_shape is None,
        )

    def _make_rows(
        self,
        X: Grids,
        y: Grids,
        sample_weight: Any,
        of: str = "",
        task_ids: Any = None,
    ) -> Rows:
        """Encode labelled rows; rows of weight zero are left out."""
        inputs = self._encoder.encode_X(X, f"X{of}")
        labels = self._encoder.encode_y(y, f"y{of}")
        inputs = self._with_tasks(inputs, task_ids, X, f"task_ids{of}")
        weights = check_weights(sample_weight, inputs, of)
        return self._on_device(inputs, labels, weights)

    def _split(
        self,
        X: Grids,
        y: Grids,
        sample_weight: Any,
        X_val: Any,
        y_val: Any,
        sample_weight_val: Any,
        task_ids: Any = None,
        task_ids_val: Any = None,
    ) -> tuple[Rows, Rows | None]:
        """Encode the rows to train on and those to validate on, if any."""
        check_validation_rows(
            X_val,
            y_val,
            sample_weight_val=sample_weight_val,
            task_ids_val=task_ids_val,
        )
        rows = self._make_rows(X, y, sample_weight, task_ids=task_ids)
        if X_val is not None:
            X_val = self._check_X(X_val, reset=False, name="X_val")
            y_val = as_grids(y_val, "y_val")
            check_consistent_length(X_val, y_val)
            return rows, self._make_rows(
                X_val, y_val, sample_weight_val, "_val", task_ids_val
            )
        if self.early_stopping:
            return self._hold_out(rows)
        return rows, None

    def _make_model(self, generator: torch.Generator) -> TinyRecursionModel:
        """Build a model of the sizes that fit decided on."""
        build: Callable[..., TinyRecursionModel] = TinyRecursionModel.build
        if "symbols" in self._sizes:
            build = build_equivariant
        elif "n_views" in self._sizes:
            build = build_task_model
        model = self._with_dtype(build(**self._sizes, generator=generator))
        self._set_views(model)
        return model

    def _settle_memory(self, model: TinyRecursionModel) -> None:
        if model.gradient_checkpointing != self.gradient_checkpointing:
            model.gradient_checkpointing = self.gradient_checkpointing
            model.step_eagerly()  # compiled code keeps what it was made to keep

    def _auto_lr(self) -> float:
        return super()._auto_lr() if self._gains_from_muon() else 2e-3

    def _gains_from_muon(self) -> bool:
        return "symbols" in self._sizes

    def _depth_curriculum(self) -> float:
        """Return ``depth_curriculum``, or what stands for "auto"."""
        if isinstance(self.depth_curriculum, str):
            # Training that stops early might never get deep.
            plain = "symbols" not in self._sizes or self.early_stopping
            return 0.0 if plain else 0.5
        return self.depth_curriculum

    def _saved_by_compiling(self) -> float:
        """Return the share of a training step's time that compiling saves."""
        if self._device.type == "cuda":
            # Of all networks on an H200; tasks are looked up between steps.
            can = can_compile(self._device) and not self._has_tasks
            return 0.5 if can else 0.0
        can = self._device.type == "cpu" and has_cxx_compiler()
        if not can or self._has_tasks or self._sizes["mixer"] == "attention":
            return 0.0
        return 0.5 if "symbols" in self._sizes else 0.2

    def _cost_of_a_number(self, model: TinyRecursionModel) -> float:
        # At width 128, without symbols, it is eight times.
        return 1.0 if "symbols" in self._sizes else model.state_shape[-1] / 16

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.input_tags.categorical = True
        tags.input_tags.three_d_array = True
        return tags


def _listed(symbols: Any) -> list[Any]:
    """Return distinct symbols as Python objects."""
    try:
        values = [s.item() if isinstance(s, np.generic) else s for s in symbols]
        return list(dict.fromkeys(values))
    except TypeError as error:
        raise ValueError(
            f"symbols must be 'interchangeable', a sequence of symbols or None, got "
            f"{symbols!r}."
        ) from error


def _two_sides(canvas: Any) -> tuple[int, int]:
    """Return height and width of a canvas, or raise ValueError."""
    sides = tuple(canvas) if isinstance(canvas, Iterable) else ()
    if len(sides) != 2 or not all(
        isinstance(s, Integral) and int(s) > 0 for s in sides
    ):
        raise ValueError(
            f"canvas must be two whole numbers above 0, height and width, or None, got "
            f"{canvas!r}."
        )
    return int(sides[0]), int(sides[1])


def weighing(
    X: Grids, y: Grids, sample_weight: Any, task_ids: Any = None
) -> tuple[Grids, Grids, Any, Any]:
    """Leave out the rows of weight zero: their symbols are not learned either."""
    if sample_weight is None:
        return X, y, None, task_ids
    weights = check_weights(sample_weight, X)
    kept = np.flatnonzero(weights)
    if len(kept) == len(weights):
        return X, y, weights, task_ids
    if task_ids is not None:
        task_ids = task_ids[kept]
    return _take(X, kept), _take(y, kept), weights[kept], task_ids


def _take(grids: Grids, rows: np.ndarray) -> Grids:
    return [grids[i] for i in rows] if isinstance(grids, list) else grids[rows]

"""TRMSolver: grids or sequences of symbols in, grids or sequences out."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import (
    _check_sample_weight,
    check_consistent_length,
    check_is_fitted,
    validate_data,
)
from torch import Tensor

from sktrm._base import BaseTRM
from sktrm._encoding import PAD, GridEncoder, Grids, as_grids
from sktrm._slots import Rows
from sktrm.augmentation import TokenSpace
from sktrm.metrics import exact_match_score
from sktrm.nn import TinyRecursionModel, log_probabilities

# Beyond this, token mixing costs more than attention and learns slower.
_LONGEST_TOKEN_MIXING = 128


class Solutions(NamedTuple):
    """What :meth:`TRMSolver.solve` returns."""

    answers: Any  # like y
    confidence: np.ndarray  # (n,) halting probability of each answer
    n_steps: np.ndarray  # (n,) supervision steps taken


class TRMSolver(ClassifierMixin, BaseTRM):  # type: ignore[misc]
    """TODO."""

    _parameter_constraints: dict[str, Any] = {
        **BaseTRM._parameter_constraints,
        "ignore_value": "no_validation",
        "handle_unknown": [StrOptions({"error", "ignore"})],
    }

    def __init__(
        self,
        *,
        hidden_size: int = 128,
        n_layers: int = 2,
        n_heads: int = 4,
        expansion: float = 4.0,
        mixer: str = "auto",
        positions: str = "rope",
        n_prefix_tokens: int = 0,
        n_latent_recursions: int = 2,
        n_deep_recursions: int = 2,
        n_supervision_steps: int = 8,
        loss: str = "stablemax",
        lr: float = 1e-3,
        lr_schedule: str = "cosine",
        lr_warmup_steps: int = 100,
        weight_decay: float = 0.1,
        max_grad_norm: float | None = 1.0,
        ema_decay: float = 0.999,
        max_epochs: int = 100,
        batch_size: int = 64,
        halt_exploration: float = 0.1,
        halt_threshold: float = 0.5,
        augmentation: Any = None,
        ignore_value: Any = None,
        handle_unknown: str = "error",
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 0.0,
        warm_start: bool = False,
        device: str = "auto",
        dtype: str = "auto",
        callbacks: Sequence[Any] | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.hidden_size = hidden_size
        self.n_layers = n_layers
        self.n_heads = n_heads
        self.expansion = expansion
        self.mixer = mixer
        self.positions = positions
        self.n_prefix_tokens = n_prefix_tokens
        self.n_latent_recursions = n_latent_recursions
        self.n_deep_recursions = n_deep_recursions
        self.n_supervision_steps = n_supervision_steps
        self.loss = loss
        self.lr = lr
        self.lr_schedule = lr_schedule
        self.lr_warmup_steps = lr_warmup_steps
        self.weight_decay = weight_decay
        self.max_grad_norm = max_grad_norm
        self.ema_decay = ema_decay
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.halt_exploration = halt_exploration
        self.halt_threshold = halt_threshold
        self.augmentation = augmentation
        self.ignore_value = ignore_value
        self.handle_unknown = handle_unknown
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.warm_start = warm_start
        self.device = device
        self.dtype = dtype
        self.callbacks = callbacks
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
    ) -> "TRMSolver":
        """Learn to answer ``X`` with ``y``."""
        self._validate_params()
        goes_on = self.warm_start and hasattr(self, "net_")
        X, y = self._check_X_y(X, y, reset=not goes_on)
        if not goes_on:
            self._learn_symbols(X, y)
        rows, held_out = self._split(X, y, sample_weight, X_val, y_val)
        if not goes_on:
            self._start_training(self._space(), min(self.batch_size, len(rows)))
        self._train(rows, held_out, self.max_epochs)
        return self

    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None
    ) -> "TRMSolver":
        """Start every row of ``X`` once, at a constant learning rate."""
        self._validate_params()
        goes_on = hasattr(self, "net_")
        X, y = self._check_X_y(X, y, reset=not goes_on)
        if not goes_on:
            self._learn_symbols(X, y, classes)
        rows = self._make_rows(X, y, sample_weight)
        if not goes_on:
            self._start_training(self._space(), self.batch_size)
        self._train(rows, None, None)
        return self

    def _check_X_y(self, X: Any, y: Any, *, reset: bool) -> tuple[Grids, Grids]:
        """Check questions and answers of training."""
        if y is None:
            raise ValueError(
                f"This {type(self).__name__} estimator requires y to be passed, but "
                f"the target y is None."
            )
        X, y = self._check_X(X, reset=reset), as_grids(y, "y")
        check_consistent_length(X, y)
        return X, y

    def _check_X(self, X: Any, *, reset: bool) -> Grids:
        """Check questions; learn or compare their number of cells and their names."""
        grids = as_grids(X, "X")
        if isinstance(grids, np.ndarray) and grids.ndim == 2:
            validate_data(self, X, skip_check_array=True, reset=reset)
        return grids

    def _learn_symbols(self, X: Grids, y: Grids, classes: Any = None) -> None:
        """Learn the encoding; draw the seeds and choose the device of the fit."""
        encoder = GridEncoder(self.ignore_value, self.handle_unknown)
        self._encoder = encoder.fit(X, y, classes)
        self.classes_ = np.array(encoder.answer_symbols, dtype=encoder.y_dtype)
        self.n_features_in_ = encoder.n_features
        self.n_outputs_ = encoder.n_outputs
        self._draw_seeds()

    def _space(self) -> TokenSpace:
        """Describe the task to augmentations."""
        encoder = self._encoder
        return TokenSpace(
            canvas=encoder.one_shape,
            n_tokens=encoder.vocabulary.n_tokens,
            token_of=encoder.vocabulary.token_of,
            answer_tokens=encoder.answer_tokens,
        )

    def _make_model(self, generator: torch.Generator) -> TinyRecursionModel:
        """Build a model of this estimator's sizes for the symbols seen in fit."""
        mixer = self.mixer
        if mixer == "auto":
            fixed = self._encoder.x_shape is not None
            short = self._encoder.length <= _LONGEST_TOKEN_MIXING
            mixer = "mlp" if fixed and short else "attention"
        model = TinyRecursionModel.build(
            n_tokens=self._encoder.vocabulary.n_tokens,
            length=self._encoder.length,
            hidden_size=self.hidden_size,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            expansion=self.expansion,
            mixer=mixer,
            positions=self.positions,
            n_prefix_tokens=self.n_prefix_tokens,
            n_latent_recursions=self.n_latent_recursions,
            n_deep_recursions=self.n_deep_recursions,
            generator=generator,
        )
        dtype = self._working_dtype()
        if dtype == torch.float64:
            return model.double()
        model.dtype = dtype
        return model

    def _make_rows(self, X: Grids, y: Grids, sample_weight: Any) -> Rows:
        """Encode labelled rows; rows of weight zero are left out."""
        inputs, labels = self._encoder.encode_X(X), self._encoder.encode_y(y)
        weights = _check_sample_weight(sample_weight, inputs)
        if (weights == 0).any():
            kept = weights != 0
            inputs, labels, weights = inputs[kept], labels[kept], weights[kept]
        if not len(inputs):
            raise ValueError("Every sample_weight is zero: there is no row to learn.")
        return self._on_device(inputs, labels, weights)

    def _split(
        self, X: Grids, y: Grids, sample_weight: Any, X_val: Any, y_val: Any
    ) -> tuple[Rows, Rows | None]:
        """Encode the rows to train on and those to validate on, if any."""
        if (X_val is None) != (y_val is None):
            raise ValueError("X_val and y_val must be given together.")
        rows = self._make_rows(X, y, sample_weight)
        if X_val is not None:
            X_val, y_val = self._check_X(X_val, reset=False), as_grids(y_val, "y_val")
            check_consistent_length(X_val, y_val)
            return rows, self._make_rows(X_val, y_val, None)
        if self.early_stopping:
            return self._hold_out(rows)
        return rows, None

    def solve(self, X: Any, *, max_steps: int | None = None) -> Solutions:
        """Answer ``X`` and tell how sure and after how many steps."""
        inputs, X = self._questions(X)
        tokens, confidence, n_steps = self._solve(inputs, self._read_answers, max_steps)
        return Solutions(self._encoder.decode(tokens, X), confidence, n_steps)

    def predict(self, X: Any, *, max_steps: int | None = None) -> Any:
        """Answer ``X``."""
        return self.solve(X, max_steps=max_steps).answers

    def predict_confidence(self, X: Any, *, max_steps: int | None = None) -> np.ndarray:
        """Return the halting probability of each answer."""
        return self.solve(X, max_steps=max_steps).confidence

    def staged_solve(
        self, X: Any, *, max_steps: int | None = None
    ) -> Iterator[Solutions]:
        """Yield what :meth:`solve` would return after each supervision step."""
        inputs, X = self._questions(X)
        for tokens, confidence, n_steps in self._stages(
            inputs, self._read_answers, max_steps
        ):
            yield Solutions(self._encoder.decode(tokens, X), confidence, n_steps)

    def staged_predict(self, X: Any, *, max_steps: int | None = None) -> Iterator[Any]:
        """Yield the answers after each supervision step."""
        for solutions in self.staged_solve(X, max_steps=max_steps):
            yield solutions.answers

    def predict_proba(self, X: Any, *, max_steps: int | None = None) -> Any:
        """Return the probability of each symbol in each cell."""
        inputs, X = self._questions(X)
        both, _, _ = self._solve(inputs, self._read_probabilities, max_steps)
        return self._arrange(both, X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the share of rows whose answer is right in every scored cell."""
        return exact_match_score(
            y,
            self.predict(X),
            sample_weight=sample_weight,
            ignore_value=self.ignore_value,
        )

    def _questions(self, X: Any) -> tuple[np.ndarray, Grids]:
        """Check and encode questions for prediction."""
        check_is_fitted(self)
        X = self._check_X(X, reset=False)
        return self._encoder.encode_X(X), X

    def _read_answers(self, answer_logits: Tensor) -> Tensor:
        """Return each cell's likeliest token of y, negative where PAD beats it."""
        logits = answer_logits[:, : self._encoder.n_outputs]
        tokens = torch.tensor(self._encoder.answer_tokens, device=logits.device)
        best, position = logits[..., tokens].max(dim=-1)
        answers = tokens[position]
        if self._encoder.predicts_size:
            answers = torch.where(logits[..., PAD] > best, -answers, answers)
        return answers

    def _read_probabilities(self, answer_logits: Tensor) -> Tensor:
        """Return each cell's probabilities of PAD and of the symbols of y."""
        logits = answer_logits[:, : self._encoder.n_outputs]
        tokens = torch.tensor((PAD, *self._encoder.answer_tokens), device=logits.device)
        return log_probabilities(logits[..., tokens].double(), self.loss).exp()

    def _arrange(self, both: np.ndarray, X: Grids) -> Any:
        """Give probabilities (n, n_outputs, 1 + n_classes) the form of the answers."""
        encoder = self._encoder
        pad, proba = both[..., 0], both[..., 1:]
        proba = proba / proba.sum(axis=-1, keepdims=True)
        shape = encoder.y_shape
        if shape == ():
            return proba[:, 0]
        if shape is not None and len(shape) == 1:
            return list(proba.swapaxes(0, 1))
        grids = proba.reshape(len(proba), *encoder.y_canvas, -1)
        if shape is not None:
            return grids
        signs = np.where(pad > both[..., 1:].max(axis=-1), -1, 1)
        sizes = encoder.answer_sizes(signs, X)
        return [grid[:h, :w] for grid, (h, w) in zip(grids, sizes, strict=True)]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.input_tags.categorical = True
        tags.input_tags.three_d_array = True
        return tags

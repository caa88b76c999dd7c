"""TRMClassifier: ordinary tables in, labels and probabilities out."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import _check_partial_fit_first_call

from sktrm._slots import Rows
from sktrm._table_answers import TableAnswers
from sktrm._table_probes import choose_smooth
from sktrm._table_task import Labelled, TableTask

_MANY_ROWS = 10_000  # with more of them early_stopping="auto" holds rows out


class TRMClassifier(ClassifierMixin, TableAnswers, TableTask):
    """Classify the rows of tables with a tiny recursive network.

    Every column is a token, and one more token holds the answer. The network looks at
    the columns and at its own answer, improves it, and stops when its halting head says
    that the answer is right. Use it like any classifier of scikit-learn; it is at home
    where the label follows rules between columns.

    Parameters
    ----------
    categorical_features : "from_dtype", array-like or None, default="from_dtype"
        Which columns hold categories rather than numbers: those of a data frame with
        dtype category, string, object or bool, and those of an array that hold
        strings or truth values; or a mask, indices, or names of columns; None: no
        column does.
    n_knots : int, default=32
        Quantiles of a column of numbers at most, between which its values are encoded
        piecewise linearly; no more than the square root of what the rows weigh
        together, or 8. Columns with no more distinct values have a knot at each.
    smooth_numbers : bool or "auto", default="auto"
        Let knots start on a line, which training bends slowly: for noisy labels or such
        as change smoothly, not for sharp intervals in few rows. Columns with a knot at
        each value have none. "auto" first trains both on three quarters of the rows, in
        three quarters of the time of the fit at most, and takes lines if their log loss
        on the others is less, or on 25 or more rows of ``X_val`` or early stopping;
        never for fewer than 100 rows or in :meth:`partial_fit`.
    min_frequency : int, default=2
        Categories that weigh less than so many rows share one embedding, which is also
        that of categories first met at prediction. A row weighs its ``sample_weight``;
        weights whose mean over the positive ones is below 1 are scaled to 1.
    max_categories : int, default=255
        Categories of a column with an embedding of their own at most.
    hidden_size : int, default=32
        Width of the network, the length of the vectors x, y and z of a column.
    n_layers : int, default=2
        Blocks of the tiny network.
    n_heads : int, default=4
        Heads of attention; must divide ``hidden_size``.
    expansion : float, default=4.0
        Width of the SwiGLU layers relative to their input. Two thirds of it are used,
        rounded up to a multiple of 32.
    mixer : {"auto", "attention", "mlp"}, default="auto"
        How columns exchange information: self-attention, or token mixing, a SwiGLU
        along the columns. "auto" takes token mixing up to 128 columns.
    n_latent_recursions : int, default=1
        Updates of the latent z before each update of the answer y; ``n`` in [1]_.
    n_deep_recursions : int, default=1
        Latent recursions per supervision step, all but the last without gradient; ``T``
        in [1]_.
    n_supervision_steps : int, default=2
        Supervision steps per row at most, each followed by one optimiser step;
        ``N_sup`` in [1]_.
    loss : {"softmax", "stablemax"}, default="softmax"
        Cross-entropy of the label. [1]_ uses stablemax.
    optimizer : {"auto", "adamw", "muon"}, default="auto"
        AdamW, as in [1]_, or Muon [2]_ for matrices whose sides are longer than 16,
        beside AdamW for everything else. "auto" is Muon, and AdamW with
        ``dtype="float64"``, since Muon rounds its steps to bfloat16.
    lr : float or "auto", default="auto"
        Largest learning rate. "auto" is 0.004 if no column has values between its
        knots, 0.002 if all have, and in proportion between; by the knots of the first
        call, where training goes on.
    lr_schedule : {"constant", "cosine"}, default="cosine"
        Course of the learning rate after warm-up, over the rows that ``max_epochs``
        will start; by their weight where ``batch_size`` holds all of them.
    lr_warmup_steps : int, default=100
        Optimiser steps over which the learning rate grows to ``lr``.
    weight_decay : float or "auto", default="auto"
        Decoupled weight decay. "auto" falls with the number of rows to train on, as the
        square root of 450 / rows, from 3 for 50 or fewer to 0.5 for 1,800 or more, and
        is multiplied by up to 4, but never above 4.0, where rows that are encoded alike
        have different labels. In ``partial_fit``, which does not know what rows there
        will be, it is 0.5. Rows of weight zero do not count, the others by
        ``sample_weight`` if that is 1 or more in the mean; ``class_weight`` does not
        count, and ``warm_start`` keeps what was chosen.
    max_grad_norm : float or None, default=1.0
        Norm to which the gradient is clipped; None does not clip.
    ema_decay : float, default=0.999
        Decay, per optimiser step, of the moving average of the weights that predicts;
        0 predicts with the last weights. The average starts faster: 0.999 is reached
        after 9,000 steps.
    max_epochs : int or "auto", default="auto"
        Passes over the data. An epoch starts every row exactly once. "auto" starts
        120,000 rows in all, fewer of tables with more than 24 columns (60,000 of 48),
        each 20 to 400 times; half as often, but 20 times, if all columns have more
        values than knots, and in between if some have. See "Few rows" in the user
        guide's page on tables.
    max_time : float or None, default=None
        Seconds after which training ends, before ``max_epochs`` if need be; the
        learning rate's schedule then follows the time. What is learned depends on the
        machine's speed. ``smooth_numbers="auto"`` comes before: a quarter of it more.
    batch_size : int, default=128
        Rows in flight in training. If no more are given to ``fit``, every optimiser
        step sees all rows that have not halted. In smaller batches a row counts for one
        batch at most, whatever its weight: a step divides by the weights of its rows.
    halt_exploration : float, default=0.1
        Probability that a row in training must think a random minimum number of steps,
        from 2 to ``n_supervision_steps``.
    max_steps : int or "auto", default="auto"
        Supervision steps at prediction and in validation at most; "auto" is
        ``n_supervision_steps``. Rows that are sure of their label stop earlier.
    halt_threshold : float, default=0.95
        A row halts in prediction when its halting probability is above this; 1 always
        takes all steps. In training a row halts at one half, as in [1]_.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, multiplied by ``sample_weight``, in the loss and, unlike
        in HistGradientBoosting, in validation; "balanced" is inverse to the
        ``sample_weight`` of a class in all. Warm starts keep those of the first fit.
    early_stopping : bool or "auto", default="auto"
        Hold out ``validation_fraction`` of the rows, or use ``X_val``, and stop when
        ``n_iter_no_change`` epochs in a row brought no better validation score. The
        weights that validated best are kept. "auto" does so for more than 10,000 rows,
        and if ``X_val`` is given.
    validation_fraction : float, default=0.1
        Share of the rows held out with early stopping, alike in every class, unless
        ``X_val`` is given.
    n_iter_no_change : int, default=10
        Epochs to wait for a better validation score.
    tol : float, default=0.0
        A validation score is better if it is higher by more than this.
    warm_start : bool, default=False
        Let ``fit`` go on with the model of the last one, for ``max_epochs`` more.
        Parameters that were changed in between count if they are about the course of
        training (``lr``, its schedule and warm-up, ``max_grad_norm``, ``max_epochs``,
        ``max_time``, ``verbose``), early stopping, or halting at prediction. Those of
        data, network, losses, optimiser and ``callbacks`` stay the first's.
    device : str, default="auto"
        A torch device; "auto" takes CUDA if there is one, else the CPU.
    dtype : {"auto", "float32", "float64", "bfloat16"}, default="auto"
        Working precision. Weights are float32, or float64 if ``fit`` had that. "auto"
        takes bfloat16 where the machine, timed once, multiplies matrices faster so, but
        float32 on a CPU for up to 16 columns. Name one for numbers that no machine and
        no process changes.
    compile : bool or "auto", default="auto"
        Train a network compiled with :func:`torch.compile`, which needs a C++ compiler
        and takes some 20 seconds at first; prediction, too, once stepping has taken
        about as long. "auto" does not, and :meth:`partial_fit` compiles nothing.
    callbacks : list of skorch callbacks, default=None
        Called during training; they are cloned.
    random_state : int, RandomState instance or None, default=None
        Seeds weights, order of rows, exploration and rows held out; no global generator
        is read or moved.
    verbose : int, default=0
        1 prints what ``smooth_numbers="auto"`` found, and a line for each epoch.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels, sorted.
    n_features_in_ : int
        Columns of ``X``.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if ``X`` was a data frame with string column names.
    is_categorical_ : ndarray of shape (n_features_in_,)
        Mask of the columns taken as categories.
    smooth_numbers_ : bool
        Whether the lines of ``smooth_numbers`` were taken.
    weight_decay_ : float
        The weight decay of the training.
    temperature_ : float
        What divides the logarithms of the probabilities: the value of the least log
        loss on the validation rows, drawn to 1 where they are few; 1 without any.
    n_iter_ : int
        Epochs trained.
    history_ : list of dict
        Loss, time and validation scores of each epoch.
    validation_score_ : float
        Accuracy of the kept weights on the validation rows, if there were any; rows
        weigh as in the loss.
    net_ : skorch.NeuralNet
        The net that was trained, with its optimiser.
    module_ : sktrm.nn.TinyRecursionModel
        The model that predicts: averaged, and the best in validation if there was one.

    See Also
    --------
    TRMSolver : Answers that are grids or sequences of symbols.
    sklearn.ensemble.HistGradientBoostingClassifier : Trees, for most tables.

    References
    ----------
    .. [1] A. Jolicoeur-Martineau, "Less is More: Recursive Reasoning with Tiny
       Networks", arXiv:2510.04871, 2025.
    .. [2] K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks",
       2024, https://kellerjordan.github.io/posts/muon; scaled as in J. Liu et al.,
       "Muon is Scalable for LLM Training", arXiv:2502.16982, 2025.

    Examples
    --------
    >>> import numpy as np
    >>> from sktrm import TRMClassifier
    >>> X = np.random.RandomState(0).randint(2, size=(200, 4))
    >>> y = X[:, 0] ^ X[:, 1]
    >>> TRMClassifier(max_epochs=40, random_state=0).fit(X, y).score(X, y)
    1.0
    """

    _prediction_batch = 1024

    def __init__(
        self,
        *,
        categorical_features: Any = "from_dtype",
        n_knots: int = 32,
        smooth_numbers: bool | str = "auto",
        min_frequency: int = 2,
        max_categories: int = 255,
        hidden_size: int = 32,
        n_layers: int = 2,
        n_heads: int = 4,
        expansion: float = 4.0,
        mixer: str = "auto",
        n_latent_recursions: int = 1,
        n_deep_recursions: int = 1,
        n_supervision_steps: int = 2,
        loss: str = "softmax",
        optimizer: str = "auto",
        lr: float | str = "auto",
        lr_schedule: str = "cosine",
        lr_warmup_steps: int = 100,
        weight_decay: float | str = "auto",
        max_grad_norm: float | None = 1.0,
        ema_decay: float = 0.999,
        max_epochs: int | str = "auto",
        max_time: float | None = None,
        batch_size: int = 128,
        halt_exploration: float = 0.1,
        max_steps: int | str = "auto",
        halt_threshold: float = 0.95,
        class_weight: Any = None,
        early_stopping: bool | str = "auto",
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 0.0,
        warm_start: bool = False,
        device: str = "auto",
        dtype: str = "auto",
        compile: bool | str = "auto",  # noqa: A002
        callbacks: Sequence[Any] | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.categorical_features = categorical_features
        self.n_knots = n_knots
        self.smooth_numbers = smooth_numbers
        self.min_frequency = min_frequency
        self.max_categories = max_categories
        self.hidden_size = hidden_size
        self.n_layers = n_layers
        self.n_heads = n_heads
        self.expansion = expansion
        self.mixer = mixer
        self.n_latent_recursions = n_latent_recursions
        self.n_deep_recursions = n_deep_recursions
        self.n_supervision_steps = n_supervision_steps
        self.loss = loss
        self.optimizer = optimizer
        self.lr = lr
        self.lr_schedule = lr_schedule
        self.lr_warmup_steps = lr_warmup_steps
        self.weight_decay = weight_decay
        self.max_grad_norm = max_grad_norm
        self.ema_decay = ema_decay
        self.max_epochs = max_epochs
        self.max_time = max_time
        self.batch_size = batch_size
        self.halt_exploration = halt_exploration
        self.max_steps = max_steps
        self.halt_threshold = halt_threshold
        self.class_weight = class_weight
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.warm_start = warm_start
        self.device = device
        self.dtype = dtype
        self.compile = compile
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
        sample_weight_val: Any = None,
    ) -> "TRMClassifier":
        """Learn to classify the rows of ``X``.

        Parameters
        ----------
        X : array-like of shape (n, n_columns) or data frame of pandas or polars
            Numbers and categories; both may be missing.
        y : array-like of shape (n,)
            Labels.
        sample_weight : array-like of shape (n,), default=None
            Weights of the rows in the loss; rows of weight zero are left out. A row
            counts for one batch at most: see ``batch_size``.
        X_val, y_val : like X and y, default=None
            Rows to validate on after each epoch. The weights that do best are kept, and
            with ``early_stopping`` training ends when they stop getting better; without
            it, where HistGradientBoosting raises, they validate all the same.
        sample_weight_val : array-like of shape (n_val,), default=None
            Weights of those rows in the validation scores.

        Returns
        -------
        self : TRMClassifier
            Fitted.

        Raises
        ------
        ValueError
            If a parameter or the data are not as described; the message says which.
        KeyboardInterrupt
            If training is interrupted. The classifier keeps its last good weights, if
            it has come to train any after ``smooth_numbers="auto"``.

        Warns
        -----
        ConvergenceWarning
            If the loss is no longer finite. Training stops and the last good weights
            are kept.
        """
        self._validate_params()
        goes_on = self.warm_start and hasattr(self, "module_")
        table, y, weights = self._check_rows(X, y, sample_weight, reset=not goes_on)
        if not goes_on:
            self.classes_ = np.unique(y)
            self._begin_fit()
            self._class_weight = self._weigh_classes(y, weights)
        rows, held_out = self._split(
            self._label(table, y, weights), X_val, y_val, sample_weight_val
        )
        n_rows = len(rows.labels)
        if not goes_on:
            self.smooth_numbers_ = choose_smooth(self, rows, held_out)
            self._learn_columns(rows, self.smooth_numbers_)
            self._begin_training(rows)
        self._fit_rows(rows, held_out, self._n_epochs(n_rows), X, y, sample_weight)
        return self

    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None
    ) -> "TRMClassifier":
        """Train for one epoch: start every row once, at a constant learning rate.

        Knots and categories are those of the first call. Nothing is validated, so
        ``early_stopping`` does not count.

        Parameters
        ----------
        X : array-like of shape (n, n_columns) or data frame of pandas or polars
            Numbers and categories, in the columns of the first call.
        y : array-like of shape (n,)
            Labels.
        classes : array-like of shape (n_classes,), default=None
            All labels that any ``y`` may hold; needed in the first call.
        sample_weight : array-like of shape (n,), default=None
            Weights of the rows in the loss. A row counts for one batch at most: see
            ``batch_size``.

        Returns
        -------
        self : TRMClassifier
            Trained for one more epoch.
        """
        self._validate_params()
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' needs all rows at once; with partial_fit, "
                "give the weights as a dict."
            )
        goes_on = hasattr(self, "module_")
        if not goes_on:
            self.__dict__.pop("classes_", None)  # of a fit that failed
        _check_partial_fit_first_call(self, classes)
        table, y, weights = self._check_rows(X, y, sample_weight, reset=not goes_on)
        if not goes_on:
            self._begin_fit()
            self._class_weight = self._weigh_classes(y, weights)
        rows = self._label(table, y, weights)
        if not goes_on:
            chosen = self.smooth_numbers
            self.smooth_numbers_ = chosen != "auto" and bool(chosen)
            self._learn_columns(rows, self.smooth_numbers_)
            self.weight_decay_ = self._choose_decay(math.inf)
            self._start_training(self._space(), self.batch_size)
        self._fit_rows(rows, None, None, X, y, sample_weight)
        return self

    def _fit_rows(
        self,
        rows: "Labelled",
        held_out: "Labelled | None",
        n_epochs: int | None,
        X: Any,
        y: Any,
        sample_weight: Any,
    ) -> None:
        """Train; scikit-learn's callbacks see the data as they were given."""
        training = self._make_rows(rows)
        validation = None if held_out is None else self._make_rows(held_out)
        # Also what interrupted training leaves predicts.
        self.temperature_ = 1.0
        self._train(training, validation, n_epochs, X, y, sample_weight=sample_weight)

    def _calibrate(self, held_out: Rows | None) -> None:
        """Find the temperature."""
        self.temperature_ = self._find_temperature(held_out)

    def _stops_early(self, n_rows: int, held_out: bool) -> bool:
        if isinstance(self.early_stopping, str):
            return held_out or n_rows > _MANY_ROWS
        return bool(self.early_stopping)

    def _steps_at_most(self) -> int:
        if isinstance(self.max_steps, str):
            return int(self.n_supervision_steps)
        return int(self.max_steps)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        return tags

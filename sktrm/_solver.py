"""TRMSolver: grids or sequences of symbols in, grids or sequences out."""

from collections.abc import Sequence
from typing import Any

from sklearn.base import ClassifierMixin

from sktrm._answers import GridAnswers
from sktrm._recipes import FromRecipe
from sktrm._task import GridTask, weighing
from sktrm._tasks import check_task_ids


class TRMSolver(FromRecipe, GridAnswers, ClassifierMixin, GridTask):
    """Solve puzzles and transform grids with a tiny recursive network.

    The network answers a question, looks at its own answer, improves it, and stops when
    its halting head says that the answer is right. Use it where both question and
    answer are grids or sequences of symbols: Sudokus, mazes, ARC tasks, or any problem
    of constraints or transformations with discrete cells.

    Parameters
    ----------
    symbols : "interchangeable", sequence of symbols or None, default=None
        Symbols that could be exchanged for each other without changing the task: the
        digits of a Sudoku, the colours of an ARC task but the background. The network
        is then equivariant under their permutation, up to rounding: it keeps a state of
        each cell and symbol and treats symbols alike. So it cannot tell apart two that
        a question does not hold. "interchangeable" takes all symbols of ``y``;
        None makes the paper's form of network.
    hidden_size : int or "auto", default="auto"
        Width of the network, the length of the vectors x, y and z of a cell. "auto"
        is 128, and 32 with ``symbols``, where every cell has one vector per symbol. The
        paper uses 512.
    n_layers : int, default=2
        Blocks of the tiny network.
    n_heads : int, default=4
        Heads of attention, and of matrices between cells; must divide ``hidden_size``.
    expansion : float or "auto", default="auto"
        Width of the SwiGLU layers relative to their input. Two thirds of it are used,
        rounded up to a multiple of 256; with ``symbols``, that of the ReLU layers.
        "auto" is 4, as in [1]_, and 2 with ``symbols``.
    mixer : {"auto", "attention", "mlp", "convolution"}, default="auto"
        How cells exchange information: self-attention, or token mixing: a SwiGLU along
        the sequence, and with ``symbols`` a learned matrix for each head. "auto" takes
        token mixing for grids of one size with at most 128 cells, attention otherwise.
        "convolution", with ``symbols``, are matrices that only know how two cells of a
        grid lie to each other: for tasks with the same rule at every place, as mazes
        have, whose cells are often more than there are rows to learn from. Grids must
        then be given as such, (n, H, W), not as rows of their cells.
    positions : {"rope", "learned", "none"}, default="rope"
        Positions for attention. Token mixing knows positions by itself, convolution
        needs none: with them "rope" does nothing, and "learned" still adds embeddings,
        by which a convolution would tell one place from another.
    n_prefix_tokens : int, default=0
        Learned tokens before the grid: scratch space, from the first of which the
        halting head reads.
    n_latent_recursions : int, default=2
        Updates of the latent z before each update of the answer y; ``n`` in [1]_, where
        it is 6.
    n_deep_recursions : int, default=2
        Latent recursions per supervision step, all but the last without gradient; ``T``
        in [1]_, where it is 3.
    depth_curriculum : float or "auto", default="auto"
        Share of the training, from its start, in which there is one latent recursion
        per supervision step instead of ``n_deep_recursions``, as in [3]_. "auto" is
        0.5 with ``symbols`` but without ``early_stopping``, which might end before the
        depth begins; else 0. Training that goes on from another, by ``warm_start`` or
        ``partial_fit``, has its full depth at once.
    n_supervision_steps : int, default=4
        Supervision steps per row at most, each followed by one optimiser step;
        ``N_sup`` in [1]_, where it is 16. Prediction takes up to ``max_steps``.
    loss : {"softmax", "stablemax"}, default="softmax"
        Cross-entropy of a cell. [1]_ uses stablemax.
    optimizer : {"auto", "adamw", "muon"}, default="auto"
        AdamW, as in [1]_, or Muon [2]_ for matrices whose sides are longer than 16,
        beside AdamW for everything else. "auto" is Muon with ``symbols``, but AdamW
        with ``dtype="float64"``, since Muon rounds its steps to bfloat16; else AdamW.
    lr : float or "auto", default="auto"
        Largest learning rate. "auto" is 0.002, and 0.004 with ``symbols``.
    lr_schedule : {"constant", "cosine"}, default="cosine"
        Course of the learning rate after warm-up, over the rows that ``max_epochs``
        will start; by their weight where ``batch_size`` holds all of them.
    lr_warmup_steps : int, default=100
        Optimiser steps over which the learning rate grows to ``lr``.
    weight_decay : float, default=0.1
        Decoupled weight decay.
    max_grad_norm : float or None, default=1.0
        Norm to which the gradient is clipped; None does not clip.
    ema_decay : float, default=0.999
        Decay, per optimiser step, of the moving average of the weights that predicts;
        0 predicts with the last weights. The average starts faster: 0.999 is reached
        after 9,000 steps.
    max_epochs : int, default=30
        Passes over the data. An epoch starts every row exactly once.
    max_time : float or None, default=None
        Seconds after which training ends, before ``max_epochs`` if need be; the
        learning rate's schedule then follows the time. What is learned depends on the
        machine's speed. Compiling comes before and does not count.
    batch_size : int, default=32
        Rows in flight in training, rows at a time in prediction (more on CUDA).
    n_rollouts : int or "auto", default="auto"
        Tries for each row at prediction at most: the first that halts gives the answer,
        or else the most confident. "auto" is 4 with ``symbols``, unless a vote or
        several views are asked for or no row may halt, and 1 otherwise. Rows that halt
        in their first try take no longer; validation in training makes one try.
    rollout_noise : float, default=1.0
        Deviation of the normal numbers added to the initial states y and z of every
        try but the first.
    halt_exploration : float, default=0.1
        Probability that a row in training must think a random minimum number of steps,
        from 2 to ``n_supervision_steps``.
    max_steps : int or "auto", default="auto"
        Supervision steps of a try and in validation at most; "auto" is eight times
        ``n_supervision_steps``. Rows that are sure of their answer stop earlier.
    halt_threshold : float, default=0.95
        A row halts in prediction when its halting probability is above this; 1 always
        takes all steps. In training a row halts at one half, as in [1]_.
    augmentation : "auto", Augmentation, list of them or None, default="auto"
        Objects of :mod:`sktrm.augmentation` that transform question and answer each
        time a row enters training. "auto" takes the
        :class:`~sktrm.augmentation.SudokuGroup` if every answer in ``fit`` is a Sudoku
        or a Latin square that keeps what its question gives and whose other cells look
        alike, and nothing otherwise. Rules that no grid shows, such as different digits
        along the diagonals, need None or your own.
    canvas : (int, int) or None, default=None
        Height and width on which grids of any size lie, those of ``fit`` and later
        ones; the size of every answer is then predicted. None lays grids of different
        sizes on the largest one seen in ``fit``, and keeps grids of one size.
    n_augmentations : int, default=16
        With ``task_ids``, transforms of each task, drawn from ``augmentation`` before
        training, that get an embedding of their own, and through which
        ``augment_votes`` looks; the paper takes 1,000. Each costs a vector for each
        task, and must be seen often enough.
    task_lr : float, default=0.01
        With ``task_ids``, learning rate of the embeddings of tasks. They are trained by
        the sign of their gradient, with the schedule of ``lr`` and ``weight_decay``.
    ignore_value : object, default=None
        Cells of ``y`` with this value are neither trained on nor scored.
    handle_unknown : {"error", "ignore"}, default="error"
        What to do with symbols in prediction that did not occur in ``fit``: raise an
        error that names them, or treat them as empty.
    early_stopping : bool, default=False
        Hold out ``validation_fraction`` of the rows, or use ``X_val``, and stop when
        ``n_iter_no_change`` epochs in a row brought no better validation score. The
        weights that validated best are kept.
    validation_fraction : float, default=0.1
        Share of the rows held out with ``early_stopping``, unless ``X_val`` is given.
    n_iter_no_change : int, default=10
        Epochs to wait for a better validation score.
    tol : float, default=0.0
        A validation score is better if it is higher by more than this. Exact match
        decides; cell accuracy breaks ties.
    warm_start : bool, default=False
        Let ``fit`` go on with the model of the last one, for ``max_epochs`` more.
        Parameters that were changed in between count if they are about the course of
        training (``lr``, its schedule and warm-up, ``max_grad_norm``, ``max_epochs``,
        ``max_time``, ``verbose``), early stopping, prediction, ``compile`` or
        ``gradient_checkpointing``; the others stay those of the first ``fit``.
    device : str, default="auto"
        A torch device; "auto" takes CUDA if there is one, else the CPU.
    dtype : {"auto", "float32", "float64", "bfloat16"}, default="auto"
        Working precision. Weights are float32, or float64 if ``fit`` had that. "auto"
        takes bfloat16 where the machine, timed once, multiplies matrices faster so.
        Name one for numbers that no machine and no process changes.
    compile : bool or "auto", default="auto"
        Train a network compiled with :func:`torch.compile`, which needs a C++ compiler
        or, on CUDA, triton and takes one to two minutes at first. "auto" does
        so where it saves more than it takes, in long trainings; on a CPU not with
        attention. Where half is saved, on CUDA and with ``symbols``, long predictions
        follow. :meth:`partial_fit` compiles nothing.
    gradient_checkpointing : bool, default=False
        Compute the layers again in the backward pass: memory of training then hardly
        grows with ``n_latent_recursions``, for 1 / (T + 2) more operations.
    callbacks : list of skorch callbacks, default=None
        Called during training; they are cloned.
    random_state : int, RandomState instance or None, default=None
        Seeds initial weights, order of the rows, augmentation, exploration and the
        held-out rows. The global generators are neither read nor moved.
    verbose : int, default=0
        1 prints a line for each epoch.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Symbols of ``y``, sorted, without ``ignore_value``.
    n_features_in_ : int
        Cells of a question (of the largest one, if they differ).
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if ``X`` was a data frame with string column names.
    n_outputs_ : int
        Cells of an answer (of the largest one, if they differ).
    n_iter_ : int
        Epochs trained.
    history_ : list of dict
        Loss, time and validation scores of each epoch.
    validation_score_ : float
        Exact match of the kept weights on the validation rows, if there were any, in
        one try.
    tasks_ : ndarray of shape (n_tasks,)
        Ids of the tasks that the solver knows, if it was fitted with ``task_ids``.
    net_ : skorch.NeuralNet
        The net that was trained, with its optimiser.
    module_ : sktrm.nn.TinyRecursionModel
        The model that predicts: averaged, and the best in validation if there was one.

    See Also
    --------
    sktrm.augmentation : Symmetries of puzzles.
    sktrm.inspection.RecursionDisplay : Look at a solver thinking.

    Notes
    -----
    A row's answer depends on that row alone, not on those predicted with it, up to
    rounding: products of other sizes round differently.

    References
    ----------
    .. [1] A. Jolicoeur-Martineau, "Less is More: Recursive Reasoning with Tiny
       Networks", arXiv:2510.04871, 2025.
    .. [2] K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks",
       2024, https://kellerjordan.github.io/posts/muon; scaled as in J. Liu et al.,
       "Muon is Scalable for LLM Training", arXiv:2502.16982, 2025.
    .. [3] K. U. Qasim and J. Zhang, "Accelerating Training Speed of Tiny Recursive
       Models via Curriculum Guided Adaptive Recursion", arXiv:2511.08653, 2025.

    Examples
    --------
    >>> from sktrm import TRMSolver
    >>> from sktrm.datasets import make_sudoku
    >>> X, y = make_sudoku(40, box=(2, 2), n_clues=8, random_state=0)
    >>> solver = TRMSolver(hidden_size=32, max_epochs=2, random_state=0).fit(X, y)
    >>> solver.predict(X[:3]).shape
    (3, 4, 4)
    """

    def __init__(
        self,
        *,
        symbols: Any = None,
        hidden_size: int | str = "auto",
        n_layers: int = 2,
        n_heads: int = 4,
        expansion: float | str = "auto",
        mixer: str = "auto",
        positions: str = "rope",
        n_prefix_tokens: int = 0,
        n_latent_recursions: int = 2,
        n_deep_recursions: int = 2,
        depth_curriculum: float | str = "auto",
        n_supervision_steps: int = 4,
        loss: str = "softmax",
        optimizer: str = "auto",
        lr: float | str = "auto",
        lr_schedule: str = "cosine",
        lr_warmup_steps: int = 100,
        weight_decay: float = 0.1,
        max_grad_norm: float | None = 1.0,
        ema_decay: float = 0.999,
        max_epochs: int = 30,
        max_time: float | None = None,
        batch_size: int = 32,
        n_rollouts: int | str = "auto",
        rollout_noise: float = 1.0,
        halt_exploration: float = 0.1,
        max_steps: int | str = "auto",
        halt_threshold: float = 0.95,
        augmentation: Any = "auto",
        canvas: tuple[int, int] | None = None,
        n_augmentations: int = 16,
        task_lr: float = 0.01,
        ignore_value: Any = None,
        handle_unknown: str = "error",
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 0.0,
        warm_start: bool = False,
        device: str = "auto",
        dtype: str = "auto",
        compile: bool | str = "auto",  # noqa: A002
        gradient_checkpointing: bool = False,
        callbacks: Sequence[Any] | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.symbols = symbols
        self.hidden_size = hidden_size
        self.n_layers = n_layers
        self.n_heads = n_heads
        self.expansion = expansion
        self.mixer = mixer
        self.positions = positions
        self.n_prefix_tokens = n_prefix_tokens
        self.n_latent_recursions = n_latent_recursions
        self.n_deep_recursions = n_deep_recursions
        self.depth_curriculum = depth_curriculum
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
        self.n_rollouts = n_rollouts
        self.rollout_noise = rollout_noise
        self.halt_exploration = halt_exploration
        self.max_steps = max_steps
        self.halt_threshold = halt_threshold
        self.augmentation = augmentation
        self.canvas = canvas
        self.n_augmentations = n_augmentations
        self.task_lr = task_lr
        self.ignore_value = ignore_value
        self.handle_unknown = handle_unknown
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.warm_start = warm_start
        self.device = device
        self.dtype = dtype
        self.compile = compile
        self.gradient_checkpointing = gradient_checkpointing
        self.callbacks = callbacks
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        task_ids: Any = None,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
        task_ids_val: Any = None,
    ) -> "TRMSolver":
        """Learn to answer ``X`` with ``y``.

        Parameters
        ----------
        X : array-like of shape (n, L) or (n, H, W), data frame, or list of n grids
            Questions: whole numbers, strings or other hashable symbols. Grids of a
            list may differ in size.
        y : array-like of shape (n,), (n, L) or (n, H, W), or list of n grids
            Answers. They may have another number of cells than the questions.
        sample_weight : array-like of shape (n,), default=None
            Weights of the rows in the loss; rows of weight zero are left out.
        task_ids : array-like of shape (n,), default=None
            The task of each row, where rows are of several tasks that a question does
            not tell apart, as in ARC. Each task gets an embedding, which the network
            reads before the grid; prediction then needs ``task_ids``, too.
        X_val, y_val : like X and y, default=None
            Rows to validate on after each epoch. The weights that do best are kept;
            with ``early_stopping`` training ends when they stop getting better.
        sample_weight_val : array-like of shape (n_val,), default=None
            Weights of those rows in the validation scores.
        task_ids_val : array-like of shape (n_val,), default=None
            Their tasks, which must be among ``task_ids``.

        Returns
        -------
        self : TRMSolver
            Fitted.

        Raises
        ------
        ValueError
            If a parameter or the data are not as described; the message says which.
        KeyboardInterrupt
            If training is interrupted. The solver keeps its last good weights.

        Warns
        -----
        ConvergenceWarning
            If the loss is no longer finite. Training stops and the last good weights
            are kept.
        """
        self._validate_params()
        goes_on = self.warm_start and hasattr(self, "module_")
        X, y = self._check_X_y(X, y, reset=not goes_on)
        ids = check_task_ids(task_ids, X)
        self._check_compile(ids)
        X, y, sample_weight, ids = weighing(X, y, sample_weight, ids)
        if not goes_on:
            self._learn_symbols(X, y, task_ids=ids)
        rows, held_out = self._split(
            X, y, sample_weight, X_val, y_val, sample_weight_val, ids, task_ids_val
        )
        if not goes_on:
            self._find_symmetries(rows)
            self._start_training(self._space(), min(self.batch_size, len(rows)))
        given = {"sample_weight": sample_weight, "task_ids": ids}
        self._train(rows, held_out, self.max_epochs, X, y, **given)
        return self

    def partial_fit(
        self,
        X: Any,
        y: Any,
        classes: Any = None,
        sample_weight: Any = None,
        *,
        task_ids: Any = None,
    ) -> "TRMSolver":
        """Train for one epoch: start every row once, at a constant learning rate.

        Rows still in flight at the end go on with the next call. Nothing is validated,
        so ``early_stopping`` does not count.

        Parameters
        ----------
        X : array-like of shape (n, L) or (n, H, W), data frame, or list of n grids
            Questions, of the sizes and symbols of the first call.
        y : array-like of shape (n,), (n, L) or (n, H, W), or list of n grids
            Answers.
        classes : array-like of symbols, default=None
            All symbols that any ``y`` may hold; needed in the first call if it does
            not hold them all.
        sample_weight : array-like of shape (n,), default=None
            Weights of the rows in the loss.
        task_ids : array-like of shape (n,), default=None
            The task of each row, as in :meth:`fit`; the first call must know all.

        Returns
        -------
        self : TRMSolver
            Trained for one more epoch.
        """
        self._validate_params()
        goes_on = hasattr(self, "module_")
        X, y = self._check_X_y(X, y, reset=not goes_on)
        ids = check_task_ids(task_ids, X)
        self._check_compile(ids)
        if not goes_on:
            self._learn_symbols(X, y, classes, ids)
        rows = self._make_rows(X, y, sample_weight, task_ids=ids)
        if not goes_on:
            self._find_symmetries(rows)
            self._start_training(self._space(), self.batch_size)
        self._train(rows, None, None, X, y, sample_weight=sample_weight, task_ids=ids)
        return self

"""Tasks by their ids: numbers, views with rows of their own, tasks that come later."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from sktrm._base import BaseTRM
from sktrm._encoding import GridEncoder, Grids
from sktrm._slots import Rows, Slots, TaskSlots
from sktrm._tries import TaskTries, Tries
from sktrm.augmentation import Augmentation, TokenSpace, Transform, compose
from sktrm.nn import TinyRecursionModel
from sktrm.nn.tasks import TaskEmbedding, share_tasks, task_table

# Draws for each view that is wanted: some are alike where the symmetries are few.
_DRAWS_A_VIEW = 4
# At least, so that none of a square's eight symmetries is missed.
_DRAWS = 128


def check_task_ids(task_ids: Any, X: Grids, name: str = "task_ids") -> Any:
    """Return ids as an object array (n,), None if there are none."""
    if task_ids is None:
        return None
    ids = np.asarray(task_ids)
    if ids.ndim != 1 or len(ids) != len(X):
        raise ValueError(
            f"{name} must name the task of each of the {len(X)} rows, got an array of "
            f"shape {ids.shape}."
        )
    listed = ids.tolist()  # Python's types: they compare alike wherever they come from
    missing = [i for i, value in enumerate(listed) if value is None or value != value]
    if missing:
        raise ValueError(
            f"{name} must name the task of each row, got {listed[missing[0]]!r} at row "
            f"{missing[0]}."
        )
    if ids.dtype.kind == "f" and (ids % 1).any():
        raise ValueError(f"{name} must be whole numbers or names, got {ids.dtype}.")
    return _as_objects(listed)


def _as_objects(values: Sequence[Hashable]) -> np.ndarray:
    objects = np.empty(len(values), dtype=object)
    objects[:] = values
    return objects


class TaskLearning(BaseTRM):
    """Task embeddings of a :class:`~sktrm.TRMSolver`.

    Of a solver fitted with ``task_ids``, rows of tokens start with the number of the
    row of their task's embedding. The host class encodes grids and answers questions.
    """

    _encoder: GridEncoder
    _sizes: dict[str, Any]
    _check_X: Any
    _check_X_y: Any
    _make_rows: Any
    task_lr: float
    n_augmentations: int
    weight_decay: float
    rollout_noise: float
    symbols: Any

    def _check_compile(self, task_ids: Any) -> None:
        """Raise ValueError if tasks are to be trained compiled."""
        if task_ids is not None and self.compile is True:
            raise ValueError(
                "compile must be 'auto' or False with task_ids, got True: rows of the "
                "embedding are trained outside of the compiled step."
            )

    def _learn_tasks(self, task_ids: np.ndarray | None) -> None:
        """Give numbers to the tasks of the first fit, if there are any."""
        self.__dict__.pop("tasks_", None)
        if task_ids is None:
            return
        if self.symbols is not None:
            raise ValueError(
                "symbols must be None with task_ids: the equivariant network has no "
                "place for an embedding of the task."
            )
        self.tasks_ = _as_objects(list(dict.fromkeys(task_ids.tolist())))

    @property
    def _has_tasks(self) -> bool:
        return hasattr(self, "tasks_")

    def _with_tasks(
        self, inputs: np.ndarray, task_ids: Any, X: Grids, name: str = "task_ids"
    ) -> np.ndarray:
        """Put the number of its task's row before each row of tokens."""
        if not self._has_tasks:
            if task_ids is not None:
                raise ValueError(
                    f"{name} must be None: this solver was fitted without task_ids."
                )
            return inputs
        ids = check_task_ids(task_ids, X, name)
        if ids is None:
            raise ValueError(
                f"{name} must name the task of each row: this solver was fitted with "
                f"task_ids."
            )
        number_of = {task: number for number, task in enumerate(self.tasks_)}
        unseen = next((task for task in ids if task not in number_of), None)
        if unseen is not None:
            raise ValueError(
                f"{name} names the task {unseen!r}, which did not occur in fit: "
                f"adapt(X, y, task_ids) learns new tasks from their demonstrations."
            )
        numbers = np.array([number_of[task] for task in ids], dtype=np.int32)
        rows = numbers * self._sizes["n_views"]
        return np.concatenate((rows[:, None], inputs), axis=1, dtype=np.int32)

    def _task_sizes(
        self, sizes: dict[str, Any], space: TokenSpace, augmentations: Any
    ) -> dict[str, Any]:
        """Return the sizes of a model with tasks; draw their views."""
        self._views = self._draw_task_views(space, augmentations)
        assert self._views.tokens is not None
        return {
            **sizes,
            # The task's vector takes the first of them.
            "n_prefix_tokens": max(1, sizes["n_prefix_tokens"]),
            "n_tasks": len(self.tasks_),
            "n_views": len(self._views.tokens),
        }

    def _draw_task_views(
        self, space: TokenSpace, augmentations: Sequence[Augmentation]
    ) -> Transform:
        """Return the identity and up to ``n_augmentations`` different transforms."""
        still = Transform(
            torch.arange(self._encoder.length)[None],
            torch.arange(space.n_tokens)[None],
        )
        drawn = [a for a in augmentations if not a.needs_rows]
        if not drawn or not self.n_augmentations:
            return still
        n_drawn = max(_DRAWS_A_VIEW * self.n_augmentations, _DRAWS)
        generator = torch.Generator().manual_seed(self._seeds[3])
        some = compose(drawn, n_drawn, space, generator)
        both = [
            torch.cat((own, own.expand(n_drawn, -1) if other is None else other))
            for own, other in zip(still, some, strict=True)
            if own is not None
        ]
        _, first = np.unique(torch.cat(both, dim=1).numpy(), axis=0, return_index=True)
        kept = torch.as_tensor(np.sort(first)[: 1 + self.n_augmentations])
        return Transform(both[0][kept], both[1][kept])

    def _set_views(self, model: TinyRecursionModel) -> None:
        """Give a new model the views that were drawn for it."""
        embedding = model.embedding
        views = self.__dict__.get("_views")  # weights that are loaded bring their own
        if isinstance(embedding, TaskEmbedding) and views is not None:
            embedding.view_cells.copy_(views.cells)
            embedding.view_tokens.copy_(views.tokens)

    def _task_views(self, model: TinyRecursionModel, n_views: int) -> list[Transform]:
        """Return the first of the views that belong to tasks, each of one row."""
        embedding = model.embedding
        assert isinstance(embedding, TaskEmbedding)
        return [Transform()] + [
            Transform(
                embedding.view_cells[i : i + 1].long().cpu(),
                embedding.view_tokens[i : i + 1].long().cpu(),
            )
            for i in range(1, min(n_views, len(embedding.view_cells)))
        ]

    def _task_tries(self, n_rollouts: int, augment_votes: int) -> Tries:
        """Return tries whose views are those that were trained."""
        views = self._task_views(self.module_, augment_votes)
        if augment_votes > 1 and len(views) == 1:
            raise ValueError(
                f"augment_votes={augment_votes} needs transforms to look through: set "
                f"augmentation to symmetries of the tasks and n_augmentations above 0 "
                f"before fit, or augment_votes to 1."
            )
        return TaskTries(int(n_rollouts), self.rollout_noise, self._seeds[3], views)

    def _is_asynchronous(self) -> bool:
        # The rows of a table that a batch touches are found on the host.
        return super()._is_asynchronous() and not self._has_tasks

    def _make_slots(self, model: TinyRecursionModel, **parameters: Any) -> Slots:
        """Return slots that look at tasks through their views."""
        if not self._has_tasks:
            return super()._make_slots(model, **parameters)
        embedding = model.embedding
        assert isinstance(embedding, TaskEmbedding)
        views = Transform(embedding.view_cells, embedding.view_tokens)
        moves = [a for a in parameters.pop("augmentations") if a.needs_rows]
        return TaskSlots(views=views, augmentations=moves, **parameters)

    def _loop_parameters(self) -> dict[str, Any]:
        """Add the rate at which embeddings of tasks are trained."""
        return {
            **super()._loop_parameters(),
            "task_lr": self.task_lr,
            "task_weight_decay": self.weight_decay,
        }

    def adapt(self, X: Any, y: Any, task_ids: Any) -> Any:
        """Learn new tasks after ``fit``: their embeddings alone, the network is frozen.

        Trains for ``max_epochs`` or ``max_time`` with ``task_lr``, its schedule and
        warm-up. What the solver answers to other tasks stays the same. An embedding
        sets out from the mean of those known, or from its own if its task is known.

        Parameters
        ----------
        X : array-like of shape (n, H, W) or (n, L), or list of n grids
            Questions of the demonstrations, of the form and symbols of those in
            ``fit``.
        y : array-like of shape (n, H, W) or (n, L), or list of n grids
            Their answers.
        task_ids : array-like of shape (n,)
            The task of each row.

        Returns
        -------
        self : TRMSolver
            Knows these tasks, too: ``tasks_`` holds them.

        Raises
        ------
        ValueError
            If the solver was fitted without ``task_ids``, or data are not as described.
        """
        check_is_fitted(self)
        self._validate_params()
        if not self._has_tasks:
            raise ValueError(
                "adapt learns embeddings of tasks, but this solver was fitted without "
                "task_ids."
            )
        X, y = self._check_X_y(X, y, reset=False)
        ids = check_task_ids(task_ids, X)
        if ids is None:
            raise ValueError("task_ids must name the task of each row, got None.")
        check_consistent_length(X, y, ids)
        known = set(self.tasks_)
        new = [task for task in dict.fromkeys(ids.tolist()) if task not in known]
        # What cannot be encoded must leave no task behind.
        self._encoder.encode_X(X)
        self._encoder.encode_y(y)
        self._grow(new)
        try:
            self._train_tasks(self._make_rows(X, y, None, task_ids=ids))
        finally:
            self._share_table()
        return self

    def _grow(self, new: list[Hashable]) -> None:
        """Add rows for ``new`` tasks to every table, means of the others."""
        n_views = self._sizes["n_views"]
        for model in (self.net_.module_, self.net_.predictor_, self.module_):
            table = task_table(model)
            assert table is not None
            if len(table.weight) == len(self.tasks_) * n_views:
                by_task = table.weight.view(len(self.tasks_), n_views, -1)
                added = by_task.mean(dim=0).repeat(len(new), 1)
                table.weight = torch.cat((table.weight, added))
        self.tasks_ = _as_objects([*self.tasks_.tolist(), *new])
        self._sizes["n_tasks"] = len(self.tasks_)

    def _train_tasks(self, rows: Rows) -> None:
        """Train the table of ``module_``, everything else of which stays."""
        slots = self._make_slots(
            self.module_,
            n_slots=min(self.batch_size, len(rows)),
            n_supervision_steps=self.n_supervision_steps,
            halt_exploration=self.halt_exploration,
            augmentations=self._augmentations(self._space()),
            space=self._space(),
            generator=torch.Generator(self._device).manual_seed(self._seeds[1]),
        )
        asked = [p for p in self.module_.parameters() if p.requires_grad]
        for parameter in asked:
            parameter.requires_grad_(False)
        net = (
            self._make_net(self.module_, slots)
            .set_params(ema_decay=0.0, depth_curriculum=0.0)
            .initialize()
        )
        self._settle_memory(self.module_)
        net.begin(len(rows) * self.max_epochs)
        try:
            net.partial_fit(rows, epochs=self.max_epochs)
        finally:
            for parameter in asked:
                parameter.requires_grad_(True)
            self.module_.eval()

    def _share_table(self) -> None:
        """Let training go on, if it does, with what ``adapt`` has learned."""
        learned = task_table(self.module_)
        assert learned is not None
        trained = task_table(self.net_.module_)
        assert trained is not None
        trained.weight = learned.weight.clone()
        for average in self.net_.average_:
            share_tasks(average, self.net_.module_)

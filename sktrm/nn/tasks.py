"""Embeddings of tasks: one row for each task and view of it, trained row by row."""

from typing import Any

import torch
from torch import Tensor, nn

from sktrm.nn.recursion import Embedding, TinyRecursionModel


class TaskTable(nn.Module):
    """Rows that are looked up, and trained by the sign of their gradient.

    The gradient is that of the rows in the batch alone, however many there are: the
    weight is no parameter. Of rows seen this rarely, Adam would make the same steps.
    """

    weight: Tensor

    def __init__(self, n_rows: int, size: int) -> None:
        super().__init__()
        # Zeros, as in the authors' code: unseen rows say nothing.
        self.register_buffer("weight", torch.zeros(n_rows, size))
        # Of the batch's parts, one after the other: numbers of rows, and the rows.
        self._gathered: list[tuple[Tensor, Tensor]] = []

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to a step under way."""
        return {**self.__dict__, "_gathered": []}

    def forward(self, rows: Tensor) -> Tensor:
        """Return the rows (batch, size) of the numbers ``rows`` (batch,)."""
        rows = rows.long()
        values = self.weight[rows]
        if self.training and torch.is_grad_enabled():
            values.requires_grad_()
            self._gathered.append((rows, values))
        return values

    @torch.no_grad()
    def step(self, lr: float, weight_decay: float) -> None:
        """Move the rows of the last batch by ``lr`` against their gradient's sign."""
        gathered, self._gathered = self._gathered, []
        seen = [(rows, v.grad) for rows, v in gathered if v.grad is not None]
        if not seen:
            return
        rows, gradients = (torch.cat(parts) for parts in zip(*seen, strict=True))
        touched, place = torch.unique(rows, return_inverse=True)
        gradient = gradients.new_zeros(len(touched), gradients.shape[1])
        gradient.index_add_(0, place, gradients)
        decayed = self.weight[touched] * (1 - lr * weight_decay)
        self.weight[touched] = decayed - lr * gradient.sign()


class TaskEmbedding(Embedding):
    """Rows that start with the number of their task's row, then the question's tokens.

    It keeps the views of tasks, too: the permutations of cells and tokens that belong
    to the rows of a task's table, in their order.
    """

    view_cells: Tensor  # (n_views, length)
    view_tokens: Tensor  # (n_views, n_tokens)

    def _make_table(self, n_tasks: int, task_size: int) -> TaskTable:
        return TaskTable(n_tasks, task_size)

    def _look_up(self, task_ids: Tensor) -> Tensor:
        assert isinstance(self.task, TaskTable)
        found: Tensor = self.task(task_ids)
        return found

    def add_views(self, n_views: int, length: int, n_tokens: int) -> None:
        """Make room for ``n_views``, all of which change nothing so far."""
        for name, size in (("view_cells", length), ("view_tokens", n_tokens)):
            still = torch.arange(size, dtype=torch.int32).repeat(n_views, 1)
            self.register_buffer(name, still)

    def forward(self, inputs: Tensor, task_ids: Tensor | None = None) -> Tensor:
        """Embed ``inputs`` (batch, 1 + length)."""
        if task_ids is None:
            task_ids, inputs = inputs[:, 0], inputs[:, 1:]
        return super().forward(inputs, task_ids)


def build_task_model(
    *, n_tasks: int, n_views: int, n_prefix_tokens: int, **sizes: Any
) -> TinyRecursionModel:
    """Build the paper's form of model with a vector for each task and view.

    Parameters
    ----------
    n_tasks, n_views : int
        The table has a row for each view of each task.
    n_prefix_tokens : int
        Tokens before the grid, the first of which holds the task's vector.
    **sizes : optional
        Those of :meth:`TinyRecursionModel.build`, ``hidden_size`` among them.

    Returns
    -------
    model : TinyRecursionModel
        A row of its inputs starts with the row of its task in the table.
    """
    model = TinyRecursionModel.build(
        n_tasks=n_tasks * n_views,
        task_size=sizes["hidden_size"],
        n_prefix_tokens=n_prefix_tokens,
        embedding_class=TaskEmbedding,
        **sizes,
    )
    embedding = model.embedding
    assert isinstance(embedding, TaskEmbedding)
    embedding.add_views(n_views, sizes["length"], sizes["n_tokens"])
    return model


def task_table(model: nn.Module) -> TaskTable | None:
    """Return the table of a model's tasks, None if it has none."""
    table = getattr(getattr(model, "embedding", None), "task", None)
    return table if isinstance(table, TaskTable) else None


def share_tasks(model: nn.Module, owner: nn.Module) -> None:
    """Let ``model`` use the table and the views of ``owner``: there is no copy."""
    if task_table(model) is not None:
        for ours, theirs in zip(
            model.embedding.modules(),  # type: ignore[union-attr]  # has a table
            owner.embedding.modules(),  # type: ignore[union-attr]  # has a table
            strict=True,
        ):
            for name, buffer in theirs.named_buffers(recurse=False):
                ours.register_buffer(name, buffer)

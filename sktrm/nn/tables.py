"""Rows of tables: one token for each column, one for the answer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sktrm.nn.blocks import Linear, TinyNetwork
from sktrm.nn.recursion import HaltHead, TinyRecursionModel

_MULTIPLE = 32  # of the inner widths


class TableEmbedding(nn.Module):
    """Columns of a row to ``x``: who a column is plus what stands in it.

    A number comes as its position among the column's ``n_bins`` + 1 knots and is
    written in unary: one entry for each bin, 1 below the number, 0 above it and a share
    in its own bin (the piecewise-linear encoding of Gorishniy et al., arXiv
    2203.05556). A category comes as a code. NaN is a missing number, a code below zero
    an unknown category, which leaves the column's identity alone.
    """

    def __init__(
        self,
        n_bins: Sequence[int],
        n_categories: Sequence[int],
        hidden_size: int,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_numeric = len(n_bins)
        n_columns = len(n_bins) + len(n_categories)
        self.state_shape = (1 + n_columns, hidden_size)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        # Of the answer's token first; like y and z, all of them have unit size.
        self.identity = nn.Parameter(normal(1 + n_columns, hidden_size))
        most = max(n_bins, default=0)
        counts = torch.tensor(n_bins, dtype=torch.float32).clamp(min=1)
        # Over all bins of its column a number wanders as far as one category.
        self.bins = nn.Parameter(
            normal(len(n_bins), most, hidden_size) / counts.sqrt()[:, None, None]
        )
        self.missing = nn.Parameter(normal(len(n_bins), hidden_size))
        self.categories = nn.Parameter(normal(sum(n_categories), hidden_size))
        sizes = torch.tensor([0, *n_categories][: len(n_categories)])
        self.register_buffer("first_category", sizes.cumsum(0), persistent=False)
        self.register_buffer("bin_starts", torch.arange(most), persistent=False)

    first_category: Tensor
    bin_starts: Tensor

    def forward(self, inputs: Tensor, task_ids: Tensor | None = None) -> Tensor:
        """Embed rows (batch, numbers + categories) as (batch, 1 + columns, hidden)."""
        numbers, codes = inputs.tensor_split([self.n_numeric], dim=1)
        values = torch.cat((self._numbers(numbers), self._categories(codes.long())), 1)
        answer = self.identity[:1].expand(len(inputs), 1, -1)
        return torch.cat((answer, self.identity[1:] + values), dim=1)

    def _numbers(self, positions: Tensor) -> Tensor:
        """Encode positions among knots, (batch, numbers)."""
        missing = positions.isnan()
        unary = (positions.nan_to_num()[..., None] - self.bin_starts).clamp(0, 1)
        # For each column, (batch, bins) @ (bins, hidden).
        values = torch.einsum("bcu,cuh->bch", unary, self.bins)
        return torch.where(missing[..., None], self.missing, values)

    def _categories(self, codes: Tensor) -> Tensor:
        """Look up codes of categories, (batch, categories)."""
        if not codes.shape[1]:
            return self.categories.new_zeros(*codes.shape, self.categories.shape[-1])
        values = self.categories[codes.clamp(min=0) + self.first_category]
        return torch.where((codes < 0)[..., None], 0.0, values)


class ClassHead(nn.Module):
    """Logits of the classes, from the answer's token."""

    def __init__(
        self,
        hidden_size: int,
        n_classes: int,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.linear = Linear(hidden_size, n_classes, generator=generator)

    def forward(self, y: Tensor) -> Tensor:
        """Read ``y`` (batch, 1 + columns, hidden_size); return (batch, 1, classes)."""
        logits: Tensor = self.linear(y[:, :1])
        return logits


def build_table_model(
    *,
    n_bins: Sequence[int],
    n_categories: Sequence[int],
    n_classes: int,
    hidden_size: int,
    n_layers: int = 2,
    n_heads: int = 4,
    expansion: float = 4.0,
    mixer: str = "attention",
    n_latent_recursions: int = 6,
    n_deep_recursions: int = 3,
    generator: torch.Generator | None = None,
) -> TinyRecursionModel:
    """Build a model for numbers among ``n_bins`` and codes of ``n_categories``."""
    embedding = TableEmbedding(n_bins, n_categories, hidden_size, generator)
    return TinyRecursionModel(
        embedding,
        TinyNetwork.build(
            length=embedding.state_shape[0],
            hidden_size=hidden_size,
            n_layers=n_layers,
            n_heads=n_heads,
            expansion=expansion,
            mixer=mixer,
            # A column has no place among the others; it knows its identity.
            positions="none",
            # Rounded up to 256 they would be wider than a table's row is long.
            multiple=_MULTIPLE,
            generator=generator,
        ),
        ClassHead(hidden_size, n_classes, generator),
        HaltHead(hidden_size, generator),
        hidden_size=hidden_size,
        n_latent_recursions=n_latent_recursions,
        n_deep_recursions=n_deep_recursions,
        generator=generator,
    )

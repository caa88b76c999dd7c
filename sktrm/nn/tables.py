"""Rows of tables: one token for each column, one for the answer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sktrm.nn.blocks import Linear, TinyNetwork
from sktrm.nn.recursion import HaltHead, TinyRecursionModel

_MULTIPLE = 32  # of the inner widths


class NumberEmbedding(nn.Module):
    """Numbers as vectors along a path through the knots of their column.

    A number comes as its position among the knots and is written in unary: one entry
    for each bin between two knots, 1 below the number, 0 above it and a part in its own
    bin (the piecewise-linear encoding of Gorishniy et al., arXiv 2203.05556). NaN is a
    missing number.

    ``shares`` are the parts of a column's range that its bins take. The path is a
    straight line that each bin bends, ``bend`` times as much as it would move alone:
    what few rows do not tell apart stays close together. In a column whose shares are
    zero there is no line, and each bin moves alone.
    """

    shares: Tensor
    bend: Tensor
    line_of: Tensor
    bin_starts: Tensor

    def __init__(
        self,
        shares: Sequence[Sequence[float]],
        bend: float,
        hidden_size: int,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        counts = torch.tensor([len(of_column) for of_column in shares])
        n_bins = max(map(len, shares), default=0)
        padded = torch.zeros(len(shares), n_bins, 1)
        for column, of_column in zip(padded, shares, strict=True):
            column[: len(of_column), 0] = torch.tensor(of_column)
        lined = padded.sum((1, 2)) > 0

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, hidden_size, generator=generator)

        # Over all bins of its column a number wanders as far as one category.
        root = counts.clamp(min=1).sqrt()[:, None, None]
        self.bins = nn.Parameter(normal(len(shares), n_bins) / root)
        self.line: nn.Parameter | None = None
        if lined.any():
            self.line = nn.Parameter(normal(int(lined.sum()), 1))
        self.missing = nn.Parameter(normal(len(shares)))
        bends = torch.where(lined, bend, 1.0)[:, None, None]
        self.register_buffer("shares", padded, persistent=False)
        self.register_buffer("bend", bends, persistent=False)
        # That of a column without one is multiplied by no share.
        line_of = (lined.cumsum(0) - 1).clamp(min=0)
        self.register_buffer("line_of", line_of, persistent=False)
        self.register_buffer("bin_starts", torch.arange(n_bins), persistent=False)

    def forward(self, positions: Tensor) -> Tensor:
        """Embed positions (batch, numbers) as (batch, numbers, hidden)."""
        unary = (positions.nan_to_num()[..., None] - self.bin_starts).clamp(0, 1)
        path: Tensor = self.bins
        if self.line is not None:
            path = self.shares * self.line[self.line_of] + self.bend * path
        # For each column, (batch, bins) @ (bins, hidden).
        values = torch.einsum("bcu,cuh->bch", unary, path)
        return torch.where(positions.isnan()[..., None], self.missing, values)


class CategoryEmbedding(nn.Module):
    """Codes of categories as vectors; a code below zero is an unknown one, and zero."""

    first: Tensor

    def __init__(
        self,
        n_categories: Sequence[int],
        hidden_size: int,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.vectors = nn.Parameter(
            torch.randn(sum(n_categories), hidden_size, generator=generator)
        )
        sizes = torch.tensor([0, *n_categories][: len(n_categories)])
        self.register_buffer("first", sizes.cumsum(0), persistent=False)

    def forward(self, codes: Tensor) -> Tensor:
        """Embed codes (batch, categories) as (batch, categories, hidden)."""
        if not codes.shape[1]:
            return self.vectors.new_zeros(*codes.shape, self.vectors.shape[-1])
        values = self.vectors[codes.clamp(min=0) + self.first]
        return torch.where((codes < 0)[..., None], 0.0, values)


class TableEmbedding(nn.Module):
    """Columns of a row to ``x``: who a column is plus what stands in it.

    Numbers come as positions among knots (:class:`NumberEmbedding`), then categories as
    codes (:class:`CategoryEmbedding`). Of what is unknown the identity alone is left.
    """

    def __init__(
        self,
        shares: Sequence[Sequence[float]],
        n_categories: Sequence[int],
        hidden_size: int,
        *,
        bend: float,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_numeric = len(shares)
        self.state_shape = (1 + len(shares) + len(n_categories), hidden_size)
        # Of the answer's token first; like y and z, all of them have unit size.
        self.identity = nn.Parameter(torch.randn(self.state_shape, generator=generator))
        self.numbers = NumberEmbedding(shares, bend, hidden_size, generator)
        self.categories = CategoryEmbedding(n_categories, hidden_size, generator)

    def forward(self, inputs: Tensor, task_ids: Tensor | None = None) -> Tensor:
        """Embed rows (batch, numbers + categories) as (batch, 1 + columns, hidden)."""
        numbers, codes = inputs.tensor_split([self.n_numeric], dim=1)
        values = torch.cat((self.numbers(numbers), self.categories(codes.long())), 1)
        answer = self.identity[:1].expand(len(inputs), 1, -1)
        return torch.cat((answer, self.identity[1:] + values), dim=1)


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
    shares: Sequence[Sequence[float]],
    bend: float,
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
    """Build a model of tables: a token for each column, and one for the answer.

    Its inputs are rows (batch, n_columns): of numbers positions among their knots, then
    of categories codes; NaN and negative codes are what is missing and unknown.

    Parameters
    ----------
    shares : sequence of sequences of float
        For each column of numbers, what part of its range each bin between two knots
        takes; zeros where bins move alone.
    bend : float
        How much a bin bends the line of a column whose shares are not zero, in units
        of what it moves alone.
    n_categories : sequence of int
        Codes of each column of categories.
    n_classes : int
        Labels.
    hidden_size : int
        Width of the network.
    n_layers, n_heads, expansion, mixer : optional
        Of the network, as in :class:`sktrm.TRMClassifier`, where "auto" is no mixer.
    n_latent_recursions, n_deep_recursions : int, default=6, 3
        ``n`` and ``T`` of arXiv:2510.04871.
    generator : torch.Generator, default=None
        Draws all weights; None: torch's global one does.

    Returns
    -------
    model : TinyRecursionModel
        Its answer logits are (batch, 1, n_classes).
    """
    embedding = TableEmbedding(
        shares, n_categories, hidden_size, bend=bend, generator=generator
    )
    return TinyRecursionModel(
        embedding,
        TinyNetwork.build(
            length=embedding.state_shape[0],
            hidden_size=hidden_size,
            n_layers=n_layers,
            n_heads=n_heads,
            expansion=expansion,
            mixer=mixer,
            positions="none",  # of columns; each knows its identity
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

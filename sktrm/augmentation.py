"""Symmetries of puzzles, applied to batches of tokens on the device.

An augmentation draws one :class:`Transform` per row. ``TRMSolver(augmentation=...)``
draws a new one each time a row enters training and applies it to question and answer
alike. Symbol permutation and the Sudoku group make 1,000 puzzles last: without them the
paper's network memorises its training set.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "Augmentation",
    "Dihedral",
    "SudokuGroup",
    "SymbolPermutation",
    "TokenSpace",
    "Transform",
]


class TokenSpace(NamedTuple):
    """What an augmentation may know of a task.

    Parameters
    ----------
    canvas : tuple of int or None
        Shape that all rows of ``X`` and ``y`` share, None if there is no such shape.
    n_tokens : int
        Number of tokens; token 0 stands for "no cell here".
    token_of : mapping of symbol to int
        Token of each symbol of ``X`` and ``y``.
    answer_tokens : tuple of int
        Tokens of the symbols that occur in ``y``.
    """

    canvas: tuple[int, ...] | None
    n_tokens: int
    token_of: Mapping[Hashable, int]
    answer_tokens: tuple[int, ...]


class Transform(NamedTuple):
    """A permutation of cells and one of tokens for each row of a batch.

    Parameters
    ----------
    cells : tensor of shape (rows, length) or None
        Cell ``i`` of the transformed row takes its token from cell ``cells[:, i]``.
    tokens : tensor of shape (rows, n_tokens) or None
        Token ``t`` becomes ``tokens[:, t]``.
    """

    cells: Tensor | None = None
    tokens: Tensor | None = None

    def __call__(self, batch: Tensor) -> Tensor:
        """Transform ``batch`` (rows, length); negative labels stay what they are."""
        if self.cells is not None:
            batch = batch.gather(1, self.cells)
        if self.tokens is not None:
            mapped = self.tokens.gather(1, batch.clamp(min=0).long()).to(batch.dtype)
            batch = torch.where(batch < 0, batch, mapped)
        return batch

    def inverse(self) -> "Transform":
        """Return the transform that undoes this one."""
        return Transform(*(None if p is None else p.argsort(dim=1) for p in self))

    def is_identity(self) -> bool:
        """Tell whether this transform was made to do nothing."""
        return self.cells is None and self.tokens is None

    def then(self, other: "Transform") -> "Transform":
        """Return the transform that does this one first, then ``other``."""
        return Transform(
            _then(self.cells, other.cells, reverse=True),
            _then(self.tokens, other.tokens, reverse=False),
        )

    def expand(self, n_rows: int) -> "Transform":
        """Return this transform, of one row, for each of ``n_rows`` rows."""
        return Transform(*(None if p is None else p.expand(n_rows, -1) for p in self))


def _then(
    first: Tensor | None, second: Tensor | None, *, reverse: bool
) -> Tensor | None:
    """Compose two permutations of each row; None is the identity."""
    if first is None or second is None:
        return second if first is None else first
    return first.gather(1, second) if reverse else second.gather(1, first)


class Augmentation:
    """Base of all augmentations; subclass it to write your own.

    A subclass implements :meth:`draw` and, if it does not fit every task,
    :meth:`check`.
    """

    def check(self, space: TokenSpace) -> None:
        """Raise ValueError if this augmentation does not fit the task's ``space``."""

    def draw(
        self, n_rows: int, space: TokenSpace, generator: torch.Generator
    ) -> Transform:
        """Draw one transform for each of ``n_rows`` rows, on ``generator``'s device."""
        raise NotImplementedError(f"{type(self).__name__} must implement draw().")


def compose(
    augmentations: Sequence[Augmentation],
    n_rows: int,
    space: TokenSpace,
    generator: torch.Generator,
) -> Transform:
    """Draw transforms that apply all ``augmentations``, one after the other."""
    transform = Transform()
    for augmentation in augmentations:
        transform = transform.then(augmentation.draw(n_rows, space, generator))
    return transform


def _permutations(*shape: int, generator: torch.Generator) -> Tensor:
    """Draw random permutations along the last axis of ``shape``."""
    noise = torch.rand(*shape, generator=generator, device=generator.device)
    return noise.argsort(dim=-1)


@dataclass(frozen=True)
class SymbolPermutation(Augmentation):
    """Permute interchangeable symbols, such as the digits of a Sudoku.

    Parameters
    ----------
    symbols : sequence of symbols, default=None
        The interchangeable symbols, as they stand in ``X`` and ``y``. None takes all
        symbols that occur in ``y``: a Sudoku's digits, but not the blank.
    """

    symbols: Sequence[object] | None = None

    def check(self, space: TokenSpace) -> None:
        """Raise ValueError if a symbol does not occur in the task."""
        for symbol in self.symbols if self.symbols is not None else ():
            if symbol not in space.token_of:
                raise ValueError(
                    f"SymbolPermutation names the symbol {symbol!r}, which occurs "
                    f"neither in X nor in y."
                )

    def draw(
        self, n_rows: int, space: TokenSpace, generator: torch.Generator
    ) -> Transform:
        """Draw one permutation of the symbols for each row."""
        chosen = space.answer_tokens
        if self.symbols is not None:
            chosen = tuple(space.token_of[symbol] for symbol in self.symbols)
        tokens = torch.tensor(chosen, device=generator.device)
        mapping = torch.arange(space.n_tokens, device=generator.device).repeat(
            n_rows, 1
        )
        order = _permutations(n_rows, len(chosen), generator=generator)
        mapping[:, tokens] = tokens[order]
        return Transform(tokens=mapping)


def _one_grid(space: TokenSpace, name: str) -> tuple[int, ...]:
    """Return the shape that all grids of the task share, or raise ValueError."""
    if space.canvas is None:
        raise ValueError(
            f"{name} moves cells, so all grids of X and y must have one shape."
        )
    return space.canvas


@dataclass(frozen=True)
class Dihedral(Augmentation):
    """Rotate and mirror grids: 8 symmetries of a square, 4 of a rectangle.

    Grids must come as arrays (n, H, W) of one size. For mazes with one labelled path
    among many this hurts (Maze-Hard: exact match 85 to 10), so measure before you use
    it.
    """

    def check(self, space: TokenSpace) -> None:
        """Raise ValueError if the rows are no grids of one size."""
        if len(_one_grid(space, "Dihedral")) != 2:
            raise ValueError("Dihedral needs grids, arrays of shape (n, H, W).")

    def draw(
        self, n_rows: int, space: TokenSpace, generator: torch.Generator
    ) -> Transform:
        """Draw one rotation or reflection for each row."""
        height, width = _one_grid(space, "Dihedral")
        cells = torch.arange(height * width, device=generator.device)
        grid = cells.view(height, width)
        turns = [grid, grid.rot90(2)]
        if height == width:
            turns += [grid.rot90(1), grid.rot90(3)]
        symmetries = torch.stack(
            [g.reshape(-1) for turned in turns for g in (turned, turned.flip(1))]
        )
        choice = torch.randint(
            len(symmetries), (n_rows,), generator=generator, device=generator.device
        )
        return Transform(cells=symmetries[choice])


@dataclass(frozen=True)
class SudokuGroup(Augmentation):
    """Apply the symmetries of a Sudoku: digits, bands, rows, stacks, columns.

    With square boxes the grid is also transposed in half of the draws.

    Parameters
    ----------
    box : (int, int), default=(3, 3)
        Height and width of a box. The grid has ``box[0] * box[1]`` rows and columns.
    symbols : sequence of symbols, default=None
        The digits; None takes all symbols that occur in ``y``.
    """

    box: tuple[int, int] = (3, 3)
    symbols: Sequence[object] | None = None

    def check(self, space: TokenSpace) -> None:
        """Raise ValueError if the grids have another size than ``box`` implies."""
        SymbolPermutation(self.symbols).check(space)
        canvas = _one_grid(space, "SudokuGroup")
        side = self.box[0] * self.box[1]
        if canvas not in ((side, side), (side * side,)):
            raise ValueError(
                f"SudokuGroup(box={self.box}) needs grids of {side} x {side} cells, "
                f"got rows of shape {canvas}."
            )

    def draw(
        self, n_rows: int, space: TokenSpace, generator: torch.Generator
    ) -> Transform:
        """Draw one element of the group for each row."""
        height, width = self.box
        side = height * width
        rows = _grouped_permutations(n_rows, width, height, generator)
        columns = _grouped_permutations(n_rows, height, width, generator)
        cells = rows[:, :, None] * side + columns[:, None, :]  # (n_rows, side, side)
        if height == width:
            flip = torch.rand(n_rows, generator=generator, device=generator.device)
            cells = torch.where(flip[:, None, None] < 0.5, cells, cells.mT)
        digits = SymbolPermutation(self.symbols).draw(n_rows, space, generator)
        return Transform(cells=cells.flatten(1), tokens=digits.tokens)


def _grouped_permutations(
    n_rows: int, n_groups: int, group_size: int, generator: torch.Generator
) -> Tensor:
    """Permute groups of lines, and the lines within each; (n_rows, lines)."""
    groups = _permutations(n_rows, n_groups, generator=generator)
    within = _permutations(n_rows, n_groups, group_size, generator=generator)
    return (groups[:, :, None] * group_size + within).flatten(1)


def find_symmetries(
    inputs: np.ndarray, labels: np.ndarray, space: TokenSpace
) -> list[Augmentation]:
    """Return the Sudoku group if all rows are Sudokus or Latin squares to complete.

    ``inputs`` and ``labels`` are tokens (n, length). Every answer must hold each symbol
    once in each row, column and, if there are any, box, and must keep the symbols given
    in its question.
    """
    side = math.isqrt(inputs.shape[1])
    if space.canvas not in ((side, side), (side * side,)) or labels.shape[1] != side**2:
        return []
    symbols = np.array(sorted(space.answer_tokens))
    given = np.isin(inputs, symbols)
    if len(symbols) != side or side < 2 or (given & (inputs != labels)).any():
        return []
    grids = labels.reshape(-1, side, side)
    boxes = [(h, side // h) for h in range(side // 2, 1, -1) if side % h == 0]
    # Squarest boxes first; a box that is a row makes a Latin square.
    boxes.sort(key=lambda box: (abs(box[0] - box[1]), box))
    for height, width in (*boxes, (1, side)):
        cut = grids.reshape(-1, side // height, height, side // width, width)
        units = (grids, grids.swapaxes(1, 2), cut.swapaxes(2, 3).reshape(grids.shape))
        if all((np.sort(unit, axis=2) == symbols).all() for unit in units):
            return [SudokuGroup((height, width))]
    return []

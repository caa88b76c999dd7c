"""Symmetries of puzzles, applied to batches of tokens on the device.

An augmentation draws one :class:`Transform` per row. ``TRMSolver(augmentation=...)``
draws a new one each time a row enters training and applies it to question and answer
alike. Symbol permutation and the Sudoku group make 1,000 puzzles last: without them the
paper's network memorises its training set.
"""

import functools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

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
    "Translation",
]


class TokenSpace(NamedTuple):
    """What an augmentation may know of a task.

    Parameters
    ----------
    canvas : tuple of int or None
        Shape that all rows of ``X`` and ``y`` share or, if they are ``ragged``, of the
        canvas at whose upper left they lie; None if there is no such shape.
    n_tokens : int
        Number of tokens; token 0 stands for "no cell here".
    token_of : mapping of symbol to int
        Token of each symbol of ``X`` and ``y``.
    answer_tokens : tuple of int
        Tokens of the symbols that occur in ``y``.
    ragged : bool, default=False
        Whether grids differ in size: the cells around them hold token 0.
    """

    canvas: tuple[int, ...] | None
    n_tokens: int
    token_of: Mapping[Hashable, int]
    answer_tokens: tuple[int, ...]
    ragged: bool = False


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
    :meth:`check`. One that must see the rows first, such as :class:`Translation`,
    implements :meth:`draw_for` instead and sets ``needs_rows``.
    """

    # Whether draws depend on the rows; if so, views for voting are not drawn from it.
    needs_rows: ClassVar[bool] = False

    def check(self, space: TokenSpace) -> None:
        """Raise ValueError if this augmentation does not fit the task's ``space``."""

    def draw(
        self, n_rows: int, space: TokenSpace, generator: torch.Generator
    ) -> Transform:
        """Draw one transform for each of ``n_rows`` rows, on ``generator``'s device."""
        raise NotImplementedError(f"{type(self).__name__} must implement draw().")

    def draw_for(
        self,
        inputs: Tensor,
        labels: Tensor | None,
        space: TokenSpace,
        generator: torch.Generator,
    ) -> Transform:
        """Draw one transform for each row of ``inputs`` (rows, length).

        ``labels`` (rows, length) will be transformed alike, if there are any.
        """
        return self.draw(len(inputs), space, generator)


def augment(
    augmentations: Sequence[Augmentation],
    inputs: Tensor,
    labels: Tensor,
    space: TokenSpace,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Transform questions and their answers alike by all ``augmentations`` in turn."""
    for augmentation in augmentations:
        transform = augmentation.draw_for(inputs, labels, space, generator)
        inputs, labels = transform(inputs), transform(labels)
    return inputs, labels


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


@functools.lru_cache(maxsize=16)
def _tokens_on(device: torch.device, tokens: tuple[int, ...]) -> Tensor:
    """Return ``tokens`` on the device; sending them each step would wait for it."""
    return torch.tensor(tokens, device=device)


def _permutations(*shape: int, generator: torch.Generator) -> Tensor:
    """Draw random permutations along the last axis of ``shape``."""
    noise = torch.rand(*shape, generator=generator, device=generator.device)
    return noise.argsort(dim=-1)


@dataclass(frozen=True)
class SymbolPermutation(Augmentation):
    """Permute interchangeable symbols: a Sudoku's digits, a picture's colours.

    Parameters
    ----------
    symbols : sequence of symbols, default=None
        The interchangeable symbols, as they stand in ``X`` and ``y``. None takes all
        symbols that occur in ``y``: a Sudoku's digits, but not the blank. For ARC tasks
        name the colours, ``range(1, 10)``: the background, 0, keeps its part. Those
        that do not occur in ``fit`` are left out; at least one must occur.
    """

    symbols: Sequence[object] | None = None

    def check(self, space: TokenSpace) -> None:
        """Raise ValueError if none of the symbols occurs in the task."""
        if not self._tokens(space):
            raise ValueError(
                f"SymbolPermutation names symbols of which none occurs in X or y: "
                f"{self.symbols!r}."
            )

    def draw(
        self, n_rows: int, space: TokenSpace, generator: torch.Generator
    ) -> Transform:
        """Draw one permutation of the symbols for each row."""
        chosen = self._tokens(space)
        tokens = _tokens_on(generator.device, chosen)
        mapping = torch.arange(space.n_tokens, device=generator.device).repeat(
            n_rows, 1
        )
        order = _permutations(n_rows, len(chosen), generator=generator)
        mapping[:, tokens] = tokens[order]
        return Transform(tokens=mapping)

    def _tokens(self, space: TokenSpace) -> tuple[int, ...]:
        """Return the tokens of the symbols that occur."""
        if self.symbols is None:
            return tuple(space.answer_tokens)
        known = space.token_of
        return tuple(known[symbol] for symbol in self.symbols if symbol in known)


def _one_grid(space: TokenSpace, name: str) -> tuple[int, ...]:
    """Return the shape that all grids of the task share, or raise ValueError."""
    if space.canvas is None:
        raise ValueError(f"{name} moves cells, so X and y must be grids on one canvas.")
    return space.canvas


def _check_two_sides(space: TokenSpace, name: str) -> None:
    """Raise ValueError if the rows of the task are no grids."""
    if len(_one_grid(space, name)) != 2:
        raise ValueError(
            f"{name} needs grids, arrays of shape (n, H, W) or lists of grids."
        )


@dataclass(frozen=True)
class Dihedral(Augmentation):
    """Rotate and mirror grids: 8 symmetries of a square, 4 of a rectangle.

    Grids of different sizes are turned with the canvas that holds the largest one. For
    mazes with one labelled path among many this hurts (Maze-Hard: exact match 85 to
    10), so measure before you use it.
    """

    def check(self, space: TokenSpace) -> None:
        """Raise ValueError if the rows are no grids."""
        _check_two_sides(space, "Dihedral")

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
class Translation(Augmentation):
    """Move each grid to a random place on its canvas, its answer with it.

    Use it where grids lie on a larger canvas and their place there means nothing, as in
    the ARC pipeline of the paper. All places at which both question and answer still
    fit are equally likely. Cells leave the canvas on no side: what is moved around its
    edge is empty, and the inverse brings it back.

    Voting (``augment_votes``) sees no translations, as in the authors' code: its views
    are the same for all rows, while the places of a grid depend on its size.

    Parameters
    ----------
    outside : symbol, default=None
        The symbol around the grids, if ``X`` and ``y`` are arrays in which they lie.
        None stands for the cells that are added to lists of grids of different sizes.
    """

    outside: Hashable = None
    needs_rows: ClassVar[bool] = True

    def check(self, space: TokenSpace) -> None:
        """Raise ValueError if the rows are no grids, or fill their canvas."""
        _check_two_sides(space, "Translation")
        if self.outside is None and not space.ragged:
            raise ValueError(
                "Translation needs room to move grids: lists of grids of different "
                "sizes, or arrays and the symbol around the grids as outside."
            )
        if self.outside is not None and self.outside not in space.token_of:
            raise ValueError(
                f"outside must be a symbol of X or y, got {self.outside!r}, which "
                f"occurs in neither."
            )

    def draw_for(
        self,
        inputs: Tensor,
        labels: Tensor | None,
        space: TokenSpace,
        generator: torch.Generator,
    ) -> Transform:
        """Draw one translation for each row, among those that keep it on the canvas."""
        height, width = _one_grid(space, "Translation")
        outside = 0 if self.outside is None else space.token_of[self.outside]
        taken = inputs != outside
        if labels is not None:  # negative labels are not scored: no cells of a grid
            taken = taken | ((labels != outside) & (labels >= 0))
        taken = taken.reshape(-1, height, width)
        rows = _shifted(taken.any(dim=2), generator)
        columns = _shifted(taken.any(dim=1), generator)
        cells = rows[:, :, None] * width + columns[:, None, :]
        return Transform(cells=cells.flatten(1))


def _shifted(taken: Tensor, generator: torch.Generator) -> Tensor:
    """Shift lines (rows, lines) so that the ``taken`` ones stay; whence each comes."""
    n_rows, n_lines = taken.shape
    lines = torch.arange(n_lines, device=taken.device)
    before = torch.where(taken, lines, n_lines).amin(dim=1)
    after = n_lines - 1 - torch.where(taken, lines, -1).amax(dim=1)
    # No line taken: nothing to move.
    room = torch.where(taken.any(dim=1), before + after, 0)
    before = before.clamp(max=room)
    uniform = torch.rand(n_rows, generator=generator, device=taken.device)
    # A product may be rounded up to the next whole number.
    place = (uniform * (room + 1)).long().clamp(max=room)
    return (lines - (place - before)[:, None]) % n_lines


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
        if space.ragged or canvas not in ((side, side), (side * side,)):
            raise ValueError(
                f"SudokuGroup(box={self.box}) needs grids of {side} x {side} cells, "
                f"got {'grids of different sizes' if space.ragged else canvas}."
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
    in its question, where all other cells must look alike.
    """
    side = math.isqrt(inputs.shape[1])
    square = space.canvas in ((side, side), (side * side,)) and not space.ragged
    if not square or labels.shape[1] != side**2:
        return []
    symbols = np.array(sorted(space.answer_tokens))
    given = np.isin(inputs, symbols)
    if len(symbols) != side or side < 2 or (given & (inputs != labels)).any():
        return []
    # Two kinds of empty cells say something, of which the group knows nothing.
    if len(np.unique(inputs[~given])) > 1:
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

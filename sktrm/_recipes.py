"""Settings by name: the published ones of the paper, and small ones for a CPU.

docs/recipes.md gives the source of each value; a test holds it against these dicts.
"""

from collections.abc import Mapping
from typing import Any, Self

from sktrm.augmentation import Dihedral, SudokuGroup, SymbolPermutation, Translation

# The background of an ARC grid, 0, is no colour among others.
_ARC_SYMMETRIES = (Dihedral(), SymbolPermutation(range(1, 10)), Translation())

_PAPER = {
    "hidden_size": 512,
    "n_layers": 2,
    "n_heads": 8,
    "expansion": 4.0,
    "n_prefix_tokens": 16,
    "n_deep_recursions": 3,
    "n_supervision_steps": 16,
    "loss": "stablemax",
    "lr": 1e-4,
    "lr_schedule": "constant",
    "lr_warmup_steps": 2000,
    "max_grad_norm": None,
    "ema_decay": 0.999,
    "batch_size": 768,
    "halt_exploration": 0.1,
    "max_steps": 16,
    "halt_threshold": 1.0,
    "dtype": "bfloat16",
}
_PAPER_SUDOKU = {
    **_PAPER,
    "mixer": "mlp",
    "positions": "none",
    "n_latent_recursions": 6,
    "weight_decay": 1.0,
    "max_epochs": 50_000,
    "augmentation": SudokuGroup((3, 3)),
}
_PAPER_MAZE = {
    **_PAPER,
    "mixer": "attention",
    "positions": "rope",
    "n_latent_recursions": 4,
    "weight_decay": 1.0,
    "max_epochs": 50_000,
    "augmentation": None,
}
_PAPER_ARC = {
    **_PAPER,
    "mixer": "attention",
    "positions": "rope",
    "n_latent_recursions": 4,
    "weight_decay": 0.1,
    "max_epochs": 100_000,
    "augmentation": _ARC_SYMMETRIES,
    "canvas": (30, 30),
    "n_augmentations": 1000,
    "task_lr": 0.01,
}
_SMALL_SUDOKU = {"symbols": "interchangeable"}
# What is free in a question may be path in the answer, and nothing else changes.
_SMALL_MAZE = {
    "symbols": (" ", "o"),
    "mixer": "convolution",
    "n_heads": 8,
    "n_latent_recursions": 1,
    "n_supervision_steps": 8,
    "batch_size": 16,
    "n_rollouts": 1,
    "augmentation": None,
}
_SMALL_ARC = {
    "hidden_size": 64,
    "mixer": "attention",
    "n_latent_recursions": 1,
    "n_deep_recursions": 1,
    "n_supervision_steps": 2,
    "lr": 4e-3,
    # All that there are, but the one that changes nothing.
    "augmentation": (Dihedral(),),
    "canvas": (30, 30),
    "n_augmentations": 7,
}

RECIPES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "sudoku-extreme": {"paper": _PAPER_SUDOKU, "small": _SMALL_SUDOKU},
    "maze-hard": {"paper": _PAPER_MAZE, "small": _SMALL_MAZE},
    "arc-agi-1": {"paper": _PAPER_ARC, "small": _SMALL_ARC},
    "arc-agi-2": {"paper": _PAPER_ARC, "small": _SMALL_ARC},
}


def recipe(name: str, size: str) -> dict[str, Any]:
    """Return the parameters of a recipe, for the caller to change."""
    if name not in RECIPES:
        raise ValueError(f"name must be one of {sorted(RECIPES)}, got {name!r}.")
    sizes = RECIPES[name]
    if size not in sizes:
        raise ValueError(f"size must be one of {sorted(sizes)}, got {size!r}.")
    return dict(sizes[size])


class FromRecipe:
    """Makes a solver by the name of a recipe."""

    @classmethod
    def from_recipe(cls, name: str, size: str = "paper", **overrides: Any) -> Self:
        """Make an unfitted solver with the settings of a published benchmark.

        ``docs/recipes.md`` gives the source of each value, and says what cannot be
        reproduced exactly.

        Parameters
        ----------
        name : {"sudoku-extreme", "maze-hard", "arc-agi-1", "arc-agi-2"}
            The benchmark.
        size : {"paper", "small"}, default="paper"
            "paper" takes the hyper-parameters of [1]_ and its code, for a GPU and many
            hours; "small" what we recommend on a CPU.
        **overrides : parameters of :class:`TRMSolver`
            Values to take instead of the recipe's.

        Returns
        -------
        solver : TRMSolver
            Not fitted.

        Raises
        ------
        ValueError
            If there is no such name, size or parameter; the message lists those that
            there are.

        References
        ----------
        .. [1] A. Jolicoeur-Martineau, "Less is More: Recursive Reasoning with Tiny
           Networks", arXiv:2510.04871, 2025.

        Examples
        --------
        >>> from sktrm import TRMSolver
        >>> solver = TRMSolver.from_recipe("sudoku-extreme", max_epochs=10)
        >>> solver.hidden_size, solver.mixer, solver.max_epochs
        (512, 'mlp', 10)
        """
        solver = cls(**recipe(name, size))
        return solver.set_params(**overrides)  # type: ignore[attr-defined]  # estimator

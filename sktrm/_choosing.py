"""Several tries at each question: which ones, and whose answer is taken."""

import math
from collections.abc import Callable
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np
import torch

from sktrm._encoding import GridEncoder, Grids
from sktrm._tries import Choice, Tries, Verified, Vote, draw_views
from sktrm.augmentation import Transform

# Measured: docs/what_helps.md, "Tries by default".
_ROLLOUTS = 4

Verifier = Callable[[np.ndarray, np.ndarray], bool]


class _Asking:
    """Asks a user's verifier about rows and answers as the user knows them."""

    def __init__(self, verifier: Verifier, encoder: GridEncoder, X: Grids) -> None:
        if not callable(verifier):
            raise ValueError(
                f"verifier must be a callable (X_row, y_row) -> bool, got {verifier!r}."
            )
        self.verifier = verifier
        self.encoder = encoder
        self.X = X

    def __call__(self, row: int, tokens: np.ndarray) -> bool:
        """Tell whether the verifier accepts ``tokens`` as the answer of ``row``."""
        question = self.X[row : row + 1]
        (answer,) = self.encoder.decode(tokens[None], question)
        try:
            # A copy: a verifier may write into what it is given.
            verdict = self.verifier(question[0].copy(), answer)
        except Exception as error:
            error.add_note(f"The verifier raised this at row {row} of X.")
            raise
        if np.ndim(verdict) or not isinstance(verdict, bool | np.bool_ | Integral):
            raise ValueError(
                f"verifier must return True or False for a row, got {verdict!r} at row "
                f"{row} of X; wrap the result in bool(...)."
            )
        return bool(verdict)


def check_rollouts(n_rollouts: int, rollout_noise: float) -> None:
    """Raise ValueError if further tries would not differ from the first."""
    if n_rollouts > 1 and not rollout_noise:
        raise ValueError(
            f"n_rollouts={n_rollouts} needs rollout_noise above 0 for the tries to "
            f"differ, got rollout_noise=0."
        )


class Choosing:
    """Turns what a caller says of tries into tries, and into a choice among them."""

    _encoder: GridEncoder
    _space: Any
    _augmentations: Any
    _has_tasks: bool
    _task_tries: Any
    _seeds: list[int]
    _sizes: dict[str, Any]
    n_rollouts: Any
    rollout_noise: float
    halt_threshold: float

    def _tries(
        self,
        n_rollouts: int | None,
        augment_votes: int,
        choose: str = "auto",
        verifier: Verifier | None = None,
    ) -> Tries:
        """Draw what tells the tries of a row apart."""
        if n_rollouts is None:
            n_rollouts = self._rollouts(augment_votes, choose, verifier)
        for name, value in (
            ("n_rollouts", n_rollouts),
            ("augment_votes", augment_votes),
        ):
            if not isinstance(value, Integral) or value < 1:
                raise ValueError(f"{name} must be an int >= 1, got {value!r}.")
        check_rollouts(n_rollouts, self.rollout_noise)
        if self._has_tasks:
            return self._task_tries(n_rollouts, augment_votes)
        seed = self._seeds[3]
        views = [Transform()]
        space = self._space()
        augmentations = [a for a in self._augmentations(space) if not a.needs_rows]
        if augment_votes > 1 and not augmentations:
            raise ValueError(
                f"augment_votes={augment_votes} needs transforms to look through: set "
                f"augmentation to symmetries of the task other than Translation, or "
                f"augment_votes to 1."
            )
        generator = torch.Generator().manual_seed(seed)
        alike = self._sizes.get("symbols", ())
        views += draw_views(augmentations, augment_votes - 1, space, generator, alike)
        return Tries(int(n_rollouts), self.rollout_noise, seed, views)

    def _rollouts(
        self,
        augment_votes: int,
        choose: str,
        verifier: Verifier | None = None,
        at_least: int = 1,
    ) -> int:
        """Return ``n_rollouts``, or what stands for "auto" with so many tries."""
        if self.n_rollouts != "auto":
            given: int = self.n_rollouts  # checked by the caller
            return given
        # Further tries are for rows that are not settled: a vote makes all of them.
        may_settle = self.halt_threshold < 1 or verifier is not None
        votes = augment_votes > 1 or choose == "vote"
        pays = "symbols" in self._sizes and may_settle and not votes
        if not self.rollout_noise:
            return 1
        return _ROLLOUTS if pays else math.ceil(at_least / max(1, augment_votes))

    def _choice(
        self,
        X: Grids,
        n_tries: int,
        choose: str,
        augment_votes: int,
        verifier: Verifier | None,
    ) -> Choice:
        """Make what decides between the tries."""
        if choose not in ("auto", "confidence", "vote"):
            raise ValueError(
                f"choose must be 'auto', 'confidence' or 'vote', got {choose!r}."
            )
        if verifier is not None:
            if choose != "auto":
                raise ValueError(
                    f"choose must be 'auto' with a verifier, which chooses, got "
                    f"{choose!r}."
                )
            asking = _Asking(verifier, self._encoder, X)
            return Verified(len(X), n_tries, asking)
        if choose == "vote" or (choose == "auto" and augment_votes > 1):
            return Vote(len(X), n_tries, partial(self._encoder.visible, X))
        return Choice(len(X), n_tries)

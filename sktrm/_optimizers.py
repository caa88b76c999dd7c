"""Optimisers by name: AdamW, and Muon for the matrices beside it."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.optim import AdamW, Muon, Optimizer

# Matrices with a side as short as this, such as embeddings of a few symbols and heads
# of a few classes, are left to AdamW. Long tables of embeddings are not, as measured.
_SHORT_SIDE = 16
BETAS = (0.9, 0.95)


class MuonWithAdamW(Optimizer):
    """Muon for matrices with two long sides, AdamW for everything else.

    Muon makes the step of a matrix orthogonal (Jordan et al. 2024); scaled to the size
    of AdamW's steps (Liu et al., arXiv 2502.16982), both share a learning rate.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = BETAS,
        fused: bool | None = None,
    ) -> None:
        every = [parameter for group in params for parameter in group["params"]]
        super().__init__(every, {"lr": lr})
        matrices = [parameter for parameter in every if _is_matrix(parameter)]
        others = [parameter for parameter in every if not _is_matrix(parameter)]
        self.parts: list[Optimizer] = []
        if matrices:
            muon = Muon(
                matrices,
                lr=lr,
                weight_decay=weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
            self.parts.append(muon)
        if others:
            adamw = AdamW(
                others, lr=lr, weight_decay=weight_decay, betas=betas, fused=fused
            )
            self.parts.append(adamw)
        self._show_groups()

    def _show_groups(self) -> None:
        """Show the parts' groups: who sets the learning rate here sets it there."""
        self.param_groups = [g for part in self.parts for g in part.param_groups]

    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure
        """Let each part take its step."""
        for part in self.parts:
            part.step()

    def __getstate__(self) -> dict[str, Any]:
        """Keep the parts: copies and pickles step on, too."""
        return {**super().__getstate__(), "parts": self.parts}

    def state_dict(self) -> dict[str, Any]:
        """Return the moments of both parts."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the moments of another optimiser of the same parameters."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._show_groups()


def _is_matrix(parameter: Tensor) -> bool:
    """Tell whether a parameter is a matrix for Muon."""
    return parameter.dim() == 2 and min(parameter.shape) > _SHORT_SIDE


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adamw": AdamW,
    "muon": MuonWithAdamW,
}

"""Answer loss and halting loss of one supervision step."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# Cells with this label are not scored.
IGNORE_LABEL = -100
# sigmoid(-10) is 4.5e-5. Beyond it a right verdict gains nothing, and a head that
# saw no solved row for long could not find its way back.
HALT_LOGIT_LIMIT = 10.0


def log_softmax(logits: Tensor) -> Tensor:
    """Logarithm of the softmax along the last axis."""
    return F.log_softmax(logits, dim=-1)


def log_stablemax(logits: Tensor) -> Tensor:
    """Logarithm of s(x) / sum(s(x)), s(x) = x + 1 or 1 / (1 - x) below zero.

    Prieto et al., "Grokking at the edge of numerical stability", arXiv 2501.04697.
    """
    # log1p of the magnitude has the same sign as x: no case needs 1 / (1 - x).
    log_s = torch.sign(logits) * torch.log1p(logits.abs())
    return log_s - torch.logsumexp(log_s, dim=-1, keepdim=True)


ANSWER_LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": log_softmax,
    "stablemax": log_stablemax,
}


def log_probabilities(answer_logits: Tensor, loss: str) -> Tensor:
    """Return the log probabilities that ``loss`` ("softmax" or "stablemax") trains."""
    if loss not in ANSWER_LOSSES:
        raise ValueError(f"loss must be one of {sorted(ANSWER_LOSSES)}, got {loss!r}.")
    return ANSWER_LOSSES[loss](answer_logits)


def answer_loss(
    answer_logits: Tensor,
    labels: Tensor,
    loss: str = "stablemax",
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Mean cross-entropy of the scored cells of each row.

    Parameters
    ----------
    answer_logits : Tensor of shape (batch, length, n_tokens)
        Logits of the answer head.
    labels : Tensor of shape (batch, length)
        Right tokens; ``IGNORE_LABEL`` in cells that are not scored.
    loss : {"stablemax", "softmax"}, default="stablemax"
        How logits become probabilities: as in [1]_, or softmax.
    dtype : torch.dtype, default=None
        To compute in; None is float64 on a CPU and float32 elsewhere, unless the
        logits are float64.

    Returns
    -------
    losses : Tensor of shape (batch,)
        In ``dtype``; 0 for rows without a scored cell.

    Raises
    ------
    ValueError
        If there is no such loss.

    References
    ----------
    .. [1] L. Prieto et al., "Grokking at the Edge of Numerical Stability",
       arXiv:2501.04697, 2025.
    """
    scored = labels != IGNORE_LABEL
    if dtype is None:
        # The authors' float64 is slow on accelerators or absent. In logarithms float32
        # differs from it in the sixth place.
        on_cpu = answer_logits.device.type == "cpu"
        least = torch.float64 if on_cpu else torch.float32
        dtype = torch.promote_types(answer_logits.dtype, least)
    log_p = log_probabilities(answer_logits.to(dtype), loss)
    targets = labels.clamp(min=0).unsqueeze(-1)
    nll = -log_p.gather(-1, targets).squeeze(-1)  # (batch, length)
    return (nll * scored).sum(dim=-1) / scored.sum(dim=-1).clamp(min=1)


def is_right(answer_logits: Tensor, labels: Tensor) -> Tensor:
    """Tell of each row whether every scored cell is right, (batch,) bool."""
    scored = labels != IGNORE_LABEL
    return ((answer_logits.argmax(dim=-1) == labels) | ~scored).all(dim=-1)


def halting_loss(halt_logit: Tensor, right: Tensor) -> Tensor:
    """Binary cross-entropy of "the whole answer is right", (batch,).

    A logit that is right beyond ``HALT_LOGIT_LIMIT`` has no gradient.
    """
    bounded = torch.where(
        right,
        halt_logit.clamp(max=HALT_LOGIT_LIMIT),
        halt_logit.clamp(min=-HALT_LOGIT_LIMIT),
    )
    return F.binary_cross_entropy_with_logits(
        bounded, right.to(bounded.dtype), reduction="none"
    )

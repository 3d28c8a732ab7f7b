"""Which completions came to an end."""

from __future__ import annotations

import torch
from torch import Tensor

from trimtab.core.errors import UserError


def untruncated(truncated_N: Tensor | None, option: str) -> Tensor:
    """The completions that ended by themselves.

    Yu et al. 2025 (DAPO), arXiv:2503.14476, section 3.4, leaves the others out of the loss.

    Args:
        truncated_N: bool; None where the source of the rollouts does not say.
        option: what the user set to ask for it.

    Returns:
        bool [N].

    Raises:
        UserError: nothing says which they are.

    >>> untruncated(torch.tensor([True, False]), "objective.mask_truncated")
    tensor([False,  True])
    """
    if truncated_N is None:
        raise UserError(
            f"{option} leaves out what did not end by itself, and the source "
            f"of these rollouts does not say it: set {option}: false"
        )
    return torch.logical_not(truncated_N)

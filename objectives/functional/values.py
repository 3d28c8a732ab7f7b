"""The critic's loss and how well it predicts, and the policy's entropy."""

from __future__ import annotations

import torch
from torch import Tensor

from trimtab.objectives.functional.returns import masked_moments


def value_loss(
    value_NT: Tensor, old_value_NT: Tensor, return_NT: Tensor, clip: float | None
) -> Tensor:
    """Half the squared error of the critic, without reward for moving further than the clip.

        1/2 max((V - R)^2, (V_old + clip(V - V_old, -c, c) - R)^2)

    Huang et al. 2024, arXiv:2403.17031, as in the released code of Ziegler et al. 2019.

    Args:
        value_NT: V, with gradient.
        old_value_NT: V before the updates on these rollouts.
        return_NT: R.
        clip: c; None gives 1/2 (V - R)^2.

    Returns:
        Loss [N, T].

    >>> two, none = torch.tensor([[2.0]]), torch.tensor([[0.0]])
    >>> value_loss(two, none, two, clip=0.5), value_loss(two, none, none, clip=None)
    (tensor([[1.1250]]), tensor([[2.]]))
    """
    error_NT = (value_NT - return_NT).square()
    if clip is not None:
        near_NT = old_value_NT + (value_NT - old_value_NT).clamp(-clip, clip)
        error_NT = torch.maximum(error_NT, (near_NT - return_NT).square())
    return 0.5 * error_NT


def explained_variance(value_NT: Tensor, return_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """How much of the returns' variance the critic predicts: 1 for all of it, below 0 for harm.

        1 - Var(R - V) / Var(R)

    Args:
        value_NT: V before the updates.
        return_NT: R.
        mask_NT: bool; True on actions.

    Returns:
        A scalar; 0 where the returns are all equal.

    >>> return_NT, mask_NT = torch.tensor([[0., 4.]]), torch.tensor([[True, True]])
    >>> explained_variance(torch.tensor([[1., 3.]]), return_NT, mask_NT)  # 1 - 1 / 4
    tensor(0.7500)
    """
    left = masked_moments(return_NT - value_NT, mask_NT)[1]
    total = masked_moments(return_NT, mask_NT)[1]
    return torch.where(total > 0, 1 - left / total.where(total > 0, 1.0), 0.0)


def entropy(logps_cV: Tensor, reference_cV: Tensor | None = None) -> Tensor:
    """Of the distribution over the next token.

        - sum over V of pi log pi

    Args:
        logps_cV: log pi, of c positions.
        reference_cV: not read; functions in ``Needs.tokenwise`` are given it.

    Returns:
        Nats [c].

    >>> entropy(torch.tensor([[0.5, 0.5], [0.25, 0.75]]).log())  # log 2, log 4 - 3/4 log 3
    tensor([0.6931, 0.5623])
    """
    return -(logps_cV.exp() * logps_cV).sum(-1)

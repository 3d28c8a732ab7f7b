"""Advantages of completions over the others of their prompt.

Rows of one prompt share a number in ``group_N``; in which order rows stand does not matter.
Statistics are computed in float64.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Scale = Literal["group", "batch", "none"]
"""Whose standard deviation advantages are divided by."""

EPSILON = 1e-4
"""Added to that standard deviation, as TRL does."""


def group_size(group_N: Tensor) -> Tensor:
    """How many rows each row's group has, itself included.

    Args:
        group_N: one number a group.

    Returns:
        Sizes [N].

    >>> group_size(torch.tensor([7, 3, 7]))
    tensor([2, 1, 2])
    """
    index_N, size_G = _groups(group_N)
    return size_G[index_N]


def group_mean(value_N: Tensor, group_N: Tensor) -> Tensor:
    """The mean of each row's group, itself included.

    Args:
        value_N: one number a row.
        group_N: one number a group.

    Returns:
        Means [N].

    >>> group_mean(torch.tensor([1.0, 5.0, 2.0]), torch.tensor([0, 1, 0]))
    tensor([1.5000, 5.0000, 1.5000])
    """
    index_N, size_G = _groups(group_N)
    zero_G = torch.zeros(len(size_G), dtype=torch.float64, device=value_N.device)
    mean_G = zero_G.index_add(0, index_N, value_N.double()) / size_G
    return mean_G[index_N].to(value_N)


def group_std(value_N: Tensor, group_N: Tensor) -> Tensor:
    """The standard deviation of each row's group, 0 for a group of one.

        sqrt(sum (x - mean)^2 / (n - 1))

    Args:
        value_N: one number a row.
        group_N: one number a group.

    Returns:
        Standard deviations [N].

    >>> group_std(torch.tensor([1.0, 5.0, 3.0]), torch.tensor([0, 1, 0]))  # sqrt((1 + 1) / 1)
    tensor([1.4142, 0.0000, 1.4142])
    """
    value_D = value_N.double()
    size_N = group_size(group_N)
    square_N = (value_D - group_mean(value_D, group_N)).square()
    variance_N = group_mean(square_N, group_N) * size_N / (size_N - 1).clamp(min=1)
    return variance_N.sqrt().to(value_N)


def group_varies(value_N: Tensor, group_N: Tensor) -> Tensor:
    """Does each row's group hold two different numbers? Where it does not, nothing is learned.

    Args:
        value_N: one number a row.
        group_N: one number a group.

    Returns:
        bool [N], the same for all rows of a group.

    >>> group_varies(torch.tensor([1.0, 1.0, 0.0, 1.0]), torch.tensor([0, 0, 1, 1]))
    tensor([False, False,  True,  True])
    """
    same_NN = group_N[:, None] == group_N
    differs_NN = value_N[:, None] != value_N
    return (same_NN & differs_NN).any(-1)


def group_advantage(reward_N: Tensor, group_N: Tensor, scale: Scale = "group") -> Tensor:
    """How much better each completion is than the mean of its group.

        A = (r - mean of the group) / (s + 1e-4)

    s is the unbiased standard deviation of the group (Shao et al. 2024, GRPO, arXiv:2402.03300,
    section 4.1.2) or of all rows (``batch``: Liu et al. 2025, arXiv:2508.08221); ``none`` divides
    by nothing (Liu et al. 2025, Dr. GRPO, arXiv:2503.20783). A group of equal rewards has exactly
    0, whatever the rounding of its mean.

    Args:
        reward_N: rewards.
        group_N: one number a group.
        scale: whose standard deviation divides.

    Returns:
        Advantages [N].

    >>> group_N = torch.tensor([0, 0, 1, 1])
    >>> group_advantage(torch.tensor([3.0, 1.0, 5.0, 5.0]), group_N, "none")
    tensor([ 1., -1.,  0.,  0.])
    >>> group_advantage(torch.tensor([3.0, 1.0, 5.0, 5.0]), group_N)  # 1 / (sqrt(2) + 1e-4)
    tensor([ 0.7071, -0.7071,  0.0000,  0.0000])
    """
    reward_D = reward_N.double()
    above_N = reward_D - group_mean(reward_D, group_N)
    if scale == "group":
        above_N = above_N / (group_std(reward_D, group_N) + EPSILON)
    elif scale == "batch":
        everything_N = torch.zeros_like(group_N)
        above_N = above_N / (group_std(reward_D, everything_N) + EPSILON)
    return above_N.masked_fill(~group_varies(reward_N, group_N), 0.0).to(reward_N)


def leave_one_out(reward_N: Tensor, group_N: Tensor) -> Tensor:
    """How much better each completion is than the mean of the others of its group.

        A_i = r_i - sum over j != i of r_j / (n - 1) = n / (n - 1) (r_i - mean of the group)

    Kool et al. 2019, "Buy 4 REINFORCE Samples, Get a Baseline for Free!"; Ahmadian et al. 2024
    (RLOO), arXiv:2402.14740, eq. 7. A group of equal rewards has exactly 0, whatever the rounding
    of its mean, and so has a group of one, which has no others.

    Args:
        reward_N: rewards.
        group_N: one number a group.

    Returns:
        Advantages [N].

    >>> group_N = torch.tensor([0, 0, 0, 1])
    >>> leave_one_out(torch.tensor([3.0, 1.0, 2.0, 5.0]), group_N)  # 3 - (1 + 2) / 2
    tensor([ 1.5000, -1.5000,  0.0000,  0.0000])
    """
    reward_D, size_N = reward_N.double(), group_size(group_N)
    above_N = (reward_D - group_mean(reward_D, group_N)) * size_N / (size_N - 1).clamp(min=1)
    return above_N.masked_fill(~group_varies(reward_N, group_N), 0.0).to(reward_N)


def standardised(value_NC: Tensor, counted_NC: Tensor, eps: float) -> Tensor:
    """Shift and scale what counts, over all rows at once, to mean 0 and standard deviation 1.

        (x - mean) / (std + eps), with the unbiased standard deviation

    Hu et al. 2025 (REINFORCE++), arXiv:2501.03262, where it is of the advantages of all tokens.
    Equal numbers have exactly 0, whatever the rounding of their mean, and so has a single one.

    Args:
        value_NC: any numbers, of rows or of tokens.
        counted_NC: bool, of the same shape.
        eps: keeps what hardly varies from being divided by next to nothing.

    Returns:
        The same shape, 0 where nothing counts.

    >>> value_N, counted_N = torch.tensor([1.0, 3.0, 9.0]), torch.tensor([True, True, False])
    >>> standardised(value_N, counted_N, eps=1e-4)  # 1 / (sqrt(2) + 1e-4)
    tensor([-0.7071,  0.7071,  0.0000])
    """
    counted_C = value_NC.double()[counted_NC]
    if len(counted_C) < 2 or bool(counted_C.min() == counted_C.max()):
        return torch.zeros_like(value_NC)
    scaled_NC = (value_NC.double() - counted_C.mean()) / (counted_C.std() + eps)
    return scaled_NC.masked_fill(~counted_NC, 0.0).to(value_NC)


def _groups(group_N: Tensor) -> tuple[Tensor, Tensor]:
    """Which group each row is of, counted from 0, and the size of each."""
    _, index_N, size_G = torch.unique(group_N, return_inverse=True, return_counts=True)
    return index_N, size_G

"""Sums and means over what counts."""

from __future__ import annotations

from torch import Tensor


def sum_of(value_NC: Tensor, counted_NC: Tensor) -> Tensor:
    """Each row's sum over what counts; 0 where nothing does.

    Args:
        value_NC: any numbers, finite where they count.
        counted_NC: bool.

    Returns:
        Sums [N].

    >>> import torch
    >>> value_NC = torch.tensor([[1.0, 3.0], [5.0, 7.0]])
    >>> sum_of(value_NC, torch.tensor([[True, True], [False, True]]))
    tensor([4., 7.])
    """
    return value_NC.masked_fill(~counted_NC, 0.0).sum(-1)


def mean_of(value_NC: Tensor, counted_NC: Tensor) -> Tensor:
    """Each row's mean over what counts; 0 where nothing does.

    Args:
        value_NC: any numbers, finite where they count.
        counted_NC: bool.

    Returns:
        Means [N].

    >>> import torch
    >>> value_NC = torch.tensor([[1.0, 3.0], [5.0, 7.0]])
    >>> mean_of(value_NC, torch.tensor([[True, True], [False, False]]))
    tensor([2., 0.])
    """
    return sum_of(value_NC, counted_NC) / counted_NC.sum(-1).clamp(min=1)

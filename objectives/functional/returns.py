"""From rewards to advantages: GAE, whitening, and the KL's weight."""

from __future__ import annotations

import torch
from torch import Tensor


def at_last_action(score_N: Tensor, mask_NT: Tensor) -> Tensor:
    """Each row's score at its last action; a row without any action has none.

    Args:
        score_N: one number a completion.
        mask_NT: bool; True on actions.

    Returns:
        [N, T], 0 elsewhere.

    >>> at_last_action(torch.tensor([5.0]), torch.tensor([[True, True, False]]))
    tensor([[0., 5., 0.]])
    """
    left_NT = mask_NT.flip(-1).cumsum(-1).flip(-1)
    return (mask_NT & (left_NT == 1)) * score_N[:, None]


def gae(
    reward_NT: Tensor, value_NT: Tensor, mask_NT: Tensor, *, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation, backwards over the actions of each row.

        delta_t = r_t + gamma V_{t+1} - V_t
        A_t     = delta_t + gamma lam A_{t+1}
        R_t     = A_t + V_t

    Schulman et al. 2016, arXiv:1506.02438, eq. 11, 12 and 16. t + 1 is the next action, across
    tokens outside the mask; after the last one, V and A are 0.

    Args:
        reward_NT: the reward of each action.
        value_NT: V of the state in which each action was taken.
        mask_NT: bool; True on actions.
        gamma: discount an action.
        lam: 0 trusts the critic, 1 the rewards.

    Returns:
        Advantages [N, T] and returns [N, T], both 0 outside the mask.

    >>> mask_NT = torch.tensor([[True, True]])
    >>> gae(torch.tensor([[0., 1.]]), torch.tensor([[0.5, 0.5]]), mask_NT, gamma=1.0, lam=1.0)
    (tensor([[0.5000, 0.5000]]), tensor([[1., 1.]]))
    """
    advantage_NT = torch.zeros_like(value_NT)
    running_N = next_value_N = value_NT.new_zeros(len(value_NT))
    for t in reversed(range(value_NT.shape[1])):
        mask_N, value_N = mask_NT[:, t], value_NT[:, t]
        delta_N = reward_NT[:, t] + gamma * next_value_N - value_N
        running_N = torch.where(mask_N, delta_N + gamma * lam * running_N, running_N)
        next_value_N = torch.where(mask_N, value_N, next_value_N)
        advantage_NT[:, t] = running_N
    advantage_NT = advantage_NT.masked_fill(~mask_NT, 0.0)
    return advantage_NT, advantage_NT + value_NT.masked_fill(~mask_NT, 0.0)


def reward_to_go(reward_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """What each action and those after it earn, undiscounted.

        G_t = sum over i >= t of r_i

    Args:
        reward_NT: the reward of each action.
        mask_NT: bool; True on actions.

    Returns:
        [N, T], 0 outside the mask.

    >>> reward_to_go(torch.tensor([[1., 2., 4.]]), torch.tensor([[True, False, True]]))
    tensor([[5., 0., 4.]])
    """
    counted_NT = reward_NT.masked_fill(~mask_NT, 0.0)
    return counted_NT.flip(-1).cumsum(-1).flip(-1).masked_fill(~mask_NT, 0.0)


def masked_whiten(
    value_NT: Tensor, mask_NT: Tensor, *, shift: bool = True, eps: float = 1e-8
) -> Tensor:
    """Scale to variance 1 over the masked tokens of all rows, and shift to mean 0.

        (x - mean) / (std + eps), with the biased standard deviation; + mean without the shift

    Huang et al. 2024, arXiv:2403.17031.

    Args:
        value_NT: what to whiten.
        mask_NT: bool; True on the tokens that count.
        shift: whether the mean becomes 0, or stays.
        eps: keeps a constant from being divided by 0.

    Returns:
        [N, T], 0 outside the mask.

    >>> value_NT, mask_NT = torch.tensor([[1., 5., 9.]]), torch.tensor([[True, True, False]])
    >>> masked_whiten(value_NT, mask_NT)
    tensor([[-1.,  1.,  0.]])
    >>> masked_whiten(value_NT, mask_NT, shift=False)
    tensor([[2., 4., 0.]])
    """
    mean, variance = masked_moments(value_NT, mask_NT)
    white_NT = (value_NT - mean) / (variance.sqrt() + eps)
    return (white_NT if shift else white_NT + mean).masked_fill(~mask_NT, 0.0)


def masked_moments(value_NT: Tensor, mask_NT: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over the masked tokens of all rows; 0 where there are none.

    Args:
        value_NT: any numbers.
        mask_NT: bool; True on the tokens that count.

    Returns:
        Two scalars.

    >>> masked_moments(torch.tensor([[1., 5., 9.]]), torch.tensor([[True, True, False]]))
    (tensor(3.), tensor(4.))
    """
    count = mask_NT.sum().clamp(min=1)
    mean = value_NT.masked_fill(~mask_NT, 0.0).sum() / count
    deviation_NT = (value_NT - mean).masked_fill(~mask_NT, 0.0)
    return mean, deviation_NT.square().sum() / count


def adaptive_beta(beta: float, kl: float, *, target: float, gain: float = 0.1) -> float:
    """Raise the KL's weight when the KL is above its target, and lower it when it is below.

        beta (1 + K clip(KL / target - 1, -0.2, 0.2))

    Ziegler et al. 2019, arXiv:1909.08593, section 2.2.

    Args:
        beta: the weight so far.
        kl: of the batch, in nats a sequence.
        target: where it should be, in the same unit.
        gain: K.

    Returns:
        The next weight.

    >>> adaptive_beta(1.0, 6.6, target=6.0), adaptive_beta(1.0, 60.0, target=6.0)
    (1.01, 1.02)
    """
    return beta * (1 + gain * max(-0.2, min(0.2, kl / target - 1)))

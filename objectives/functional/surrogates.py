"""Policy gradients from samples of an older policy, as losses of each token.

ratio = pi(token) / pi_old(token), of the policy that is trained and the one that sampled.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trimtab.objectives.functional.aggregation import mean_of, sum_of


def sequence_ratio(logratio_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """One ratio a completion: the geometric mean of its tokens', for every one of them.

        s = exp(1/|y| sum_t log(pi(y_t) / pi_old(y_t)))

    Zheng et al. 2025 (GSPO), arXiv:2507.18071, eq. 7.

    Args:
        logratio_NT: log(pi / pi_old) of each token.
        mask_NT: bool; True on trained tokens.

    Returns:
        s [N, T], the same along T.

    >>> mask_NT = torch.tensor([[True, True, False]])
    >>> sequence_ratio(torch.tensor([[1.0, 3.0, 9.0]]).log(), mask_NT)  # sqrt(1 * 3)
    tensor([[1.7321, 1.7321, 1.7321]])
    """
    return mean_of(logratio_NT, mask_NT)[:, None].exp().expand_as(logratio_NT)


def completion_ratio(logratio_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """The ratio of the probabilities of a whole completion: the product of its tokens'.

        pi(y) / pi_old(y) = exp(sum over t of log(pi(y_t) / pi_old(y_t)))

    Args:
        logratio_NT: log(pi / pi_old) of each token.
        mask_NT: bool; True on trained tokens.

    Returns:
        Ratios [N]; 1 where nothing is trained.

    >>> mask_NT = torch.tensor([[True, True, False]])
    >>> completion_ratio(torch.tensor([[2.0, 4.0, 9.0]]).log(), mask_NT)  # 2 * 4
    tensor([8.])
    """
    return sum_of(logratio_NT, mask_NT).exp()


def clipped_surrogate(
    ratio_NT: Tensor, advantage_NT: Tensor, low: float, high: float, delta: float | None = None
) -> Tensor:
    """Gain nothing by moving the ratio further than a step in the advantage's direction.

        -min(min(ratio, delta) A, clip(ratio, 1 - low, 1 + high) A)

    Schulman et al. 2017 (PPO), arXiv:1707.06347, eq. 7; high above low from Yu et al. 2025 (DAPO),
    arXiv:2503.14476, eq. 10. ``delta`` bounds what a negative advantage can do, as in Ye et al.
    2019 (dual clip), arXiv:1912.09729, where it is c, and INTELLECT-2, arXiv:2505.07291.

    Args:
        ratio_NT: with gradient.
        advantage_NT: A; broadcasts over tokens.
        low: epsilon below 1.
        high: epsilon above 1.
        delta: above 1 + high; None bounds nothing.

    Returns:
        Loss [N, T].

    >>> ratio_NT = torch.tensor([[0.5, 1.5, 0.5, 1.5, 9.0]])
    >>> advantage_NT = torch.tensor([[1.0, 1.0, -1.0, -1.0, -1.0]])
    >>> clipped_surrogate(ratio_NT, advantage_NT, 0.2, 0.25, delta=4.0)
    tensor([[-0.5000, -1.2500,  0.8000,  1.5000,  4.0000]])
    """
    clipped_NT = ratio_NT.clamp(1 - low, 1 + high) * advantage_NT
    bounded_NT = ratio_NT if delta is None else ratio_NT.clamp(max=delta)
    return -torch.minimum(bounded_NT * advantage_NT, clipped_NT)


def clipped_low(ratio_NT: Tensor, advantage_NT: Tensor, low: float) -> Tensor:
    """Where the clipped surrogate has no gradient because the ratio has fallen far enough.

        ratio < 1 - low and A < 0

    Args:
        ratio_NT: pi / pi_old.
        advantage_NT: A; broadcasts over tokens.
        low: epsilon below 1.

    Returns:
        bool [N, T].

    >>> clipped_low(torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, -1.0]]), 0.2)
    tensor([[False,  True]])
    """
    return (ratio_NT < 1 - low) & (advantage_NT < 0)


def clipped_high(ratio_NT: Tensor, advantage_NT: Tensor, high: float) -> Tensor:
    """Where the clipped surrogate has no gradient because the ratio has risen far enough.

        ratio > 1 + high and A > 0

    Args:
        ratio_NT: pi / pi_old.
        advantage_NT: A; broadcasts over tokens.
        high: epsilon above 1.

    Returns:
        bool [N, T].

    >>> clipped_high(torch.tensor([[1.5, 1.5]]), torch.tensor([[1.0, -1.0]]), 0.2)
    tensor([[ True, False]])
    """
    return (ratio_NT > 1 + high) & (advantage_NT > 0)


def cispo(logps_NT: Tensor, ratio_NT: Tensor, advantage_NT: Tensor, high: float) -> Tensor:
    """Bound the weight of a token's gradient, and let every token have one.

        -min(ratio, 1 + high) A log pi, the first two without gradient

    MiniMax 2025 (CISPO in MiniMax-M1), arXiv:2506.13585, eq. 4, without a bound below, as they
    ran it.

    Args:
        logps_NT: log pi of each token, with gradient.
        ratio_NT: pi / pi_old.
        advantage_NT: A; broadcasts over tokens.
        high: epsilon above 1.

    Returns:
        Loss [N, T].

    >>> logps_NT, ratio_NT = torch.tensor([[-1.0, -1.0]]), torch.tensor([[0.5, 9.0]])
    >>> cispo(logps_NT, ratio_NT, torch.tensor([[2.0, 2.0]]), 3.0)  # 0.5 * 2 and 4 * 2
    tensor([[1., 8.]])
    """
    weight_NT = ratio_NT.detach().clamp(max=1 + high)
    return -weight_NT * advantage_NT * logps_NT


def importance_weight(behaviour_NT: Tensor, sampled_NT: Tensor, cap: float) -> Tensor:
    """Weighs tokens that were sampled by a computation other than training's.

        min(pi_old / pi_sampler, cap), without gradient

    Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training",
    https://fengyao.notion.site/off-policy-rl, after Espeholt et al. 2018 (V-trace),
    arXiv:1802.01561.

    Args:
        behaviour_NT: log pi_old, in training's computation.
        sampled_NT: log pi as the sampler gave it.
        cap: the largest weight.

    Returns:
        Weights [N, T].

    >>> importance_weight(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, -5.0]]), 2.0)
    tensor([[1., 2.]])
    """
    return (behaviour_NT - sampled_NT).detach().exp().clamp(max=cap)

"""Losses of preferences, labels and comparisons.

Of a pair, ``chosen_N`` and ``rejected_N`` are implicit rewards r = beta * log(pi / pi_ref), and
the margin is m = r_w - r_l.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def flipped(label_N: Tensor, share: float) -> Tensor:
    """The label that is observed when a share of all preferences is flipped.

        P' = (1 - eps) P + eps (1 - P)

    Mitchell 2023 (cDPO), https://ericmitchell.ai/cdpo.pdf.

    Args:
        label_N: P(the chosen completion is better).
        share: eps, in [0, 1/2).

    Returns:
        P' [N].

    >>> flipped(torch.tensor([1.0, 0.5]), 0.25)
    tensor([0.7500, 0.5000])
    """
    return (1 - share) * label_N + share * (1 - label_N)


def unflipped(label_N: Tensor, share: float) -> Tensor:
    """The label whose loss is right in the mean when a share of the given ones is flipped.

        P' = (P - eps) / (1 - 2 eps), the inverse of ``flipped``; it exceeds 1 where P = 1

    Chowdhury et al. 2024 (robust DPO), arXiv:2403.00409.

    Args:
        label_N: P(the chosen completion is better), as given.
        share: eps, in [0, 1/2).

    Returns:
        P' [N].

    >>> unflipped(torch.tensor([1.0, 0.5]), 0.25)
    tensor([1.5000, 0.5000])
    """
    return (label_N - share) / (1 - 2 * share)


def desensitised_sum(
    logratio_NT: Tensor, mask_NT: Tensor, other_count_N: Tensor, alpha: float
) -> Tensor:
    """The sum over a completion, discounting what it has beyond the other one's length.

        sum over the first min(n, n_other) trained tokens + alpha * sum over the others

    Liu et al. 2024 (LD-DPO), arXiv:2409.06411.

    Args:
        logratio_NT: one number a token.
        mask_NT: bool; True on trained tokens.
        other_count_N: how many tokens of the other completion are trained.
        alpha: 1 keeps the tail, 0 leaves it out.

    Returns:
        Sums [N].

    >>> mask_NT = torch.tensor([[True, True, True, False]])
    >>> desensitised_sum(torch.tensor([[1., 2., 4., 8.]]), mask_NT, torch.tensor([2]), 0.5)
    tensor([5.])
    """
    tail_NT = mask_NT.cumsum(-1) > other_count_N[:, None]
    head_N = logratio_NT.masked_fill(~mask_NT | tail_NT, 0.0).sum(-1)
    tail_N = logratio_NT.masked_fill(~mask_NT | ~tail_NT, 0.0).sum(-1)
    return head_N + alpha * tail_N


def logistic(margin_N: Tensor) -> Tensor:
    """Negative log-likelihood of a preference under Bradley-Terry.

        -log sigmoid(m)

    Rafailov et al. 2023 (DPO), arXiv:2305.18290, eq. 7.

    Args:
        margin_N: m.

    Returns:
        Loss [N].

    >>> logistic(torch.tensor([0.0]))  # log 2
    tensor([0.6931])
    """
    return -logsigmoid(margin_N)


def hinge(margin_N: Tensor) -> Tensor:
    """Linear until the margin is 1, and then nothing.

        max(0, 1 - m)

    Zhao et al. 2023 (SLiC-HF), arXiv:2305.10425, on implicit rewards as in Liu et al. 2023 (RSO),
    arXiv:2309.06657.

    Args:
        margin_N: m.

    Returns:
        Loss [N].

    >>> hinge(torch.tensor([-1.0, 0.75, 2.0]))
    tensor([2.0000, 0.2500, 0.0000])
    """
    return torch.relu(1 - margin_N)


def ipo(margin_N: Tensor, beta: float) -> Tensor:
    """Regress the log-ratio margin on a finite target, which certain labels do not move.

        (m / beta - 1 / (2 beta))^2

    Azar et al. 2023, arXiv:2310.12036, eq. 17, where beta is called tau.

    Args:
        margin_N: m; of per-token means, as the authors ran it.
        beta: larger stays closer to the reference.

    Returns:
        Loss [N].

    >>> ipo(torch.tensor([0.5, 1.0]), 0.25)  # targets m = 1/2; (4 - 2)^2
    tensor([0., 4.])
    """
    return ((margin_N - 0.5) / beta).square()


def exo(margin_N: Tensor, label_N: Tensor) -> Tensor:
    """KL from the policy's preference to the label, in the direction that seeks its mode.

        q log(q / P) + (1 - q) log((1 - q) / (1 - P)), q = sigmoid(m)

    Ji et al. 2024 (EXO), arXiv:2402.00856, eq. 16.

    Args:
        margin_N: m.
        label_N: P(the chosen completion is better), strictly between 0 and 1.

    Returns:
        Loss [N], in nats, never negative.

    >>> exo(torch.tensor([0.0]), torch.tensor([0.75]))  # (log(2/3) + log 2) / 2
    tensor([0.1438])
    """
    win_N = torch.sigmoid(margin_N) * (logsigmoid(margin_N) - label_N.log())
    lose_N = torch.sigmoid(-margin_N) * (logsigmoid(-margin_N) - (1 - label_N).log())
    return win_N + lose_N


def nca(chosen_N: Tensor, rejected_N: Tensor) -> Tensor:
    """Contrast each completion with noise, so that the chosen one stays likely.

        -log sigmoid(r_w) - (log sigmoid(-r_w) + log sigmoid(-r_l)) / 2

    Chen et al. 2024 (NCA), arXiv:2402.05369, for pairs.

    Args:
        chosen_N: r_w.
        rejected_N: r_l.

    Returns:
        Loss [N].

    >>> nca(torch.tensor([0.0]), torch.tensor([0.0]))  # 2 log 2
    tensor([1.3863])
    """
    noise_N = logsigmoid(-chosen_N) + logsigmoid(-rejected_N)
    return -logsigmoid(chosen_N) - 0.5 * noise_N


def sppo(chosen_N: Tensor, rejected_N: Tensor, beta: float) -> Tensor:
    """Regress each log-ratio on its own target, for a winner and a loser that are certain.

        (r_w / beta - 1 / (2 beta))^2 + (r_l / beta + 1 / (2 beta))^2

    Wu et al. 2024 (SPPO), arXiv:2405.00675, eq. 4.7, with P = 1 for the winner.

    Args:
        chosen_N: r_w.
        rejected_N: r_l.
        beta: larger stays closer to the reference; 1 / eta in the paper.

    Returns:
        Loss [N].

    >>> sppo(torch.tensor([0.5]), torch.tensor([0.0]), 0.25)  # 0 + 2^2
    tensor([4.])
    """
    return ((chosen_N - 0.5) / beta).square() + ((rejected_N + 0.5) / beta).square()


def apo_zero(chosen_N: Tensor, rejected_N: Tensor) -> Tensor:
    """Chosen up and rejected down: for chosen completions better than the policy's own.

        1 - sigmoid(r_w) + sigmoid(r_l)

    D'Oosterlinck et al. 2024 (APO), arXiv:2408.06266, eq. 7.

    Args:
        chosen_N: r_w.
        rejected_N: r_l.

    Returns:
        Loss [N].

    >>> apo_zero(torch.tensor([1.0]), torch.tensor([0.0]))  # 1 - 0.7311 + 0.5
    tensor([0.7689])
    """
    return torch.sigmoid(-chosen_N) + torch.sigmoid(rejected_N)


def apo_down(chosen_N: Tensor, rejected_N: Tensor) -> Tensor:
    """Both down, the rejected one further: for chosen completions worse than the policy's own.

        sigmoid(r_w) + 1 - sigmoid(r_w - r_l)

    D'Oosterlinck et al. 2024 (APO), arXiv:2408.06266, eq. 8.

    Args:
        chosen_N: r_w.
        rejected_N: r_l.

    Returns:
        Loss [N].

    >>> apo_down(torch.tensor([1.0]), torch.tensor([0.0]))  # 0.7311 + 1 - 0.7311
    tensor([1.])
    """
    return torch.sigmoid(chosen_N) + torch.sigmoid(rejected_N - chosen_N)


def discopop(margin_N: Tensor, tau: float) -> Tensor:
    """Logistic where the policy is wrong, exponential where it is right: a loss found by search.

        (1 - s) (-log sigmoid(m)) + s exp(-m), s = sigmoid(m / tau)

    Lu et al. 2024 (DiscoPOP), arXiv:2406.08414, eq. 5.

    Args:
        margin_N: m.
        tau: how sharply one gives way to the other, below 1; 0.05 in the paper.

    Returns:
        Loss [N].

    >>> discopop(torch.tensor([0.0]), 0.05)  # (log 2 + 1) / 2
    tensor([0.8466])
    """
    logit_N = margin_N / tau
    exponential_N = torch.exp(logsigmoid(logit_N) - margin_N)
    return torch.sigmoid(-logit_N) * logistic(margin_N) + exponential_N


def reference_point(logratio_N: Tensor, counted_N: Tensor) -> Tensor:
    """What log-ratios are to be expected of completions to prompts that they do not answer.

        z0 = max(0, mean of log(pi(y'|x) / pi_ref(y'|x))), a biased estimate of KL(pi || pi_ref)

    Ethayarajh et al. 2024 (KTO), arXiv:2402.01306. It is a constant to the loss.

    Args:
        logratio_N: of the mismatched completions, in nats.
        counted_N: bool; which of them have anything to count. None at all gives 0.

    Returns:
        z0, a scalar in nats, without gradient.

    >>> counted_N = torch.tensor([True, True, False])
    >>> reference_point(torch.tensor([3.0, -1.0, 0.0]), counted_N)
    tensor(1.)
    """
    total = logratio_N.detach().masked_fill(~counted_N, 0.0).sum()
    return (total / counted_N.sum().clamp(min=1)).clamp(min=0)


def kto(reward_N: Tensor, point_N: Tensor, desirable_N: Tensor) -> Tensor:
    """How far a completion is from being worth the most to people, by prospect theory.

        1 - sigmoid(r - z) if desirable, 1 - sigmoid(z - r) if not

    Ethayarajh et al. 2024 (KTO), arXiv:2402.01306, eq. 8, without its weights. With z = 0 it is
    the unpaired form of APO-zero: D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7.

    Args:
        reward_N: implicit rewards r.
        point_N: the reference point z, in the units of r.
        desirable_N: bool.

    Returns:
        Loss [N], between 0 and 1.

    >>> kto(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 1.0]), torch.tensor([True, False]))
    tensor([0.2689, 0.5000])
    """
    above_N = reward_N - point_N
    return torch.sigmoid(torch.where(desirable_N, -above_N, above_N))


def bradley_terry(difference_NC: Tensor, label_NC: Tensor, margin_NC: Tensor) -> Tensor:
    """Cross-entropy of comparisons, when differences of scores are their log-odds.

        -P log sigmoid(d - m) - (1 - P) log sigmoid(m - d)

    Bradley and Terry 1952, doi:10.2307/2334029; m as in Touvron et al. 2023 (Llama 2),
    arXiv:2307.09288, eq. 2, where P = 1.

    Args:
        difference_NC: d, the first score less the second.
        label_NC: P(the first is better); 1/2 for a tie.
        margin_NC: m, by how much the first is better; negative where it is worse.

    Returns:
        Loss [N, C], in nats.

    >>> bradley_terry(torch.tensor([1.0]), torch.tensor([1.0]), torch.tensor([1.0]))  # log 2
    tensor([0.6931])
    """
    logit_NC = difference_NC - margin_NC
    return -label_NC * logsigmoid(logit_NC) - (1 - label_NC) * logsigmoid(-logit_NC)

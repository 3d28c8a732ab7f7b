"""Estimates of KL(pi || pi_ref) from samples of pi, d = log(pi(x) / pi_ref(x)), in nats.

As a term of the loss, in exact expectation over one token:

| term                 | value          | gradient                                        |
|----------------------|----------------|-------------------------------------------------|
| k1 = d               | unbiased       | 0: it regularises nothing                       |
| k2 = d^2 / 2         | biased         | that of KL(pi || pi_ref)                        |
| k3 = exp(-d) + d - 1 | unbiased, >= 0 | that of KL(pi_ref || pi)                        |
| k3 x ratio           | unbiased       | that of KL(pi || pi_ref)                        |
| k1 in the reward     | unbiased       | that of KL(pi || pi_ref), later tokens included |

ratio = pi / pi_old, with its gradient. Schulman 2020, http://joschu.net/blog/kl-approx.html, for
the values; Tang and Munos 2025, arXiv:2506.09477, for the gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor


def k1(logratio_NT: Tensor) -> Tensor:
    """The log-ratio itself: any sign, and the only one that adds up to a whole completion's.

        d

    Args:
        logratio_NT: d of each token.

    Returns:
        k1 [N, T].

    >>> k1(torch.tensor([-0.5, 2.0]))
    tensor([-0.5000,  2.0000])
    """
    return logratio_NT


def k2(logratio_NT: Tensor) -> Tensor:
    """Half the square of the log-ratio.

        d^2 / 2

    Args:
        logratio_NT: d of each token.

    Returns:
        k2 [N, T].

    >>> k2(torch.tensor([-0.5, 2.0]))
    tensor([0.1250, 2.0000])
    """
    return logratio_NT.square() / 2


def k3(logratio_NT: Tensor) -> Tensor:
    """Never negative, and unbiased.

        exp(-d) + d - 1

    Args:
        logratio_NT: d of each token.

    Returns:
        k3 [N, T].

    >>> k3(torch.tensor([0.0, -1.0, 1.0]))  # 0, e - 2, 1/e
    tensor([0.0000, 0.7183, 0.3679])
    """
    return torch.expm1(-logratio_NT) + logratio_NT

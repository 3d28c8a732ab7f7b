"""The maths that objectives share: pure functions, tensors in and tensors out.

Shape suffixes: N = rows, T = completion tokens. Log-probs are natural logs.
"""

from __future__ import annotations

from trimtab.objectives.functional.preferences import (
    apo_down,
    apo_zero,
    bradley_terry,
    desensitised_sum,
    discopop,
    exo,
    flipped,
    hinge,
    ipo,
    kto,
    logistic,
    mean_of,
    nca,
    reference_point,
    sppo,
    unflipped,
)
from trimtab.objectives.functional.returns import (
    adaptive_beta,
    at_last_action,
    gae,
    masked_moments,
    masked_whiten,
    shaped_rewards,
)
from trimtab.objectives.functional.values import entropy, explained_variance, value_loss

__all__ = [
    "adaptive_beta",
    "apo_down",
    "apo_zero",
    "at_last_action",
    "bradley_terry",
    "desensitised_sum",
    "discopop",
    "entropy",
    "exo",
    "explained_variance",
    "flipped",
    "gae",
    "hinge",
    "ipo",
    "kto",
    "logistic",
    "masked_moments",
    "masked_whiten",
    "mean_of",
    "nca",
    "reference_point",
    "shaped_rewards",
    "sppo",
    "unflipped",
    "value_loss",
]

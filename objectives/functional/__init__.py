"""The maths that objectives share: pure functions, tensors in and tensors out.

Shape suffixes: N = rows, T = completion tokens. Log-probs are natural logs.
"""

from __future__ import annotations

from trimtab.objectives.functional.advantages import (
    Scale,
    group_advantage,
    group_mean,
    group_size,
    group_std,
    group_varies,
    leave_one_out,
    standardised,
)
from trimtab.objectives.functional.aggregation import mean_of, sum_of
from trimtab.objectives.functional.endings import untruncated
from trimtab.objectives.functional.kl import k1, k2, k3
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
    reward_to_go,
)
from trimtab.objectives.functional.surrogates import (
    cispo,
    clipped_high,
    clipped_low,
    clipped_surrogate,
    completion_ratio,
    importance_weight,
    sequence_ratio,
)
from trimtab.objectives.functional.values import entropy, explained_variance, value_loss

__all__ = [
    "Scale",
    "adaptive_beta",
    "apo_down",
    "apo_zero",
    "at_last_action",
    "bradley_terry",
    "cispo",
    "clipped_high",
    "clipped_low",
    "clipped_surrogate",
    "completion_ratio",
    "desensitised_sum",
    "discopop",
    "entropy",
    "exo",
    "explained_variance",
    "flipped",
    "gae",
    "group_advantage",
    "group_mean",
    "group_size",
    "group_std",
    "group_varies",
    "hinge",
    "importance_weight",
    "ipo",
    "k1",
    "k2",
    "k3",
    "kto",
    "leave_one_out",
    "logistic",
    "masked_moments",
    "masked_whiten",
    "mean_of",
    "nca",
    "reference_point",
    "reward_to_go",
    "sequence_ratio",
    "sppo",
    "standardised",
    "sum_of",
    "unflipped",
    "untruncated",
    "value_loss",
]

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

__all__ = [
    "apo_down",
    "apo_zero",
    "bradley_terry",
    "desensitised_sum",
    "discopop",
    "exo",
    "flipped",
    "hinge",
    "ipo",
    "kto",
    "logistic",
    "mean_of",
    "nca",
    "reference_point",
    "sppo",
    "unflipped",
]

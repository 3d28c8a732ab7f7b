"""Krippendorff's alpha of annotators who each judged some of the units, with an interval.

Shape suffixes: J = judgements, U = units, V = different values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import krippendorff
import numpy as np
import numpy.typing as npt
from scipy import sparse

from trimtab.core.errors import UserError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Level = Literal["nominal", "ordinal", "interval", "ratio"]
LEVELS: tuple[Level, ...] = ("nominal", "ordinal", "interval", "ratio")

RESAMPLES = 1000
SEED = 0
_DENSE = 2**25
"""How many entries the library may allocate: it holds U x V x V of them."""
_MOST_RATIOS = 2048
_ROWS = 1024


@dataclass(frozen=True)
class Alpha:
    """A point value with a percentile interval of 95%; None where nothing can be said."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def as_json(self) -> dict[str, float | None]:
        """Three numbers, or null."""
        return {"value": self.value, "low": self.low, "high": self.high}


def alpha(unit_J: Ints, value_J: Floats, level: Level, resamples: int = RESAMPLES) -> Alpha:
    """1 - D_observed / D_expected, over the units that two annotators or more judged.

    Krippendorff, Content Analysis (2004), chapter 11. The interval resamples units. There is
    no value where no unit was judged twice, or where all judgements are the same.
    """
    domain_V, counts_UV = _counts(unit_J, value_J)
    counts_UV = counts_UV[_totals(counts_UV) >= 2]
    if level == "ratio" and domain_V[0] < 0:
        raise UserError("the level 'ratio' has no negative values: take the level 'interval'")
    if level == "ratio" and len(domain_V) > _MOST_RATIOS:
        raise UserError(
            f"{len(domain_V)} different values are too many for the level 'ratio' "
            f"(at most {_MOST_RATIOS}): round them, or take the level 'interval'"
        )
    every_U = np.ones(counts_UV.shape[0])
    observed_U = None if level == "ordinal" else _observed(counts_UV, domain_V, level)
    value = _resampled(counts_UV, every_U, domain_V, level, observed_U)
    if np.isnan(value):
        return Alpha(None)
    if counts_UV.shape[0] * len(domain_V) ** 2 <= _DENSE:
        value = krippendorff.alpha(
            value_counts=counts_UV.toarray().astype(np.int64),
            value_domain=domain_V,
            level_of_measurement=level,
        )
    generator = np.random.default_rng(SEED)
    units = len(every_U)
    drawn = [
        _resampled(
            counts_UV,
            np.bincount(generator.integers(units, size=units), minlength=units).astype(float),
            domain_V,
            level,
            observed_U,
        )
        for _ in range(resamples)
    ]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Alpha(float(value), float(low), float(high))


def disagreement(unit_J: Ints, value_J: Floats, level: Level) -> Floats:
    """The mean distance of two judgements of a unit, [U]; 0 where there is one judgement."""
    domain_V, counts_UV = _counts(unit_J, value_J)
    n_V = _totals(counts_UV[_totals(counts_UV) >= 2], axis=0)
    observed_U = _observed(counts_UV, domain_V, level, n_V)
    return observed_U / np.maximum(_totals(counts_UV), 1)


def _counts(unit_J: Ints, value_J: Floats) -> tuple[Floats, Any]:
    """The different values, and how often each unit was given each."""
    domain_V, column_J = np.unique(value_J, return_inverse=True)
    return domain_V, sparse.csr_matrix((np.ones(len(unit_J)), (unit_J, column_J)))


def _resampled(
    counts_UV: Any, weight_U: Floats, domain_V: Floats, level: Level, observed_U: Floats | None
) -> float:
    """Alpha with each unit counted so many times; NaN where all judgements are the same."""
    n_V = counts_UV.T @ weight_U
    if np.count_nonzero(n_V) < 2:
        return float("nan")
    if observed_U is None:
        observed_U = _observed(counts_UV, domain_V, level, n_V)
    expected = _distances(sparse.csr_matrix(n_V[None]), domain_V, level, n_V)[0]
    return float(1 - (n_V.sum() - 1) * (weight_U @ observed_U) / expected)


def _observed(counts_UV: Any, domain_V: Floats, level: Level, n_V: Floats | None = None) -> Floats:
    """The distances between a unit's judgements, each judgement's mean over the others."""
    distances_U = _distances(counts_UV, domain_V, level, n_V)
    return distances_U / np.maximum(_totals(counts_UV) - 1, 1)


def _distances(counts_RV: Any, domain_V: Floats, level: Level, n_V: Floats | None) -> Floats:
    """Of each row of counts c: the sum over values i and j of c_i c_j d(i, j).

    Ordinal distances are interval ones between the values' mean ranks, which follow from ``n_V``.
    """
    if level == "nominal":
        squares_RV = counts_RV.multiply(counts_RV)
        return _totals(counts_RV) ** 2 - _totals(squares_RV)
    if level == "ratio":
        return _ratios(counts_RV, domain_V)
    scores_V = domain_V - domain_V.mean()
    if level == "ordinal":
        assert n_V is not None
        scores_V = np.cumsum(n_V) - n_V / 2
    sums_R = counts_RV @ scores_V
    distances_R: Floats = 2 * (_totals(counts_RV) * (counts_RV @ scores_V**2) - sums_R**2)
    return np.maximum(distances_R, 0.0)


def _ratios(counts_RV: Any, domain_V: Floats) -> Floats:
    sums_VV = domain_V[:, None] + domain_V
    shares_VV = np.divide(
        domain_V[:, None] - domain_V, sums_VV, out=np.zeros_like(sums_VV), where=sums_VV != 0
    )
    parts = [counts_RV[begin : begin + _ROWS] for begin in range(0, counts_RV.shape[0], _ROWS)]
    return np.concatenate([_totals(part.multiply(part @ shares_VV**2)) for part in parts])


def _totals(counts_RV: Any, axis: int = 1) -> Floats:
    return np.asarray(counts_RV.sum(axis=axis), dtype=np.float64).ravel()

"""Held-out measures: one ratio of sums over rows each, with a bootstrap interval.

Rows, not tokens, are drawn: the tokens of one completion depend on each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trimtab.core.batches import Batch, Pairs, Sequences

Values = npt.NDArray[np.float64]

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Measure:
    """A value, its 95% interval, and from how many rows it is."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Column:
    """What each row adds to a measure: sum(value) / sum(weight)."""

    value_N: Tensor
    weight_N: Tensor


def measure(column: Column) -> Measure | None:
    """The ratio with its percentile bootstrap interval; None without any weight."""
    from scipy.stats import bootstrap

    value_N = column.value_N.double().cpu().numpy()
    weight_N = column.weight_N.double().cpu().numpy()
    if not weight_N.sum():
        return None

    def ratio(value: Values, weight: Values, axis: int = -1) -> Values:
        total = weight.sum(axis)
        out: Values = np.zeros_like(total)
        np.divide(value.sum(axis), total, out=out, where=total != 0)
        return out

    value = float(ratio(value_N, weight_N))
    if len(value_N) < 2:
        return Measure(value, value, value, len(value_N))
    found = bootstrap(
        (value_N, weight_N),
        ratio,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Measure(value, float(found.low), float(found.high), len(value_N))


def rows(value_N: Tensor) -> Column:
    """A plain mean over rows."""
    return Column(value_N.detach().float(), torch.ones_like(value_N, dtype=torch.float32))


def of_batch(batch: Batch) -> dict[str, Column]:
    """What any filled batch of a kind is measured by, whatever the objective.

    Pairs: ``accuracy_logp`` by the mean log-prob of a token, ``accuracy_logp_sum`` by that of the
    completion, ``accuracy_implicit`` by the log-ratio to the reference, ``margin`` the difference
    of the log-ratios. A tie counts half. Every kind: log-probs a token, and log-ratios, which on
    data rows are not a KL.
    """
    columns: dict[str, Column] = {}
    for name, sequences in batch.sequences.items():
        if sequences.maybe_policy_NT is not None:
            columns |= dict(_of_sequences(sequences, _suffix(batch, name)))
    if isinstance(batch, Pairs):
        columns |= dict(_of_pairs(batch))
    return columns


def _suffix(batch: Batch, name: str) -> str:
    return f"_{name}" if len(batch.sequences) > 1 else ""


def _of_sequences(s: Sequences, suffix: str) -> Iterator[tuple[str, Column]]:
    policy_N = s.policy_NT.masked_fill(~s.mask_NT, 0.0).sum(-1)
    yield f"logp_token{suffix}", Column(policy_N, s.count_N)
    if s.maybe_reference_NT is not None:
        yield f"logratio{suffix}", rows(s.logratio_N)


def _of_pairs(batch: Pairs) -> Iterator[tuple[str, Column]]:
    chosen, rejected = batch.chosen, batch.rejected
    sums = [s.policy_NT.masked_fill(~s.mask_NT, 0.0).sum(-1) for s in (chosen, rejected)]
    means = [
        total_N / s.count_N.clamp(min=1)
        for total_N, s in zip(sums, (chosen, rejected), strict=True)
    ]
    yield "accuracy_logp", rows(_wins(means[0] - means[1]))
    yield "accuracy_logp_sum", rows(_wins(sums[0] - sums[1]))
    if chosen.maybe_reference_NT is not None and rejected.maybe_reference_NT is not None:
        margin_N = chosen.logratio_N - rejected.logratio_N
        yield "accuracy_implicit", rows(_wins(margin_N))
        yield "margin", rows(margin_N)


def _wins(difference_N: Tensor) -> Tensor:
    """1 where positive, 1/2 where equal."""
    return (difference_N.sign() + 1) / 2

"""Held-out measures: one ratio of sums over rows each, with a bootstrap interval.

Rows, not tokens, are drawn: the tokens of one completion depend on each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trimtab.core.batches import Batch, Labelled, Pairs, Sequences

Values = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

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
    """What each row adds to a measure: sum(value) / sum(weight).

    With a value [N, B] of B bins, it is sum_b |sum(value_b)| / sum(weight).
    """

    value_N: Tensor
    weight_N: Tensor

    @staticmethod
    def says_something(weight: Values) -> bool:
        """Are there rows enough, of those with a weight, for the statistic to exist?"""
        return len(weight) > 0

    @staticmethod
    def statistic(value: Values, weight: Values) -> Values:
        """Of rows drawn in many ways: value [..., N] or [..., N, B], weight [..., N]."""
        sums = value.sum(weight.ndim - 1)
        total: Values = np.abs(sums).sum(-1) if value.ndim > weight.ndim else sums
        ratios: Values = total / weight.sum(-1)
        return ratios


class Separation(Column):
    """P(a positive row's value is above a negative one's), ties 1/2: the area under the ROC curve.

    The weight is 1 for a positive row and -1 for a negative one. A draw of one kind alone, which
    few rows can give, counts as 1/2.
    """

    @staticmethod
    def says_something(weight: Values) -> bool:
        """Are there rows of both kinds?"""
        return len(set(weight)) == 2

    @staticmethod
    def statistic(value: Values, weight: Values) -> Values:
        from scipy.stats import rankdata

        positive = weight > 0
        count = positive.sum(-1)
        pairs = count * (weight.shape[-1] - count)
        above = (rankdata(value, axis=-1) * positive).sum(-1) - count * (count + 1) / 2
        areas: Values = np.where(pairs > 0, above / np.maximum(pairs, 1), 0.5)
        return areas


def measure(column: Column) -> Measure | None:
    """The statistic with its percentile bootstrap interval; None where there is none.

    Only rows with a weight count and are drawn.
    """
    from scipy.stats import bootstrap

    weight_N = column.weight_N.double().cpu().numpy()
    counted = weight_N != 0
    value_N, weight_N = column.value_N.double().cpu().numpy()[counted], weight_N[counted]
    if not column.says_something(weight_N):
        return None

    def statistic(drawn: Rows, axis: int = -1) -> Values:
        return column.statistic(value_N[drawn], weight_N[drawn])

    everything = np.arange(len(weight_N))
    value = float(statistic(everything))
    if len(weight_N) < 2:
        return Measure(value, value, value, len(weight_N))
    found = bootstrap(
        (everything,),
        statistic,
        vectorized=True,
        batch=RESAMPLES // 8,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Measure(value, float(found.low), float(found.high), len(weight_N))


def rows(value_N: Tensor) -> Column:
    """A plain mean over rows."""
    return Column(value_N.detach().float(), torch.ones_like(value_N, dtype=torch.float32))


def total(columns: Sequence[Column]) -> Column:
    """Several columns of the same rows as one."""
    return Column(
        torch.stack([column.value_N for column in columns]).sum(0),
        torch.stack([column.weight_N for column in columns]).sum(0),
    )


def of_batch(batch: Batch) -> dict[str, Column]:
    """What any filled batch of a kind is measured by, whatever the objective.

    Pairs: ``accuracy_logp`` by the mean log-prob of a token, ``accuracy_logp_sum`` by that of the
    completion, ``accuracy_implicit`` by the log-ratio to the reference, ``margin`` the difference
    of the log-ratios. A tie counts half. Labels: ``auc_logp`` and ``auc_logratio``, how well the
    mean log-prob of a token and the log-ratio tell desirable rows from others. Every kind:
    log-probs a token, and log-ratios, which on data rows are not a KL.
    """
    columns: dict[str, Column] = {}
    for name, sequences in batch.sequences.items():
        if sequences.maybe_policy_NT is not None:
            columns |= dict(_of_sequences(sequences, _suffix(batch, name)))
    if isinstance(batch, Pairs):
        columns |= dict(_of_pairs(batch))
    if isinstance(batch, Labelled):
        columns |= dict(_of_labels(batch))
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


def _of_labels(batch: Labelled) -> Iterator[tuple[str, Column]]:
    responses = batch.responses
    sign_N = torch.where(batch.desirable_N, 1.0, -1.0)
    sum_N = responses.policy_NT.masked_fill(~responses.mask_NT, 0.0).sum(-1)
    yield "auc_logp", Separation(sum_N / responses.count_N.clamp(min=1), sign_N)
    if responses.maybe_reference_NT is not None:
        yield "auc_logratio", Separation(responses.logratio_N, sign_N)


def _wins(difference_N: Tensor) -> Tensor:
    """1 where positive, 1/2 where equal."""
    return (difference_N.sign() + 1) / 2

"""How well scores agree with preferences: accuracy, calibration, and where both fail.

A comparison is two responses of one prompt with a label p = P(i is better than j). The model says
P = sigmoid(s_i - s_j) (Bradley-Terry). Rows, not comparisons, are drawn for intervals: the
comparisons of one prompt depend on each other.

N prompts · C comparisons of K responses, i before j · B bins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.core.batches import Batch, Pairs, Ranked
from trimtab.core.measures import Column

CONFIDENCE = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Edges of the bins of max(P, 1 - P)."""

AGREEMENT = (0.5, 0.7, 0.9, 1.0)
"""Edges of the bins of max(p, 1 - p): how far the raters agree."""

SIMILAR = 0.1
"""Lengths that differ by no more than this share of the longer one count as similar."""


@dataclass(frozen=True)
class Comparisons:
    """Every two responses of a prompt that were compared, and not found equal."""

    better_NC: Tensor
    """P(the first is better), NaN where there is no comparison."""

    difference_NC: Tensor
    """The first's score less the second's."""

    length_NC2: Tensor
    """Tokens of both."""

    @property
    def weight_NC(self) -> Tensor:
        """1 where there is a comparison, which a tie is not."""
        return ((self.better_NC - 0.5).abs() > 1e-9).float()

    @property
    def right_NC(self) -> Tensor:
        """1 where the scores order the two as most raters do, 1/2 where they are equal."""
        return ((self.difference_NC.sign() * self._sign_NC) + 1) / 2

    @property
    def confidence_NC(self) -> Tensor:
        """max(P, 1 - P)."""
        return self.difference_NC.abs().sigmoid()

    @property
    def agreement_NC(self) -> Tensor:
        """max(p, 1 - p)."""
        return torch.maximum(self.better_NC, 1 - self.better_NC)

    @property
    def hit_NC(self) -> Tensor:
        """p of the response that the scores prefer: what calibrated confidence is equal to."""
        return torch.where(self.right_NC == 0.5, 0.5, _either(self.right_NC, self.agreement_NC))

    @property
    def longer_NC(self) -> Tensor:
        """By what share of the longer one the preferred response is longer; negative: shorter."""
        first_NC, second_NC = self.length_NC2.float().unbind(-1)
        longest_NC = torch.maximum(first_NC, second_NC).clamp(min=1)
        return (first_NC - second_NC) / longest_NC * self._sign_NC

    @property
    def _sign_NC(self) -> Tensor:
        return (self.better_NC - 0.5).sign()


def _either(right_NC: Tensor, agreement_NC: Tensor) -> Tensor:
    return torch.where(right_NC == 1, agreement_NC, 1 - agreement_NC)


def comparisons(batch: Batch) -> Comparisons | None:
    """Of a batch whose scores are filled; None where its rows compare nothing."""
    if isinstance(batch, Pairs):
        given_N = batch.preference_N
        better_N = torch.ones(len(batch)) if given_N is None else given_N.float()
        return Comparisons(
            better_N[:, None],
            (batch.chosen.score_N - batch.rejected.score_N)[:, None].float(),
            torch.stack([batch.chosen.length_N, batch.rejected.length_N], -1)[:, None],
        )
    if isinstance(batch, Ranked):
        i_C, j_C = torch.triu_indices(len(batch.responses), len(batch.responses), offset=1)
        score_NK = batch.score_NK.float()
        length_NK = torch.stack([one.length_N for one in batch.responses], -1)
        return Comparisons(
            batch.better_NKK[:, i_C, j_C].float(),
            score_NK[:, i_C] - score_NK[:, j_C],
            torch.stack([length_NK[:, i_C], length_NK[:, j_C]], -1),
        )
    return None


def of_comparisons(found: Comparisons) -> Iterator[tuple[str, Column]]:
    """``accuracy`` and ``ece`` of all comparisons, and accuracy where it may differ.

    ``ece`` is the expected calibration error, sum_b n_b/n |mean confidence - mean hit|
    (Guo et al. 2017, arXiv:1706.04599), over the bins of confidence; ``confidence/B`` and
    ``reliability/B`` are the two means of each bin. ``accuracy_longer`` is over the comparisons
    in which the preferred response is longer, by tokens. ``accuracy_agreement/B`` is by how far
    the raters agree, where they are not all of one mind.
    """
    weight_NC = found.weight_NC
    yield "accuracy", _mean(found.right_NC, weight_NC)
    gap_NC = (found.confidence_NC - found.hit_NC).masked_fill(weight_NC == 0, 0.0)
    bins = list(_bins(found.confidence_NC, CONFIDENCE))
    gap_NB = torch.stack([(gap_NC * inside_NC).sum(-1) for _, inside_NC in bins], -1)
    yield "ece", Column(gap_NB, weight_NC.sum(-1))
    for name, inside_NC in bins:
        yield f"confidence/{name}", _mean(found.confidence_NC, weight_NC * inside_NC)
        yield f"reliability/{name}", _mean(found.hit_NC, weight_NC * inside_NC)
    longer_NC = found.longer_NC
    yield "accuracy_longer", _mean(found.right_NC, weight_NC * (longer_NC > SIMILAR))
    yield "accuracy_shorter", _mean(found.right_NC, weight_NC * (longer_NC < -SIMILAR))
    yield "accuracy_similar", _mean(found.right_NC, weight_NC * (longer_NC.abs() <= SIMILAR))
    if bool(((found.agreement_NC < 1) & (weight_NC > 0)).any()):
        for name, inside_NC in _bins(found.agreement_NC, AGREEMENT):
            yield f"accuracy_agreement/{name}", _mean(found.right_NC, weight_NC * inside_NC)


def _bins(value_NC: Tensor, edges: tuple[float, ...]) -> Iterator[tuple[str, Tensor]]:
    """Each bin's name, and 1 where a value is in it; the last bin has its upper edge."""
    for low, high in zip(edges, edges[1:], strict=False):
        below_NC = value_NC <= high if high == edges[-1] else value_NC < high
        yield f"{low:g}-{high:g}", ((value_NC >= low) & below_NC).float()


def _mean(value_NC: Tensor, weight_NC: Tensor) -> Column:
    """Over the comparisons that have a weight."""
    return Column(
        value_NC.masked_fill(weight_NC == 0, 0.0).mul(weight_NC).sum(-1), weight_NC.sum(-1)
    )

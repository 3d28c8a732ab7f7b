"""What scalar roles score: by a loaded reward model, and as held-out measures.

N completions · R members of an ensemble.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from trimtab.core.batches import Batch
from trimtab.core.columns import forward
from trimtab.core.lm import LanguageModel
from trimtab.core.measures import Column
from trimtab.core.memory import within_memory
from trimtab.core.objective import Needs
from trimtab.core.preferences import comparisons, of_comparisons

Scores = Mapping[str, Tensor]
"""score_N of each of a batch's sequences, by their names."""


def filled_by(
    model: LanguageModel, batch: Batch, role: str, needs: Needs
) -> Iterator[tuple[Tensor, Batch]]:
    """The rows of each micro-batch, by number and with a role's columns."""
    with model.role(role):
        for taken in model.cut(batch, needs.skipped):
            part = batch[taken].map(lambda tensor: tensor.to(model.device))
            yield taken, forward(model, part, needs)


@torch.no_grad()
def scores(model: LanguageModel, batch: Batch, role: str) -> Scores:
    """What a role scores every completion of a batch; on the CPU."""
    found = {name: torch.zeros(len(s)) for name, s in batch.sequences.items()}
    for taken, filled in filled_by(model, batch, role, Needs()):
        for name, sequences in filled.sequences.items():
            found[name][taken] = sequences.score_N.float().cpu()
    return found


@dataclass(frozen=True)
class Scored:
    """What a reward model says of N completions."""

    members_RN: Tensor
    """Each member's score, less its center; 0 of an empty completion."""

    @property
    def mean_N(self) -> Tensor:
        """What the members say on average."""
        return self.members_RN.mean(0)

    @property
    def spread_N(self) -> Tensor:
        """The standard deviation over the members; 0 where there is only one."""
        one = len(self.members_RN) == 1
        return torch.zeros_like(self.mean_N) if one else self.members_RN.std(0)


@dataclass(frozen=True)
class Scorer:
    """A trained reward model, or an ensemble of them on one base."""

    model: LanguageModel
    tokenizer: Any
    center: Mapping[str, float]
    """The score that counts as 0, of each member."""

    def score(self, batch: Batch) -> dict[str, Scored]:
        """Of every completion of a batch, by the names of its sequences, in micro-batches."""
        found = within_memory(self.model, lambda: self._members(batch))
        return {
            name: Scored(
                torch.stack([one[name] for one in found]).masked_fill(s.length_N.cpu() == 0, 0.0)
            )
            for name, s in batch.sequences.items()
        }

    def _members(self, batch: Batch) -> list[Scores]:
        return [
            {name: s - center for name, s in scores(self.model, batch, role).items()}
            for role, center in self.center.items()
        ]


def with_scores(batch: Batch, found: Scores) -> Batch:
    """The batch with these scores filled."""
    return batch.with_sequences(
        {name: replace(batch.sequences[name], maybe_score_N=s) for name, s in found.items()}
    )


def of_scores(batch: Batch, members: Mapping[str, Scores]) -> dict[str, Column]:
    """Measures of each scalar role; of several, first those of their mean, as an ensemble's.

    ``score`` is the mean over completions. Members are centred on these rows before they are
    averaged, and ``spread`` is the standard deviation over them, in the mean over completions.
    """
    if len(members) == 1:
        return measured(batch, *members.values())
    centred = [_centred(batch, found) for found in members.values()]
    stacked = {name: torch.stack([one[name] for one in centred]) for name in centred[0]}
    mean = {name: score_RN.mean(0) for name, score_RN in stacked.items()}
    spread = {name: score_RN.std(0) for name, score_RN in stacked.items()}
    columns = measured(batch, mean)
    columns["spread"] = _over_completions(batch, spread)
    for role, found in members.items():
        columns |= {f"{name}/{role}": column for name, column in measured(batch, found).items()}
    return columns


def measured(batch: Batch, found: Scores) -> dict[str, Column]:
    """Measures of one score for each completion of a batch."""
    columns = {"score": _over_completions(batch, found)}
    compared = comparisons(with_scores(batch, found))
    return columns if compared is None else columns | dict(of_comparisons(compared))


def _centred(batch: Batch, found: Scores) -> Scores:
    column = _over_completions(batch, found)
    center = column.value_N.sum() / column.weight_N.sum().clamp(min=1)
    return {name: score_N - center for name, score_N in found.items()}


def _over_completions(batch: Batch, found: Scores) -> Column:
    """The mean of a number of each completion; empty ones, which have none, are left out."""
    present = {name: (s.length_N > 0).float() for name, s in batch.sequences.items()}
    value_N = torch.stack([found[name] * there_N for name, there_N in present.items()]).sum(0)
    return Column(value_N, torch.stack([*present.values()]).sum(0))

"""The rewards of a run together: weighted, with named parts, and no wrong number in silence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.core.config import ModelConfig, RolloutConfig, SelectedReward
from trimtab.core.engine import Completion
from trimtab.core.errors import UserError
from trimtab.core.processes import Processes
from trimtab.core.reward import Group, Reward, RewardSetting, Score
from trimtab.core.source import Prompt


@dataclass(frozen=True)
class Member:
    """One reward, and what it counts among the others."""

    reward: Reward
    section: SelectedReward

    @property
    def label(self) -> str:
        """What the log calls it."""
        return self.section.label or self.section.name


class Rewards:
    """The weighted sum of several rewards, each of which may be unable to judge.

        total = sum of weight * clip(standardize(score))

    A completion that a reward with a weight cannot judge has no total. Rewards of weight 0 are
    only watched.
    """

    def __init__(self, members: Sequence[Member], rollout: RolloutConfig) -> None:
        self.members = members
        self.rollout = rollout
        labels = [member.label for member in members]
        if repeated := next((label for label in labels if labels.count(label) > 1), None):
            raise UserError(f"two rewards are called {repeated!r} in the log: give one a label")

    def adapters(self, model: ModelConfig) -> dict[str, Path]:
        """Trained adapters that they want as frozen roles on the run's base."""
        wanted: dict[str, Path] = {}
        for member in self.members:
            wanted |= member.reward.adapters(model)
        return wanted

    def open(self, setting: RewardSetting) -> None:
        """Load what each needs."""
        for member in self.members:
            member.reward.open(setting)

    def score(
        self, groups: Sequence[Group], processes: Processes, *, learn: bool = False
    ) -> list[list[Score]]:
        """The total of every completion with its parts, the same in every process.

        ``learn`` lets these scores into the running statistics.
        """
        found = [member.reward.score(groups) for member in self.members]
        return [
            [
                self._total([scores[g][c] for scores in found])
                for c in range(len(group.completions))
            ]
            for g, group in enumerate(groups)
        ]

    def state(self) -> dict[str, Any]:
        """The running statistics, as JSON for a checkpoint."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from them."""

    def _total(self, scores: Sequence[Score]) -> Score:
        parts = {
            member.label: score.value for member, score in zip(self.members, scores, strict=True)
        }
        total = 0.0
        for member, score in zip(self.members, scores, strict=True):
            if member.section.weight and score.value is None:
                return Score(None, parts, score.why)
            total += member.section.weight * (score.value or 0.0)
        return Score(total if math.isfinite(total) else None, parts)


def groups_of(
    tokenizer: Any, prompts: Sequence[Prompt], sampled: Sequence[Sequence[Completion]]
) -> list[Group]:
    """Prompts and their completions as rewards are shown them."""
    return [
        Group(
            prompt=tokenizer.decode(prompt.ids, skip_special_tokens=True),
            completions=[tokenizer.decode(c.tokens, skip_special_tokens=True) for c in answers],
            columns=prompt.columns,
            content=prompt.content,
            sampled=tuple(answers),
        )
        for prompt, answers in zip(prompts, sampled, strict=True)
    ]

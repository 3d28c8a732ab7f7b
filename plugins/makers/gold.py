"""What is known of pairs beside a judge's labels, to compare it with: it is never a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trimtab.core.reward import Group, Score
from trimtab.core.rewards import Rewards
from trimtab.core.source import Setting
from trimtab.plugins.makers.answered import given, pairs
from trimtab.plugins.sources.load import Kept

GIVEN = "given"
"""What the rows themselves say."""

Firsts = Mapping[tuple[int, int], float | None]
"""Of a row's pairs (a, b), P(a is better); None where it is not known."""


class Gold:
    """What the rows say of their responses, and each of the run's rewards by its label.

    Rewards that ask the judge are left out: it would be compared with itself.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        members = setting.rewards.members if setting.rewards else ()
        measuring = [member for member in members if not member.reward.judges]
        self.rewards = Rewards(measuring, setting.rollout) if measuring else None
        self.labels = [GIVEN, *(member.label for member in measuring)]

    def of(
        self, rows: Sequence[Kept], groups: Sequence[Group]
    ) -> tuple[dict[str, list[Firsts]], list[str]]:
        """Of every row, by label; and what could not be scored."""
        found = {GIVEN: [_given(row) for row in rows]}
        if self.rewards is None:
            return found, []
        scores = self.rewards.score(groups, self.setting.processes)
        for label in self.labels[1:]:
            found[label] = [
                _by_score(row, of_row, label) for row, of_row in zip(rows, scores, strict=True)
            ]
        return found, [f"only measured: {fault}" for fault in self.rewards.drain_faults()]


def _given(row: Kept) -> Firsts:
    return {(a, b): given(row, a, b) for a, b in pairs(row)}


def _by_score(row: Kept, scores: Sequence[Score], label: str) -> Firsts:
    values = [score.parts.get(label) for score in scores]
    return {(a, b): _first(values[a], values[b]) for a, b in pairs(row)}


def _first(a: float | None, b: float | None) -> float | None:
    if a is None or b is None:
        return None
    return 0.5 if a == b else float(a > b)

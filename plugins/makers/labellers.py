"""Who says which of two responses is better; by the run's rewards."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import mean
from typing import Any, NamedTuple, Protocol

from trimtab.core.errors import UserError
from trimtab.core.reward import Group, Score
from trimtab.core.seeds import mixed
from trimtab.core.source import Setting
from trimtab.plugins.makers.answered import pairs
from trimtab.plugins.sources.load import Kept

UNSCORED = "a response that no reward could score"


class Label(NamedTuple):
    """Which of two responses is better, and who says so."""

    a: int
    """Place of a response in its row; so is ``b``."""

    b: int
    first: float
    """P(a is better); 1/2 is a tie."""

    annotator: str


@dataclass(frozen=True)
class Said:
    """What was said of the responses of one row."""

    labels: Sequence[Label]
    order: Mapping[int, float]
    """A number for each response that could be compared, higher for a better one."""

    unlabelled: Mapping[str, int] = field(default_factory=dict)
    """Pairs without a label, by reason."""

    why: str | None = None
    """More of that reason, where there is more to say."""


@dataclass(frozen=True)
class Told:
    """What was said in one step, and what is to be written down of it."""

    said: Sequence[Said]
    """One a row."""

    notes: Sequence[str] = ()
    """What the user should know."""

    samples: Sequence[Mapping[str, Any]] = ()
    """For ``samples.jsonl``."""

    counts: Mapping[str, int] = field(default_factory=dict)
    """What adds up over the steps."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of this step."""


class Labeller(Protocol):
    """Labels all pairs of responses."""

    def label(self, rows: Sequence[Kept], groups: Sequence[Group]) -> Told:
        """Of some rows; every process calls it alike and gets the same."""

    def figures(self, counts: Mapping[str, int]) -> Mapping[str, Any]:
        """What follows from the counts of all steps, as JSON for ``data.json``."""

    def describe(self) -> Mapping[str, Any]:
        """Who labels, as JSON."""


class ByReward:
    """P(a is better) = sigmoid(r_a - r_b); with ``draw`` the winner is drawn with it."""

    def __init__(self, setting: Setting, *, draw: bool) -> None:
        if setting.rewards is None:
            raise UserError(
                "labels by reward ask the run's rewards, and the run file names none: give "
                "reward: [{name: ...}] (trimtab plugins lists them), or label by: judge or file"
            )
        self.setting, self.rewards, self.draw = setting, setting.rewards, draw
        counted = [m.label for m in self.rewards.members if m.section.weight]
        self.annotator = f"reward:{'+'.join(counted)}"

    def label(self, rows: Sequence[Kept], groups: Sequence[Group]) -> Told:
        scores = self.rewards.score(groups, self.setting.processes, learn=True)
        return Told(
            [self._said(row, of_row) for row, of_row in zip(rows, scores, strict=True)],
            notes=[str(fault) for fault in self.rewards.drain_faults()],
            metrics=self.rewards.drain_figures(),
        )

    def figures(self, counts: Mapping[str, int]) -> Mapping[str, Any]:
        return {}

    def describe(self) -> Mapping[str, Any]:
        return {"annotator": self.annotator, "rewards": self.rewards.describe()}

    def _said(self, row: Kept, scores: Sequence[Score]) -> Said:
        order = {place: s.value for place, s in enumerate(scores) if s.value is not None}
        labels = [
            Label(a, b, self._first(row, a, b, order[a] - order[b]), self.annotator)
            for a, b in combinations(order, 2)
        ]
        left = len(pairs(row)) - len(labels)
        return Said(labels, order, {UNSCORED: left} if left else {})

    def _first(self, row: Kept, a: int, b: int, gap: float) -> float:
        """P(a is better), or 1 and 0 where it is drawn."""
        if not self.draw:
            return sigmoid(gap)
        drawn = mixed(self.setting.seed, "labels", row.row, a, b) / 2**56
        return float(drawn < sigmoid(gap))


def by_pairs(labels: Iterable[Label]) -> dict[int, float]:
    """The mean P(better) of each response over the pairs in which it was compared."""
    found: dict[int, list[float]] = {}
    for label in labels:
        found.setdefault(label.a, []).append(label.first)
        found.setdefault(label.b, []).append(1 - label.first)
    return {place: mean(found[place]) for place in sorted(found)}


def sigmoid(number: float) -> float:
    """1 / (1 + exp(-number)), for any size.

    >>> sigmoid(0.0), sigmoid(800.0), sigmoid(-800.0)
    (0.5, 1.0, 0.0)
    """
    small = math.exp(-abs(number))
    return (1.0 if number >= 0 else small) / (1 + small)

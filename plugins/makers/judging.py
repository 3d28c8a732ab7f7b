"""What a judge is asked to label pairs with, whichever way: who asks, and what is counted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from trimtab.core.errors import UserError
from trimtab.core.judge import Verdict
from trimtab.core.reward import Group
from trimtab.core.source import Setting
from trimtab.plugins.judges.account import counts_of, figures_of
from trimtab.plugins.makers.gold import Gold
from trimtab.plugins.makers.judged import (
    JUDGE,
    gold_counts,
    gold_figure,
    judge_figures,
    put_under,
    shared,
    under,
)
from trimtab.plugins.makers.labellers import Label, Said, Told, by_pairs
from trimtab.plugins.sources.load import Kept

ABSTAINED = "the judge abstained"

Clamp = tuple[float, float]


class Pair(NamedTuple):
    """One of a row's pairs, with P(a is better); None is an abstention."""

    a: int
    b: int
    first: float | None


class ByJudge(ABC):
    """What both ways to ask a judge have in common: who asks what, and what is counted.

    Each process asks about its share of the rows. What is said of how far the judge agrees with
    gold is of all pairs, also of those that no row is made of.
    """

    def __init__(self, setting: Setting, clamp: Clamp | None) -> None:
        if setting.judge is None:
            raise UserError("labels by judge ask one: give judge: {name: ...} in the run file")
        self.setting, self.judge, self.clamp = setting, setting.judge, clamp
        self.annotator = f"judge:{setting.judge.name}"
        self.gold = Gold(setting)

    def label(self, rows: Sequence[Kept], groups: Sequence[Group]) -> Told:
        verdicts, cost = self._asked(rows)
        labelled = [self.judged(row, found) for row, found in zip(rows, verdicts, strict=True)]
        gold, notes = self.gold.of(rows, groups)
        counts = counts_of(verdict for found in verdicts for verdict in found) + cost
        counts.update(self.of_parts(rows, verdicts, labelled))
        for label, of_rows in gold.items():
            counts.update(put_under(f"gold/{label}/", _against(labelled, of_rows)))
        samples = [
            {"row": row.row, **said}
            for row, found in zip(rows, verdicts, strict=True)
            for said in self.samples(row, found)
        ]
        return Told(
            [self._said(found, of_row) for found, of_row in zip(verdicts, labelled, strict=True)],
            [*notes, *_doubts(counts)],
            samples,
            put_under(JUDGE, counts),
            {f"{JUDGE}{name}": value for name, value in self._metrics(counts).items()},
        )

    def figures(self, counts: Mapping[str, int]) -> Mapping[str, Any]:
        """``judge``: what it cost, and how far it agrees with itself and with gold."""
        own = under(JUDGE, counts)
        gold = {label: gold_figure(under(f"gold/{label}/", own)) for label in self.gold.labels}
        known = {label: figure for label, figure in gold.items() if figure is not None}
        found = {**judge_figures(own), **({"gold_agreement": known} if known else {})}
        return {"judge": {**found, **self.of_principles(own)}}

    def describe(self) -> Mapping[str, Any]:
        return {
            "annotator": self.annotator,
            "judged_by": {**self.judge.describe(), "mode": self.judge.mode},
            **({"clamp": list(self.clamp)} if self.clamp else {}),
        }

    @abstractmethod
    def ask(self, rows: Sequence[Kept]) -> list[list[Verdict]]:
        """All that is asked about each of these rows."""

    @abstractmethod
    def judged(self, row: Kept, verdicts: Sequence[Verdict]) -> list[Pair]:
        """What that comes to for each pair of the row."""

    @abstractmethod
    def samples(self, row: Kept, verdicts: Sequence[Verdict]) -> Iterable[Mapping[str, Any]]:
        """All that was said, for the log."""

    def order(self, labels: Sequence[Label], verdicts: Sequence[Verdict]) -> Mapping[int, float]:
        """Which response is how good, among those of its row."""
        return by_pairs(labels)

    def of_parts(
        self,
        rows: Sequence[Kept],
        verdicts: Sequence[Sequence[Verdict]],
        labelled: Sequence[Sequence[Pair]],
    ) -> Mapping[str, int]:
        """Counts of what the questions about a pair contribute."""
        return {}

    def of_principles(self, counts: Mapping[str, int]) -> Mapping[str, Any]:
        """Figures of such counts."""
        return {}

    def clamped(self, first: float | None) -> float | None:
        """Within what the option ``clamp`` allows."""
        if first is None or self.clamp is None:
            return first
        return min(max(first, self.clamp[0]), self.clamp[1])

    def _asked(self, rows: Sequence[Kept]) -> tuple[list[list[Verdict]], Counter[str]]:
        """The verdicts on each row, and what they cost, over all processes."""
        return shared(self.judge, self.ask, rows, self.setting.processes)

    def _said(self, verdicts: Sequence[Verdict], found: Sequence[Pair]) -> Said:
        labels = [Label(a, b, first, self.annotator) for a, b, first in found if first is not None]
        left = len(found) - len(labels)
        unlabelled = {ABSTAINED: left} if left else {}
        return Said(labels, self.order(labels, verdicts), unlabelled, _most_often(verdicts))

    def _metrics(self, counts: Mapping[str, int]) -> dict[str, float]:
        found = figures_of(counts)
        for label in self.gold.labels:
            if figure := gold_figure(under(f"gold/{label}/", counts)):
                found[f"gold_agreement/{label}"] = figure["value"]
        return found


def _against(
    labelled: Sequence[Sequence[Pair]], gold: Sequence[Mapping[tuple[int, int], float | None]]
) -> Counter[str]:
    return gold_counts(
        (first, of_row[a, b])
        for found, of_row in zip(labelled, gold, strict=True)
        for a, b, first in found
    )


def _most_often(verdicts: Iterable[Verdict]) -> str | None:
    """Why the judge abstained, most of the time."""
    whys = Counter(each.why for each in verdicts if each.value is None and each.why)
    return whys.most_common(1)[0][0] if whys else None


def _doubts(counts: Mapping[str, int]) -> list[str]:
    """A judge that goes by the place alone labels nothing, and the user should know why."""
    pairs = counts.get("pairs", 0)
    if not pairs or counts.get("agreed"):
        return []
    bias = (counts.get("first", 0) - counts.get("second", 0)) / pairs
    return [
        f"the judge's two orders name the same winner in none of {pairs} comparisons, with a "
        f"position bias of {bias:.2g}: it goes by the place, and not by what it reads"
    ]

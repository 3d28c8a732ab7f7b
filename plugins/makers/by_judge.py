"""Labels of the run's judge: it compares every pair in both orders, or rates every response."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from trimtab.core.errors import UserError
from trimtab.core.judge import Comparison, Rating, Verdict
from trimtab.core.reward import Group
from trimtab.core.source import Setting
from trimtab.plugins.judges.account import counts_of, figures_of
from trimtab.plugins.makers.answered import pairs, responses
from trimtab.plugins.makers.columns import told
from trimtab.plugins.makers.gold import Gold
from trimtab.plugins.makers.judged import (
    JUDGE,
    gold_counts,
    gold_figure,
    judge_figures,
    put_under,
    share,
    under,
)
from trimtab.plugins.makers.labellers import Label, Said, Told, by_pairs, sigmoid
from trimtab.plugins.makers.principled import Asked, Questions, together
from trimtab.plugins.sources.load import Kept

ABSTAINED = "the judge abstained"
MILLION = 1_000_000

Clamp = tuple[float, float]
Answers = dict[int, list[Verdict]]
"""By the row's place among those of the step."""


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
        processes = self.setting.processes

        def mine() -> tuple[Answers, dict[str, int]]:
            own = processes.share(len(rows)).tolist()
            answers = self.ask([rows[n] for n in own]) if own else []
            return dict(zip(own, answers, strict=True)), self.judge.counts()

        everywhere: Answers = {}
        cost: Counter[str] = Counter()
        for answers, counts in processes.all_of(mine):
            everywhere |= answers
            cost.update(counts)
        return [everywhere[n] for n in range(len(rows))], cost

    def _said(self, verdicts: Sequence[Verdict], found: Sequence[Pair]) -> Said:
        labels = [Label(a, b, first, self.annotator) for a, b, first in found if first is not None]
        left = len(found) - len(labels)
        return Said(labels, self.order(labels, verdicts), {ABSTAINED: left} if left else {})

    def _metrics(self, counts: Mapping[str, int]) -> dict[str, float]:
        found = figures_of(counts)
        for label in self.gold.labels:
            if figure := gold_figure(under(f"gold/{label}/", counts)):
                found[f"gold_agreement/{label}"] = figure["value"]
        return found


class ByComparison(ByJudge):
    """P(a is better) as the judge says it of a pair; of several principles their mean."""

    def __init__(
        self,
        setting: Setting,
        clamp: Clamp | None,
        constitution: str | None,
        principles: int | None,
    ) -> None:
        super().__init__(setting, clamp)
        self.questions = Questions(setting.seed, constitution, principles)

    def describe(self) -> Mapping[str, Any]:
        return {**super().describe(), **self.questions.about}

    def ask(self, rows: Sequence[Kept]) -> list[list[Verdict]]:
        asked = []
        for row in rows:
            prompt, texts = _texts(row)
            asked += [
                Comparison(prompt, texts[a], texts[b], each.question)
                for a, b, each in self._of(row)
            ]
        answers = iter(self.judge.compare(asked) if asked else ())
        return [[next(answers) for _ in self._of(row)] for row in rows]

    def judged(self, row: Kept, verdicts: Sequence[Verdict]) -> list[Pair]:
        said: dict[tuple[int, int], list[tuple[Asked, float | None]]] = {}
        for (a, b, asked), verdict in zip(self._of(row), verdicts, strict=True):
            said.setdefault((a, b), []).append((asked, verdict.value))
        return [Pair(a, b, self.clamped(together(each))) for (a, b), each in said.items()]

    def samples(self, row: Kept, verdicts: Sequence[Verdict]) -> Iterable[Mapping[str, Any]]:
        prompt, texts = _texts(row)
        for (a, b, asked), verdict in zip(self._of(row), verdicts, strict=True):
            yield {
                "prompt": prompt,
                "a": texts[a],
                "b": texts[b],
                "first": verdict.value,
                "orders": list(verdict.orders),
                "said": list(verdict.said),
                "why": verdict.why,
                "principle": asked.principle,
                "weight": asked.weight,
            }

    def of_parts(
        self,
        rows: Sequence[Kept],
        verdicts: Sequence[Sequence[Verdict]],
        labelled: Sequence[Sequence[Pair]],
    ) -> Mapping[str, int]:
        """Of each principle by itself."""
        found: Counter[str] = Counter()
        for row, of_row, labels in zip(rows, verdicts, labelled, strict=True):
            label = {(a, b): first for a, b, first in labels}
            for (a, b, asked), verdict in zip(self._of(row), of_row, strict=True):
                if asked.principle is not None:
                    prefix = f"principle/{asked.principle}/"
                    found.update(put_under(prefix, counts_of([verdict])))
                    found.update(put_under(prefix, _for_label(verdict.value, label[a, b])))
        return found

    def of_principles(self, counts: Mapping[str, int]) -> Mapping[str, Any]:
        """``with_label`` is how often a principle names the winner that the label names, and
        ``p_of_label`` its mean P of that winner; of labels that are no ties."""
        found = {}
        for principle in self.questions.principles:
            own = under(f"principle/{principle}/", counts)
            if own.get("asked"):
                found[principle] = {**judge_figures(own), **_of_label(own)}
        return {"principles": found} if found else {}

    def _of(self, row: Kept) -> list[tuple[int, int, Asked]]:
        """All that is asked about a row, pair after pair."""
        return [(a, b, each) for a, b in pairs(row) for each in self.questions.of(row.row, a, b)]


class ByRating(ByJudge):
    """P(a is better) = sigmoid(rating of a - rating of b)."""

    def ask(self, rows: Sequence[Kept]) -> list[list[Verdict]]:
        asked = []
        for row in rows:
            prompt, texts = _texts(row)
            asked += [Rating(prompt, text) for text in texts]
        answers = iter(self.judge.score(asked) if asked else ())
        return [[next(answers) for _ in responses(row)] for row in rows]

    def judged(self, row: Kept, verdicts: Sequence[Verdict]) -> list[Pair]:
        values = [verdict.value for verdict in verdicts]
        return [Pair(a, b, self._first(values[a], values[b])) for a, b in pairs(row)]

    def samples(self, row: Kept, verdicts: Sequence[Verdict]) -> Iterable[Mapping[str, Any]]:
        prompt, texts = _texts(row)
        for text, verdict in zip(texts, verdicts, strict=True):
            yield {
                "prompt": prompt,
                "completion": text,
                "rating": verdict.value,
                "said": list(verdict.said),
                "why": verdict.why,
            }

    def order(self, labels: Sequence[Label], verdicts: Sequence[Verdict]) -> Mapping[int, float]:
        return {n: each.value for n, each in enumerate(verdicts) if each.value is not None}

    def _first(self, a: float | None, b: float | None) -> float | None:
        return None if a is None or b is None else self.clamped(sigmoid(a - b))


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


def _texts(row: Kept) -> tuple[str, list[str]]:
    """Prompt and responses as a judge is told them."""
    assert row.example is not None
    return told(row.example.prompt), [told(each) for each in responses(row)]


def _against(
    labelled: Sequence[Sequence[Pair]], gold: Sequence[Mapping[tuple[int, int], float | None]]
) -> Counter[str]:
    return gold_counts(
        (first, of_row[a, b])
        for found, of_row in zip(labelled, gold, strict=True)
        for a, b, first in found
    )


def _for_label(said: float | None, label: float | None) -> dict[str, int]:
    """How one principle's P(a is better) stands to the label of all of them."""
    if said is None or label is None or label == 0.5:
        return {}
    of_winner = said if label > 0.5 else 1 - said
    return {
        "label/compared": 1,
        "label/agreed": int(of_winner > 0.5),
        "label/tied": int(of_winner == 0.5),
        "label/millionths": round(of_winner * MILLION),
    }


def _of_label(counts: Mapping[str, int]) -> dict[str, Any]:
    n = counts.get("label/compared", 0)
    if not n:
        return {}
    agreed = counts.get("label/agreed", 0) + counts.get("label/tied", 0) / 2
    return {
        "with_label": share(agreed, n),
        "p_of_label": counts.get("label/millionths", 0) / MILLION / n,
    }

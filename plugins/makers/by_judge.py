"""Labels of the run's judge: it compares every pair in both orders, or rates every response."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trimtab.core.judge import Comparison, Rating, Verdict
from trimtab.core.source import Setting
from trimtab.plugins.judges.account import counts_of
from trimtab.plugins.makers.answered import pairs, responses
from trimtab.plugins.makers.columns import told
from trimtab.plugins.makers.judged import judge_figures, put_under, share, under
from trimtab.plugins.makers.judging import ByJudge, Clamp, Pair
from trimtab.plugins.makers.labellers import Label, sigmoid
from trimtab.plugins.makers.principled import Asked, Questions, together
from trimtab.plugins.sources.load import Kept

MILLION = 1_000_000
"""Counts are whole numbers: a probability is counted in millionths."""


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


def _texts(row: Kept) -> tuple[str, list[str]]:
    """Prompt and responses as a judge is told them."""
    assert row.example is not None
    return told(row.example.prompt), [told(each) for each in responses(row)]


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

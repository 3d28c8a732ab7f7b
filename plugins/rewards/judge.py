"""The reward that the run's judge gives: a rating, or how often a completion beats the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import mean
from typing import Any

from trimtab.core.errors import UserError
from trimtab.core.hookspecs import hookimpl
from trimtab.core.judge import Comparison, Judge, Rating, Verdict
from trimtab.core.options import Config
from trimtab.core.reward import Group, Reward, RewardSetting, Score
from trimtab.plugins.judges.account import counts_of, figures_of
from trimtab.plugins.makers.columns import told

ABSTAINED = "the judge abstained"
COMPARED = "the judge compares completions of one prompt with each other, and this one is alone"
ALONE = f"{COMPARED}: set rollout.group to 2 or more, or judge.mode to score"
HELD_OUT = f"{COMPARED}, as each held-out answer is: judge.mode: score rates it"


class JudgeConfig(Config):
    """What the judge is asked."""

    question: str | None = None
    """What is asked of two completions, or what one is held against; null is the judge's own."""


class JudgeReward(Reward[JudgeConfig]):
    """What the run's judge (the section ``judge``) says of a completion, as its mode has it.

    score: the rating, from 1 to 10; with log-probs its expected value (direct-RLAIF, Lee et al.
    2023, arXiv:2309.00267, section 2.2.2). compare: the mean P(better) against each other
    completion of the prompt, in [0, 1]; each two are compared, in both orders, so a group of K
    takes K x (K - 1) questions. One completion alone, as evaluations sample them, has no such
    score.

    A completion that the judge said nothing of has no score. What it said stands in
    ``samples.jsonl`` under ``said``; of two completions beside the first of them, with its place
    in the group. ``metrics.jsonl`` has what it cost, and how far its two orders agree.
    """

    name = "judge"
    options = JudgeConfig
    interruptible = False
    judges = True

    def open(self, setting: RewardSetting) -> None:
        if setting.judge is None:
            raise UserError("the reward 'judge' asks one: give judge: {name: ...} in the run file")
        if setting.judge.mode == "compare" and setting.group == 1:
            raise UserError(f"the reward 'judge' scores nothing here: {ALONE}")
        self.judge: Judge = setting.judge
        self._verdicts: Counter[str] = Counter()

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        return self._compared(groups) if self.judge.mode == "compare" else self._rated(groups)

    def counts(self) -> dict[str, int]:
        found, self._verdicts = self._verdicts, Counter()
        found.update(self.judge.counts())
        return dict(found)

    def figures(self, counts: Mapping[str, int]) -> dict[str, float]:
        return figures_of(counts)

    def describe(self) -> Mapping[str, Any]:
        return {
            "judge": {**self.judge.describe(), "mode": self.judge.mode},
            "question": self.config.question,
        }

    def _rated(self, groups: Sequence[Group]) -> list[list[Score]]:
        asked = [
            Rating(_prompt(group), text, self.config.question)
            for group in groups
            for text in group.completions
        ]
        verdicts = self.judge.score(asked) if asked else []
        self._verdicts += counts_of(verdicts)
        scores = iter(_rating(verdict) for verdict in verdicts)
        return [[next(scores) for _ in group.completions] for group in groups]

    def _compared(self, groups: Sequence[Group]) -> list[list[Score]]:
        asked = [
            Comparison(
                _prompt(group), group.completions[a], group.completions[b], self.config.question
            )
            for group in groups
            for a, b in _pairs(group)
        ]
        verdicts = self.judge.compare(asked) if asked else []
        self._verdicts += counts_of(verdicts)
        answers = iter(verdicts)
        return [
            _against_each_other(len(group.completions), [next(answers) for _ in _pairs(group)])
            for group in groups
        ]


def _prompt(group: Group) -> str:
    return group.prompt if group.content is None else told(group.content)


def _pairs(group: Group) -> list[tuple[int, int]]:
    return list(combinations(range(len(group.completions)), 2))


def _rating(verdict: Verdict) -> Score:
    said = {"said": list(verdict.said)} if verdict.said else {}
    if verdict.value is None:
        return Score(None, why=verdict.why or ABSTAINED, said=said)
    return Score(verdict.value, said=said)


def _against_each_other(count: int, verdicts: Sequence[Verdict]) -> list[Score]:
    """Of one group, given the verdicts on its pairs."""
    if count == 1:
        return [Score(None, why=HELD_OUT)]
    values: list[list[float]] = [[] for _ in range(count)]
    whys: list[str] = [ABSTAINED] * count
    said: list[list[dict[str, Any]]] = [[] for _ in range(count)]
    for (a, b), verdict in zip(combinations(range(count), 2), verdicts, strict=True):
        if verdict.value is None:
            whys[a] = whys[b] = verdict.why or ABSTAINED
        else:
            values[a].append(verdict.value)
            values[b].append(1 - verdict.value)
        said[a].append(
            {
                "against": b,
                "first": verdict.value,
                "orders": list(verdict.orders),
                "said": list(verdict.said),
                **({"why": verdict.why} if verdict.why else {}),
            }
        )
    return [_score(values[n], whys[n], {"place": n, "pairs": said[n]}) for n in range(count)]


def _score(values: Sequence[float], why: str, said: Mapping[str, Any]) -> Score:
    """The mean of the comparisons that were decided."""
    if not values:
        return Score(None, why=why, said=said)
    return Score(mean(values), said=said)


@hookimpl
def provide_rewards() -> list[type]:
    """Register judge."""
    return [JudgeReward]

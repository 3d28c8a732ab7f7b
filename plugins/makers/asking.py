"""Prompts of a data set, each answered by the policy: what makers that sample have in common."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trimtab.core.engine import Completion
from trimtab.core.errors import UserError
from trimtab.core.maker import Made
from trimtab.core.reward import Group, Score
from trimtab.core.rewards import groups_of
from trimtab.core.seeds import mixed
from trimtab.core.source import Setting
from trimtab.plugins.makers.columns import answer
from trimtab.plugins.makers.pool import Pool, PoolConfig
from trimtab.plugins.sources.answering import prompt_of, sampled
from trimtab.plugins.sources.formats import Example, Side, demonstration
from trimtab.plugins.sources.load import Kept
from trimtab.plugins.sources.rows import BadRow
from trimtab.plugins.sources.sampled import mean, record, rewards_of
from trimtab.plugins.sources.tokens import Encoded, Encoder

MOST = 2**20
"""Completions of one prompt, at most; each has a random stream of its own."""

REPEATED = "completions that repeat another one of their prompt"
UNSCORED = "completions that no reward could score"
TRUNCATED = "truncated completions, left out"


class AskingConfig(PoolConfig):
    """Which prompts are answered, and what becomes of answers that do not end."""

    truncated: Literal["keep", "drop"] = "keep"
    """What becomes of completions cut at ``rollout.max_new_tokens``.

    The policy did not end them, but where rows are read again each completion ends: to imitate a
    kept one is to learn to stop there.
    """


@dataclass(frozen=True)
class Answer:
    """One completion that can be written down."""

    written: Side
    """As rows have it."""

    score: float | None
    """None where the run has no rewards."""

    place: int
    """Among all completions of the prompt."""


@dataclass(frozen=True)
class Answered:
    """A prompt with those of its completions that can be used, in the order of sampling."""

    row: Kept
    answers: Sequence[Answer]


@dataclass
class _Sampled:
    """A completion on its way."""

    completion: Completion
    text: str
    written: Side
    score: Score
    encoded: Encoded | BadRow
    left_out: str | None = None


class Asking:
    """Answers prompts step by step.

    A completion is drawn by a random stream of its own, which follows from the seed, the epoch,
    the prompt's place in the order and the completion's number: it does not depend on
    ``train.rows``, on the group or on how many processes there are. ``distinct`` leaves out what
    repeats another completion of its prompt.
    """

    def __init__(self, setting: Setting, config: AskingConfig, *, distinct: bool) -> None:
        assert setting.engine is not None
        self.setting, self.config, self.engine = setting, config, setting.engine
        self.distinct = distinct
        self.pool = Pool(setting, config)
        self._encoder = Encoder(setting.tokenizer, setting.data)

    def steps(self, rows: int) -> int:
        """How many batches of so many prompts go through all of them."""
        return self.pool.steps(rows)

    def describe(self) -> dict[str, Any]:
        """The prompts that were read, and which of them are answered."""
        rewards = self.setting.rewards
        return {
            **self.pool.describe(),
            "group": self.setting.group,
            **({"rewards": rewards.describe()} if rewards else {}),
        }

    def ask(self, step: int, rows: int) -> tuple[list[Answered], Made]:
        """The prompts of this step with what can be used of their answers; and the account of it,
        without rows."""
        chosen = self.pool.of_step(step, rows)
        answers = sampled(
            self.setting,
            [prompt_of(row) for row in chosen.rows],
            seed=mixed(self.setting.seed, "made"),
            draw=chosen.epoch,
            stream=lambda group, number: chosen.places[group] * MOST + number,
        )
        numbers = range(chosen.before, chosen.before + len(chosen.rows))
        return self.take(chosen.rows, numbers, answers)

    def take(
        self,
        rows: Sequence[Kept],
        numbers: Sequence[int],
        answers: Sequence[Sequence[Completion]],
    ) -> tuple[list[Answered], Made]:
        """The same of a group of completions for each prompt, which was sampled otherwise.

        ``numbers`` counts the prompts over all steps, and their samples are numbered after it.
        """
        if not rows:
            return [], Made(rows=())
        prompts = [prompt_of(row) for row in rows]
        groups = groups_of(self.setting.tokenizer, prompts, answers)
        scores, notes = self._scores(groups)
        figures = self.setting.rewards.drain_figures() if self.setting.rewards else {}
        judged = self._judged(rows, groups, scores)
        made = Made(
            rows=(),
            metrics={**self._metrics([each for group in judged for each in group]), **figures},
            samples=list(self._samples(rows, groups, judged, numbers)),
            notes=notes,
            read=len(rows),
            counts=_counts(each for group in judged for each in group),
        )
        return [
            Answered(row, [_answer(each, n) for n, each in enumerate(group) if not each.left_out])
            for row, group in zip(rows, judged, strict=True)
        ], made

    def _scores(self, groups: Sequence[Group]) -> tuple[list[list[Score]], list[str]]:
        rewards = self.setting.rewards
        if rewards is None:
            return [[Score(None)] * len(group.completions) for group in groups], []
        found = rewards.score(groups, self.setting.processes, learn=True)
        return found, [str(fault) for fault in rewards.drain_faults()]

    def _judged(
        self, rows: Sequence[Kept], groups: Sequence[Group], scores: Sequence[Sequence[Score]]
    ) -> list[list[_Sampled]]:
        """Every completion, as it would be read again, and why it cannot be used if so."""
        drafts = [
            [demonstrated(row, text) for text in group.completions]
            for row, group in zip(rows, groups, strict=True)
        ]
        examples = [each for group in drafts for each in group if isinstance(each, Example)]
        encoded = iter(self._encoder.encode(examples))
        found: list[list[_Sampled]] = []
        for row, group, of_group, draft in zip(rows, groups, scores, drafts, strict=True):
            found.append([])
            for number, score in enumerate(of_group):
                text, example = group.completions[number], draft[number]
                read = next(encoded) if isinstance(example, Example) else example
                one = _Sampled(group.sampled[number], text, answer(row.asked, text), score, read)
                one.left_out = self._why_not(one, found[-1])
                found[-1].append(one)
        return found

    def _why_not(self, one: _Sampled, earlier: Sequence[_Sampled]) -> str | None:
        if self.setting.rewards is not None and one.score.value is None:
            return UNSCORED
        if one.completion.truncated and self.config.truncated == "drop":
            return TRUNCATED
        if isinstance(one.encoded, BadRow):
            return f"completions that cannot be read again: {one.encoded}"
        if self.distinct and any(one.text == each.text and not each.left_out for each in earlier):
            return REPEATED
        return None

    def _metrics(self, sampled: Sequence[_Sampled]) -> dict[str, float]:
        """The step's figures; of what could be scored only, where they are of scores.

        ``alike`` is the share of completions whose tokens, read again, are those that were
        sampled.
        """
        completions = [each.completion for each in sampled]
        found = {
            "tokens": float(sum(len(one.tokens) for one in completions)),
            "length": mean([len(one.tokens) for one in completions]),
            "truncated": mean([one.truncated for one in completions]),
            "left_out": mean([each.left_out is not None for each in sampled]),
            "alike": mean([_alike(each) for each in sampled]),
        }
        return {**found, **rewards_of([each.score for each in sampled])}

    def _samples(
        self,
        rows: Sequence[Kept],
        groups: Sequence[Group],
        answers: Sequence[Sequence[_Sampled]],
        numbers: Sequence[int],
    ) -> Iterable[Mapping[str, Any]]:
        unasked = ("reward", "parts") if self.setting.rewards is None else ()
        for row, group, of_group, first in zip(rows, groups, answers, numbers, strict=True):
            for index, each in enumerate(of_group):
                said = record(row.row, group, index, each.score)
                left = {"left_out": each.left_out} if each.left_out else {}
                known = {name: value for name, value in said.items() if name not in unasked}
                yield {**known, "sample": first * self.setting.group + index, **left}


def check_group(setting: Setting, name: str) -> None:
    """One completion of each prompt leaves nothing to choose from."""
    if setting.group < 2:
        raise UserError(
            f"rollout.group is {setting.group}, and {name!r} needs several completions of each "
            "prompt: set it to 2 or more"
        )


def demonstrated(row: Kept, text: str) -> Example | BadRow:
    """The row's prompt with this completion, as a data set would have it; or why it cannot."""
    assert row.example is not None
    columns = {"prompt": row.asked, "completion": answer(row.asked, text)}
    try:
        read = demonstration(columns)
    except BadRow as fault:
        return fault
    return Example(read.prompt, read.completions, template=row.example.template)


def _alike(one: _Sampled) -> bool:
    """Is what was sampled read again as the same tokens?"""
    if isinstance(one.encoded, BadRow):
        return False
    ids = [one.encoded.prompt, *(each.ids for each in one.encoded.completions)]
    return ids == [array("i", one.completion.prompt), array("i", one.completion.tokens)]


def _answer(one: _Sampled, place: int) -> Answer:
    return Answer(one.written, one.score.value, place)


def _counts(sampled: Iterable[_Sampled]) -> dict[str, int]:
    """Completions in all, and those left out by reason."""
    each = list(sampled)
    counts = Counter(one.left_out for one in each if one.left_out)
    kept = [one for one in each if one.left_out is None]
    cut = sum(one.completion.truncated for one in kept)
    told = {"truncated completions, kept": cut} if cut else {}
    return {"completions": len(each), **counts, **told}

"""Drafts, critiques and revisions, sampled for many prompts at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from trimtab.core.engine import Completion
from trimtab.core.judge import Judge
from trimtab.core.seeds import mixed
from trimtab.core.source import Prompt, Setting
from trimtab.plugins.constitutions import Constitution, Principle, drawn
from trimtab.plugins.makers.asking import demonstrated
from trimtab.plugins.makers.chains import Chain, Round
from trimtab.plugins.makers.exchanges import Asked, Exchange, Renderer
from trimtab.plugins.makers.judged import shared
from trimtab.plugins.makers.pool import Portion
from trimtab.plugins.sources.answering import one_each, prompt_of
from trimtab.plugins.sources.load import Kept
from trimtab.plugins.sources.rows import BadRow
from trimtab.plugins.sources.tokens import Encoded, Encoder

TOO_LONG = "the conversation is longer than the model's context"
TRUNCATED_DRAFT = "the draft is truncated"
EMPTY_CRITIQUE = "the critique is empty"
NO_CRITIQUE = "the judge wrote no critique"
EMPTY = "the revision is empty"
TRUNCATED = "the revision is truncated"
SAME = "the revision is the answer before it"

CRITIQUES_CUT = "truncated critiques, used"


@dataclass(frozen=True)
class Way:
    """How answers are revised."""

    constitution: Constitution
    rounds: int
    critique: bool
    critique_tokens: int
    truncated: Literal["keep", "drop"]
    """What becomes of truncated drafts."""

    judge: Judge | None = None
    """Who criticizes; None is the policy."""


@dataclass
class Revised:
    """What one step came to."""

    chains: list[Chain] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    judged: Counter[str] = field(default_factory=Counter)
    """What the judge was asked: ``asked``, ``abstained``, and what it counts of itself."""

    tokens: int = 0
    """That the policy sampled in all."""


class Reviser:
    """Takes the prompts of a step through all rounds.

    Every draft, critique and revision has a random stream of its own, which follows from the seed,
    the epoch, the prompt's place in the order and the round.
    """

    def __init__(self, setting: Setting, way: Way) -> None:
        self.setting, self.way = setting, way
        self._encoder = Encoder(setting.tokenizer, setting.data)
        self._renderer = Renderer(setting)

    def revised(self, portion: Portion, longest: int | None) -> Revised:
        """All chains of these prompts. ``longest``: tokens of the model's context, if known."""
        made = Revised()
        step = _Step(self.setting, portion.epoch, longest, made)
        made.chains = self._drafts(step, portion)
        principles = [self._principles(portion.epoch, place) for place in portion.places]
        for number in range(self.way.rounds):
            going = [
                (chain, of_chain[number])
                for chain, of_chain in zip(made.chains, principles, strict=True)
                if chain.lost is None
            ]
            self._round(step, number, going)
        return made

    def _principles(self, epoch: int, place: int) -> list[Principle]:
        way = self.way
        return drawn(way.constitution, way.rounds, self.setting.seed, "principle", epoch, place)

    def _drafts(self, step: _Step, portion: Portion) -> list[Chain]:
        prompts = [prompt_of(row) for row in portion.rows]
        most = self.setting.rollout.max_new_tokens
        drafts = step.sampled(prompts, portion.places, most, "draft")
        texts = [self._text(draft) for draft in drafts]
        chains = [
            Chain(row, place, draft, [text], [draft])
            for row, place, draft, text in zip(
                portion.rows, portion.places, drafts, texts, strict=True
            )
        ]
        read = self._read(portion.rows, texts)
        for chain, again in zip(chains, read, strict=True):
            if chain.draft.truncated and self.way.truncated == "drop":
                chain.lost = TRUNCATED_DRAFT
            elif isinstance(again, BadRow):
                chain.lost = f"the draft cannot be read again: {again}"
        return chains

    def _round(self, step: _Step, number: int, going: Sequence[tuple[Chain, Principle]]) -> None:
        """One principle for each, a critique of the answer, and a revision of it."""
        for chain, principle in going:
            chain.rounds.append(Round(principle.id))
        if self.way.critique:
            self._critiques(step, number, going)
        asked = []
        for chain, principle in going:
            now = chain.rounds[-1]
            if now.why is None:
                said = [Exchange("revision", principle.revise)]
                if now.critique is not None:
                    said.insert(0, Exchange("critique", principle.critique, now.critique))
                asked.append((chain, Asked(chain.row, chain.final, said)))
        self._revisions(step, number, asked)

    def _critiques(
        self, step: _Step, number: int, going: Sequence[tuple[Chain, Principle]]
    ) -> None:
        """Note what each answer is criticized for."""
        asked = [
            (chain, Asked(chain.row, chain.final, [Exchange("critique", principle.critique)]))
            for chain, principle in going
        ]
        if self.way.judge is not None:
            texts = step.written_by(self.way.judge, [each.turns() for _, each in asked])
        else:
            found = self._replies(step, asked, self.way.critique_tokens, "critique", number)
            step.made.counts[CRITIQUES_CUT] += sum(
                each is not None and self._cut(each) for each in found
            )
            texts = [None if each is None else self._reply(each) for each in found]
        for (chain, _), text in zip(asked, texts, strict=True):
            now = chain.rounds[-1]
            now.critique = text
            if not text and chain.lost is None:
                now.why = NO_CRITIQUE if text is None else EMPTY_CRITIQUE

    def _revisions(self, step: _Step, number: int, asked: Sequence[tuple[Chain, Asked]]) -> None:
        """Let each revision that can be used take the place of the answer before it."""
        most = self.setting.rollout.max_new_tokens
        found = self._replies(step, asked, most, "revision", number)
        texts = [
            _as_before(chain, "" if one is None else self._reply(one))
            for (chain, _), one in zip(asked, found, strict=True)
        ]
        read = self._read([chain.row for chain, _ in asked], texts)
        for (chain, _), one, text, again in zip(asked, found, texts, read, strict=True):
            if one is None:
                continue
            last = chain.rounds[-1]
            last.revision = text
            last.why = self._why_not(chain, one, text, again)
            if last.why is None and isinstance(again, Encoded):
                tokens = tuple(again.completions[0].ids)
                chain.answers.append(text)
                chain.sampled.append(Completion(tuple(again.prompt), tokens, truncated=False))

    def _why_not(
        self, chain: Chain, one: Completion, text: str, again: Encoded | BadRow
    ) -> str | None:
        if not text.strip():
            return EMPTY
        if self._cut(one):
            return TRUNCATED
        if text.strip() == chain.final.strip():
            return SAME
        if isinstance(again, BadRow):
            return f"the revision cannot be read again: {again}"
        return None

    def _replies(
        self,
        step: _Step,
        asked: Sequence[tuple[Chain, Asked]],
        most: int,
        kind: str,
        number: int,
    ) -> list[Completion | None]:
        """What the policy writes; None for chains that are lost by it."""
        prompts: dict[int, Prompt] = {}
        for n, rendered in enumerate(self._renderer.prompts([each for _, each in asked])):
            if isinstance(rendered, BadRow):
                asked[n][0].lose(f"the {kind} cannot be asked for: {rendered}")
            elif step.longest is not None and len(rendered.ids) + most > step.longest:
                asked[n][0].lose(TOO_LONG)
            else:
                prompts[n] = rendered
        places = [asked[n][0].place for n in prompts]
        found = step.sampled(list(prompts.values()), places, most, kind, number)
        by_number = dict(zip(prompts, found, strict=True))
        return [by_number.get(n) for n in range(len(asked))]

    def _read(self, rows: Sequence[Kept], texts: Sequence[str]) -> list[Encoded | BadRow]:
        """Each answer as it would be read again after its prompt."""
        drafts = [demonstrated(row, text) for row, text in zip(rows, texts, strict=True)]
        found = iter(
            self._encoder.encode([each for each in drafts if not isinstance(each, BadRow)])
        )
        return [each if isinstance(each, BadRow) else next(found) for each in drafts]

    def _cut(self, one: Completion) -> bool:
        """Did it reach the most tokens before anything ended it?"""
        return one.truncated and self._reply(one) == self._text(one).strip()

    def _reply(self, one: Completion) -> str:
        return self._renderer.reply(self._text(one))

    def _text(self, one: Completion) -> str:
        text: str = self.setting.tokenizer.decode(one.tokens, skip_special_tokens=True)
        return text


@dataclass
class _Step:
    """What a step samples with, and its account."""

    setting: Setting
    epoch: int
    longest: int | None
    made: Revised

    def sampled(
        self, prompts: Sequence[Prompt], places: Sequence[int], most: int, *stream: str | int
    ) -> list[Completion]:
        """One completion of each prompt, of at most so many tokens; the processes share them."""
        found = one_each(
            self.setting,
            prompts,
            most=most,
            seed=mixed(self.setting.seed, *stream),
            draw=self.epoch,
            streams=places,
        )
        self.made.tokens += sum(len(each.tokens) for each in found)
        return found

    def written_by(
        self, judge: Judge, conversations: Sequence[Sequence[Mapping[str, Any]]]
    ) -> list[str | None]:
        """What the judge writes next; the processes share the conversations."""
        texts, cost = shared(judge, judge.write, conversations, self.setting.processes)
        silent = sum(text is None for text in texts)
        self.made.judged.update(cost)
        self.made.judged.update({"asked": len(texts), "abstained": silent})
        return [None if text is None else text.strip() for text in texts]


def _as_before(chain: Chain, text: str) -> str:
    """After a prompt of plain text an answer begins with the white space of the draft's."""
    if not isinstance(chain.row.asked, str):
        return text
    draft = chain.answers[0]
    return draft[: len(draft) - len(draft.lstrip())] + text

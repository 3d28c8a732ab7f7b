"""What judges that are chat models have in common: prompts, both orders, parsing, expectation."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt
from typing_extensions import TypeVar

from trimtab.core.errors import PluginError
from trimtab.core.judge import Comparison, Judge, Mode, Rating, Verdict
from trimtab.core.options import Config, LocalPath
from trimtab.plugins.judges.parsing import Reading, pair_for, read, repeats
from trimtab.plugins.judges.prompts import Asked, load_templates
from trimtab.plugins.judges.question import Answer, Question, Turns
from trimtab.plugins.judges.quoting import Quotes, tame


class ChatConfig(Config):
    """What a chat model is asked as a judge, and what its answers count for."""

    mode: Mode = "compare"
    """What it is asked where either would do: which of two completions is better, or how good one
    is from 1 to 10."""

    reason: bool = False
    """Let it think first, in writing; what counts is asked for after that."""

    reason_tokens: Annotated[int, Gt(0)] = 256
    """Tokens of its reasoning, at most."""

    write_tokens: Annotated[int, Gt(0)] = 256
    """Tokens of what it writes otherwise, such as a critique, at most."""

    temperature: Annotated[float, Ge(0)] = 0.0
    """Of what it writes: reasoning, critiques; 0 takes the likeliest token each time. Verdicts
    are never drawn."""

    disagreement: Literal["tie", "average"] = "tie"
    """Where the two orders of a pair name different winners: a tie, P = 1/2; or the mean of the
    two probabilities, as Lee et al. 2023 have it. They differ for soft labels only."""

    question: str | None = None
    """What is asked of two completions; null is which one is better."""

    rubric: str | None = None
    """What one completion is held against; null is how helpful and correct it is."""

    template: Annotated[str | None, LocalPath()] = None
    """A file of prompts in place of those that come with trimtab."""


C = TypeVar("C", bound=ChatConfig, default=ChatConfig)


@dataclass(frozen=True)
class Case:
    """What the model is asked for one verdict, or for one order of a pair."""

    asked: Asked
    options: tuple[str, ...]
    texts: tuple[str, ...]
    """All that was filled in."""


class ChatJudge(Judge[C]):
    """Asks a chat model in words. Those who derive from it say how the model is reached.

    A pair is asked in both orders. The texts stand between delimiters that follow from them and
    the run's seed, and that they do not hold; the answers that count are such as no text holds as
    a word (``parsing.pair_for``). An answer counts by the log-probs of the options, p = softmax
    over them (Lee et al. 2023, arXiv:2309.00267), and else only if all of it is an option.
    """

    literal: ClassVar[bool] = False
    """Is every text of a turn text to the model, and never a control token? Where nobody can say,
    as behind an endpoint, what looks like one is broken up (``quoting.tame``)."""

    def __init__(self, config: C) -> None:
        super().__init__(config)
        self.mode = config.mode
        self.templates = load_templates(config.template)
        self.templates.of(config.mode)

    @abstractmethod
    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """One answer a question, in their order. A question with options is answered by their
        log-probs where the model says them all, else by a short text."""

    def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """P(first is better) of each pair, from both orders."""
        cases = [case for each in comparisons for case in self._orders(each)]
        found = iter(self._answered(cases))
        return [self._combined(next(found), next(found)) for _ in comparisons]

    def score(self, ratings: Sequence[Rating]) -> list[Verdict]:
        """The expected rating, or the one that was written: 1 to 10, or by ``ratings`` of the
        template."""
        worth = self.templates.ratings
        cases = [self._rating(each) for each in ratings]
        return [_rated(seen, worth) for seen in self._answered(cases)]

    def write(self, conversations: Sequence[Sequence[Mapping[str, str]]]) -> list[str | None]:
        """The next turn of each conversation, without white space around it; None where it is
        empty."""
        tokens, temperature = self.config.write_tokens, self.config.temperature
        asked = [
            Question(self._turns(turns), max_tokens=tokens, temperature=temperature)
            for turns in conversations
        ]
        return [(each.text or "").strip() or None for each in self._asked(asked)]

    def describe(self) -> Mapping[str, Any]:
        """The options that decide what is asked, and the template with its hash."""
        own = set(ChatConfig.model_fields) - {"template"}
        return {
            **super().describe(),
            **self.config.model_dump(mode="json", include=own),
            "template": self.templates.describe(),
        }

    def _orders(self, each: Comparison) -> tuple[Case, Case]:
        """The pair as it is, and exchanged."""
        prompt, first, second = (self._tame(t) for t in (each.prompt, each.first, each.second))
        question = each.question or self.config.question or self.templates.of("compare").question
        texts = (prompt, first, second)
        quotes = Quotes.around(self.setting.seed, texts)
        one, two = pair_for(texts, question, self.setting.seed)
        fixed = {
            "prompt": quotes.block(prompt),
            "question": question,
            "one": one,
            "two": two,
            "begin": quotes.begin,
            "end": quotes.end,
        }

        def shown(a: str, b: str) -> Case:
            both = {"first": quotes.block(a), "second": quotes.block(b)}
            return Case(self.templates.fill("compare", {**fixed, **both}), (one, two), texts)

        return shown(first, second), shown(second, first)

    def _rating(self, each: Rating) -> Case:
        texts = (self._tame(each.prompt), self._tame(each.completion))
        quotes = Quotes.around(self.setting.seed, texts)
        prompt, completion = map(quotes.block, texts)
        question = each.question or self.config.rubric or self.templates.of("score").question
        filled = {
            "prompt": prompt,
            "completion": completion,
            "question": question,
            "begin": quotes.begin,
            "end": quotes.end,
        }
        return Case(
            self.templates.fill("score", filled), tuple(self.templates.ratings), (*texts, question)
        )

    def _combined(self, shown_first: Seen, shown_second: Seen) -> Verdict:
        said = (*shown_first.said, *shown_second.said)
        firsts = [
            None if seen.reading.shares is None else seen.reading.shares[seen.case.options[place]]
            for place, seen in enumerate((shown_first, shown_second))
        ]
        a, b = firsts
        if a is None or b is None:
            unread = [
                f"{order}: {seen.reading.why}"
                for order, seen in (("in order", shown_first), ("exchanged", shown_second))
                if seen.reading.shares is None
            ]
            return Verdict(None, said, firsts, "; ".join(unread))
        if self.config.disagreement == "tie" and min(a, b) < 0.5 < max(a, b):
            return Verdict(0.5, said, firsts)
        return Verdict((a + b) / 2, said, firsts)

    def _answered(self, cases: Sequence[Case]) -> list[Seen]:
        """What the model says of each case; with ``reason``, after it thought."""
        thoughts: list[Answer | None] = [None] * len(cases)
        if self.config.reason:
            tokens, temperature = self.config.reason_tokens, self.config.temperature
            asked = [
                Question(
                    self._conversation(case.asked, case.asked.think),
                    max_tokens=tokens,
                    temperature=temperature,
                )
                for case in cases
            ]
            thoughts = list(self._asked(asked))
        questions = [
            Question(self._closing(case.asked, thought), case.options)
            for case, thought in zip(cases, thoughts, strict=True)
        ]
        answers = self._asked(questions)
        return [
            _seen(case, thought, answer)
            for case, thought, answer in zip(cases, thoughts, answers, strict=True)
        ]

    def _closing(self, asked: Asked, thought: Answer | None) -> Turns:
        """The request for what counts, after the reasoning where there is any."""
        if thought is None or not (thought.text or "").strip():
            return self._conversation(asked, asked.answer)
        reasoned = [{"role": "assistant", "content": thought.text or ""}]
        closing = [{"role": "user", "content": asked.answer}]
        return self._turns([*self._conversation(asked, asked.think), *reasoned, *closing])

    def _conversation(self, asked: Asked, request: str) -> Turns:
        system = [{"role": "system", "content": asked.system}] if asked.system else []
        return self._turns([*system, {"role": "user", "content": f"{asked.show}\n\n{request}"}])

    def _turns(self, turns: Sequence[Mapping[str, str]]) -> Turns:
        return tuple({**turn, "content": self._tame(turn["content"])} for turn in turns)

    def _tame(self, text: str) -> str:
        return text if self.literal else tame(text)

    def _asked(self, questions: Sequence[Question]) -> list[Answer]:
        if not questions:
            return []
        answers = self.ask(questions)
        if len(answers) != len(questions):
            raise PluginError(
                f"the judge {self.name!r} gave {len(answers)} answers to {len(questions)} "
                "questions; ask() must give one for each"
            )
        return answers


@dataclass(frozen=True)
class Seen:
    """What the model said of one case."""

    case: Case
    reading: Reading
    said: tuple[str, ...]
    """Its reasoning, where it was asked for, and its answer."""


def _seen(case: Case, thought: Answer | None, answer: Answer) -> Seen:
    reading = read(answer, case.options)
    reasoning = () if thought is None else (thought.text or f"(nothing: {thought.why})",)
    return Seen(case, reading, (*reasoning, reading.said))


def _rated(seen: Seen, worth: Mapping[str, float]) -> Verdict:
    """The expected rating; an abstention where what was written may be a line of the texts."""
    reading = seen.reading
    if reading.shares is None:
        return Verdict(None, seen.said, why=reading.why)
    if reading.parsed is not None and repeats(reading.parsed, seen.case.texts):
        why = f"it may be an echo: a line of the texts says {reading.parsed} too"
        return Verdict(None, seen.said, why=why)
    value = math.fsum(worth[option] * share for option, share in reading.shares.items())
    return Verdict(min(max(value, min(worth.values())), max(worth.values())), seen.said)

"""Answers after reasoning over a written specification: two turns of the policy a completion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from trimtab.core.engine import Completion
from trimtab.core.errors import UserError
from trimtab.core.seeds import mixed
from trimtab.core.source import Prompt, Setting
from trimtab.plugins.makers.asking import MOST
from trimtab.plugins.makers.pool import Portion
from trimtab.plugins.sources.answering import one_each, unlimited
from trimtab.plugins.sources.formats import Example
from trimtab.plugins.sources.load import Kept
from trimtab.plugins.sources.messages import ASSISTANT, Message
from trimtab.plugins.sources.rows import BadRow

THINK = """{asked}

Before you answer, read how answers are to be:

{specification}

Which of this matters for what was asked, and what does it want of the answer? Write only your \
thoughts. Do not answer yet."""

ANSWER = """{asked}

Now answer this, as the specification wants it. Write only the answer."""
"""What was asked is said again: a small model has lost it by now."""

TOO_LONG = "with the specification and the reasoning it is longer than the model's context"


@dataclass
class Deliberated:
    """What one prompt came to."""

    row: Kept
    place: int
    """Of the prompt in the order; its random streams follow from it."""

    number: int
    """Of the prompt, counted over all steps."""

    why_not: str | None = None
    """Why there are no answers."""

    thoughts: list[str] = field(default_factory=list)
    cut: int = 0
    """Thoughts that did not end by themselves."""

    answers: list[Completion] = field(default_factory=list)
    """One after each thought, but as if it had been sampled after the row's own prompt."""


Slot = tuple[Deliberated, int]
"""A prompt, and the number of one of its completions."""


@dataclass(frozen=True)
class _Turn:
    """One of the two."""

    kind: str
    """``thought``, or ``made``: an answer."""

    most: int
    """Tokens, at most."""

    epoch: int
    longest: int | None


class Deliberating:
    """Has the policy think, and then answer, ``rollout.group`` times for each prompt.

    A thought and an answer are drawn by random streams of their own, which follow from the seed,
    the epoch, the prompt's place in the order and the completion's number.
    """

    def __init__(self, setting: Setting, specification: str, reason_tokens: int) -> None:
        if not setting.tokenizer.chat_template:
            raise UserError(
                "the specification and the thoughts are turns of a conversation, and this model's "
                "tokenizer has no chat template: use an instruction-tuned model"
            )
        self.setting, self.specification = setting, specification
        self.reason_tokens, self.answer_tokens = reason_tokens, setting.rollout.max_new_tokens
        self._encoder = unlimited(setting)

    def of(self, portion: Portion, longest: int | None) -> list[Deliberated]:
        """Each prompt of a step. ``longest``: tokens of the model's context, if known."""
        found = [
            Deliberated(row, place, portion.before + n)
            for n, (row, place) in enumerate(zip(portion.rows, portion.places, strict=True))
        ]
        most, epoch = self.reason_tokens + self.answer_tokens, portion.epoch
        self._prompts([(one, "") for one in found], most, longest)  # what cannot fit is not begun
        slots = [(one, n) for one in found if not one.why_not for n in range(self.setting.group)]
        turn = _Turn("thought", self.reason_tokens, epoch, longest)
        for one, thought in self._replies(turn, slots):
            one.thoughts.append(self._text(thought).strip())
            one.cut += thought.truncated
        turn = _Turn("made", self.answer_tokens, epoch, longest)
        for one, answer in self._replies(turn, [slot for slot in slots if not slot[0].why_not]):
            one.answers.append(self._after_its_prompt(one.row, answer))
        return found

    def _replies(self, turn: _Turn, slots: Sequence[Slot]) -> list[tuple[Deliberated, Completion]]:
        """What the policy writes in this turn, but for prompts that become too long by it."""
        thinks = turn.kind == "thought"
        asked = [(one, None if thinks else one.thoughts[number]) for one, number in slots]
        prompts = self._prompts(asked, turn.most, turn.longest)
        going = [n for n, (one, _) in enumerate(slots) if not one.why_not]
        found = one_each(
            self.setting,
            [prompt for n in going if (prompt := prompts[n]) is not None],
            most=turn.most,
            seed=mixed(self.setting.seed, turn.kind),
            draw=turn.epoch,
            streams=[slots[n][0].place * MOST + slots[n][1] for n in going],
        )
        return [(slots[n][0], reply) for n, reply in zip(going, found, strict=True)]

    def _prompts(
        self, asked: Sequence[tuple[Deliberated, str | None]], most: int, longest: int | None
    ) -> list[Prompt | None]:
        """What the policy is given: with a thought to answer, without one to think. Where that is
        refused, or has no room for so many tokens more, the prompt's ``why_not`` says so."""
        examples = [self._example(one.row, thought) for one, thought in asked]
        found: list[Prompt | None] = []
        for (one, _), read in zip(asked, self._encoder.encode(examples), strict=True):
            if isinstance(read, BadRow):
                one.why_not = str(read)
            elif longest is not None and len(read.prompt) + most > longest:
                one.why_not = TOO_LONG
            else:
                found.append(Prompt(one.row.row, tuple(read.prompt), one.row.asked))
                continue
            found.append(None)
        return found

    def _example(self, row: Kept, thought: str | None) -> Example:
        """The conversation. The request stands at the end of the user's last turn: not every
        template takes two turns of a user in a row."""
        assert row.example is not None and row.asked is not None
        turns = [_turn("user", row.asked)] if isinstance(row.asked, str) else list(row.asked)
        asked = ""
        if turns[-1]["role"] == "user":
            *turns, last = turns
            asked = last["content"]
        request = THINK.format(asked=asked, specification=self.specification)
        turns.append(_turn("user", request.strip()))
        if thought is not None:
            again = ANSWER.format(asked=asked).strip()
            turns += [_turn(ASSISTANT, self._encoder.written(thought)), _turn("user", again)]
        return Example(turns, (), template=row.example.template)

    def _after_its_prompt(self, row: Kept, answer: Completion) -> Completion:
        """As if it had been sampled after the row's prompt; text goes on with white space."""
        prompt, tokens = tuple(row.tokens.prompt), answer.tokens
        if isinstance(row.asked, str):
            start = "" if row.asked[-1:].isspace() else " "
            text = start + self._text(answer).strip()
            tokens = tuple(self.setting.tokenizer(text, add_special_tokens=False)["input_ids"])
            eos = self.setting.tokenizer.eos_token_id
            tokens += () if answer.truncated or eos is None else (eos,)
        return Completion(prompt, tokens, answer.truncated)

    def _text(self, one: Completion) -> str:
        text: str = self.setting.tokenizer.decode(one.tokens, skip_special_tokens=True)
        return text


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}

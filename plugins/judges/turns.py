"""Conversations as the tokens of a model, in which nobody's words are control tokens."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from jinja2 import TemplateError

from trimtab.core.errors import UserError
from trimtab.plugins.judges.question import Turns
from trimtab.plugins.sources.spelled import Spelled, encoded

TAIL = 64
"""So many characters at the end of a prompt decide into which tokens an answer is cut."""

REFUSALS = (TemplateError, TypeError, ValueError, KeyError)

BREAK = "\n\n"
"""Between turns, where the model has no chat template."""


@dataclass(frozen=True)
class Prompt:
    """Turns, and the head of the answer to them."""

    ids: Sequence[int]
    tail: str
    """What the text ends with; it decides into which tokens an answer is cut."""


class TurnEncoder:
    """Turns to token ids by the model's chat template, up to where it is to answer.

    The strings of added tokens, such as ``<|im_end|>``, are those tokens where the template writes
    them. Where the content of a turn spells them they are encoded piece by piece, as other text.

    A template that refuses a system turn gets it at the head of the first user's turn. Without a
    template, turns are written out (``User: ...``), with an empty line between them.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._added = Spelled(tokenizer, tokenizer.added_tokens_decoder)
        self._option_ids = lru_cache(maxsize=256)(self._cut)

    @cached_property
    def written(self) -> str:
        """How turns reach the model, in a word."""
        if not self.tokenizer.chat_template:
            return "written out, for the model has no chat template"
        folded = ", with the system turn in the user's" if self._folds else ""
        return f"chat template{folded}"

    def encode(self, turns: Turns) -> Prompt:
        """The tokens of the turns, and of the head of the answer."""
        pieces = self._pieces(turns)
        ids = list(self._start)
        for place, piece in enumerate(pieces):
            ids += self._added.ids(piece) if place % 2 else self._encode(piece)
        return Prompt(ids, pieces[-1][-TAIL:])

    def options(self, prompt: Prompt, options: Sequence[str]) -> list[tuple[int, ...]]:
        """The tokens of each answer to a prompt.

        Where one is the beginning of another, as "1" is of "10", all of them are followed by the
        end of the turn, so that no answer counts for another.
        """
        nested = any(b != a and b.startswith(a) for a in options for b in options)
        return [self._option_ids(prompt.tail, option, nested) for option in options]

    def ended(self, text: str) -> str:
        """What was written, up to the next turn where the model has begun one itself."""
        if not self.tokenizer.chat_template:
            text = text.partition(f"{BREAK}User:")[0]
        return text.strip()

    def _pieces(self, turns: Turns) -> list[str]:
        """The rendered turns, cut at every spelled control token: text, spelled, text, ..., text.

        Where they are follows from numbered marks that stand in for them while the template is
        rendered: it may drop a turn, or trim one.
        """
        key = hashlib.sha256("".join(turn["content"] for turn in turns).encode()).hexdigest()[:16]
        spelled: list[str] = []

        def mark(found: re.Match[str]) -> str:
            spelled.append(found[0])
            return f"{key}x{len(spelled) - 1}x"

        marked = [
            {**turn, "content": self._added.pattern.sub(mark, turn["content"])} for turn in turns
        ]
        pieces = re.split(f"{key}x([0-9]+)x", self._rendered(marked))
        return [spelled[int(piece)] if place % 2 else piece for place, piece in enumerate(pieces)]

    def _rendered(self, turns: Sequence[Mapping[str, str]]) -> str:
        if not self.tokenizer.chat_template:
            lines = [f"{turn['role'].capitalize()}: {turn['content'].strip()}" for turn in turns]
            return BREAK.join([*lines, "Assistant:"])
        try:
            return self._templated(folded(turns) if self._folds else turns)
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise UserError(
                f"the chat template of the judge refuses its turns: {error}"
            ) from error

    def _templated(self, turns: Sequence[Mapping[str, str]], *, answered: bool = False) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                list(turns), tokenize=False, add_generation_prompt=not answered
            )
        )

    @cached_property
    def _folds(self) -> bool:
        """Does the template refuse, or drop, a turn of the system?"""
        system, user = "a rule of the system", "a question"
        turns = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        try:
            return system not in self._templated(turns)
        except REFUSALS:
            return True

    @cached_property
    def _start(self) -> tuple[int, ...]:
        """What the tokenizer begins a text with, where no template does."""
        bos = self.tokenizer.bos_token_id
        if self.tokenizer.chat_template or bos is None:
            return ()
        return (bos,) if list(self.tokenizer("a")["input_ids"])[:1] == [bos] else ()

    @cached_property
    def _end(self) -> tuple[int, ...]:
        """What the template ends a turn of the assistant with; else the tokenizer's EOS."""
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b0b"}]
        after = self._templated(turns, answered=True).rpartition("b0b")[2].strip()
        ids = self._encode(after)[:1] if after else []
        if not (ids and ids[0] in self._added.numbers) and self.tokenizer.eos_token_id is not None:
            ids = [self.tokenizer.eos_token_id]
        if not ids:
            raise UserError("the judge's tokenizer has no token that ends an answer")
        return tuple(ids)

    def _cut(self, tail: str, option: str, closed: bool) -> tuple[int, ...]:
        plain = not self.tokenizer.chat_template
        text = f" {option}{BREAK if closed else ''}" if plain else option
        before, whole = self._encode(tail), self._encode(tail + text)
        fits = whole[: len(before)] == before and len(whole) > len(before)
        ids = whole[len(before) :] if fits else self._encode(text)
        return (*ids, *(self._end if closed and not plain else ()))

    def _encode(self, text: str) -> list[int]:
        return encoded(self.tokenizer, text)


def folded(turns: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """The same turns, with what the system says at the head of the first other turn."""
    system = [turn["content"] for turn in turns if turn["role"] == "system"]
    others = [turn for turn in turns if turn["role"] != "system"]
    if not system or not others:
        return list(turns)
    first = {**others[0], "content": "\n\n".join([*system, others[0]["content"]])}
    return [first, *others[1:]]

"""Requests about an answer, and how the policy or a judge is asked them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from trimtab.core.source import Prompt, Setting
from trimtab.plugins.sources.answering import unlimited
from trimtab.plugins.sources.formats import Example
from trimtab.plugins.sources.load import Kept
from trimtab.plugins.sources.messages import ASSISTANT
from trimtab.plugins.sources.rows import BadRow

LABELS = {"critique": "Critique", "revision": "Revision"}
"""Where there is no chat template, before what was written; before what was asked for also
``request``."""

_NEXT = re.compile(rf"\n+(?:{'|'.join(LABELS.values())})(?: request)?:")


@dataclass(frozen=True)
class Exchange:
    """A request, and what was written."""

    kind: Literal["critique", "revision"]
    request: str
    reply: str | None = None
    """None where it is asked for now."""


@dataclass(frozen=True)
class Asked:
    """A prompt, an answer to it, and requests about that."""

    row: Kept
    answer: str
    exchanges: Sequence[Exchange]

    def turns(self) -> list[Mapping[str, Any]]:
        """As a conversation; a prompt of plain text is the user's first turn."""
        prompt = self.row.asked
        assert prompt is not None
        told = [_turn("user", prompt)] if isinstance(prompt, str) else list(prompt)
        told.append(_turn(ASSISTANT, self.answer))
        for exchange in self.exchanges:
            told.append(_turn("user", exchange.request))
            if exchange.reply is not None:
                told.append(_turn(ASSISTANT, exchange.reply))
        return told

    def text(self) -> str:
        """As plain text, for a model without turns."""
        told = f"{self.row.asked}{self.answer}"
        for exchange in self.exchanges:
            label = LABELS[exchange.kind]
            reply = "" if exchange.reply is None else f" {exchange.reply}"
            told += f"\n\n{label} request: {exchange.request}\n\n{label}:{reply}"
        return told


class Renderer:
    """What the policy is given to go on from, by its chat template where it has one.

    Answers and replies are text to it, also where they spell its control tokens.
    """

    def __init__(self, setting: Setting) -> None:
        self._encoder = unlimited(setting)
        self._chat = bool(setting.tokenizer.chat_template)

    def prompts(self, asked: Sequence[Asked]) -> list[Prompt | BadRow]:
        """One each, or why the template refuses it."""
        encoded = self._encoder.encode([self._example(each) for each in asked])
        return [
            read if isinstance(read, BadRow) else Prompt(each.row.row, tuple(read.prompt), None)
            for each, read in zip(asked, encoded, strict=True)
        ]

    def reply(self, text: str) -> str:
        """What was written; as plain text it ends where the next label begins."""
        return (text if self._chat else _NEXT.split(text, maxsplit=1)[0]).strip()

    def _example(self, asked: Asked) -> Example:
        example = asked.row.example
        assert example is not None
        written = self._encoder.written
        exchanges = [
            each if each.reply is None else replace(each, reply=written(each.reply))
            for each in asked.exchanges
        ]
        asked = replace(asked, answer=written(asked.answer), exchanges=exchanges)
        if not self._chat:
            return Example(asked.text(), ())
        return Example(asked.turns(), (), template=example.template)


def _turn(role: str, content: str) -> Mapping[str, Any]:
    return {"role": role, "content": content.strip()}

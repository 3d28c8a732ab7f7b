"""Judges of the tests that answer by a function, and what they are asked."""

from __future__ import annotations

import re
from collections.abc import Callable

from trimtab.core.judge import JudgeSetting
from trimtab.plugins.judges.chat import ChatConfig, ChatJudge
from trimtab.plugins.judges.question import Answer, Question


class Answering(ChatJudge):
    """Answers each question by a function, and keeps all calls."""

    name = "test.answering"
    options = ChatConfig

    def __init__(self, answer: Callable[[Question], Answer], config: ChatConfig) -> None:
        super().__init__(config)
        self.answer = answer
        self.calls: list[list[Question]] = []

    def ask(self, questions):
        self.calls.append(list(questions))
        return [self.answer(question) for question in questions]


def answering(answer: Callable[[Question], Answer], seed: int = 0, **options) -> Answering:
    """Such a judge, opened."""
    judge = Answering(answer, ChatConfig(**options))
    judge.open(JudgeSetting(None, None, seed))
    return judge


def says(text: str | None) -> Callable[[Question], Answer]:
    """Always the same."""
    return lambda _: Answer(text)


def shown(question: Question) -> str:
    """All that the model is shown, turn after turn."""
    return "\n".join(turn["content"] for turn in question.turns)


def quoted(question: Question) -> list[str]:
    """The texts between delimiters: the prompt, then the responses."""
    found = re.findall(r"^\[BEGIN (\w{8})\]\n(.*?)\n\[END \1\]$", shown(question), re.M | re.S)
    return [text for _, text in found]

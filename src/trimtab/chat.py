"""Conversations with policies side by side, each going on with its own answers."""

from __future__ import annotations

import json
import signal
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from math import inf
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table

from trimtab.core.errors import UserError, suggestion
from trimtab.shown import cell
from trimtab.sides import Answer, Settings, Side, Turn

COMMANDS = ("/new", "/seed N", "/temperature X", "/quit")
QUIT = "/quit"


class Chat:
    """The conversation of each side, and how answers are sampled.

    A turn draws from random numbers that depend on the seed and on its number alone, so that the
    sides differ by their policies, and an answer can be had again.
    """

    def __init__(self, sides: Sequence[Side], settings: Settings) -> None:
        self.sides = sides
        self.settings = settings
        self.stopped = False
        """Set it to end the answer that is being sampled."""

        self.new()

    def new(self) -> None:
        """Forget what was said."""
        self.turn = 0
        self.talks: list[list[Turn]] = [[] for _ in self.sides]

    def say(self, text: str) -> Iterator[list[Answer]]:
        """The answers of all sides as they grow, one side after the other.

        Raises ``UserError`` where a model has no positions left for an answer.
        """
        asked = {"role": "user", "content": text}
        talks = [[*talk, asked] for talk in self.talks]
        prompts = [self._ids(side, talk) for side, talk in zip(self.sides, talks, strict=True)]
        return self._answers(talks, prompts)

    def _answers(
        self, talks: list[list[Turn]], prompts: list[list[int]]
    ) -> Iterator[list[Answer]]:
        answers: list[Answer] = []
        for side, prompt in zip(self.sides, prompts, strict=True):
            self.stopped = False
            answers.append(Answer("", truncated=True))
            for answer in side.says(prompt, self.turn, self.settings):
                answers[-1] = replace(answer, stopped=self.stopped)
                yield answers
                if answers[-1].stopped:
                    break
        self.talks = [
            [*talk, {"role": "assistant", "content": answer.text}]
            for talk, answer in zip(talks, answers, strict=True)
        ]
        self.turn += 1

    def obey(self, line: str) -> str:
        """Carry out a command, and say what it did. Raises ``UserError`` for any other."""
        name, _, value = line.partition(" ")
        if name == "/new":
            self.new()
            return "a new conversation"
        if name == "/seed" and value.isdecimal():
            self.settings = replace(self.settings, seed=int(value))
            return f"seed {self.settings.seed}"
        if name == "/temperature" and 0.01 <= (number := _number(value)) < inf:
            self.settings = replace(self.settings, temperature=number)
            return f"temperature {number:g}"
        near = suggestion(name, [each.split()[0] for each in COMMANDS])
        raise UserError(f"{line!r} is no command.{near} There is {', '.join(COMMANDS)}")

    def _ids(self, side: Side, turns: Sequence[Turn]) -> list[int]:
        ids, width = side.ids(turns, self.settings), self.settings.width
        if side.longest is not None and len(ids) + width > side.longest:
            raise UserError(
                f"{len(ids)} tokens were said, and with an answer of {width} they are more than "
                f"the {side.longest} that {side.label} can read: /new forgets them"
            )
        return ids


class View(Protocol):
    """Where turns are shown."""

    def turn(self, text: str, labels: Sequence[str], growing: Iterable[list[Answer]]) -> None:
        """Show a turn: the answers of all sides as they grow, the last time whole."""

    def told(self, text: str) -> None:
        """Show what is no answer."""


class Columns:
    """Side by side, on a terminal."""

    def __init__(self, console: Console, *, echo: bool = False) -> None:
        self.console = console
        self.echo = echo
        """Show what was asked too; what was typed stands there already."""

    def turn(self, text: str, labels: Sequence[str], growing: Iterable[list[Answer]]) -> None:
        """The columns, while they fill."""
        if self.echo:
            self.console.print(cell(f"> {text}", len(text) + 2))
        with Live(_columns(labels, []), console=self.console, refresh_per_second=8) as live:
            for answers in growing:
                live.update(_columns(labels, answers))

    def told(self, text: str) -> None:
        """A line."""
        self.console.print(text, markup=False, soft_wrap=True)


class Lines:
    """One below the other, where there is no terminal."""

    def turn(self, text: str, labels: Sequence[str], growing: Iterable[list[Answer]]) -> None:
        """The turn, whole."""
        print(f"> {text}")
        for label, answer in zip(labels, _last(growing), strict=True):
            print(f"{label}: {_marked(answer)}" if len(labels) > 1 else _marked(answer))
        print(flush=True)

    def told(self, text: str) -> None:
        """A line."""
        print(text, flush=True)


class Records:
    """JSON, one object a line."""

    def turn(self, text: str, labels: Sequence[str], growing: Iterable[list[Answer]]) -> None:
        """``prompt``, ``completion``, ``truncated``; of the other side ``against`` and its own."""
        *others, result = _last(growing)
        line = {"prompt": text, "completion": result.text, "truncated": result.truncated}
        for other in others:
            line |= {"against": other.text, "against_truncated": other.truncated}
        print(json.dumps(line), flush=True)

    def told(self, text: str) -> None:
        """It is no answer."""
        print(text, file=sys.stderr)


def converse(chat: Chat, lines: Iterable[str], view: View) -> None:
    """Answer each line, or obey it, until there are no more or one says /quit."""
    labels = [side.label for side in chat.sides]
    for line in (each.strip() for each in lines):
        if line == QUIT:
            return
        try:
            if line.startswith("/"):
                view.told(chat.obey(line))
            elif line:
                view.turn(line, labels, chat.say(line))
        except UserError as error:
            view.told(str(error))


def typed(chat: Chat) -> Iterator[str]:
    """Lines as they are typed, until Ctrl-D. While one is answered, Ctrl-C stops that answer."""
    with suppress(ImportError):
        import readline  # noqa: F401  (input() has a history with it)
    while True:
        try:
            line = input("> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return
        with _stopping(chat):
            yield line


@contextmanager
def _stopping(chat: Chat) -> Iterator[None]:
    def stop(*_: object) -> None:
        chat.stopped = True

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _columns(labels: Sequence[str], answers: Sequence[Answer]) -> Table:
    table = Table(expand=True)
    for label in labels:
        table.add_column(label, ratio=1)
    texts = map(_marked, answers)
    table.add_row(*(cell(text, len(text)) for text in texts))
    return table


def _last(growing: Iterable[list[Answer]]) -> list[Answer]:
    (answers,) = deque(growing, maxlen=1)
    return answers


def _marked(answer: Answer) -> str:
    """With how it ended, unless by itself."""
    if answer.stopped:
        return f"{answer.text} [stopped]"
    return f"{answer.text} [cut]" if answer.truncated else answer.text


def _number(text: str) -> float:
    """0 where it is none."""
    try:
        return float(text)
    except ValueError:
        return 0.0

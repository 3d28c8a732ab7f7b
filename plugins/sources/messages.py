"""Turns of a conversation, and what the chat template makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.core.errors import suggestion
from trimtab.plugins.sources.rows import BadRow, called, is_unicode

Message = Mapping[str, Any]
"""A turn: ``role`` and ``content``, and what else the template knows, such as ``tool_calls``."""

ASSISTANT = "assistant"
ROLES = ("system", "developer", "user", ASSISTANT, "tool")


def checked(turns: Sequence[Any], column: str) -> list[Message]:
    """The turns, without the nulls that columnar files add. ``BadRow`` if one is no turn."""
    if not turns:
        raise BadRow(f"{column} is empty")
    return [_checked(turn, column) for turn in turns]


def _checked(entry: Any, column: str) -> Message:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("role"), str):
        raise BadRow(f"{column} holds a turn without a role")
    turn: Message = {key: value for key, value in entry.items() if value is not None}
    role, content = turn["role"], turn.get("content")
    if role not in ROLES:
        raise BadRow(f"unknown role {role!r}.{suggestion(role, ROLES)}")
    if content is None and role == ASSISTANT and turn.get("tool_calls"):
        return turn
    if content is None:
        raise BadRow(f"{column} holds a turn of {role!r} without content")
    if not isinstance(content, str):
        raise BadRow(f"{column} holds a turn whose content is {called(content)}, not text")
    if not is_unicode(content):
        raise BadRow(f"{column} is not UTF-8")
    return turn


def says_something(turn: Message) -> bool:
    """Is there content, or a call of a tool?"""
    return bool(turn.get("content", "").strip() or turn.get("tool_calls"))


def common_length(left: Sequence[Any], right: Sequence[Any]) -> int:
    """How many entries two sequences have in common at their start.

    >>> common_length("blue", "black")
    2
    """
    pairs = enumerate(zip(left, right, strict=False))
    shorter = min(len(left), len(right))
    return next((index for index, (one, other) in pairs if one != other), shorter)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt with one completion, as one text."""

    text: str

    cuts: tuple[int, ...]
    """Where what is trained begins and ends, by turns; the first is the end of the prompt."""

    skipped: int = 0
    """Turns of the assistant that are context only: the template shows them otherwise later on."""

    chat: bool = True

    @property
    def prompt(self) -> str:
        """The text before the first token that is trained."""
        return self.text[: self.cuts[0]]


def plain(prompt: str, completion: str) -> Rendered:
    """Text as it stands, with no template."""
    text = prompt + completion
    return Rendered(text, (len(prompt), len(text)), chat=False)


def render(
    template: Callable[..., str],
    prompt: Sequence[Message],
    completion: Sequence[Message],
    opened: str,
) -> Rendered:
    """One completion after its prompt; ``opened`` is what the policy is given to answer.

    Trained is every turn of the assistant in the completion, from after its header to its end.

    White space that the template writes after the end of a turn is not part of the turn.
    """
    turns = [*prompt, *completion]
    whole = template(turns).rstrip()
    cuts: list[int] = []
    skipped = 0
    for index in range(len(prompt), len(turns)):
        if turns[index]["role"] != ASSISTANT:
            continue
        last = index + 1 == len(turns)
        before = turns[:index]
        if index > len(prompt):
            opened = template(before, add_generation_prompt=True)
        begin = _answer_begins(template, before, opened, whole)
        end = whole if last else template(turns[: index + 1]).rstrip()
        if begin is not None and whole.startswith(end):
            cuts += (begin, len(end))
        elif last:
            raise BadRow("the chat template shows the prompt otherwise once it is answered")
        else:
            skipped += 1
    return Rendered(whole, tuple(cuts), skipped)


def _answer_begins(
    template: Callable[..., str], before: Sequence[Message], opened: str, whole: str
) -> int | None:
    """Where the answer to these turns begins.

    Some templates open an answer with more than they keep of it, such as a tag for thoughts. The
    answer then begins where the two part, inside the header of its turn and never before it.
    """
    if whole.startswith(opened):
        return len(opened)
    begin = common_length(opened, whole)
    return begin if begin > len(template(before).rstrip()) else None

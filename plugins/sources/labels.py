"""Unpaired binary feedback: one completion, thumbs up or down (TRL's unpaired preference)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from trimtab.plugins.sources.formats import Columns, Example, demonstration, full, present
from trimtab.plugins.sources.messages import ASSISTANT, Message
from trimtab.plugins.sources.rows import BadRow
from trimtab.plugins.sources.said import Label

_ANSWERING = (ASSISTANT, "tool")
_SPELLED = {"true": True, "1": True, "false": False, "0": False}


def labelled(columns: Columns) -> Example:
    """``prompt`` and ``completion``, or ``messages``; and ``label``, true where desirable.

    The label of ``messages`` is of what follows the last turn of the user.
    """
    if "completion" not in columns and "messages" not in columns:
        _no_completion(columns)
    example = demonstration(columns)
    if "completion" not in columns:
        example = _last_answer(example)
    return replace(example, said=Label(_label(present(columns, "label"))))


def _last_answer(example: Example) -> Example:
    """The same conversation with its earlier answers in the prompt."""
    turns = [turn for part in (example.prompt, *example.completions) for turn in part]
    messages = cast(list[Message], turns)
    asked = [index for index, turn in enumerate(messages) if turn["role"] not in _ANSWERING]
    cut = asked[-1] + 1 if asked else 0
    return replace(
        example, prompt=messages[:cut], completions=(full(messages[cut:], "completion"),)
    )


def _no_completion(columns: Columns) -> None:
    if "chosen" in columns or "rejected" in columns:
        raise BadRow("a pair, not a label: data.convert: pairs-to-labels makes two labels of it")
    if "prompt" in columns:
        raise BadRow("prompt only: there is no completion")
    raise BadRow("no column 'completion' or 'messages'")


def _label(value: Any) -> bool:
    """True or false, 1 or 0, or the same spelled out, as in CSV files."""
    if isinstance(value, str) and value.casefold() in _SPELLED:
        return _SPELLED[value.casefold()]
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    raise BadRow("label is neither true nor false")

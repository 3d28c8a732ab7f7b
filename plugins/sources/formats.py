"""TRL's dataset formats: which columns make an example, standard or conversational."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trimtab.core.errors import UserError, suggestion
from trimtab.plugins.sources.messages import (
    ASSISTANT,
    Message,
    checked,
    common_length,
    says_something,
)
from trimtab.plugins.sources.rows import BadRow, called, is_unicode
from trimtab.plugins.sources.said import Preference, Said

Columns = Mapping[str, Any]
Side = str | list[Message]
"""Plain text, or turns."""

EXCHANGED = "pairs exchanged, for their preference was below 0.5"

_TURN = re.compile(r"\n\nAssistant:")


@dataclass(frozen=True, slots=True)
class Example:
    """What one row says, before any tokenizer saw it."""

    prompt: Side
    completions: tuple[Side, ...]
    """None, one, the chosen and the rejected, or the responses of a ranking."""

    said: Said = None
    """What the row says of them."""

    template: Mapping[str, Any] = field(default_factory=dict)
    """More that the chat template is told: ``tools``, and ``chat_template_kwargs``."""

    notes: tuple[str, ...] = ()
    """What was done to the row that the user should know of, in the plural."""


def check_names(names: Iterable[str], known: Sequence[str], what: str) -> None:
    """``data.columns`` may only give names to columns that are read."""
    for ours in names:
        if ours not in known:
            raise UserError(
                f"data.columns: {what} have no column {ours!r}.{suggestion(ours, known)} "
                f"Known: {', '.join(known)}"
            )


def renamed(columns: Columns, names: Mapping[str, str]) -> Columns:
    """The columns under our names. What ``data.columns`` names has to be there."""
    if not names:
        return columns
    for ours, theirs in names.items():
        if theirs not in columns:
            raise BadRow(f"no column {theirs!r}, which data.columns gives for {ours}")
    return {**columns, **{ours: columns[theirs] for ours, theirs in names.items()}}


def demonstration(columns: Columns) -> Example:
    """``prompt`` and ``completion``, else ``messages``, else ``text``."""
    if "completion" in columns:
        prompt, completion = sides(side(columns, "prompt"), side(columns, "completion"))
    elif "messages" in columns:
        prompt, completion = _answered(side(columns, "messages"))
    elif "text" in columns:
        prompt, completion = "", text_of(columns, "text")
    elif "prompt" in columns:
        raise BadRow("prompt only: there is no completion")
    else:
        raise BadRow("no column 'completion', 'messages' or 'text'")
    return Example(prompt, (full(completion, "completion"),), template=template_options(columns))


def preference(columns: Columns) -> Example:
    """``chosen`` and ``rejected``, and ``prompt`` unless both begin with it.

    A column ``preference`` is P(chosen is better). Below one half the pair is exchanged, which
    says the same.
    """
    if "chosen" not in columns and "rejected" not in columns:
        _other_than_pairs(columns)
    chosen, rejected = side(columns, "chosen"), side(columns, "rejected")
    if chosen == rejected:
        raise BadRow("chosen and rejected are the same")
    prompt = side(columns, "prompt") if "prompt" in columns else None
    if prompt is None or (isinstance(prompt, str) and _share_turns(chosen, rejected)):
        prompt, chosen, rejected = _split(chosen, rejected)
    asked, chosen = sides(prompt, chosen)
    prompt, rejected = sides(prompt, rejected)
    if asked != prompt:
        raise BadRow("one of chosen and rejected is text and the other is turns")
    pair = (full(chosen, "chosen"), full(rejected, "rejected"))
    probability = _probability(columns)
    if probability is None:
        return Example(prompt, pair, template=template_options(columns))
    if probability >= 0.5:
        return Example(prompt, pair, Preference(probability), template_options(columns))
    said = Preference(1 - probability)
    return Example(prompt, pair[::-1], said, template_options(columns), (EXCHANGED,))


def _other_than_pairs(columns: Columns) -> None:
    """Rows of another kind say how pairs can be made of them."""
    if "responses" in columns:
        raise BadRow("a ranking, not a pair: data.convert: rankings-to-pairs makes pairs of it")
    if "completion" in columns and ("rating" in columns or "ratings" in columns):
        raise BadRow("a rating, not a pair: data.convert: ratings-to-pairs makes pairs of them")
    if "prompt" in columns:
        raise BadRow("prompt only: there is no chosen and no rejected")


def side(columns: Columns, name: str) -> Side:
    """A column as text or as checked turns."""
    value = present(columns, name)
    if isinstance(value, str):
        return text_of(columns, name)
    if isinstance(value, list):
        return checked(value, name)
    raise BadRow(f"{name} is {called(value)}, neither text nor turns")


def text_of(columns: Columns, name: str) -> str:
    """A column that has to be text."""
    value = present(columns, name)
    if not isinstance(value, str):
        raise BadRow(f"{name} is {called(value)}, not text")
    if not is_unicode(value):
        raise BadRow(f"{name} is not UTF-8")
    return value


def present(columns: Columns, name: str) -> Any:
    """A column that has to be there and not null."""
    if name not in columns:
        raise BadRow(f"no column {name!r}")
    if columns[name] is None:
        raise BadRow(f"{name} is null")
    return columns[name]


def sides(prompt: Side, completion: Side) -> tuple[Side, Side]:
    """Both as text or both as turns, the prompt said once."""
    if isinstance(prompt, str) and isinstance(completion, str):
        return prompt, completion
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if isinstance(completion, str):
        completion = [{"role": ASSISTANT, "content": completion}]
    if prompt and prompt[-1]["role"] == ASSISTANT:
        raise BadRow("the prompt ends with a turn of the assistant")
    if completion[: len(prompt)] == prompt:
        completion = completion[len(prompt) :]
    return prompt, completion


def _answered(messages: Side) -> tuple[Side, Side]:
    """A conversation, cut before the assistant's first turn; nothing follows its last."""
    if isinstance(messages, str):
        raise BadRow("messages is text, not turns")
    answers = [index for index, turn in enumerate(messages) if turn["role"] == ASSISTANT]
    if not answers:
        raise BadRow("prompt only: messages holds no turn of the assistant")
    return messages[: answers[0]], messages[answers[0] : answers[-1] + 1]


def full(completion: Side, name: str) -> Side:
    """The completion, if there is something in it to learn from."""
    if isinstance(completion, str):
        said = bool(completion.strip())
    else:
        said = bool(completion) and says_something(completion[-1])
        if said and completion[0]["role"] != ASSISTANT:
            raise BadRow(f"{name} begins with a turn of {completion[0]['role']!r}")
        if said and completion[-1]["role"] != ASSISTANT:
            raise BadRow(f"{name} ends with a turn of {completion[-1]['role']!r}")
    if not said:
        raise BadRow(f"{name} is empty")
    return completion


def _share_turns(chosen: Side, rejected: Side) -> bool:
    """Do both begin with the same turn, as where the conversation is repeated in full?"""
    return isinstance(chosen, list) and isinstance(rejected, list) and chosen[0] == rejected[0]


def _split(chosen: Side, rejected: Side) -> tuple[Side, Side, Side]:
    """Take the prompt from what both begin with."""
    if isinstance(chosen, str) and isinstance(rejected, str):
        cut = _common_words(chosen, rejected)
    elif isinstance(chosen, list) and isinstance(rejected, list):
        cut = _common_turns(chosen, rejected)
    else:
        raise BadRow("one of chosen and rejected is text and the other is turns")
    if not cut:
        raise BadRow("no prompt, and chosen and rejected do not begin alike")
    return chosen[:cut], chosen[cut:], rejected[cut:]


def _common_words(chosen: str, rejected: str) -> int:
    """Where the last turn of the assistant opens in what both begin with, else before a space.

    A cut inside a word would ask for tokens that no text has.
    """
    common = chosen[: common_length(chosen, rejected)]
    opened = [match.end() for match in _TURN.finditer(common)]
    if opened:
        return opened[-1]
    words = re.match(r"(.*\S)?\s", common, re.DOTALL)
    return words.end(1) if words and words[1] else 0


def _common_turns(chosen: Sequence[Message], rejected: Sequence[Message]) -> int:
    """How many turns come before the first answer that differs."""
    common = common_length(chosen, rejected)
    while common and (common in (len(chosen), len(rejected))):
        common -= 1
    while common and chosen[common - 1]["role"] == ASSISTANT:
        common -= 1
    return common


def number_in(value: Any) -> float:
    """A number, or text that spells one as CSV files do; NaN for anything else."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _probability(columns: Columns) -> float | None:
    if "preference" not in columns:
        return None
    number = number_in(present(columns, "preference"))
    if not 0 <= number <= 1:
        raise BadRow("preference is not a probability")
    return number


def template_options(columns: Columns) -> Mapping[str, Any]:
    """What TRL passes on to the chat template; tools may be JSON in a string, as in TRL."""
    kwargs = columns.get("chat_template_kwargs") or {}
    tools = columns.get("tools") or None
    try:
        tools = json.loads(tools) if isinstance(tools, str) else tools
    except ValueError:
        raise BadRow("tools is not JSON") from None
    if not isinstance(kwargs, Mapping) or not isinstance(tools, list | None):
        raise BadRow("tools is not a list, or chat_template_kwargs is no mapping")
    return {**kwargs, "tools": tools} if tools else kwargs

"""What an endpoint answered to one question, as it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trimtab.plugins.judges.question import Question
from trimtab.plugins.judges.toplogprobs import option_logps, positions_of


class Unreadable(Exception):
    """A response of status 200 is no answer."""


@dataclass(frozen=True)
class Reply:
    """What an endpoint answered to one question."""

    text: str | None
    logps: dict[str, float] | None
    why: str | None = None
    """Why there is neither."""

    prompt_tokens: int | None = None
    """As the endpoint counts them; None where it does not say. So are ``completion_tokens``."""

    completion_tokens: int | None = None

    listed: bool = False
    """Did it say log-probs at all?"""

    @classmethod
    def of(cls, plain: Any) -> Reply:
        """From JSON. Raises ``ValueError`` where it is not one."""
        try:
            found = cls(**plain)
        except TypeError as error:
            raise ValueError(str(error)) from None
        if not isinstance(found.text, str | None) or not isinstance(found.logps, dict | None):
            raise ValueError("its text or its log-probs are not what they should be")
        return found


def reply_of(plain: Any, question: Question, *, listed: bool) -> Reply:
    """What a response says, and its log-probs if ``listed``. Raises ``Unreadable``."""
    try:
        choice = plain["choices"][0]
        text, finish = choice["message"]["content"], choice.get("finish_reason")
        if not isinstance(text, str | None):
            raise TypeError
    except (KeyError, IndexError, TypeError, AttributeError):
        raise Unreadable("a response without choices[0].message.content") from None
    positions = positions_of(choice.get("logprobs")) if listed else []
    logps = option_logps(positions, question.options)
    usage = plain.get("usage")
    if finish == "content_filter" or not (text or "").strip():
        text = None
    why = None if text or logps else f"it wrote nothing (finish_reason: {finish})"
    asked, written = (_tokens(usage, f"{each}_tokens") for each in ("prompt", "completion"))
    return Reply(text, logps, why, asked, written, bool(positions))


def _tokens(usage: Any, name: str) -> int | None:
    count = usage.get(name) if isinstance(usage, Mapping) else None
    return count if isinstance(count, int) and count >= 0 else None

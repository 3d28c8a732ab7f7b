"""What a model that judges is asked, and what it answers: between the prompts and the models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Turns = tuple[Mapping[str, str], ...]
"""A conversation: ``role`` and ``content`` each."""


@dataclass(frozen=True)
class Question:
    """One request to a model."""

    turns: Turns
    options: tuple[str, ...] = ()
    """The answers that count, such as "1" and "2"; none where a text is asked for."""

    max_tokens: int = 8
    """Of the text that is written."""

    temperature: float = 0.0
    """0 takes the likeliest token each time."""


@dataclass(frozen=True)
class Answer:
    """What the model answered."""

    text: str | None
    """What it wrote; None where nothing was asked to be written, or nothing came."""

    logps: Mapping[str, float] | None = None
    """log P(option) of every option of the question, in nats, not normalized; None where the
    model does not say them all."""

    why: str | None = None
    """Why there is neither."""

"""Rewards of tests, by import path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def variety(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
    """How many different characters, less a tenth of how many there are."""
    texts = [each if isinstance(each, str) else each[-1]["content"] for each in completions]
    return [len(set(text)) - 0.1 * len(text) for text in texts]


def without_digits(completions: Sequence[Any], **columns: Any) -> list[float | None]:
    """How many different characters; what has a digit in it cannot be judged."""
    texts = [each if isinstance(each, str) else each[-1]["content"] for each in completions]
    return [None if set(text) & set("0123456789") else float(len(set(text))) for text in texts]


def short(completions: Sequence[Any], **columns: Any) -> list[float]:
    """Less for what is longer."""
    texts = [each if isinstance(each, str) else each[-1]["content"] for each in completions]
    return [-float(len(text)) for text in texts]

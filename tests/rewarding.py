"""Rewards of tests, by import path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def variety(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
    """How many different characters, less a tenth of how many there are."""
    texts = [each if isinstance(each, str) else each[-1]["content"] for each in completions]
    return [len(set(text)) - 0.1 * len(text) for text in texts]

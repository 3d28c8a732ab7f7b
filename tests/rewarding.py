"""Rewards of tests, by import path."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any


def variety(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
    """How many different characters, less a tenth of how many there are."""
    texts = [text_of(each) for each in completions]
    return [len(set(text)) - 0.1 * len(text) for text in texts]


def without_digits(completions: Sequence[Any], **columns: Any) -> list[float | None]:
    """How many different characters; what has a digit in it cannot be judged."""
    texts = [each if isinstance(each, str) else each[-1]["content"] for each in completions]
    return [None if set(text) & set("0123456789") else float(len(set(text))) for text in texts]


def short(completions: Sequence[Any], **columns: Any) -> list[float]:
    """Less for what is longer."""
    texts = [each if isinstance(each, str) else each[-1]["content"] for each in completions]
    return [-float(len(text)) for text in texts]


def hangs(count: int) -> list[float]:
    time.sleep(1.2)
    return [0.0] * count


def raises(count: int) -> list[float]:
    raise RuntimeError("out of luck")


FAULTS: dict[str, Callable[[int], Any]] = {
    "raises": raises,
    "exits": lambda count: sys.exit(3),
    "none": lambda count: [None] * count,
    "nan": lambda count: [math.nan] * count,
    "inf": lambda count: [math.inf] * count,
    "minus inf": lambda count: [-math.inf] * count,
    "too large": lambda count: [1e39] * count,
    "text": lambda count: ["0.5"] * count,
    "list": lambda count: [[0.5]] * count,
    "bool": lambda count: [True] * count,
    "too few": lambda count: [0.0] * (count - 1),
    "too many": lambda count: [0.0] * (count + 1),
    "no list": lambda count: 0.5,
    "hangs": hangs,
}
"""What a reward may do with completions that it does not like."""

OF_A_CALL = ("too few", "too many", "no list", "hangs")
"""These leave no answer to trust for any completion of the call."""


def faulty(rows: int) -> Callable[..., Any]:
    """``variety``, but the n-th call of so many rows has the n-th fault."""
    calls = 0

    def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> Any:
        nonlocal calls
        fault = list(FAULTS)[(calls if len(completions) == rows else calls - 1) % len(FAULTS)]
        calls += len(completions) == rows
        bad = [disliked(text_of(each)) for each in completions]
        if not any(bad):
            return variety(prompts, completions)
        if fault in OF_A_CALL or fault in ("raises", "exits"):
            return FAULTS[fault](len(completions))
        scores = variety(prompts, completions)
        return [FAULTS[fault](1)[0] if b else s for b, s in zip(bad, scores, strict=True)]

    return reward


def disliked(text: str) -> bool:
    """About a third of all texts."""
    return sum(map(ord, text)) % 3 == 0


def text_of(completion: Any) -> str:
    """Of a text, or of a turn."""
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


def letters(completions: Sequence[Any], **columns: Any) -> list[float]:
    """How many there are."""
    return [float(sum(map(str.isalpha, text_of(each)))) for each in completions]


def few_letters(completions: Sequence[Any], **columns: Any) -> list[float]:
    """Best is a certain number of letters; more is as bad as fewer."""
    return [-abs(count - 5.0) for count in letters(completions)]


def the_same(completions: Sequence[Any], **columns: Any) -> list[float]:
    """Whatever it is."""
    return [0.5 for _ in completions]


def nothing(completions: Sequence[Any], **columns: Any) -> list[float | None]:
    """It cannot judge."""
    return [None for _ in completions]

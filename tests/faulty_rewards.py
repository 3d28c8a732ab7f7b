"""A reward function that goes wrong in a way of one's choice, on some completions."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

VALUES: dict[str, Any] = {
    "none": None,
    "nan": math.nan,
    "inf": math.inf,
    "minus_inf": -math.inf,
    "beyond_float32": 1e39,
    "huge_int": 10**400,
    "bool": True,
    "text": "0.5",
    "list": [0.5],
    "tensor_nan": torch.tensor(math.nan),
}
"""In the place of a score."""

ACTIONS = ("raise", "exit", "hang", "count")
"""Of the whole call."""

FAULTS = (*VALUES, *ACTIONS)


def faulty(kind: str, rare: int = 3) -> Callable[..., list[Any]]:
    """Some completions, about one in ``rare``, are bad; the others are scored by their length."""

    def f(completions: Sequence[Any], **columns: Any) -> list[Any]:
        texts = [each if isinstance(each, str) else each[-1]["content"] for each in completions]
        bad = [is_bad(text, rare) for text in texts]
        if any(bad) and kind in ACTIONS:
            if kind == "raise":
                raise ValueError("a bad completion")
            if kind == "exit":
                sys.exit(1)
            if kind == "hang":
                time.sleep(0.5)
            return [0.0] * (len(texts) + 1)
        return [
            VALUES[kind] if wrong else float(len(text))
            for text, wrong in zip(texts, bad, strict=True)
        ]

    return f


def is_bad(text: str, rare: int) -> bool:
    """Always the same ones."""
    return sum(map(ord, text)) % rare == 0

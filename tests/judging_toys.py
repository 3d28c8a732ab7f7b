"""A judge that needs no model, as a plugin file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from trimtab import Config, Judge, Verdict, hookimpl
from trimtab.core.errors import RunError


class VowelsConfig(Config):
    """How it judges."""

    mode: Literal["compare", "score"] = "compare"
    sharp: float = 1.0
    log: str | None = None
    """A file that each comparison is written to."""

    fails_at: int | None = None
    """It cannot be reached from this comparison on, until the file ``log`` + ``.up`` is there."""


class Vowels(Judge[VowelsConfig]):
    """P(first is better) is the sigmoid of ``sharp`` x the difference in the share of vowels."""

    name = "toys.vowels"
    options = VowelsConfig

    def __init__(self, config):
        super().__init__(config)
        self.mode = config.mode
        self.requests = 0

    def compare(self, comparisons):
        return [self._compared(one) for one in comparisons]

    def score(self, ratings):
        self.requests += len(ratings)
        return [Verdict(1 + 9 * share(one.completion), ("so it is",)) for one in ratings]

    def counts(self):
        asked, self.requests = self.requests, 0
        return {"requests": asked}

    def _compared(self, one):
        log = self.config.log
        if log is not None:
            asked = Path(log).read_text().splitlines() if Path(log).exists() else []
            down = self.config.fails_at is not None and len(asked) >= self.config.fails_at
            if down and not Path(f"{log}.up").exists():
                raise RunError("the judge cannot be reached")
            Path(log).write_text("\n".join([*asked, repr((one.prompt, one.first, one.second))]))
        self.requests += 2
        gap = self.config.sharp * (share(one.first) - share(one.second))
        first = 1 / (1 + math.exp(-gap))
        return Verdict(first, ("the first", "the second"), (first, first))


def share(text):
    """Of vowels among the characters."""
    return sum(each in "aeiou" for each in text) / max(len(text), 1)


@hookimpl
def provide_judges():
    return [Vowels]

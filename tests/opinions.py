"""A judge of tests, as a plugin file: it needs no model, and may be down."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from trimtab import Config, hookimpl
from trimtab.core.errors import RunError
from trimtab.core.judge import Judge, Verdict
from trimtab.core.options import Incidental


class OpinionsConfig(Config):
    """How it is asked, and when it is down."""

    mode: Literal["compare", "score"] = "score"
    sharp: bool = False
    """It abstains from nothing."""

    down_after: Annotated[int | None, Incidental()] = None
    """Requests, after which it is down until the file ``up`` is there."""

    up: Annotated[str, Incidental()] = "never"


class Opinions(Judge[OpinionsConfig]):
    """Likes texts of many different characters, and what is shown first a little more.

    It says nothing of texts with a digit in them.
    """

    name = "toys.opinions"
    options = OpinionsConfig

    def __init__(self, config):
        super().__init__(config)
        self.mode = config.mode
        self.asked = self.cost = 0

    def compare(self, comparisons):
        self._count(2 * len(comparisons))
        return [self._compared(one.first, one.second) for one in comparisons]

    def score(self, ratings):
        self._count(len(ratings))
        return [self._rated(one.completion) for one in ratings]

    def counts(self):
        found, self.cost = {"requests": self.cost}, 0
        return found

    def describe(self):
        return {"name": self.name, "model": "none"}

    def _compared(self, first, second):
        if self._nothing(first) or self._nothing(second):
            return Verdict(None, ("hm", "hm"), (None, None), "there are digits")
        a, b = len(set(first)), len(set(second))
        orders = (float(a >= b), float(a > b))
        said = ["1" if orders[0] else "2", "2" if orders[1] else "1"]
        return Verdict(sum(orders) / 2, said, orders)

    def _rated(self, text):
        if self._nothing(text):
            return Verdict(None, ("hm",), why="there are digits")
        return Verdict(float(min(len(set(text)), 10)), (f"it has {len(set(text))}",))

    def _nothing(self, text):
        return not self.config.sharp and bool(set(text) & set("0123456789"))

    def _count(self, requests):
        self.asked += requests
        self.cost += requests
        after = self.config.down_after
        if after is not None and self.asked > after and not Path(self.config.up).exists():
            raise RunError("the judge cannot be reached")


@hookimpl
def provide_judges():
    return [Opinions]

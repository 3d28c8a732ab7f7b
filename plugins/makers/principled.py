"""Which principles of a constitution a pair is judged by, and what they say together."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from trimtab.core.files import to_json
from trimtab.core.seeds import mixed
from trimtab.plugins.constitutions import load_constitution

OURS = "trimtab"
"""Names the constitution that comes with trimtab."""


@dataclass(frozen=True)
class Asked:
    """A question about a pair, and how much its answer counts."""

    principle: str | None
    """Its id; None where no constitution is asked."""

    question: str | None
    weight: float


class Questions:
    """What a judge is asked of a pair: its own question, or the principles of a constitution.

    Without ``count`` all principles are asked, and count by their weights. With it, as many are
    drawn, each in proportion to its weight, by one number that follows from the seed, the row and
    the pair (systematic sampling, Madow 1949); one that is drawn twice counts twice. So the mean
    over draws is that of all principles.
    """

    def __init__(self, seed: int, constitution: str | None, count: int | None) -> None:
        self.seed, self.count = seed, count
        self.about: dict[str, Any] = {}
        self.all = [Asked(None, None, 1.0)]
        if constitution is None:
            return
        read = load_constitution(None if constitution == OURS else constitution)
        self.all = [Asked(one.id, one.compare, one.weight) for one in read.principles]
        text = to_json(read.model_dump(mode="json"))
        self.about = {
            "constitution": read.name,
            "constitution_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "principles": [one.id for one in read.principles],
            "principles_a_pair": count,
        }

    @property
    def principles(self) -> list[str]:
        """Their ids."""
        return [one.principle for one in self.all if one.principle is not None]

    def of(self, row: int, a: int, b: int) -> list[Asked]:
        """What is asked of this pair."""
        if self.count is None:
            return self.all
        start = mixed(self.seed, "principles", row, a, b) / 2**56
        times = drawn([one.weight for one in self.all], self.count, start)
        return [
            Asked(one.principle, one.question, float(times[place]))
            for place, one in enumerate(self.all)
            if times[place]
        ]


def drawn(weights: Sequence[float], count: int, start: float) -> Mapping[int, int]:
    """How often each is met by ``count`` steps of equal length through the weights in a row.

    With ``start`` uniform in [0, 1), it is met count x weight / sum(weights) times on average.

    >>> drawn([1.0, 1.0, 2.0], 2, 0.5)
    Counter({1: 1, 2: 1})
    """
    ends = list(accumulate(weights))
    points = ((start + step) * ends[-1] / count for step in range(count))
    return Counter(min(bisect_right(ends, point), len(ends) - 1) for point in points)


def together(said: Sequence[tuple[Asked, float | None]]) -> float | None:
    """The weighted mean of those that did not abstain; None where all did.

    It is rounded to 12 digits: what is said for one and for the other in equal parts is a tie,
    and does not depend on which of them came first.
    """
    known = [(asked.weight, value) for asked, value in said if value is not None]
    if not known:
        return None
    total = math.fsum(weight for weight, _ in known)
    return round(math.fsum(weight * value for weight, value in known) / total, 12)

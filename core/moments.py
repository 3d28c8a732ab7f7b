"""The running mean and standard deviation of a stream of numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

NO_SPREAD = 1e-9
"""A standard deviation below this share of the mean's size is rounding, and not divided by."""


class Moments:
    """Mean and variance of all numbers seen, merged batch by batch.

        n = n_a + n_b,  d = mean_b - mean_a
        mean = mean_a + d n_b / n,  M2 = M2_a + M2_b + d^2 n_a n_b / n,  variance = M2 / (n - 1)

    Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance".
    """

    def __init__(self, count: int = 0, mean: float = 0.0, m2: float = 0.0) -> None:
        self.count = count
        self.mean = mean
        self.m2 = m2

    @classmethod
    def of(cls, values: Sequence[float]) -> Moments:
        """Those of one batch."""
        if not values:
            return cls()
        mean = math.fsum(values) / len(values)
        return cls(len(values), mean, math.fsum((value - mean) ** 2 for value in values))

    def merge(self, other: Moments) -> None:
        """Take the other's numbers in too."""
        if not other.count:
            return
        count = self.count + other.count
        distance = other.mean - self.mean
        self.mean += distance * other.count / count
        self.m2 += other.m2 + distance**2 * self.count * other.count / count
        self.count = count

    @property
    def std(self) -> float:
        """Unbiased; 0 of fewer than two numbers."""
        return math.sqrt(self.m2 / (self.count - 1)) if self.count > 1 else 0.0

    def standardized(self, value: float) -> float:
        """(value - mean) / std. Where there is no spread, only the mean is taken off."""
        std = self.std
        return (value - self.mean) / (std if std > NO_SPREAD * abs(self.mean) else 1.0)

    def state(self) -> dict[str, Any]:
        """As JSON."""
        return {"count": self.count, "mean": self.mean, "m2": self.m2}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Moments:
        """From what ``state()`` gave."""
        return cls(state["count"], state["mean"], state["m2"])

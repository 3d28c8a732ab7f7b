"""Principles drawn by weight, from random numbers that are on record."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.core.seeds import mixed
from trimtab.plugins.constitutions.constitution import Constitution, Principle

BITS = 56
"""Of the numbers that ``mixed`` gives."""


def drawn(constitution: Constitution, rounds: int, *stream: int | str) -> list[Principle]:
    """The principle of each round; P(principle) is its weight over the weights of those left.

    None comes again before all have come, and none twice in succession unless it is the only one.
    The numbers follow from ``stream``, so the first rounds do not depend on how many there are.

    >>> from trimtab.plugins.constitutions import load_constitution
    >>> [each.id for each in drawn(load_constitution(None), 3, "a stream", 1)]
    ['private', 'harmless', 'not-preachy']
    """
    chosen: list[Principle] = []
    left: list[Principle] = []
    for number in range(rounds):
        left = left or list(constitution.principles)
        others = [each for each in left if not chosen or each is not chosen[-1]] or left
        chosen.append(_by_weight(others, mixed(*stream, number) / 2**BITS))
        left.remove(chosen[-1])
    return chosen


def _by_weight(principles: Sequence[Principle], uniform: float) -> Principle:
    """Where the cumulated weights first exceed that share of their sum."""
    wanted = uniform * sum(each.weight for each in principles)
    for each in principles:
        wanted -= each.weight
        if wanted < 0:
            return each
    return principles[-1]

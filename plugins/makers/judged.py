"""What a judge was asked, as counts that add up, and the shares that follow, with intervals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import Any, TypeVar

from trimtab.core.judge import Judge
from trimtab.core.measures import LEVEL
from trimtab.core.processes import Processes

Q = TypeVar("Q")
A = TypeVar("A")

VERDICTS = ("asked", "abstained", "ties", "pairs", "agreed", "first", "second")
"""What ``account.counts_of`` counts."""

JUDGE = "judge/"
"""Before the names of the judge's counts among those of a maker."""

Interval = dict[str, float]
"""``value``, its 95% interval ``low`` to ``high``, and from how many it is, ``n``."""


def shared(
    judge: Judge,
    ask: Callable[[Sequence[Q]], Sequence[A]],
    questions: Sequence[Q],
    processes: Processes,
) -> tuple[list[A], Counter[str]]:
    """The answer to each question, and what they cost; each process asks its share of them.

    A process without a share asks nothing. Where one cannot ask, all of them stop.
    """

    def mine() -> tuple[dict[int, A], Mapping[str, int]]:
        own = processes.share(len(questions)).tolist()
        answers = ask([questions[n] for n in own]) if own else []
        return dict(zip(own, answers, strict=True)), judge.counts()

    everywhere: dict[int, A] = {}
    cost: Counter[str] = Counter()
    for answers, counts in processes.all_of(mine):
        everywhere |= answers
        cost.update(counts)
    return [everywhere[n] for n in range(len(questions))], cost


def under(prefix: str, counts: Mapping[str, int]) -> dict[str, int]:
    """Those of the counts whose names begin so, without that beginning."""
    return {k.removeprefix(prefix): n for k, n in counts.items() if k.startswith(prefix)}


def put_under(prefix: str, counts: Mapping[str, int]) -> dict[str, int]:
    """The counts, with this before their names."""
    return {f"{prefix}{name}": n for name, n in counts.items()}


def judge_figures(counts: Mapping[str, int]) -> dict[str, Any]:
    """Of counts as ``account.counts_of`` and ``Judge.counts`` give them, as JSON.

    What the judge counts of itself, such as ``requests``, stands as it is. ``abstained`` is of all
    that was asked; of pairs answered in both orders are ``agreement``, ``ties`` and
    ``position_bias`` = (first - second) / pairs. Its interval is that of the share
    (1 + bias) / 2, which is never too narrow.
    """
    asked, pairs = counts.get("asked", 0), counts.get("pairs", 0)
    found: dict[str, Any] = {"asked": asked}
    found |= {name: n for name, n in counts.items() if name not in VERDICTS and "/" not in name}
    if asked:
        found["abstained"] = share(counts.get("abstained", 0), asked)
    if pairs:
        favour = counts.get("first", 0) - counts.get("second", 0)
        towards = share((pairs + favour) / 2, pairs)
        bias = {name: 2 * towards[name] - 1 for name in ("value", "low", "high")}
        found["position_bias"] = {**bias, "n": pairs}
        found["agreement"] = share(counts.get("agreed", 0), pairs)
        found["ties"] = share(min(counts.get("ties", 0), pairs), pairs)
    return found


def gold_counts(labels: Iterable[tuple[float | None, float | None]]) -> Counter[str]:
    """Of P(first is better) by a judge and by gold; None is an abstention, or no gold.

    ``compared`` are those that the judge labelled and gold decides; of these ``agreed`` and
    ``tied``, by the judge. ``gold_ties`` gold leaves open, ``abstained`` the judge.
    """
    found: Counter[str] = Counter()
    for said, gold in labels:
        if gold is None:
            continue
        if gold == 0.5:
            found["gold_ties"] += 1
        elif said is None:
            found["abstained"] += 1
        else:
            found["compared"] += 1
            found["agreed"] += (said - 0.5) * (gold - 0.5) > 0
            found["tied"] += said == 0.5
    return found


def gold_figure(counts: Mapping[str, int]) -> dict[str, Any] | None:
    """The share of the compared that agree, ties 1/2; None where nothing was compared."""
    if not counts.get("compared"):
        return None
    found = share(counts.get("agreed", 0) + counts.get("tied", 0) / 2, counts["compared"])
    left_out = {name: counts.get(name, 0) for name in ("tied", "gold_ties", "abstained")}
    return {**found, **left_out}


def share(count: float, n: int) -> Interval:
    """count / n with the score interval of Wilson 1927, which takes the n as independent.

    >>> {name: round(value, 3) for name, value in share(8, 10).items()}
    {'value': 0.8, 'low': 0.49, 'high': 0.943, 'n': 10}
    """
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    value = count / n
    middle = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return {"value": value, "low": min(low, value), "high": max(high, value), "n": n}

"""What verdicts come to: position bias, agreement, abstentions; as counts that add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from trimtab.core.judge import Verdict

COST = ("requests", "cached", "prompt_tokens", "completion_tokens")
"""What ``Judge.counts`` may say."""


def counts_of(verdicts: Iterable[Verdict]) -> Counter[str]:
    """Of comparisons and ratings.

    ``asked``, ``abstained``, ``ties``; of pairs that were answered in both orders ``pairs``,
    ``agreed`` (the orders name the same winner), ``first`` and ``second`` (both orders choose what
    was shown first, or what was shown second).
    """
    found: Counter[str] = Counter()
    for verdict in verdicts:
        found["asked"] += 1
        found["abstained"] += verdict.value is None
        found["ties"] += verdict.value == 0.5 and bool(verdict.orders)
        if len(verdict.orders) != 2 or None in verdict.orders:
            continue
        shown_first, shown_second = (float(each) for each in verdict.orders if each is not None)
        found["pairs"] += 1
        found["agreed"] += (shown_first - 0.5) * (shown_second - 0.5) > 0
        found["first"] += shown_first > 0.5 > shown_second
        found["second"] += shown_first < 0.5 < shown_second
    return +found


def figures_of(counts: Mapping[str, int]) -> dict[str, float]:
    """Shares of such counts.

    position_bias = (first - second) / pairs: 1 for a judge that always takes what is shown first,
    -1 for one that takes the second, 0 where neither place is favoured.
    agreement = agreed / pairs.
    """
    asked, pairs = counts.get("asked", 0), counts.get("pairs", 0)
    found = {name: float(counts[name]) for name in COST if name in counts}
    if asked:
        found["abstained"] = counts.get("abstained", 0) / asked
    if pairs:
        found["position_bias"] = (counts.get("first", 0) - counts.get("second", 0)) / pairs
        found["agreement"] = counts.get("agreed", 0) / pairs
        found["ties"] = counts.get("ties", 0) / pairs
    return found

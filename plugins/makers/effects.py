"""What principles did: how often each was drawn, and what changed in the answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from difflib import SequenceMatcher
from typing import Any

import torch

from trimtab.core.measures import measure, rows
from trimtab.plugins.sources.sampled import mean


@dataclass(frozen=True)
class Change:
    """From one answer to the next."""

    before: str
    after: str
    rewards: Mapping[str, float] = field(default_factory=dict)
    """Those of the answer after, less those of the one before, by name, where both have one."""

    @property
    def changed(self) -> bool:
        """Are they two?"""
        return self.before.strip() != self.after.strip()


def effects(chains: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Of chains as ``constitution.jsonl`` has them: ``principles``, by id, and ``answers``.

    Of a principle: ``drawn``, the rounds it was drawn for; ``changed``, the share of them after
    which the answer is another. Of those: ``words``, the mean change of the answer's length in
    words; ``similarity``, the mean of 2 M / T with M the words that difflib matches and T the
    words of both; ``reward`` and ``reward/PART``, the mean change of each reward with its 95%
    interval (bootstrap).

    ``answers`` has the same of the final answer against the draft, over all that had a round.
    """
    by_principle: dict[str, list[Change]] = {}
    answers = []
    for chain in chains:
        now, rewards = chain["draft"], _rewards(chain, "draft_")
        for each in chain["rounds"]:
            after = each["revision"] if each["kept"] else now
            then = _rewards(each)
            change = Change(now, after, _differences(then, rewards))
            by_principle.setdefault(each["principle"], []).append(change)
            now, rewards = after, then
        if chain["rounds"]:
            gained = _differences(_rewards(chain, "final_"), _rewards(chain, "draft_"))
            answers.append(Change(chain["draft"], chain["final"], gained))
    return {
        "principles": {
            name: {"drawn": len(by_principle[name]), **_summary(by_principle[name])}
            for name in sorted(by_principle)
        },
        "answers": {"revised": len(answers), **_summary(answers)},
    }


def _summary(changes: Sequence[Change]) -> dict[str, Any]:
    changed = [each for each in changes if each.changed]
    found: dict[str, Any] = {"changed": len(changed) / len(changes) if changes else None}
    if not changed:
        return found
    both = [(each.before.split(), each.after.split()) for each in changed]
    found["words"] = mean([len(after) - len(before) for before, after in both])
    found["similarity"] = mean(
        [SequenceMatcher(None, before, after, autojunk=False).ratio() for before, after in both]
    )
    for name in dict.fromkeys(name for each in changed for name in each.rewards):
        gained = [each.rewards[name] for each in changed if name in each.rewards]
        gain = measure(rows(torch.tensor(gained)))
        if gain is not None:
            found[name] = asdict(gain)
    return found


def _rewards(record: Mapping[str, Any], before: str = "") -> dict[str, float]:
    """What the rewards said of an answer, as a record has it, by the names of the log."""
    parts = (record.get(f"{before}parts") or {}).items()
    found = {"reward": record.get(f"{before}reward")} | {f"reward/{n}": v for n, v in parts}
    return {name: value for name, value in found.items() if value is not None}


def _differences(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    return {name: after[name] - before[name] for name in after if name in before}

"""What principles did: how often each was drawn, and what changed in the answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
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
    reward: float | None = None
    """Of the answer after, less that of the one before; None where either has none."""

    @property
    def changed(self) -> bool:
        """Are they two?"""
        return self.before.strip() != self.after.strip()


def effects(chains: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Of chains as ``constitution.jsonl`` has them: ``principles``, by id, and ``answers``.

    Of a principle: ``drawn``, the rounds it was drawn for; ``changed``, the share of them after
    which the answer is another. Of those: ``words``, the mean change of the answer's length in
    words; ``similarity``, the mean of 2 M / T with M the words that difflib matches and T the
    words of both; ``reward``, the mean change of the reward with its 95% interval (bootstrap).

    ``answers`` has the same of the final answer against the draft, over all that had a round.
    """
    by_principle: dict[str, list[Change]] = {}
    answers = []
    for chain in chains:
        now, reward = chain["draft"], chain.get("draft_reward")
        for each in chain["rounds"]:
            after = each["revision"] if each["kept"] else now
            then = each.get("reward")
            change = Change(now, after, _difference(then, reward))
            by_principle.setdefault(each["principle"], []).append(change)
            now, reward = after, then
        if chain["rounds"]:
            gained = _difference(chain.get("final_reward"), chain.get("draft_reward"))
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
    gained = torch.tensor([each.reward for each in changed if each.reward is not None])
    gain = measure(rows(gained)) if len(gained) else None
    return {**found, "reward": asdict(gain)} if gain else found


def _difference(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before

"""What became of the completions sampled for a step: its figures, and each one's record."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trimtab.core.engine import Completion
from trimtab.core.reward import Group, Score
from trimtab.core.rewards import Fault


@dataclass
class Account:
    """Everything sampled since the last step, be it trained on or not."""

    completions: list[Completion] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    records: dict[int, dict[str, Any]] = field(default_factory=dict)
    """What is not in ``samples.jsonl`` yet, by the number of the sample."""

    faults: list[Fault] = field(default_factory=list)
    """What rewards could not score, and why."""

    seconds_rollout: float = 0.0
    seconds_score: float = 0.0

    def add(self, number: int, row: int, group: Group, index: int, score: Score) -> None:
        """One completion of a group, with its score."""
        completion = group.sampled[index]
        self.completions.append(completion)
        self.scores.append(score)
        self.records[number] = {**record(row, group, index, score), "sample": number}

    def metrics(self) -> dict[str, float]:
        """The step's figures; of what could be scored only, where they are of scores.

        ``reward`` and ``reward_spread`` (their standard deviation), ``reward/PART``; ``length`` in
        tokens; ``truncated``, ``unscored`` and ``unscored/LABEL`` as shares; ``entropy`` in nats a
        token where the engine says it; and seconds.
        """
        found: dict[str, float] = {}
        rewards = [score.value for score in self.scores if score.value is not None]
        if rewards:
            found["reward"] = mean(rewards)
            found["reward_spread"] = _spread(rewards)
        found |= means(_parts(self.scores))
        if self.completions:
            found["length"] = mean([len(c.tokens) for c in self.completions])
            found["truncated"] = mean([c.truncated for c in self.completions])
            found["unscored"] = 1 - len(rewards) / len(self.scores)
        for fault in self.faults:
            name = f"unscored/{fault.label}"
            found[name] = found.get(name, 0.0) + fault.rows / len(self.scores)
        entropy = [nats for c in self.completions for nats in c.entropy or ()]
        if entropy:
            found["entropy"] = mean(entropy)
        seconds = {"seconds_rollout": self.seconds_rollout, "seconds_score": self.seconds_score}
        return {**found, **seconds}

    def taken(self, numbers: Iterable[int]) -> list[dict[str, Any]]:
        """The records of these samples, in this order, and then those of all others."""
        first = [self.records.pop(number) for number in numbers if number in self.records]
        others = [{**left, "trained": False} for left in self.records.values()]
        self.records = {}
        return [*first, *others]


def record(row: int, group: Group, index: int, score: Score) -> dict[str, Any]:
    """One completion for ``samples.jsonl``."""
    completion = group.sampled[index]
    return {
        "row": row,
        "prompt": group.prompt,
        "completion": group.completions[index],
        "length": len(completion.tokens),
        "truncated": completion.truncated,
        "reward": score.value,
        "parts": dict(score.parts),
        **({"why": score.why} if score.why else {}),
        **({"said": dict(score.said)} if score.said else {}),
    }


def rewards_of(scores: Sequence[Score]) -> dict[str, float]:
    """``reward`` and ``reward/PART``, the means over what has them."""
    return means({"reward": [score.value for score in scores], **_parts(scores)})


def means(columns: Mapping[str, Sequence[float | None]]) -> dict[str, float]:
    """The mean of what each column knows; a column that knows nothing has none."""
    known = {name: [v for v in values if v is not None] for name, values in columns.items()}
    return {name: mean(values) for name, values in known.items() if values}


def by_part(scores: Sequence[Score]) -> Mapping[str, list[float | None]]:
    """Each named part of all these scores; None where a score does not have it."""
    names = dict.fromkeys(name for score in scores for name in score.parts)
    return {name: [score.parts.get(name) for score in scores] for name in names}


def mean(values: Sequence[float]) -> float:
    """Of at least one value, to the last bit the same in any order."""
    return math.fsum(values) / len(values)


def _parts(scores: Sequence[Score]) -> dict[str, list[float | None]]:
    return {f"reward/{name}": values for name, values in by_part(scores).items()}


def _spread(values: Sequence[float]) -> float:
    middle = mean(values)
    return math.sqrt(mean([(value - middle) ** 2 for value in values]))

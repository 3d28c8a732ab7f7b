"""The rewards of a run together: weighted, with named parts, and no wrong number in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from trimtab.core.config import ModelConfig, RolloutConfig, SelectedReward
from trimtab.core.engine import Completion
from trimtab.core.errors import RunError, UserError
from trimtab.core.guard import LARGEST, Guard
from trimtab.core.moments import Moments
from trimtab.core.processes import Processes
from trimtab.core.reward import Group, Reward, RewardSetting, Score
from trimtab.core.source import Prompt

TOO_LARGE = "the weighted sum is"

SHOWN = 100
"""Characters of a completion in a message."""


@dataclass(frozen=True)
class Member:
    """One reward, and what it counts among the others."""

    reward: Reward
    section: SelectedReward

    @property
    def label(self) -> str:
        """What the log calls it."""
        return self.section.label or self.section.name


class Fault(NamedTuple):
    """Completions that one reward could not score for one reason."""

    label: str
    why: str
    rows: int
    """How many; 0 where the reward answered when it was asked again."""

    example: str
    """The first of these completions, shortened."""

    def __str__(self) -> str:
        rows = f"{self.rows} unscored" if self.rows else "none unscored"
        return f"reward {self.label}: {self.why} ({rows}, such as {self.example!r})"


class Rewards:
    """The weighted sum of several rewards, each of which may be unable to judge.

        total = sum of weight * clip(standardize(score))

    A completion that a reward with a weight cannot judge has no total. Rewards of weight 0 are
    only watched. ``standardize`` takes off the running mean and divides by the running standard
    deviation of all scores of training so far, those of this call included.
    """

    def __init__(self, members: Sequence[Member], rollout: RolloutConfig) -> None:
        self.members = members
        self.rollout = rollout
        labels = [member.label for member in members]
        if repeated := next((label for label in labels if labels.count(label) > 1), None):
            raise UserError(f"two rewards are called {repeated!r} in the log: give one a label")
        for member in members:
            low, high = member.section.clip or (0.0, 0.0)
            if low > high:
                raise UserError(f"reward {member.label}: clip [{low}, {high}] leaves nothing")
        self._guards = [Guard(member.reward, rollout.reward_timeout) for member in members]
        self._moments = {m.label: Moments() for m in members if m.section.standardize}
        self._faults: list[Fault] = []
        self._counts: dict[str, Counter[str]] = {}
        self._rows = self._unscored = 0

    def adapters(self, model: ModelConfig) -> dict[str, Path]:
        """Trained adapters that they want as frozen roles on the run's base."""
        wanted: dict[str, Path] = {}
        for member in self.members:
            wanted |= member.reward.adapters(model)
        return wanted

    def open(self, setting: RewardSetting) -> None:
        """Load what each needs."""
        for member in self.members:
            member.reward.open(setting)

    def score(
        self, groups: Sequence[Group], processes: Processes, *, learn: bool = False
    ) -> list[list[Score]]:
        """The total of every completion with its parts, the same in every process.

        Every process is given the same groups, and scores its share of them. ``learn`` is for
        training: these scores enter the running statistics, and ``RunError`` is raised when more
        than ``rollout.max_unscored`` of the completions since the last ``drain_faults()`` have no
        total. Without it faults are counted all the same, but stop nothing.

        Parts are named ``label`` (the raw score) and ``label/part``.
        """
        found = self._found(groups, processes)
        for member, scores in zip(self.members, found, strict=True):
            self._note_faults(member.label, groups, scores)
        shaped = [
            self._shaped(member, scores, learn)
            for member, scores in zip(self.members, found, strict=True)
        ]
        totals = [
            [
                self._total([scores[g][c] for scores in found], [row[g][c] for row in shaped])
                for c in range(len(group.completions))
            ]
            for g, group in enumerate(groups)
        ]
        self._note_faults("total", groups, totals, TOO_LARGE)
        if learn:
            self._count(totals)
        return totals

    @property
    def counting(self) -> bool:
        """Does one of them have a weight? Otherwise all are watched, and the sum says nothing."""
        return any(member.section.weight for member in self.members)

    @property
    def judges(self) -> bool:
        """Does one of them ask the run's judge?"""
        return any(member.reward.judges for member in self.members)

    def drain_figures(self) -> dict[str, float]:
        """What the rewards have to say of the calls since the last one, as ``label/figure``.

        Steps and evaluations ask for it in turn, so that each has its own.
        """
        found, self._counts = self._counts, {}
        return {
            f"{member.label}/{name}": value
            for member in self.members
            if (counts := found.get(member.label))
            for name, value in member.reward.figures(counts).items()
        }

    def drain_faults(self) -> list[Fault]:
        """What could not be scored since the last call; once a step, for its metrics and notes."""
        found, self._faults = self._faults, []
        self._rows = self._unscored = 0
        return found

    def describe(self) -> dict[str, Any]:
        """Every reward with what it is, as JSON."""
        return {
            member.label: {
                "name": member.section.name,
                "weight": member.section.weight,
                "clip": member.section.clip,
                "standardize": member.section.standardize,
                **member.reward.describe(),
            }
            for member in self.members
        }

    def state(self) -> dict[str, Any]:
        """The running statistics, as JSON for a checkpoint."""
        return {label: moments.state() for label, moments in self._moments.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from them."""
        self._moments = {label: Moments.restored(state[label]) for label in self._moments}

    def _found(self, groups: Sequence[Group], processes: Processes) -> list[list[list[Score]]]:
        """By member, group and completion: each process scores its groups, and all get all."""

        def mine() -> tuple[list[int], list[list[list[Score]]], list[str | None], list[Any]]:
            own = processes.share(len(groups)).tolist()
            asked = [groups[g] for g in own]
            answers = [guard.score(asked) for guard in self._guards] if asked else []
            counts = [member.reward.counts() for member in self.members]
            return own, [scores for scores, _ in answers], [why for _, why in answers], counts

        found: list[list[list[Score]]] = [[[] for _ in groups] for _ in self.members]
        for numbers, by_member, whys, counted in processes.all_of(mine):
            for member, of_member in zip(self.members, counted, strict=True):
                self._counts.setdefault(member.label, Counter()).update(of_member)
            for m, scores in enumerate(by_member):
                for g, of_group in zip(numbers, scores, strict=True):
                    found[m][g] = of_group
            for member, why in zip(self.members, whys, strict=False):
                if why is not None:
                    first = groups[numbers[0]].completions[0]
                    self._faults.append(Fault(member.label, why, 0, _shown(first)))
        return found

    def _shaped(
        self, member: Member, scores: Sequence[Sequence[Score]], learn: bool
    ) -> list[list[float | None]]:
        """Standardized and clipped; None stays None."""
        moments = self._moments.get(member.label)
        if moments is not None:
            batch = Moments.of([s.value for each in scores for s in each if s.value is not None])
            if learn:
                moments.merge(batch)
            elif not moments.count:
                moments = batch

        def shape(value: float | None) -> float | None:
            if value is None:
                return None
            if moments is not None:
                value = moments.standardized(value)
            low, high = member.section.clip or (value, value)
            return min(max(value, low), high)

        return [[shape(score.value) for score in each] for each in scores]

    def _total(self, scores: Sequence[Score], shaped: Sequence[float | None]) -> Score:
        parts: dict[str, float | None] = {}
        said: dict[str, Any] = {}
        whys = []
        total = 0.0
        for member, score, value in zip(self.members, scores, shaped, strict=True):
            parts[member.label] = score.value
            parts |= {f"{member.label}/{name}": part for name, part in score.parts.items()}
            if score.said:
                said[member.label] = dict(score.said)
            if not member.section.weight:
                continue
            if value is None:
                whys.append(f"{member.label}: {score.why}")
            else:
                total += member.section.weight * value
        if whys:
            return Score(None, parts, "; ".join(whys), said)
        if not abs(total) <= LARGEST:
            why = f"{TOO_LARGE} {total}, which is no finite float32"
            return Score(None, parts, why, said)
        return Score(total, parts, said=said)

    def _note_faults(
        self,
        label: str,
        groups: Sequence[Group],
        scores: Sequence[Sequence[Score]],
        such: str = "",
    ) -> None:
        """Of completions without a score, those whose reason starts so."""
        texts: dict[str, list[str]] = {}
        for group, of_group in zip(groups, scores, strict=True):
            for text, score in zip(group.completions, of_group, strict=True):
                if score.value is None and str(score.why).startswith(such):
                    texts.setdefault(str(score.why), []).append(text)
        self._faults += [
            Fault(label, why, len(those), _shown(those[0])) for why, those in texts.items()
        ]

    def _count(self, totals: Iterable[Sequence[Score]]) -> None:
        """Stop the run where too many have no total."""
        rows = [score for of_group in totals for score in of_group]
        without = [score for score in rows if score.value is None]
        self._rows += len(rows)
        self._unscored += len(without)
        if without and self._unscored > self.rollout.max_unscored * self._rows:
            last = next((str(f) for f in reversed(self._faults) if f.rows), without[-1].why)
            raise RunError(
                f"{self._unscored} of {self._rows} completions of this step could not be scored, "
                f"and rollout.max_unscored is {self.rollout.max_unscored:g}. The last of what "
                f"went wrong: {last}"
            )


def groups_of(
    tokenizer: Any, prompts: Sequence[Prompt], sampled: Sequence[Sequence[Completion]]
) -> list[Group]:
    """Prompts and their completions as rewards are shown them."""
    return [
        Group(
            prompt=tokenizer.decode(prompt.ids, skip_special_tokens=True),
            completions=[tokenizer.decode(c.tokens, skip_special_tokens=True) for c in answers],
            columns=prompt.columns,
            content=prompt.content,
            sampled=tuple(answers),
        )
        for prompt, answers in zip(prompts, sampled, strict=True)
    ]


def _shown(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."

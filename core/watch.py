"""Over-optimisation: trained rewards that rise while a watched one falls, told from a run's logs.

Gao et al. 2022, arXiv:2210.10760. Nothing here is random and nothing is remembered: a run that
is resumed decides from its logs what it decided before, to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trimtab.core.config import SelectedReward
from trimtab.core.files import read_json
from trimtab.core.measures import LEVEL, Measure
from trimtab.core.training import WatchConfig

WATCH = "watch.json"
BEST = "best"
"""The folder of the best policy, and in ``checkpoints`` that of its checkpoint."""

Answer = Mapping[str, Any]
"""A line of ``samples.jsonl``."""


@dataclass(frozen=True)
class Look:
    """One evaluation beside the best one before it."""

    step: int
    proxy: float | None
    """Mean of what the rewards that are trained on say; None where none is."""

    gold: float | None
    """Mean of the watched reward; None where it could judge no answer."""

    kl: float | None
    """``kl_sequence``, in nats."""

    since: int | None
    """The step of the best evaluation before; None for the first."""

    rise: float | None
    """Of the proxy since then, mean over the prompts scored both times."""

    difference: Measure | None
    """Of the watched reward since then, over the prompts scored both times: its mean, with the
    95% interval by Student's t."""

    over: bool
    """The proxy has risen, or there is none, and the interval of ``difference`` is below 0."""


@dataclass(frozen=True)
class _Seen:
    proxy: list[float | None]
    gold: list[float | None]


class Watch:
    """The evaluations of a run, one after the other, and what follows from them.

    ``trained`` says whether the run learns from its rewards at all: an offline run may have
    rewards that only score its held-out answers.
    """

    def __init__(
        self, section: WatchConfig, rewards: Sequence[SelectedReward], *, trained: bool
    ) -> None:
        self.section = section
        self.proxies = [reward for reward in rewards if trained and reward.weight]
        self.looks: list[Look] = []
        self._seen: dict[int, _Seen] = {}
        self._scales: dict[str, float] = {}

    def read(self, evaluations: Iterable[Mapping[str, Any]], samples: Iterable[Answer]) -> None:
        """See all that was logged."""
        answers: dict[int, list[Answer]] = {}
        for sample in samples:
            if sample["held_out"]:
                answers.setdefault(sample["step"], []).append(sample)
        for evaluation in evaluations:
            self.see(evaluation, answers.get(evaluation["step"], ()))

    def see(self, evaluation: Mapping[str, Any], answers: Sequence[Answer]) -> Look:
        """The next line of ``evals.jsonl``, with its held-out answers in their order."""
        if not self._seen:
            self._scales = {_label(r): _spread(_label(r), answers) for r in self.proxies}
        gold = [answer["parts"].get(self.section.reward) for answer in answers]
        seen = _Seen([self._proxy(answer) for answer in answers], gold)
        look = self._look(evaluation, seen)
        self._seen[look.step] = seen
        self.looks.append(look)
        return look

    @property
    def best(self) -> Look | None:
        """The evaluation with the highest mean of the watched reward; of equals the first."""
        scored = [look for look in self.looks if look.gold is not None]
        return max(scored, key=lambda look: look.gold or 0.0, default=None)

    @property
    def in_a_row(self) -> int:
        """How many evaluations up to the last one were over-optimised."""
        count = 0
        while count < len(self.looks) and self.looks[-1 - count].over:
            count += 1
        return count

    @property
    def over(self) -> Look | None:
        """The first evaluation that had ``patience`` of them in a row."""
        row = 0
        for look in self.looks:
            row = row + 1 if look.over else 0
            if row >= self.section.patience:
                return look
        return None

    @property
    def stopped(self) -> int | None:
        """The step at which the run ends; None where it goes on."""
        over = self.over
        return over.step if over is not None and self.section.stop else None

    @property
    def why(self) -> str:
        """The figures by which it is over-optimised, or that it is not."""
        label, over, best = self.section.reward, self.over, self.best
        if best is None:
            return f"{label} could judge no held-out answer"
        if over is not None:
            return told(over, label)
        return f"never over-optimised; {label} was best at step {best.step}, {best.gold:.4g}"

    def document(self, adapter: int | None = None) -> dict[str, Any]:
        """What ``watch.json`` holds. ``adapter`` is the step of the run's result, at its end."""
        best = self.best
        return {
            "reward": self.section.reward,
            "best": best.step if best else None,
            "checkpoint": f"checkpoints/{BEST}/step-{best.step}" if best else None,
            "stopped": self.stopped,
            "adapter": adapter,
            "why": self.why,
            "evaluations": [_plain(look) for look in self.looks],
        }

    def _look(self, evaluation: Mapping[str, Any], seen: _Seen) -> Look:
        best = self.best
        before = self._seen[best.step] if best else None
        rise = difference = None
        if before is not None:
            rise = _mean(_less(seen.proxy, before.proxy))
            difference = _interval(_less(seen.gold, before.gold))
        risen = not self.proxies or (rise is not None and rise > 0)
        return Look(
            step=evaluation["step"],
            proxy=_mean([value for value in seen.proxy if value is not None]),
            gold=_value(evaluation.get(f"reward/{self.section.reward}")),
            kl=_value(evaluation.get("kl_sequence")),
            since=best.step if best else None,
            rise=rise,
            difference=difference,
            over=risen and difference is not None and difference.n > 1 and difference.high < 0,
        )

    def _proxy(self, answer: Answer) -> float | None:
        """The weighted sum that is trained on, in the units of the first evaluation.

        A reward that is standardized counts by its spread there: by its running mean and spread
        it would not rise, however much the policy gains.
        """
        total = 0.0
        for reward in self.proxies:
            value = answer["parts"].get(_label(reward))
            if value is None:
                return None
            if reward.standardize:
                value /= self._scales[_label(reward)]
            elif reward.clip is not None:
                value = min(max(value, reward.clip[0]), reward.clip[1])
            total += reward.weight * value
        return total if self.proxies else None


def told(look: Look, label: str) -> str:
    """An evaluation beside the best before it, in figures."""
    fallen = look.difference
    if look.since is None or fallen is None:
        return f"{label} {'unknown' if look.gold is None else f'{look.gold:.4g}'}"
    moved = "" if look.rise is None else f"the trained reward moved by {look.rise:+.3g} and "
    return (
        f"since step {look.since} {moved}{label} by {fallen.value:+.3g} "
        f"[{fallen.low:+.3g}, {fallen.high:+.3g}], on the same {fallen.n} prompts"
    )


def watched(directory: Path) -> dict[str, Any] | None:
    """What ``watch.json`` of a run says; None where nothing was watched."""
    file = directory / WATCH
    return dict(read_json(file)) if file.exists() else None


def of_the_result(directory: Path, evaluations: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The line of ``evals.jsonl`` that measures a run's result: the last one, unless the result
    is the best by a watched reward."""
    step = (watched(directory) or {}).get("adapter")
    found = [evaluation for evaluation in evaluations if step in (None, evaluation["step"])]
    return found[-1] if found else None


def _label(reward: SelectedReward) -> str:
    return reward.label or reward.name


def _plain(look: Look) -> dict[str, Any]:
    return {**asdict(look), "difference": look.difference and asdict(look.difference)}


def _spread(label: str, answers: Sequence[Answer]) -> float:
    """The standard deviation of a reward's scores; 1 where there is none."""
    values = [v for answer in answers if (v := answer["parts"].get(label)) is not None]
    middle = _mean(values)
    if middle is None:
        return 1.0
    return math.sqrt(math.fsum((v - middle) ** 2 for v in values) / len(values)) or 1.0


def _value(measure: Mapping[str, Any] | None) -> float | None:
    """Of a measure in a log; what was not finite is none."""
    value = measure["value"] if measure else None
    return value if value is not None and math.isfinite(value) else None


def _less(now: Sequence[float | None], then: Sequence[float | None]) -> list[float]:
    """Prompt by prompt, where both are known. The prompts of all evaluations are the same."""
    pairs = zip(now, then, strict=False)
    return [a - b for a, b in pairs if a is not None and b is not None]


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _interval(values: Sequence[float]) -> Measure | None:
    """mean +- t sd / sqrt(n), with t of n - 1 degrees of freedom."""
    middle, n = _mean(values), len(values)
    if middle is None or n < 2:
        return middle if middle is None else Measure(middle, middle, middle, n)
    from scipy.stats import t

    spread = math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (n - 1))
    half = float(t.ppf((1 + LEVEL) / 2, n - 1)) * spread / math.sqrt(n)
    return Measure(middle, middle - half, middle + half, n)

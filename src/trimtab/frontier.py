"""Rewards over sqrt(KL): what is trained on, what is only watched, and where they part.

Gao et al. 2022, arXiv:2210.10760. All of it is told from a run's logs, so runs without a watch
have the figure too, with the mark of where one would have stopped them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trimtab.core.config import SelectedReward
from trimtab.core.errors import UserError, suggestion
from trimtab.core.training import WatchConfig
from trimtab.core.watch import Watch
from trimtab.curves import Points, records, saved, styled
from trimtab.directories import config

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = "reward-over-kl"
FEWEST_FOR_A_FIT = 5
LEAST_R2 = 0.5


@dataclass(frozen=True)
class Frontier:
    """The evaluations of one run: where it was, and what each reward said of it there."""

    label: str
    distance: Points
    """sqrt(KL) at each step, KL in nats."""

    proxies: Mapping[str, Points]
    """What is trained on; of several rewards their weighted sum."""

    watched: Mapping[str, Points]
    """The watched reward first."""

    best: int | None
    """The step of the best evaluation by the watched reward, of those before the stop."""

    stop: int | None
    stopped: bool
    """Was the run ended there? Else it would have been."""


@dataclass(frozen=True)
class Fit:
    """gold = start + d (alpha - beta log d), with d = sqrt(KL)."""

    start: float
    alpha: float
    beta: float
    r2: float

    def at(self, distance: float) -> float:
        """What it says."""
        return self.start + distance * (self.alpha - self.beta * math.log(distance))

    def __str__(self) -> str:
        sign = "-" if self.beta >= 0 else "+"
        return (
            f"{self.start:.3g} + d ({self.alpha:.3g} {sign} {abs(self.beta):.3g} log d), "
            f"d = sqrt(KL): least squares, R2 {self.r2:.2f}"
        )


def read(path: Path, label: str, reward: str | None = None) -> Frontier | None:
    """Of the logs of one run as they stand; None where there is nothing to draw.

    Watched is ``reward``, else what the run's own ``watch`` names, else its first reward of
    weight 0. Raises ``UserError`` where no reward is labelled so.
    """
    sections = config(path)
    rewards = [SelectedReward.model_validate(one) for one in sections.get("reward") or ()]
    labels = {one.label or one.name: one.weight for one in rewards}
    own = WatchConfig.model_validate(sections["watch"]) if sections.get("watch") else None
    only_watched = [name for name, weight in labels.items() if not weight]
    chosen = reward or (own.reward if own else next(iter(only_watched), None))
    evaluations = records(path / "evals.jsonl")
    if not rewards or chosen is None or len([e for e in evaluations if "kl_sequence" in e]) < 2:
        return None
    if chosen not in labels:
        raise UserError(
            f"no reward of {path} is labelled {chosen!r}.{suggestion(chosen, list(labels))} "
            f"Rewards: {', '.join(labels)}"
        )
    section = own if own is not None and own.reward == chosen else WatchConfig(reward=chosen)
    trained = any("reward" in step for step in records(path / "metrics.jsonl"))
    watch = Watch(section, rewards, trained=trained)
    watch.read(evaluations, records(path / "samples.jsonl"))
    over, best = watch.over, watch.best
    proxies = [one.label or one.name for one in watch.proxies]
    summed = {"reward": _points(evaluations, "reward")} if len(proxies) > 1 else {}
    return Frontier(
        label,
        _distance(evaluations),
        summed or {name: _points(evaluations, f"reward/{name}") for name in proxies},
        {
            name: _points(evaluations, f"reward/{name}")
            for name in dict.fromkeys((chosen, *only_watched))
        },
        best=over.since if over is not None else best.step if best is not None else None,
        stop=over.step if over is not None else None,
        stopped=section is own and watch.stopped is not None,
    )


def _points(evaluations: Sequence[Mapping[str, Any]], name: str) -> Points:
    """A measure at the evaluations that have it."""
    points = Points([], [], [])
    assert points.intervals is not None
    for evaluation in evaluations:
        measure = evaluation.get(name)
        if measure and None not in measure.values() and "kl_sequence" in evaluation:
            points.steps.append(evaluation["step"])
            points.values.append(measure["value"])
            points.intervals.append((measure["low"], measure["high"]))
    return points


def _distance(evaluations: Sequence[Mapping[str, Any]]) -> Points:
    kl = _points(evaluations, "kl_sequence")
    assert kl.intervals is not None
    roots = [(_root(low), _root(high)) for low, high in kl.intervals]
    return Points(kl.steps, [_root(value) for value in kl.values], roots)


def _root(kl: float) -> float:
    """An estimate of a small KL may be below 0."""
    return math.sqrt(max(kl, 0.0))


def fitted(distances: Sequence[float], values: Sequence[float]) -> Fit | None:
    """Gao et al.'s form for RL, through the start; None where it does not fit.

    It is linear in alpha and beta. The first point must be the start, at KL 0; five others are
    the fewest, and R2 of them 0.5 the least.
    """
    there = [(d, value) for d, value in zip(distances, values, strict=True) if d > 0]
    if len(there) < FEWEST_FOR_A_FIT or distances[0] > 0:
        return None
    d, value = np.array(there).T
    gain = value - values[0]
    columns = np.stack([d, -d * np.log(d)], axis=1)
    (alpha, beta), *_ = np.linalg.lstsq(columns, gain, rcond=None)
    missed = float(((gain - columns @ (alpha, beta)) ** 2).sum())
    spread = float(((gain - gain.mean()) ** 2).sum())
    r2 = 1 - missed / spread if spread > 0 else 0.0
    return Fit(values[0], float(alpha), float(beta), r2) if r2 >= LEAST_R2 else None


def draw(frontiers: Sequence[Frontier], folder: Path) -> list[Path]:
    """What is trained on and what is watched, one below the other, over sqrt(KL)."""
    from matplotlib.figure import Figure

    proxies = list(dict.fromkeys(name for each in frontiers for name in each.proxies))
    watched = list(dict.fromkeys(name for each in frontiers for name in each.watched))
    down = len(proxies) + len(watched)
    with styled():
        figure = Figure(figsize=(7.2, 2.9 * down), layout="constrained", dpi=120)
        panels = figure.subplots(down, 1, squeeze=False, sharex=True).flatten().tolist()
        for panel, name in zip(panels, proxies + watched, strict=True):
            _panel(panel, frontiers, name, "trained on" if name in proxies else "only watched")
        panels[-1].set_xlabel("sqrt(KL to the reference), KL in nats a completion", fontsize=8)
        return list(saved(figure, folder / NAME))


def _panel(panel: Axes, frontiers: Sequence[Frontier], name: str, what: str) -> None:
    for number, each in enumerate(frontiers):
        points = {**each.proxies, **each.watched}.get(name)
        if points is not None and points.steps:
            colour = f"C{number % 10}"
            whose = f"{each.label}: " if len(frontiers) > 1 else ""
            _path(panel, each, points, colour, f"{number} {name}", whose)
            _marks(panel, each, points, f"{number} {name}", whose)
            if name == next(iter(each.watched)):
                _fit(panel, each, points, colour, f"{number} {name}", whose)
    panel.set_title(f"{name}, {what}", fontsize=10)
    panel.tick_params(labelsize=8)
    panel.grid(alpha=0.25)
    panel.legend(fontsize=7, frameon=False)


def _at(frontier: Frontier, points: Points) -> list[float]:
    """The distance at each of these points."""
    where = dict(zip(frontier.distance.steps, frontier.distance.values, strict=True))
    return [where[step] for step in points.steps]


def _path(
    panel: Axes, each: Frontier, points: Points, colour: str, which: str, whose: str
) -> None:
    """The points in the order of the steps, with the 95% intervals of both coordinates."""
    assert points.intervals is not None and each.distance.intervals is not None
    distances = _at(each, points)
    widths = dict(zip(each.distance.steps, each.distance.intervals, strict=True))
    low, high = zip(*points.intervals, strict=True)
    left, right = zip(*(widths[step] for step in points.steps), strict=True)
    panel.vlines(distances, low, high, color=colour, linewidth=1.0, alpha=0.6)
    panel.hlines(points.values, left, right, color=colour, linewidth=0.6, alpha=0.4)
    (line,) = panel.plot(
        distances,
        points.values,
        color=colour,
        linewidth=1.0,
        marker="o",
        markersize=4,
        label=f"{whose}evaluations, 95% intervals",
    )
    line.set_gid(f"evaluations {which}")
    ends = {points.steps[0], points.steps[-1], each.best, each.stop}
    for step, x, y in zip(points.steps, distances, points.values, strict=True):
        if step in ends:
            panel.annotate(
                f"step {step}", (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7
            )


def _marks(panel: Axes, each: Frontier, points: Points, which: str, whose: str) -> None:
    """The best evaluation, and where the watch has stopped the run or would have."""
    watched = next(iter(each.watched))
    stop = "stopped" if each.stopped else "a watch would stop"
    for step, shape, colour, said in (
        (each.best, "*", "C2", f"best by {watched}"),
        (each.stop, "X", "C3", f"{stop} here"),
    ):
        if step in points.steps:
            at = points.steps.index(step)
            (mark,) = panel.plot(
                [_at(each, points)[at]],
                [points.values[at]],
                color=colour,
                linestyle="none",
                marker=shape,
                markersize=11,
                markeredgecolor="white",
                zorder=3,
                label=f"{whose}{said}, step {step}",
            )
            mark.set_gid(f"{'best' if shape == '*' else 'stop'} {which}")


def _fit(panel: Axes, each: Frontier, points: Points, colour: str, which: str, whose: str) -> None:
    distances = _at(each, points)
    fit = fitted(distances, points.values)
    if fit is None:
        return
    over = np.linspace(0, max(distances), 101)[1:].tolist()
    (line,) = panel.plot(
        over,
        [fit.at(distance) for distance in over],
        color=colour,
        linestyle=":",
        linewidth=1.4,
        label=f"{whose}{fit}",
    )
    line.set_gid(f"fit {which}")

"""Curves of runs: every number that a run logs, over its steps, as SVG and PNG."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.core.card import BINNED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIRST = (
    *("reward", "reward_std", "kl_sequence", "kl_token", "kl_moved", "length", "truncated"),
    *("entropy", "clipped", "clipped_low", "clipped_high", "ratio", "value_loss"),
    *("explained_variance", "all_equal", "unscored", "beta", "loss", "policy_loss", "grad_norm"),
    *("learning_rate", "accuracy", "ece", "accuracy_logp", "accuracy_implicit", "auc_logratio"),
)
"""The panels of the overview, in this order, where they were logged; a reward's parts follow it.
Everything else that was logged gets a file of its own."""

UNITS = {
    **dict.fromkeys(("kl_sequence",), "nats a completion"),
    **dict.fromkeys(("kl_token", "kl_moved", "entropy"), "nats a token"),
    **dict.fromkeys(("truncated", "unscored", "all_equal"), "share of completions"),
    **dict.fromkeys(("clipped", "clipped_low", "clipped_high"), "share of tokens"),
    "all_equal": "share of groups",
    "length": "tokens",
    "seconds": "seconds a step",
}

FORMATS = ("svg", "png")
_LEFT_OUT = ("step", "rows")
_ACROSS = 3


@dataclass(frozen=True)
class Points:
    """One number over the steps, with an interval where there is one."""

    steps: list[int]
    values: list[float]
    intervals: list[tuple[float, float]] | None = None


@dataclass(frozen=True)
class Curves:
    """What one run logged: in training, and on what was held out."""

    label: str
    train: Mapping[str, Points]
    held_out: Mapping[str, Points]

    @property
    def names(self) -> set[str]:
        """Of everything that was logged."""
        return {*self.train, *self.held_out}


def read(path: Path, label: str) -> Curves:
    """The logs of one run as they stand; a line that is being written is left out."""
    train: dict[str, Points] = {}
    held_out: dict[str, Points] = {}
    for record in records(path / "metrics.jsonl"):
        for name, value in record.items():
            if name not in _LEFT_OUT and (value is None or isinstance(value, int | float)):
                points = train.setdefault(name, Points([], []))
                points.steps.append(record["step"])
                points.values.append(_number(value))
    for record in records(path / "evals.jsonl"):
        for name, measure in record.items():
            if isinstance(measure, dict):
                points = held_out.setdefault(name, Points([], [], []))
                assert points.intervals is not None
                points.steps.append(record["step"])
                points.values.append(_number(measure["value"]))
                points.intervals.append((_number(measure["low"]), _number(measure["high"])))
    return Curves(label, train, held_out)


def draw(runs: Sequence[Curves], folder: Path) -> list[Path]:
    """An overview and a file for each number, of one run or of several in the same axes.

    Held-out measures are points with a band: their 95% intervals.
    """
    names = _ordered({name for run in runs for name in run.names})
    shown = [name for name in names if name in FIRST or name.startswith("reward/")] or names
    folder.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    with styled():
        made += saved(_figure(runs, shown), folder / "overview")
        for name in names:
            made += saved(_figure(runs, [name]), folder / name.replace("/", "-"))
    return made


def _ordered(names: set[str]) -> list[str]:
    """Those of the overview first. Bins of a calibration are no curves."""
    place = {name: number for number, name in enumerate(FIRST)}

    def key(name: str) -> tuple[float, str]:
        first = "reward" if name.startswith("reward/") else name
        return place.get(first, math.inf) + (0.5 if first != name else 0.0), name

    return sorted((name for name in names if not name.startswith(BINNED)), key=key)


def _figure(runs: Sequence[Curves], names: Sequence[str]) -> Figure:
    from matplotlib.figure import Figure

    across = min(_ACROSS, len(names))
    down = -(-len(names) // across)
    figure = Figure(figsize=(4.6 * across, 3.0 * down), layout="constrained", dpi=120)
    panels = figure.subplots(down, across, squeeze=False).flatten().tolist()
    for panel, name in zip(panels, names, strict=False):
        _panel(panel, runs, name)
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    return figure


def _panel(panel: Axes, runs: Sequence[Curves], name: str) -> None:
    """One number. Training is a line, what was held out is points with a band."""
    for number, run in enumerate(runs):
        colour = f"C{number % 10}"
        whose = f"{run.label}: " if len(runs) > 1 else ""
        if name in run.train:
            points = run.train[name]
            (line,) = panel.plot(
                points.steps,
                points.values,
                color=colour,
                alpha=0.65,
                linewidth=1.2,
                marker="." if len(points.steps) < 30 else None,
                label=f"{whose}training",
            )
            line.set_gid(f"training {number} {name}")
        if name in run.held_out:
            _band(panel, run.held_out[name], colour, f"{whose}held out", f"{number} {name}")
    panel.set_title(name, fontsize=10)
    panel.set_xlabel("step", fontsize=8)
    panel.set_ylabel(UNITS.get(name, ""), fontsize=8)
    panel.tick_params(labelsize=8)
    panel.grid(alpha=0.25)
    panel.legend(fontsize=7, frameon=False)


def _band(panel: Axes, points: Points, colour: str, label: str, which: str) -> None:
    assert points.intervals is not None
    low, high = zip(*points.intervals, strict=True)
    band = panel.fill_between(points.steps, low, high, color=colour, alpha=0.15, linewidth=0)
    band.set_gid(f"interval {which}")
    panel.vlines(points.steps, low, high, color=colour, linewidth=1.0)
    (line,) = panel.plot(
        points.steps,
        points.values,
        color=colour,
        linestyle="--",
        linewidth=1.0,
        marker="o",
        markersize=4,
        label=label,
    )
    line.set_gid(f"held out {which}")


def styled() -> AbstractContextManager[None]:
    """Texts stay texts, and the same curves give the same bytes."""
    from matplotlib import rc_context

    return rc_context({"svg.hashsalt": "trimtab", "svg.fonttype": "none"})


def saved(figure: Figure, path: Path) -> Iterator[Path]:
    """The figure in each format."""
    for kind in FORMATS:
        file = path.with_name(f"{path.name}.{kind}")
        figure.savefig(file, metadata={"Date": None} if kind == "svg" else None)
        yield file


def records(file: Path) -> list[dict[str, Any]]:
    """The lines of a log; one that is being written is left out."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise
    return found


def _number(value: float | None) -> float:
    """What was not finite is null in a log, and a gap in a curve."""
    return math.nan if value is None else float(value)

"""What each stage of a pipeline changed: every reward before and after it, with intervals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.core.watch import of_the_result
from trimtab.curves import records, saved, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = "stages"
WIDTH = 0.16
"""How far apart the points of one stage are, where 1 is the next stage."""


@dataclass(frozen=True)
class Gain:
    """One measure of one stage, from its first evaluation and from that of its result."""

    run: str
    stage: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]


def read(path: Path, run: str, stage: str) -> dict[str, Gain]:
    """By reward, of the logs of a finished stage."""
    evaluations = records(path / "evals.jsonl")
    state = path / "run.json"
    finished = state.exists() and json.loads(state.read_text())["state"] == "finished"
    last = of_the_result(path, evaluations)
    if not finished or last is None:
        return {}
    return {
        name.removeprefix("reward/"): Gain(run, stage, evaluations[0][name], measure)
        for name, measure in last.items()
        if name.startswith("reward/") and name in evaluations[0]
    }


def draw(gains: Sequence[Mapping[str, Gain]], folder: Path) -> list[Path]:
    """A panel a reward, in it the stages that it scored, in their order."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for stage in gains for name in stage))
    with styled():
        figure = Figure(figsize=(7.2, 2.9 * len(names)), layout="constrained", dpi=120)
        panels = figure.subplots(len(names), 1, squeeze=False).flatten().tolist()
        for panel, name in zip(panels, names, strict=True):
            _panel(panel, [stage[name] for stage in gains if name in stage], name)
        return list(saved(figure, folder / NAME))


def _panel(panel: Axes, gains: Sequence[Gain], name: str) -> None:
    stages = list(dict.fromkeys(gain.stage for gain in gains))
    runs = list(dict.fromkeys(gain.run for gain in gains))
    for number, run in enumerate(runs):
        colour, own = f"C{number % 10}", [gain for gain in gains if gain.run == run]
        middle = (number - (len(runs) - 1) / 2) * 3 * WIDTH
        whose = f"{run}: " if len(runs) > 1 else ""
        for when, shift, face in (("before", -WIDTH / 2, "white"), ("after", WIDTH / 2, colour)):
            measures = [getattr(gain, when) for gain in own]
            at = [stages.index(gain.stage) + middle + shift for gain in own]
            low, high = zip(*((m["low"], m["high"]) for m in measures), strict=True)
            panel.vlines(at, low, high, color=colour, linewidth=1.2, alpha=0.7)
            (line,) = panel.plot(
                at,
                [measure["value"] for measure in measures],
                color=colour,
                linestyle="none",
                marker="o",
                markersize=6,
                markerfacecolor=face,
                label=f"{whose}{when} the stage",
            )
            line.set_gid(f"{when} {number} {name}")
    panel.set_xticks(range(len(stages)), stages)
    panel.set_xlim(-0.5, len(stages) - 0.5)
    panel.set_title(f"{name}, held out, 95% intervals", fontsize=10)
    panel.tick_params(labelsize=8)
    panel.grid(alpha=0.25, axis="y")
    panel.legend(fontsize=7, frameon=False)

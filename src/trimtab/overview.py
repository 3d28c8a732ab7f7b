"""The stages of a pipeline in one view: what waits, what runs with its bar, what is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from trimtab.core.runfile import Plan

State = Literal["waiting", "kept", "starting", "running", "finished", "stopped", "failed"]

BAR = 30
"""Columns of a bar."""


@dataclass
class Stage:
    """One stage as it stands."""

    name: str
    what: str = ""
    state: State = "waiting"
    step: int = 0
    steps: int = 0
    said: str = ""
    """Beside its state."""


class Overview:
    """All stages of a file; of a file without stages, its one run."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = list(stages)

    @classmethod
    def of(cls, plan: Plan, kept: Sequence[str]) -> Overview:
        """A file's stages before the first of them runs."""
        named = [
            (str(stage.name), stage.run.objective or stage.run.source) for stage in plan.stages
        ]
        return cls(
            [
                Stage(name, what.name if what else "", "kept" if name in kept else "waiting")
                for name, what in named
            ]
        )

    def find(self, name: str | None) -> Stage | None:
        """The stage of that name."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def place(self, stage: Stage) -> str:
        """``stage 2/5``; nothing where there is only one."""
        count = len(self.stages)
        return f"stage {self.stages.index(stage) + 1}/{count}" if count > 1 else ""

    def go_on(self) -> None:
        """The first stage that waits is about to run."""
        following = next((stage for stage in self.stages if stage.state == "waiting"), None)
        if following is not None:
            following.state = "starting"

    def shown(self) -> Table:
        """For a terminal."""
        grid = Table.grid(padding=(0, 2))
        for stage in self.stages:
            grid.add_row(Text(stage.name), Text(stage.what), _state(stage))
        return grid


def _state(stage: Stage) -> RenderableType:
    counted = f"{stage.step}/{stage.steps}"
    if stage.state != "running":
        done = [counted] if stage.steps else []
        return Text("  ".join([stage.state, *done, stage.said]).rstrip())
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        ProgressBar(total=stage.steps, completed=stage.step, width=BAR),
        Text(counted),
    )
    return bar

"""What a run shows while it goes: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from trimtab.core.hookspecs import hookimpl

SHOWN = 3
"""Sampled completions in the table."""

RECENT = 10
"""Steps that the throughput and the time left are taken from."""


class Display:
    """An observer of runs."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.bar: Progress | None = None
        self.steps = 0
        self.recent: deque[Mapping[str, float]] = deque(maxlen=RECENT)
        self.printed = 0.0
        self.first: Any = None

    @hookimpl
    def run_started(self, run: Any, step: int, steps: int) -> None:
        """Say what is about to run."""
        file = run.file
        name = f"{run.name}: " if run.name else ""
        self.console.print(
            f"{name}{file.objective.name} on {file.data.train}, {file.model.name} "
            f"({file.model.quantization}), {steps} steps of {file.train.rows} rows"
            + (f", from step {step}" if step else "")
        )
        self.steps, self.first = steps, None
        self.recent.clear()
        if self.console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[said]}"),
                console=self.console,
            )
            self.bar.add_task(file.objective.name, total=steps, completed=step, said="")
            self.bar.start()

    @hookimpl
    def noted(self, run: Any, text: str) -> None:
        """Print it."""
        self.console.print(text)

    @hookimpl
    def step_ended(self, run: Any, step: int, metrics: Mapping[str, float]) -> None:
        """Move the bar, or print a line at the start and then about every 20 seconds."""
        self.recent.append(metrics)
        seconds = sum(each["seconds"] for each in self.recent)
        rate = sum(each["tokens"] for each in self.recent) / max(seconds, 1e-9)
        left = seconds / len(self.recent) * (self.steps - step)
        loss = f"loss {metrics['loss']:.4f}  " if "loss" in metrics else ""
        said = f"{loss}{rate:.0f} tokens/s  {clock(left)} left"
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=step, said=said)
        elif step in (1, self.steps) or time.monotonic() - self.printed > 20:
            self.printed = time.monotonic()
            self.console.print(f"step {step}/{self.steps}  {said}")

    @hookimpl
    def evaluation_ended(self, run: Any, step: int, evaluation: Any) -> None:
        """One line of measures; at the end, what the samples were and are."""
        shown = "  ".join(
            f"{name} {measure.value:.3f} [{measure.low:.3f}, {measure.high:.3f}]"
            for name, measure in evaluation.measures.items()
            if name in ("loss", "accuracy_logp", "accuracy_implicit", "kl_sequence", "length")
        )
        self.console.print(f"held out, step {step}: {shown}")
        if self.first is None:
            self.first = (step, evaluation)
        elif step == self.steps:
            self._samples(step, evaluation)

    @hookimpl
    def run_ended(self, run: Any, state: str) -> None:
        """Leave the terminal as it was."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _samples(self, step: int, evaluation: Any) -> None:
        before, start = self.first
        if not start.samples:
            return
        table = Table("prompt", f"step {before}", f"step {step}", show_lines=True)
        for old, new in list(zip(start.samples, evaluation.samples, strict=True))[:SHOWN]:
            table.add_row(
                *(_cut(t) for t in (old["prompt"], old["completion"], new["completion"]))
            )
        self.console.print(table, markup=False)


def clock(seconds: float) -> str:
    """``1:02:03``, or ``2:03`` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _cut(text: str, width: int = 400) -> str:
    text = text.strip().replace("[", "\\[")
    return text if len(text) <= width else f"...{text[-width:]}"

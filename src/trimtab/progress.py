"""What a run shows while it goes: a bar and tables on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from trimtab.core.card import said
from trimtab.core.hookspecs import hookimpl
from trimtab.core.measures import Measure
from trimtab.shown import apart, cell, one_line, plain, table

SHOWN = 3
"""Samples that are shown, before and after."""

RECENT = 10
"""Steps that the throughput and the time left are taken from."""

PAUSE = 20
"""Seconds between two lines where there is no terminal."""

STEP = (("reward", "reward"), ("kl_sequence", "KL"), ("length", "length"))
"""What is said of each step beside its loss, where it is known."""

FIRST = (
    *("loss", "accuracy", "ece", "accuracy_logp", "accuracy_implicit"),
    *("kl_sequence", "reward", "length"),
)
"""Measures that are shown, where they were taken; ``evals.jsonl`` has all."""


class Display:
    """An observer of runs."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.bar: Progress | None = None
        self.live: Live | None = None
        self.below: list[RenderableType] = [Text()]
        """What stands under the bar: what is said of the step, and a table of samples."""

        self.samples: Sequence[Mapping[str, Any]] = ()
        """What the newest step sampled."""

        self.steps = 0
        self.recent: deque[Mapping[str, float]] = deque(maxlen=RECENT)
        self.printed = 0.0

    @hookimpl
    def run_started(self, run: Any, step: int, steps: int) -> None:
        """Say what is about to run."""
        file = run.file
        stage = f"stage {run.name}: " if run.name else ""
        held = "" if file.model.quantization == "none" else f" in {file.model.quantization}"
        begun = f", from step {step}" if step else ""
        what = file.objective or file.source
        assert what is not None
        self._print(
            f"{stage}{what.name} on {file.data.named} with {file.model.name}{held}: "
            f"{steps} steps of {file.train.rows} rows{begun}, in {run.directory.path}"
        )
        self.steps = steps
        self.recent.clear()
        self.below = [Text()]
        if self.console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                console=self.console,
            )
            self.bar.add_task(run.name or "steps", total=steps, completed=step)
            self.live = Live(self.bar, console=self.console, auto_refresh=False)
            self.live.start()

    @hookimpl
    def sampled(self, run: Any, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """The best, the median and the worst under the bar; elsewhere, with the step's line."""
        self.samples = samples
        if self.live is not None and self.bar is not None:
            self.below = [self.below[0], table(step, samples)]
            self.live.update(Group(self.bar, *self.below), refresh=True)

    @hookimpl
    def noted(self, run: Any, text: str) -> None:
        """Print it."""
        self._print(text)

    @hookimpl
    def step_ended(self, run: Any, step: int, metrics: Mapping[str, float]) -> None:
        """Move the bar, or print a line at the start, at the end, and now and then."""
        self.recent.append(metrics)
        seconds = sum(each["seconds"] for each in self.recent)
        rate = sum(each["tokens"] for each in self.recent) / max(seconds, 1e-9)
        left = seconds / len(self.recent) * (self.steps - step)
        loss = f"loss {metrics['loss']:.4f}  " if "loss" in metrics else ""
        others = "".join(f"{as_said} {metrics[n]:.4g}  " for n, as_said in STEP if n in metrics)
        said = f"{loss}{others}{rate:.0f} tokens/s  {clock(left)} left"
        if self.live is not None and self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=step)
            self.below[0] = Text(said)
            self.live.update(Group(self.bar, *self.below), refresh=True)
        elif step in (1, self.steps) or time.monotonic() - self.printed > PAUSE:
            self.printed = time.monotonic()
            self._print(f"step {step}/{self.steps}  {said}")
            for line in plain(self.samples):
                self._print(line)
        self.samples = ()

    @hookimpl
    def evaluation_ended(self, run: Any, step: int, evaluation: Any) -> None:
        """One line of values; the intervals are shown at the end."""
        measures = evaluation.measures
        if not measures:
            return
        shown = "  ".join(f"{name} {measures[name].value:.4g}" for name in _first(measures))
        self._print(f"held out at step {step}: {shown}")

    @hookimpl
    def run_ended(self, run: Any, state: str) -> None:
        """Leave the terminal as it was; of a finished run, show what changed."""
        if self.live is not None and self.bar is not None:
            self.live.update(Group(self.bar, self.below[0]))
            self.live.stop()
            self.live = self.bar = None
        if state == "finished" and (evaluations := run.directory.records("evals")):
            before, after = evaluations[0], evaluations[-1]
            self._changes(before, after)
            self._samples(run.directory.records("samples"), before["step"], after["step"])

    def _changes(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """The held-out measures of the first evaluation and of the last, with intervals."""
        rows: list[tuple[str, ...]] = [
            ("held out", f"step {before['step']}", f"step {after['step']}")
        ]
        for name in _first(after):
            found = [Measure(**each[name]) if name in each else None for each in (before, after)]
            rows.append((name, *(said(measure) if measure else "" for measure in found)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        self._print("")
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self._print("   ".join(cells).rstrip())

    def _samples(self, samples: Sequence[Mapping[str, Any]], before: int, after: int) -> None:
        """What the same prompts were answered with, side by side."""
        old, new = (
            [s for s in samples if s["step"] == step and s.get("held_out", True)]
            for step in (before, after)
        )
        rows = list(zip(apart([s["prompt"] for s in old]), old, new, strict=False))[:SHOWN]
        if not rows:
            return
        if not self.console.is_terminal:
            for prompt, first, last in rows:
                self._print(f"\n> {one_line(prompt)}")
                self._print(f"  step {before}: {one_line(first['completion'])}")
                self._print(f"  step {after}: {one_line(last['completion'])}")
            return
        table = Table("prompt", f"step {before}", f"step {after}", show_lines=True)
        for prompt, first, last in rows:
            table.add_row(*map(cell, (prompt, first["completion"], last["completion"])))
        self.console.print(table)

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)


def clock(seconds: float) -> str:
    """``1:02:03``, or ``2:03`` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _first(measures: Mapping[str, Any]) -> Iterator[str]:
    """A reward's parts come after it."""
    for name in FIRST:
        yield from [name] if name in measures else []
        if name == "reward":
            yield from (part for part in measures if part.startswith("reward/"))

"""What a run shows while it goes: a bar and tables on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from trimtab.core.card import said
from trimtab.core.hookspecs import hookimpl
from trimtab.core.measures import Measure

SHOWN = 3
"""Samples that are shown, before and after."""

LONGEST = 400
"""Characters of a text that are shown."""

RECENT = 10
"""Steps that the throughput and the time left are taken from."""

PAUSE = 20
"""Seconds between two lines where there is no terminal."""

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
        self._print(
            f"{stage}{file.objective.name} on {file.data.train} with {file.model.name}{held}: "
            f"{steps} steps of {file.train.rows} rows{begun}, in {run.directory.path}"
        )
        self.steps = steps
        self.recent.clear()
        if self.console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[said]}"),
                console=self.console,
            )
            self.bar.add_task(run.name or "steps", total=steps, completed=step, said="")
            self.bar.start()

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
        said = f"{loss}{rate:.0f} tokens/s  {clock(left)} left"
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=step, said=said)
        elif step in (1, self.steps) or time.monotonic() - self.printed > PAUSE:
            self.printed = time.monotonic()
            self._print(f"step {step}/{self.steps}  {said}")

    @hookimpl
    def evaluation_ended(self, run: Any, step: int, evaluation: Any) -> None:
        """One line of values; the intervals are shown at the end."""
        measures = evaluation.measures
        shown = "  ".join(f"{name} {measures[name].value:.4g}" for name in _first(measures))
        self._print(f"held out at step {step}: {shown}")

    @hookimpl
    def run_ended(self, run: Any, state: str) -> None:
        """Leave the terminal as it was; of a finished run, show what changed."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
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
            [s for s in samples if s["step"] == step and s["held_out"]] for step in (before, after)
        )
        rows = list(zip(_apart([s["prompt"] for s in old]), old, new, strict=False))[:SHOWN]
        if not rows:
            return
        if not self.console.is_terminal:
            for prompt, first, last in rows:
                self._print(f"\n> {_one_line(prompt)}")
                self._print(f"  step {before}: {_one_line(first['completion'])}")
                self._print(f"  step {after}: {_one_line(last['completion'])}")
            return
        table = Table("prompt", f"step {before}", f"step {after}", show_lines=True)
        for prompt, first, last in rows:
            table.add_row(*map(_cell, (prompt, first["completion"], last["completion"])))
        self.console.print(table)

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)


def clock(seconds: float) -> str:
    """``1:02:03``, or ``2:03`` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _first(measures: Mapping[str, Any]) -> Iterator[str]:
    return (name for name in FIRST if name in measures)


def _apart(prompts: Sequence[str]) -> list[str]:
    """The lines of each prompt that are not those of all: a template's are left out.

    >>> _apart(["system: be kind\\nhello\\nassistant", "system: be kind\\nbye\\nassistant"])
    ['hello', 'bye']
    """
    if len(set(prompts)) < 2:
        return list(prompts)
    lines = [prompt.split("\n") for prompt in prompts]
    begin = _alike(lines)
    end = _alike([each[begin:][::-1] for each in lines])
    return ["\n".join(each[begin : len(each) - end]) for each in lines]


def _alike(lists: Sequence[Sequence[str]]) -> int:
    """How many first items all the lists share."""
    return sum(1 for _ in takewhile(lambda each: len(set(each)) == 1, zip(*lists, strict=False)))


def _cell(text: str) -> Text:
    """As it is, but for what a terminal would obey, and not too long."""
    shown = (c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
    kept = "".join(shown).strip()
    return Text(kept if len(kept) <= LONGEST else f"{kept[:LONGEST]}...")


def _one_line(text: str) -> str:
    return " ".join(_cell(text).plain.split())

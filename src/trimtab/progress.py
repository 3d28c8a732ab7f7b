"""What a run shows while it goes: a bar and tables on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trimtab import summary as summaries
from trimtab.core.card import said
from trimtab.core.hookspecs import hookimpl
from trimtab.core.measures import Measure
from trimtab.core.runfile import Plan
from trimtab.core.summary import changes, rows_made
from trimtab.core.watch import of_the_result
from trimtab.overview import Overview, Stage, State
from trimtab.shown import apart, cell, one_line, plain, table
from trimtab.summary import clock, said_of_watch, told

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
    """An observer of runs, and of the stages of a file."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.overview = Overview([])
        self.staged = False
        """Is it a pipeline's, from its start to its end?"""

        self.stage = Stage("")
        """The one that runs."""

        self.live: Live | None = None
        self.said = ""
        """Of the newest step."""

        self.samples: tuple[int, Sequence[Mapping[str, Any]]] = (0, ())
        """What the newest step sampled, and its number."""

        self.recent: deque[Mapping[str, float]] = deque(maxlen=RECENT)
        self.began = 0.0
        self.printed = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the terminal as it was, whatever ended the runs."""
        self._close()

    @hookimpl
    def pipeline_started(self, home: Path, plan: Plan, kept: Sequence[str]) -> None:
        """List all the stages; the list stays until the last one has ended."""
        self.overview, self.staged = Overview.of(plan, kept), True
        self.overview.go_on()
        stages = self.overview.stages
        names = ", ".join(f"{s.name} (kept)" if s.state == "kept" else s.name for s in stages)
        what = "1 stage" if len(stages) == 1 else f"{len(stages)} stages"
        self._print(f"{what} in {home}: {names}")
        self._open()

    @hookimpl
    def pipeline_ended(self, home: Path, summary: Mapping[str, Any]) -> None:
        """One table of all the stages in place of the list, however they ended."""
        if self.live is not None:
            self.live.transient = True
        self._close()
        self.overview, self.staged = Overview([]), False
        self._print("")
        if self.console.is_terminal:
            self.console.print(summaries.table(summary))
        else:
            self._print("\n".join(summaries.plain(summary)))
        for line in summaries.notes(home, summary):
            self._print(line)

    @hookimpl
    def run_started(self, run: Any, step: int, steps: int) -> None:
        """Say what is about to run."""
        known = self.overview.find(run.name)
        if known is None:
            known = Stage(run.name or "steps")
            self.overview = Overview([known])
        self.stage = known
        known.state, known.step, known.steps = "running", step, steps
        self.said, self.samples = "", (0, ())
        self.recent.clear()
        self.began = time.monotonic()
        self._print(_headline(run, step, steps, self.overview.place(known) or "stage"))
        self._open()

    @hookimpl
    def sampled(self, run: Any, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """The best, the median and the worst under the bar; elsewhere, with the step's line.

        Of completions: what a judge said of two is in ``samples.jsonl``, and is not shown.
        """
        self.samples = step, [sample for sample in samples if "completion" in sample]
        self._refresh()

    @hookimpl
    def noted(self, run: Any, text: str) -> None:
        """Print it."""
        self._print(text)

    @hookimpl
    def step_ended(self, run: Any, step: int, metrics: Mapping[str, float]) -> None:
        """Move the bar, or print a line at the start, at the end, and now and then."""
        self.recent.append(metrics)
        stage, counted = self.stage, "rows" if run.file.objective is None else "tokens"
        seconds = sum(each["seconds"] for each in self.recent)
        rate = sum(each[counted] for each in self.recent) / max(seconds, 1e-9)
        left = seconds / len(self.recent) * (stage.steps - step)
        loss = f"loss {metrics['loss']:.4f}  " if "loss" in metrics else ""
        made = f"rows {metrics['rows']:.0f}  " if counted == "rows" else ""
        others = "".join(f"{as_said} {metrics[n]:.4g}  " for n, as_said in STEP if n in metrics)
        throughput = f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"
        self.said = f"{loss}{made}{others}{throughput} {counted}/s  {clock(left)} left"
        stage.step = step
        self._refresh()
        due = step in (1, stage.steps) or time.monotonic() - self.printed > PAUSE
        if not self.console.is_terminal and due:
            self.printed = time.monotonic()
            place = self.overview.place(stage)
            self._print(f"{place}{'  ' if place else ''}step {step}/{stage.steps}  {self.said}")
            for line in plain(self.samples[1]):
                self._print(line)

    @hookimpl
    def evaluation_ended(self, run: Any, step: int, evaluation: Any) -> None:
        """One line of values; the intervals are shown at the end."""
        measures = evaluation.measures
        if not measures:
            return
        shown = "  ".join(f"{name} {measures[name].value:.4g}" for name in _first(measures))
        self._print(f"held out at step {step}: {shown}")

    @hookimpl
    def run_ended(self, run: Any, state: State) -> None:
        """Of a finished run, show what changed. Where it is the only one, leave the terminal as
        it was."""
        taken, finished = clock(time.monotonic() - self.began), state == "finished"
        stage = self.overview.find(run.name) or self.stage  # it may have failed before its start
        stage.state, self.samples = state, (0, ())
        if self.staged and finished:
            rows = rows_made(run.directory.path)
            what = [f"{rows} rows"] if rows else told(changes(run.directory), intervals=False)
            stage.said, self.said = "   ".join([f"in {taken}", *what]), ""
            self.overview.go_on()
            if not self.console.is_terminal:
                place = self.overview.place(stage)
                self._print(f"{place} {run.name} finished in {taken}".strip())
        self._refresh()
        if not self.staged:
            self._close()
        evaluations = run.directory.records("evals") if finished else []
        if after := of_the_result(run.directory.path, evaluations):
            before = evaluations[0]
            if not (self.staged and self.console.is_terminal):
                self._changes(before, after)
            self._samples(run.directory.records("samples"), before["step"], after["step"])
        if finished and not self.staged and (said := said_of_watch(run.directory.path)):
            self._print(f"\n{said}")

    def _open(self) -> None:
        """Show the stages, on a terminal, below all that is printed."""
        if self.console.is_terminal and self.live is None:
            self.live = Live(self._view(), console=self.console, auto_refresh=False)
            self.live.start()
        self._refresh()

    def _refresh(self) -> None:
        if self.live is not None:
            self.live.update(self._view(), refresh=True)

    def _close(self) -> None:
        """The list stays as it is now, without samples."""
        if self.live is not None:
            self.live.update(Group(self.overview.shown(), Text(self.said)))
            self.live.stop()
            self.live = None

    def _view(self) -> Group:
        step, samples = self.samples
        below = [table(step, samples)] if samples else []
        return Group(self.overview.shown(), Text(self.said), *below)

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


def _headline(run: Any, step: int, steps: int, place: str) -> str:
    """What runs on what, and where."""
    file = run.file
    stage = f"{place} {run.name}: " if run.name else ""
    begun = f", from step {step}" if step else ""
    much = f"{steps} steps of {file.train.rows} rows{begun}, in {run.directory.path}"
    if file.objective is None:
        return f"{stage}{file.source.name} makes a data set of {file.data.named}: {much}"
    held = "" if file.model.quantization == "none" else f" in {file.model.quantization}"
    return (
        f"{stage}{file.objective.name} on {file.data.named} with {file.model.name}{held}: {much}"
    )


def _first(measures: Mapping[str, Any]) -> Iterator[str]:
    """A reward's parts come after it."""
    for name in FIRST:
        yield from [name] if name in measures else []
        if name == "reward":
            yield from (part for part in measures if part.startswith("reward/"))

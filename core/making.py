"""A run that makes a data set: collect, write down, and go on after a death with the next step."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.core.build import build_maker
from trimtab.core.files import to_json, write_atomically, write_json
from trimtab.core.finish import DATA, TRAIN
from trimtab.core.maker import Made, Maker
from trimtab.core.signals import Stopped

if TYPE_CHECKING:
    from trimtab.core.lm import LanguageModel
    from trimtab.core.run import Run

STEPS = "made"
"""The folder of what each step made; a file in it is whole."""


@dataclass
class Making:
    """A run without an objective, under way."""

    run: Run
    maker: Maker[Any]
    model: LanguageModel | None
    steps: int
    step: int
    """Steps that are done."""

    @classmethod
    def begin(cls, run: Run) -> Making:
        """Build the parts, and find the first step that is not on the disk."""
        parts = build_maker(run.file, run.registry, run.processes, run.bases)
        run.log_data(parts.maker.describe())
        folder = run.directory.path / STEPS
        folder.mkdir(exist_ok=True)
        making = cls(run, parts.maker, parts.model, parts.steps, 0)
        while making._file(making.step).is_file():
            making.step += 1
        return making

    def to_the_end(self) -> None:
        """All the steps that are left, then the data set."""
        run = self.run
        if run.processes.main:
            run.registry.hook.run_started(run=run, step=self.step, steps=self.steps)
        while self.step < self.steps:
            if asked := run.asked():
                raise Stopped(
                    asked,
                    f"stopped after step {self.step} of {self.steps}; go on with: "
                    f"trimtab resume {run.directory.path}",
                )
            self._step()
        rows = [row for step in range(self.steps) for row in self._made(step)]
        chosen = self.maker.finish(rows)
        if run.processes.main:
            folder = run.directory.path / DATA
            folder.mkdir(exist_ok=True)
            write_json(run.directory.path / "data.json", dict(self.maker.describe()))
            write_atomically(folder / TRAIN, _lines(chosen))

    def _step(self) -> None:
        run, began = self.run, time.monotonic()
        made: Made = self.maker.make(self.model, self.step, run.file.train.rows)
        for text in made.notes:
            run.note(text)
        metrics = {"seconds": time.monotonic() - began, "rows": float(len(made.rows))}
        metrics |= {"tokens": 0.0, **made.metrics}
        if run.processes.main:
            write_atomically(self._file(self.step), _lines(made.rows))
        run.processes.wait()
        self.step += 1
        record = {"step": self.step, **metrics}
        run.log("metrics", record)
        for sample in made.samples:
            run.log("samples", {"step": self.step, **sample, "held_out": False})
        if run.processes.main:
            run.registry.hook.step_ended(run=run, step=self.step, metrics=record)

    def _file(self, step: int) -> Path:
        return self.run.directory.path / STEPS / f"{step:06}.jsonl"

    def _made(self, step: int) -> list[Mapping[str, Any]]:
        return [json.loads(line) for line in self._file(step).read_text("utf-8").splitlines()]


def _lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(to_json(row) + "\n" for row in rows)

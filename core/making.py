"""A run that makes a data set: collect, write down, and go on after a death with the next step."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.core.build_maker import MakingParts, build_maker
from trimtab.core.data_card import data_card
from trimtab.core.errors import UserError
from trimtab.core.files import (
    read_json,
    remove,
    to_json,
    write_atomically,
    write_json,
    write_whole,
)
from trimtab.core.finish import DATA, TRAIN, made_data
from trimtab.core.maker import Made
from trimtab.core.merging import merge_said
from trimtab.core.signals import Stopped
from trimtab.core.stages import whole_run

if TYPE_CHECKING:
    from trimtab.core.run import Run

STEPS = "made"
"""The folder of what each step made; a file in it is whole. It is gone when ``data/`` is there."""

MANY = 3
"""Reasons that are told where no row could be made."""

Rows = Sequence[Mapping[str, Any]]


@dataclass
class Making:
    """A run without an objective, under way.

    A step appends to the logs, and then writes its file, with its rows, its account and the
    position in each log. After a death the logs are cut back to the last file's positions.
    """

    run: Run
    parts: MakingParts
    about: str
    """What tells the data that is gone through from all other."""

    step: int
    """Steps that are done."""

    over: bool
    """Is the data set whole already?"""

    @classmethod
    def begin(cls, run: Run) -> Making:
        """Build the parts, and find the first step that is not on the disk."""
        parts = build_maker(run.file, run.registry, run.processes, run.bases, run.directory.path)
        if (said := merge_said(run.directory.path)) is not None:
            run.note(said)
        described = parts.maker.describe()
        about = hashlib.sha256(to_json(described).encode()).hexdigest()[:16]
        making = cls(run, parts, about, 0, False)
        done, over = run.processes.gather(making._stands())[0]
        making.step, making.over = (parts.steps if over else min(done, parts.steps)), over
        if not over:
            run.log_data(described)
            making._go_on()
        return making

    def to_the_end(self) -> None:
        """All the steps that are left, then the data set."""
        run = self.run
        if run.processes.main:
            run.registry.hook.run_started(run=run, step=self.step, steps=self.parts.steps)
        while not self.over and self.step < self.parts.steps:
            self._stop_if_asked()
            self._step()
        self._stop_if_asked()
        if run.processes.main and not self.over:
            self._write_results()

    def _stands(self) -> tuple[int, bool]:
        """How many steps are on the disk; and whether the data set is, which comes last."""
        folder = self.run.directory.path / STEPS
        if not folder.is_dir() and made_data(self.run.directory.path) is not None:
            return 0, True
        done = 0
        while self._path(done).is_file():
            done += 1
        return done, False

    def _go_on(self) -> None:
        """Cut the logs back to what the finished steps wrote. ``UserError`` for other data."""
        if not self.step:
            self.run.rewind({})
            steps, all_of_it = self.parts.steps, self.parts.an_epoch
            if steps < all_of_it:
                self.run.note(f"{steps} of the {all_of_it} steps that go through all of the data")
            return
        last = self._file(self.step - 1)
        if last["about"] != self.about:
            raise UserError(
                "the data is not what the finished steps of this run were made from: put it back, "
                "or start a new run"
            )
        self.run.rewind(last["logs"])

    def _stop_if_asked(self) -> None:
        if asked := self.run.asked():
            raise Stopped(
                asked,
                f"stopped after step {self.step} of {self.parts.steps}; go on with: "
                f"trimtab resume {whole_run(self.run.directory.path)}",
            )

    def _step(self) -> None:
        run, began = self.run, time.monotonic()
        made = self.parts.maker.make(self.parts.model, self.step, run.file.train.rows)
        for text in made.notes:
            run.note(text)
        metrics = {"seconds": time.monotonic() - began, "rows": float(len(made.rows))}
        record = {"step": self.step + 1, "tokens": 0.0, **metrics, **made.metrics}
        samples = [{"step": self.step + 1, **one, "held_out": False} for one in made.samples]
        if run.processes.main:
            run.log("metrics", record)
            for sample in samples:
                run.log("samples", sample)
            for chain in made.chains:
                run.log("constitution", {"step": self.step + 1, **chain})
            self._keep(made)
            run.directory.set_state("running", self.step + 1)
        run.processes.wait()
        self.step += 1
        if run.processes.main:
            hook = run.registry.hook
            if samples:
                hook.sampled(run=run, step=self.step, samples=samples)
            hook.step_ended(run=run, step=self.step, metrics=record)

    def _keep(self, made: Made) -> None:
        """Write a step's file."""
        folder = self.run.directory.path / STEPS
        folder.mkdir(exist_ok=True)
        whole = {
            "rows": list(made.rows),
            "read": made.read,
            "dropped": list(made.dropped),
            "counts": dict(made.counts),
            "about": self.about,
            "logs": self.run.directory.positions(),
        }
        write_atomically(self._path(self.step), to_json(whole) + "\n")

    def _path(self, step: int) -> Path:
        return self.run.directory.path / STEPS / f"{step:06}.json"

    def _file(self, step: int) -> Any:
        return read_json(self._path(step))

    def _write_results(self) -> None:
        """``data.json``, ``README.md`` and then ``data/``, each whole or absent.

        The files of the steps go last, so what is not there is made again from them.
        """
        home, maker = self.run.directory.path, self.parts.maker
        files = [self._file(step) for step in range(self.parts.steps)]
        chosen = list(maker.finish([row for file in files for row in file["rows"]]))
        made = _account(files, chosen)
        account = {
            **maker.describe(),
            "made": made,
            **maker.figures(made.get("counts", {})),
            **maker.effects(self.run.directory.records("constitution")),
        }
        if not chosen:
            raise UserError(f"no row could be made: {_reasons(made)}")
        write_json(home / "data.json", account)
        write_atomically(home / "README.md", data_card(self.run, account, chosen))
        write_whole(home / DATA, lambda folder: _write_rows(folder, chosen))
        if (home / STEPS).is_dir():
            remove(home / STEPS)


def _write_rows(folder: Path, rows: Rows) -> None:
    folder.mkdir()
    (folder / TRAIN).write_text("".join(_lines(rows)), encoding="utf-8")


def _lines(rows: Rows) -> Iterator[str]:
    for row in rows:
        yield to_json(row) + "\n"


def _account(files: Sequence[Mapping[str, Any]], chosen: Rows) -> dict[str, Any]:
    """``read`` is ``used`` + the number of ``dropped``; ``made`` rows came of those used, and
    ``written`` is what the data set holds."""
    dropped = [row for file in files for row in file["dropped"]]
    counts = sum((Counter(file["counts"]) for file in files), Counter())
    read = sum(file["read"] for file in files)
    return {
        "steps": len(files),
        "read": read,
        "used": read - len(dropped),
        "dropped": dropped,
        "made": sum(len(file["rows"]) for file in files),
        "written": len(chosen),
        **({"counts": dict(sorted(counts.items()))} if counts else {}),
    }


def _reasons(made: Mapping[str, Any]) -> str:
    """What became of the rows that were read: the most frequent reasons, for each row may have its
    own, as where a judge's words are in it."""
    dropped = Counter(row["reason"] for row in made["dropped"]).most_common()
    told = [f"{count} dropped, {reason}" for reason, count in dropped[:MANY]]
    if rest := sum(count for _, count in dropped[MANY:]):
        told.append(f"{rest} dropped for other reasons")
    counts = made.get("counts", {}).items()
    told += [f"{name}: {count}" for name, count in counts if "/" not in name]
    return "; ".join([f"{made['read']} read", *told])

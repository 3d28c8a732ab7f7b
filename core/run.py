"""A run: start or resume, step, evaluate, save, finish. Its directory is the unit of trust."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from trimtab.core.build import Parts, Registry, build
from trimtab.core.config import RunFile
from trimtab.core.evaluation import Evaluation, evaluate_parts
from trimtab.core.files import write_json
from trimtab.core.finish import write_results
from trimtab.core.probe import sharing_is_exact
from trimtab.core.processes import Processes
from trimtab.core.reference_cache import ReferenceCache
from trimtab.core.rundir import RunDirectory
from trimtab.core.runfile import dump
from trimtab.core.sampling import mixed
from trimtab.core.saving import newest_state, open_cache, restore, save
from trimtab.core.signals import Stop, Stopped, stop_on_signals


@dataclass
class Run:
    """One run of a run file in its directory."""

    file: RunFile
    directory: RunDirectory
    registry: Registry
    name: str | None = None
    """The stage's, where the run is one of several."""

    processes: Processes = field(default_factory=Processes)
    evaluations: dict[int, Evaluation] = field(default_factory=dict)
    """What this process has measured, by step."""

    notes: list[str] = field(default_factory=list)
    """What the user should know: choices made at start, checkpoints passed over."""

    def execute(self) -> Path:
        """Carry the run to its end, from wherever its directory stands.

        Raises:
            Stopped: a signal came; the run is saved and can be resumed.
            RunError, UserError: it cannot go on; ``run.json`` says why.
        """
        locked = self.directory.lock() if self.processes.main else nullcontext()
        with locked, stop_on_signals() as stop:
            try:
                training = Training.begin(self)
                self._say("running", training.step)
                training.to_the_end(stop)
            except Stopped as stopped:
                self._end("stopped", None, str(stopped))
                raise
            except KeyboardInterrupt:
                self._end("stopped", None, "interrupted before it could save")
                raise
            except Exception as error:
                with suppress(OSError):  # a full disk must not hide why the run failed
                    self._end("failed", None, f"{type(error).__name__}: {error}")
                raise
            self._end("finished", training.step, None)
        return self.directory.path

    def log(self, name: Any, record: Mapping[str, Any]) -> None:
        """One line of a log, from the main process."""
        if self.processes.main:
            self.directory.log(name, record)

    def rewind(self, positions: Mapping[str, int]) -> None:
        """Cut the logs back to a checkpoint's."""
        if self.processes.main:
            for message in self.directory.rewind(positions):
                self.note(message)

    def log_data(self, account: Mapping[str, Any]) -> None:
        """What was read, kept and dropped, and why."""
        if self.processes.main:
            write_json(self.directory.path / "data.json", dict(account))
        for warning in account.get("warnings", ()):
            self.note(warning)

    def note(self, text: str) -> None:
        """Something the user should know."""
        self.notes.append(text)
        if self.processes.main:
            self.registry.hook.noted(run=self, text=text)

    def rewrite(self, file: RunFile) -> None:
        """Make a choice part of the resolved run file, so that a resume does not choose anew."""
        self.file = file
        if self.processes.main:
            self.directory.rewrite_config(dump(file))

    def _say(self, state: Any, step: int, error: str | None = None) -> None:
        if self.processes.main:
            self.directory.set_state(state, step, error)

    def _end(self, state: Any, step: int | None, error: str | None) -> None:
        self._say(state, self.directory.state().step if step is None else step, error)
        if self.processes.main:
            self.registry.hook.run_ended(run=self, state=state)


@dataclass
class Training:
    """A run under way."""

    run: Run
    parts: Parts
    cache: ReferenceCache | None
    step: int = 0
    """Steps that are done."""

    @classmethod
    def begin(cls, run: Run) -> Training:
        """Build the parts, make the choices of a first start, and go to the newest checkpoint."""
        parts = build(run.file, run.registry, run.processes)
        run.log_data(parts.source.describe())
        training = cls(run, parts, None)
        training._choose()
        training.cache = open_cache(run, parts)
        checkpoint = newest_state(run)
        if checkpoint is None:
            run.rewind({})
        else:
            training.step = restore(run, parts, checkpoint)
        return training

    def to_the_end(self, stop: Stop) -> None:
        """All the steps that are left, then the results."""
        run, hook = self.run, self.run.registry.hook
        if run.processes.main:
            hook.run_started(run=run, step=self.step, steps=self.parts.steps)
        if self.step == 0:
            self._evaluate()
        while self.step < self.parts.steps:
            self._step()
            if self._due(run.file.train.eval_every) or self.step == self.parts.steps:
                self._evaluate()
            asked = max(run.processes.gather(stop.number or 0))
            last = self.step == self.parts.steps
            if asked or last or self._due(run.file.train.checkpoint_every):
                save(run, self.parts, self.cache, self.step)
            if asked and not last:
                raise Stopped(
                    asked,
                    f"stopped after step {self.step} of {self.parts.steps}, and saved: "
                    f"trimtab resume {run.directory.path}",
                )
        if run.processes.main:
            write_results(run, self.parts)

    def _step(self) -> None:
        began = time.monotonic()
        torch.manual_seed(mixed(self.run.file.train.seed, self.step, self.run.processes.rank))
        metrics = self.parts.loop.step(self.step)
        self.step += 1
        record = {"step": self.step, "seconds": time.monotonic() - began, **metrics}
        self._keep_smaller_batches()
        self.run.log("metrics", record)
        if self.run.processes.main:
            self.run.registry.hook.step_ended(run=self.run, step=self.step, metrics=record)

    def _evaluate(self) -> None:
        found = evaluate_parts(self.parts, self.run.file)
        if found is None:
            return
        self.run.evaluations[self.step] = found
        measures = {name: asdict(measure) for name, measure in found.measures.items()}
        self.run.log("evals", {"step": self.step, **measures})
        for answer in found.samples:
            self.run.log("samples", {"step": self.step, **answer})
        if self.run.processes.main:
            self.run.registry.hook.evaluation_ended(run=self.run, step=self.step, evaluation=found)

    def _due(self, every: int | None) -> bool:
        return every is not None and self.step % every == 0

    def _choose(self) -> None:
        """What is chosen at start is written down, and never chosen again."""
        file, model = self.run.file, self.parts.model
        if file.model.prefix_sharing is None:
            verdict = sharing_is_exact(model, self.parts.source.longest())
            model.share = verdict.share
            chosen = file.model.model_copy(update={"prefix_sharing": verdict.share})
            self.run.rewrite(file.model_copy(update={"model": chosen}))
            self.run.note(f"prefix sharing {'on' if verdict.share else 'off'}: {verdict.why}")

    def _keep_smaller_batches(self) -> None:
        """After an out-of-memory: the smaller micro-batch becomes the run's."""
        file, micro_tokens = self.run.file, self.parts.model.micro_tokens
        if micro_tokens == file.train.micro_tokens:
            return
        train = file.train.model_copy(update={"micro_tokens": micro_tokens})
        self.run.rewrite(file.model_copy(update={"train": train}))
        self.run.note(f"out of memory: micro_tokens is {micro_tokens} from here on")

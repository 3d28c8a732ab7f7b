"""A run: start or resume, step, evaluate, save, finish. Its directory is the unit of trust."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trimtab.core.bases import Bases
from trimtab.core.batches import Rollouts
from trimtab.core.build import Parts, build
from trimtab.core.columns import by_row
from trimtab.core.config import RunFile
from trimtab.core.errors import RunError, Waits
from trimtab.core.evaluation import evaluate_parts
from trimtab.core.files import of_the_disk, write_json
from trimtab.core.finish import write_results
from trimtab.core.inflight import InFlight
from trimtab.core.making import Making
from trimtab.core.merging import merge_said
from trimtab.core.precompute import precompute
from trimtab.core.probe import sharing_is_exact
from trimtab.core.processes import Processes
from trimtab.core.reference_cache import ReferenceCache
from trimtab.core.registry import Registry
from trimtab.core.rundir import Log, RunDirectory, State
from trimtab.core.runfile import dump
from trimtab.core.saving import open_cache, restore, save
from trimtab.core.signals import Stop, Stopped
from trimtab.core.stages import whole_run
from trimtab.core.watching import Watching


@dataclass
class Run:
    """One run of a run file in its directory."""

    file: RunFile
    directory: RunDirectory
    registry: Registry
    name: str | None = None
    """The stage's, where the run is one of several."""

    processes: Processes = field(default_factory=Processes)
    stop: Stop = field(default_factory=Stop)
    bases: Bases = field(default_factory=Bases)

    def execute(self) -> Path:
        """Carry the run to its end, from wherever its directory stands.

        Raises:
            Stopped: a signal came; the run is saved and can be resumed.
            Waits: people have something to do first; ``run.json`` says stopped, too.
            RunError, UserError: it cannot go on; ``run.json`` says why.
        """
        with self.directory.lock() if self.processes.main else nullcontext():
            try:
                work = Making.begin(self) if self.file.objective is None else Training.begin(self)
                self._say("running", work.step)
                work.to_the_end()
                self._end("finished", work.step, None)
            except (Stopped, Waits) as ended:
                self._end_early("stopped", str(ended))
                raise
            except KeyboardInterrupt:
                self._end_early("stopped", "interrupted before it could save")
                raise
            except Exception as error:
                told = of_the_disk(error, self.directory.path) or error
                self._end_early("failed", f"{type(told).__name__}: {told}")
                raise told from told.__cause__
            finally:
                self.bases.take_back()
        return self.directory.path

    def asked(self) -> int:
        """The signal that asks the run to stop, in whichever process it came; 0 for none."""
        signals: list[int] = self.processes.gather(self.stop.number or 0)
        return max(signals)

    def log(self, name: Log, record: Mapping[str, Any]) -> None:
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
        """Something the user should know: a choice made at start, a checkpoint passed over."""
        if self.processes.main:
            self.registry.hook.noted(run=self, text=text)

    def settle(self, section: str, **choices: Any) -> None:
        """Make a choice part of the resolved run file, so that a resume does not choose anew."""
        changed = getattr(self.file, section).model_copy(update=choices)
        self.file = self.file.model_copy(update={section: changed})
        if self.processes.main:
            self.directory.rewrite_config(dump(self.file))

    def _say(self, state: State, step: int, error: str | None = None) -> None:
        if self.processes.main:
            self.directory.set_state(state, step, error)

    def _end_early(self, state: State, error: str) -> None:
        with suppress(OSError, RunError):  # a full disk must not hide why the run ends
            self._end(state, self.directory.state().step, error)

    def _end(self, state: State, step: int, error: str | None) -> None:
        self._say(state, step, error)
        if self.processes.main:
            self.registry.hook.run_ended(run=self, state=state)


@dataclass
class Training:
    """A run under way."""

    run: Run
    parts: Parts
    cache: ReferenceCache | None
    step: int
    """Steps that are done."""

    flight: InFlight | None = None
    """The step that is under way, between its updates."""

    saved: tuple[int, int] = (0, 0)
    """``position`` of the newest checkpoint; (0, 0) where there is none."""

    watching: Watching | None = None

    @classmethod
    def begin(cls, run: Run) -> Training:
        """Build the parts, make the choices of a first start, and go to the newest checkpoint."""
        parts = build(run.file, run.registry, run.processes, run.bases, run.directory.path)
        if (said := merge_said(run.directory.path)) is not None:
            run.note(said)
        account = parts.source.describe()
        run.log_data(account)
        for advice in parts.objective.advice(account):
            run.note(advice)
        _choose(run, parts)
        cache = open_cache(run, parts)
        step, flight = restore(run, parts, cache)
        precompute(run, parts, step > 0 or flight is not None)
        training = cls(run, parts, cache, step, flight)
        training.saved = training.position
        training.watching = Watching.begin(run, parts, cache)
        return training

    @property
    def position(self) -> tuple[int, int]:
        """Steps that are done; of the one under way, its updates that are done, and 1."""
        return self.step, 0 if self.flight is None else 1 + len(self.flight.history)

    @property
    def ended(self) -> bool:
        """Are all steps done, or has the watch stopped the run?"""
        stopped = self.watching is not None and self.watching.stopped
        return stopped or self.step == self.parts.steps

    def to_the_end(self) -> None:
        """All the steps that are left, then the results."""
        run, train = self.run, self.run.file.train
        if run.processes.main:
            run.registry.hook.run_started(run=run, step=self.step, steps=self.parts.steps)
        self._stop_if_asked()
        if self.position == (0, 0):
            self._evaluate()
        while not self.ended:
            self._stop_if_asked()
            self._step()
            if self._due(train.eval_every):
                self._evaluate()
            if self._due(train.checkpoint_every):
                self._save()
        if run.processes.main:
            if self.watching is not None:
                self.watching.settle(self.step)
            write_results(run, self.parts)

    def _stop_if_asked(self) -> None:
        asked = self.run.asked()
        if not asked:
            return
        if self.position > self.saved:
            self._save()
        raise Stopped(
            asked,
            f"stopped after step {self.step} of {self.parts.steps}{self._within()}; go on with: "
            f"trimtab resume {whole_run(self.run.directory.path)}",
        )

    def _within(self) -> str:
        if self.flight is None:
            return ""
        done, planned = len(self.flight.history), self.parts.loop.planned(self.flight)
        return f", and {done} of {planned} updates of the next"

    def _step(self) -> None:
        loop = self.parts.loop
        if self.flight is None:
            self.flight = loop.begin(self.step)
            self._log_samples(self.flight)
        while not loop.over(self.flight):
            self._stop_if_asked()
            loop.update(self.flight)
        metrics = loop.end(self.flight)
        seconds, self.flight = self.flight.seconds, None
        self.step += 1
        record = {"step": self.step, "seconds": seconds, **metrics}
        self._keep_smaller_batches()
        self.run.log("metrics", record)
        if self.run.processes.main:
            self.run.registry.hook.step_ended(run=self.run, step=self.step, metrics=record)

    def _log_samples(self, flight: InFlight) -> None:
        """Log what was sampled, with what prepare() made of it where it is trained on."""
        for text in self.parts.source.notes():
            self.run.note(text)
        batch = flight.streams["batch"] if flight.streams else None
        taken, step = self.parts.source.samples(batch), flight.number + 1
        columns: list[dict[str, float]] = []
        if taken and isinstance(batch, Rollouts):
            columns = by_row(batch, self.parts.objective.shown)
        columns += [{}] * (len(taken) - len(columns))
        samples = [
            {"step": step, **sample, **prepared, "held_out": False}
            for sample, prepared in zip(taken, columns, strict=False)
        ]
        for sample in samples:
            self.run.log("samples", sample)
        if samples and self.run.processes.main:
            self.run.registry.hook.sampled(run=self.run, step=step, samples=samples)

    def _evaluate(self) -> None:
        found = evaluate_parts(self.parts, self.run.file)
        if found is None:
            return
        measures = {name: asdict(measure) for name, measure in found.measures.items()}
        evaluation = {"step": self.step, **measures}
        self.run.log("evals", evaluation)
        for answer in found.samples:
            self.run.log("samples", {"step": self.step, **answer})
        if self.run.processes.main:
            self.run.registry.hook.evaluation_ended(run=self.run, step=self.step, evaluation=found)
        if self.watching is not None:
            self.watching.see(evaluation, found.samples)

    def _save(self) -> None:
        self._keep_smaller_batches()
        save(self.run, self.parts, self.cache, self.step, self.flight)
        self.saved = self.position

    def _due(self, every: int | None) -> bool:
        """At the run's end everything is."""
        return self.ended or (every is not None and self.step % every == 0)

    def _keep_smaller_batches(self) -> None:
        """After an out-of-memory, in whichever process, the smaller micro-batch is the run's."""
        model, settled = self.parts.model, self.run.file.train.micro_tokens
        model.micro_tokens = min(self.run.processes.gather(model.micro_tokens))
        if settled is not None and model.micro_tokens < settled:
            self.run.settle("train", micro_tokens=model.micro_tokens)
            self.run.note(f"out of memory: micro_tokens is {model.micro_tokens} from here on")


def _choose(run: Run, parts: Parts) -> None:
    """What is chosen at start is written down, and never chosen again."""
    if run.file.train.micro_tokens is None:
        run.settle("train", micro_tokens=parts.model.micro_tokens)
    if run.file.model.prefix_sharing is None:
        verdict = sharing_is_exact(parts.model, parts.source.longest())
        parts.model.share = verdict.share
        run.settle("model", prefix_sharing=verdict.share)
        run.note(f"prefix sharing {'on' if verdict.share else 'off'}: {verdict.why}")

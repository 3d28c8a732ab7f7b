"""The runs of a run file, one after the other, each handing on what it made."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, Protocol

from trimtab.core.bases import Bases
from trimtab.core.build import judge_of
from trimtab.core.config import RunFile
from trimtab.core.cost import Meter
from trimtab.core.environment import environment
from trimtab.core.errors import RunError, UserError
from trimtab.core.finish import has_result
from trimtab.core.kept import keep
from trimtab.core.keys import Key, judged, refreshed
from trimtab.core.paths import absolute, handed_over
from trimtab.core.processes import Processes
from trimtab.core.registry import Registry
from trimtab.core.run import Run
from trimtab.core.rundir import CONFIG, SOURCE, RunDirectory, new_run_path
from trimtab.core.runfile import Plan, Stage, dump, dump_plan, load
from trimtab.core.signals import Stop, stop_on_signals
from trimtab.core.stages import STAGES
from trimtab.core.summary import summary_of, write_summary


class Observed(Registry, Protocol):
    """A registry to which the observers of one run can be added."""

    def add_file(self, path: Path) -> None:
        """Load a plugin from a Python file."""

    def observing(self, observers: list[Any]) -> AbstractContextManager[None]:
        """Call the hooks of these objects too, while the block runs."""


def start(plan: Plan, path: Path | None, registry: Observed, processes: Processes) -> Path:
    """Run every stage; return the directory.

    It is a new one, or one that holds stages: then it goes on by this plan, and of its stages
    those are kept that come out the same.
    """
    first = plan.stages[0].run
    chosen = path or (Path(first.run) if first.run else new_run_path(Path("runs"), plan.path.stem))
    home = Path(processes.gather(str(chosen))[0])
    plan = Plan(plan.path, plan.text, tuple(_settled(s, registry) for s in plan.stages))
    with stop_on_signals() as stop:
        goes_on = _staged(plan) and processes.gather(RunDirectory(home).staged)[0]
        if processes.main and not goes_on:
            RunDirectory.create(home, dump_plan(plan), plan.text, environment())
        processes.wait()
        directory = RunDirectory.open(home)
        if _staged(plan):
            return Pipeline(directory, registry, processes, stop).carry_out(plan)
        return _execute(Run(plan.stages[0].run, directory, registry, None, processes, stop))


def _staged(plan: Plan) -> bool:
    return plan.stages[0].name is not None


def _settled(stage: Stage, registry: Registry) -> Stage:
    return Stage(stage.name, absolute(stage.run, registry))


def resume(path: Path, registry: Observed, processes: Processes) -> Path:
    """Go on where the directory stands. A finished run takes no extra step."""
    with stop_on_signals() as stop:
        home = RunDirectory.open(path)
        if home.staged:
            return Pipeline(home, registry, processes, stop).carry_out(None)
        plan = resolved(home, registry)
        return _execute(Run(plan.stages[0].run, home, registry, None, processes, stop))


def resolved(directory: RunDirectory, registry: Registry) -> Plan:
    """The plan in ``config.yaml``. Raises ``UserError`` where the file's end is lost."""
    plan = load(directory.path / CONFIG, (), registry)
    if not re.search(r"^run:", plan.text, re.MULTILINE):
        raise UserError(
            f"{directory.path / CONFIG} is cut off: a resolved run file ends with 'run:'. Put it "
            f"back as it was, or train anew as {SOURCE} says"
        )
    return plan


class Pipeline:
    """The stages of one run file in their directory."""

    def __init__(
        self, home: RunDirectory, registry: Observed, processes: Processes, stop: Stop
    ) -> None:
        self.home = home
        self.registry = registry
        self.processes = processes
        self.stop = stop
        self.bases = Bases()
        self.keys: dict[str, Key] = {}

    def carry_out(self, plan: Plan | None) -> Path:
        """Every stage that is not finished, by this plan; by None, as ``config.yaml`` says.

        Whatever is the last thing that happens here, calling it again goes on from there.
        """
        home, main = self.home, self.processes.main
        with home.lock() if main else nullcontext():
            if plan is None:
                plan = resolved(home, self.registry)
            elif main:
                home.adopt(dump_plan(plan), plan.text)
            if main:
                files = {str(stage.name): stage.run for stage in plan.stages}
                say = self._run(plan.stages[0], plan.stages[0].run).note
                self.keys = keep(home.path, files, self.registry, say)
            self.processes.wait()
            kept = [str(stage.name) for stage in plan.stages if self._is_finished(stage)]
            self._check_judges([stage for stage in plan.stages if stage.name not in kept])
            if main:
                self.registry.hook.pipeline_started(home=home.path, plan=plan, kept=kept)
            try:
                self._stages(plan)
            finally:
                if main:
                    self._summarize(plan, kept)
        return home.path

    def _check_judges(self, stages: Sequence[Stage]) -> None:
        """Tell now what the judges of these stages lack, and not when it is their turn."""
        for stage in stages:
            if judged(stage.run, self.registry) and (judge := judge_of(stage.run, self.registry)):
                judge.check()

    def _stages(self, plan: Plan) -> None:
        """One after the other. ``run.json`` of the whole counts the steps of all."""
        steps = 0
        for stage in plan.stages:
            if self.processes.main:
                self._prepare(stage)
            self.processes.wait()
            directory = self._directory(stage)
            settled = resolved(directory, self.registry).stages[0].run
            try:
                _execute(self._run(stage, self._asked(settled, stage)))
            except BaseException:
                if self.processes.main:
                    ended = directory.state()
                    self.home.set_state(ended.state, steps + ended.step, ended.error)
                raise
            steps += directory.state().step
            if self.processes.main:
                last = stage is plan.stages[-1]
                self.home.set_state("finished" if last else "running", steps)

    def _prepare(self, stage: Stage) -> None:
        """Make the stage's directory, or bring its run file up to what lies elsewhere now."""
        directory = self._directory(stage)
        if not (directory.path / CONFIG).exists():
            name, home = str(stage.name), self.home
            self.keys[name] = key = Key.of(stage.run, self.registry, self.keys)
            text = dump(handed_over(stage.run, stage.run, home.path))
            RunDirectory.create(directory.path, text, home.source, environment(), key.document())
            return
        settled = resolved(directory, self.registry).stages[0].run
        asked = self._asked(settled, stage)
        if asked != settled:
            with directory.lock():
                directory.rewrite_config(dump(asked))

    def _asked(self, settled: RunFile, stage: Stage) -> RunFile:
        fresh = refreshed(settled, stage.run, self.registry)
        return handed_over(fresh, stage.run, self.home.path)

    def _directory(self, stage: Stage) -> RunDirectory:
        return RunDirectory(self.home.path / STAGES / str(stage.name))

    def _run(self, stage: Stage, file: RunFile) -> Run:
        parts = self._directory(stage), self.registry, stage.name, self.processes, self.stop
        return Run(file, *parts, self.bases)

    def _is_finished(self, stage: Stage) -> bool:
        return _is_finished(self._run(stage, stage.run))

    def _summarize(self, plan: Plan, kept: Sequence[str]) -> None:
        """However it ends. Where the disk is full, that is not why."""
        summary: Mapping[str, Any] = summary_of(plan, self.home.path, kept)
        with suppress(OSError, RunError):
            self.home.check_ours()
            write_summary(self.home.path, summary)
        self.registry.hook.pipeline_ended(home=self.home.path, summary=summary)


def _execute(run: Run) -> Path:
    """Carry out one run, unless it is finished, and measure what it costs."""
    if _is_finished(run):
        if run.processes.main:
            run.directory.tidy()
        run.note(f"{run.directory.path} is finished: nothing is left to do")
        return run.directory.path
    registry: Any = run.registry
    observers = [registry.make("tracker", t.name, t.options) for t in run.file.trackers]
    if run.processes.main:
        observers.append(Meter(run.directory))
    with registry.observing(observers):
        result: Path = registry.hook.execute_run(run=run)
    return result


def _is_finished(run: Run) -> bool:
    """Finished, and its results are there."""
    return run.directory.state().state == "finished" and has_result(run)

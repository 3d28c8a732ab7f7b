"""The runs of a run file, one after the other, each handing on what it made."""

from __future__ import annotations

import json
import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol, TypeVar

from trimtab.core.bases import Bases
from trimtab.core.build import Registry
from trimtab.core.config import DataConfig, ModelConfig, RunFile, Selected, StreamSection
from trimtab.core.environment import environment
from trimtab.core.errors import UserError
from trimtab.core.finish import has_result
from trimtab.core.options import Config, LocalPath
from trimtab.core.processes import Processes
from trimtab.core.run import Run
from trimtab.core.rundir import CONFIG, SOURCE, RunDirectory, new_run_path
from trimtab.core.runfile import Plan, Stage, dump, dump_plan, load
from trimtab.core.runfile import Registry as Checked
from trimtab.core.signals import Stop, stop_on_signals
from trimtab.core.stages import HANDOVER

Section = TypeVar("Section", bound=Config)
S = TypeVar("S", bound=Selected)


class Observed(Registry, Protocol):
    """A registry to which the observers of one run can be added."""

    def add_file(self, path: Path) -> None:
        """Load a plugin from a Python file."""

    def observing(self, observers: list[Any]) -> AbstractContextManager[None]:
        """Call the hooks of these objects too, while the block runs."""


def start(plan: Plan, path: Path | None, registry: Observed, processes: Processes) -> Path:
    """Run every stage in a new directory; return it."""
    first = plan.stages[0].run
    chosen = path or (Path(first.run) if first.run else new_run_path(Path("runs"), plan.path.stem))
    home = Path(processes.gather(str(chosen))[0])
    plan = Plan(plan.path, plan.text, tuple(_settled(s, registry) for s in plan.stages))
    with stop_on_signals() as stop:
        if processes.main:
            RunDirectory.create(home, dump_plan(plan), plan.text, environment())
        processes.wait()
        return _run_all(plan, RunDirectory.open(home), registry, processes, stop)


def _settled(stage: Stage, registry: Registry) -> Stage:
    return Stage(stage.name, absolute(stage.run, registry))


def resume(path: Path, registry: Observed, processes: Processes) -> Path:
    """Go on where the directory stands. A finished run takes no extra step."""
    with stop_on_signals() as stop:
        home = RunDirectory.open(path)
        return _run_all(resolved(home, registry), home, registry, processes, stop)


def resolved(directory: RunDirectory, registry: Checked) -> Plan:
    """The plan in ``config.yaml``. Raises ``UserError`` where the file's end is lost."""
    plan = load(directory.path / CONFIG, (), registry)
    if not re.search(r"^run:", plan.text, re.MULTILINE):
        raise UserError(
            f"{directory.path / CONFIG} is cut off: a resolved run file ends with 'run:'. Put it "
            f"back as it was, or train anew as {SOURCE} says"
        )
    return plan


def _run_all(
    plan: Plan, home: RunDirectory, registry: Observed, processes: Processes, stop: Stop
) -> Path:
    if plan.stages[0].name is None:
        run = Run(plan.stages[0].run, home, registry, None, processes, stop)
        return _execute(run, registry)
    with home.lock() if processes.main else nullcontext():
        _stages(plan, home, registry, processes, stop)
    return home.path


def _stages(
    plan: Plan, home: RunDirectory, registry: Observed, processes: Processes, stop: Stop
) -> None:
    """One after the other. ``run.json`` of the whole counts the steps of all."""
    steps, bases = 0, Bases()
    for stage in plan.stages:
        directory = RunDirectory(home.path / "stages" / str(stage.name))
        if processes.main and not (directory.path / CONFIG).exists():
            file = handed_over(stage.run, stage.run, home.path)
            RunDirectory.create(directory.path, dump(file), home.source, environment())
        processes.wait()
        settled = resolved(directory, registry).stages[0].run
        file = handed_over(settled, stage.run, home.path)
        try:
            _execute(Run(file, directory, registry, stage.name, processes, stop, bases), registry)
        except BaseException:
            if processes.main:
                ended = directory.state()
                home.set_state(ended.state, steps + ended.step, ended.error)
            raise
        steps += directory.state().step
        if processes.main:
            last = stage is plan.stages[-1]
            home.set_state("finished" if last else "running", steps)


def _execute(run: Run, registry: Observed) -> Path:
    if run.directory.state().state == "finished" and has_result(run):
        run.note(f"{run.directory.path} is finished: nothing is left to do")
        return run.directory.path
    trackers = [registry.make("tracker", t.name, t.options) for t in run.file.trackers]
    with registry.observing(trackers):
        result: Path = registry.hook.execute_run(run=run)
    return result


def handed_over(settled: RunFile, asked: RunFile, home: Path) -> RunFile:
    """A stage's file; each ``stages.NAME`` that was asked for is that directory, as it is now."""

    def made(value: Any, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(value, dict):
            return {key: made(each, given.get(key)) for key, each in value.items()}
        if isinstance(given, list) and isinstance(value, list) and len(given) == len(value):
            return [made(*pair) for pair in zip(value, given, strict=True)]
        if isinstance(given, str) and (match := HANDOVER.fullmatch(given)):
            return str((home / "stages" / match[1]).resolve())
        return value

    plain = made(settled.model_dump(mode="json"), asked.model_dump(mode="json"))
    return RunFile.model_validate_json(json.dumps(plain))


def absolute(file: RunFile, registry: Registry) -> RunFile:
    """Local paths made absolute, so that a run can be resumed from anywhere."""

    def selected(kind: str, one: Selected | None) -> Selected | None:
        return one and _absolute(one, registry.find(kind, one.name).options)

    def streamed(one: StreamSection) -> StreamSection:
        data, source = _absolute(one.data, DataConfig), selected("source", one.source)
        return one.model_copy(update={"data": data, "source": source})

    engine = selected("engine", file.rollout.engine)
    return file.model_copy(
        update={
            "data": _absolute(file.data, DataConfig),
            "model": _absolute(file.model, ModelConfig),
            "objective": selected("objective", file.objective),
            "reference": selected("reference", file.reference),
            "source": selected("source", file.source),
            "judge": selected("judge", file.judge),
            "rollout": file.rollout.model_copy(update={"engine": engine}),
            "streams": {name: streamed(one) for name, one in file.streams.items()},
            "reward": [selected("reward", one) for one in file.reward],
            "trackers": [selected("tracker", one) for one in file.trackers],
        }
    )


def _absolute(section: Section, options: type[Config]) -> Section:
    """The paths among these options that exist, as they are seen from everywhere."""
    given = section.model_dump()
    changes = {
        key: [_seen(one) for one in given[key]]
        if isinstance(given[key], list)
        else _seen(given[key])
        for name, field in options.model_fields.items()
        for key in [field.alias or name]
        if any(isinstance(mark, LocalPath) for mark in field.metadata) and given.get(key)
    }
    return section.model_copy(update=changes)


def _seen(path: str) -> str:
    there = Path(path).expanduser()
    return str(there.resolve()) if there.exists() else path

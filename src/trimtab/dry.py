"""What a run would cost: rows kept, tokens, and memory and time from one measured step."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from trimtab.core.bases import Bases
from trimtab.core.build import build
from trimtab.core.build_maker import build_maker
from trimtab.core.config import RunFile, Selected, SelectedReward
from trimtab.core.cost import peak_memory, reset_peak
from trimtab.core.probe import sharing_is_exact
from trimtab.core.processes import Processes
from trimtab.core.runfile import Plan, load
from trimtab.core.stages import HANDOVER
from trimtab.plugins.registry import Plugins
from trimtab.summary import clock

STAND_IN = SelectedReward.model_validate({"name": "length", "target": 1})
"""Costs nothing, in place of a reward that is not there yet."""


def dry_run(file: str | Path, overrides: Iterable[str]) -> Iterator[str]:
    """Lines for each stage of a run file."""
    plugins = Plugins()
    yield from dry_run_of(load(file, overrides, plugins), plugins)


def dry_run_of(plan: Plan, plugins: Plugins) -> Iterator[str]:
    """Lines for each stage. Nothing is written.

    What an earlier stage is to make is not there: rows of one are not measured, an adapter of one
    is the plain base, a reward model of one scores nothing. Each is told.
    """
    bases = Bases()
    for stage in plan.stages:
        name = f"{stage.name}: " if stage.name else ""
        reset_peak()
        for line in _stage(stage.run, plugins, bases):
            yield name + line
        bases.take_back()


def _stage(file: RunFile, plugins: Plugins, bases: Bases) -> Iterator[str]:
    made = [*stages_in(file.data), *(n for each in file.streams.values() for n in stages_in(each))]
    if made:
        yield f"rows: what {_listed(made)} will make, so no step can be measured yet"
        if file.objective and file.train.steps:
            yield f"steps: {file.train.steps}, of {file.train.rows} rows"
        return
    changes, told = _without_awaited(file)
    yield from told
    file = file.model_copy(update=changes)
    yield from (_training if file.objective else _making)(file, plugins, bases)


def _without_awaited(file: RunFile) -> tuple[dict[str, Any], list[str]]:
    """What stands in for what earlier stages will make, and a line about each."""
    changes: dict[str, Any] = {}
    told = []
    if awaited := stages_in(file.model):
        changes["model"] = file.model.model_copy(update={"start": None, "start_as": "continue"})
        told.append(f"start: what {_listed(awaited)} will make; measured from the plain base")
    if awaited := stages_in(file.reference):
        changes["reference"] = Selected(name="adapter_off")
        told.append(f"reference: what {_listed(awaited)} will make; measured as the plain base")
    if awaited := [name for reward in file.reward for name in stages_in(reward)]:
        there = [reward for reward in file.reward if not stages_in(reward)]
        changes["reward"] = there or [STAND_IN]
        told.append(f"reward: what {_listed(awaited)} will make; its scoring is not measured")
    return changes, told


def _training(file: RunFile, plugins: Plugins, bases: Bases) -> Iterator[str]:
    parts = build(file, plugins, Processes(), bases)
    account = parts.source.describe()
    if "read" in account:
        yield f"rows: {account['kept']} kept of {account['read']} read"
    yield from parts.objective.advice(account)
    if file.model.prefix_sharing is None:
        parts.model.share = sharing_is_exact(parts.model, parts.source.longest()).share
    began = time.monotonic()
    metrics = parts.loop.step(0)
    yield from _cost(metrics["tokens"], time.monotonic() - began, parts.steps)


def _making(file: RunFile, plugins: Plugins, bases: Bases) -> Iterator[str]:
    parts = build_maker(file, plugins, Processes(), bases)
    account = parts.maker.describe()
    if "read" in account:
        yield f"rows: {account['kept']} kept of {account['read']} read"
    if not parts.maker.samples:
        asks = ", and asks the judge" if parts.maker.judges else ""
        yield f"steps: {parts.steps}, of {file.train.rows} rows; it samples nothing{asks}"
        return
    began = time.monotonic()
    made = parts.maker.make(parts.model, 0, file.train.rows)
    yield f"makes: {len(made.rows)} rows in the first step"
    yield from _cost(made.metrics.get("tokens", 0.0), time.monotonic() - began, parts.steps)


def _cost(tokens: float, seconds: float, steps: int) -> Iterator[str]:
    yield f"tokens: {tokens:.0f} in the first step, {steps} steps"
    yield f"memory: {peak_memory()[1] / 2**30:.1f} GiB at the peak of a step"
    yield (
        f"time: {seconds:.1f} s a step, about {clock(seconds * steps)} in all, "
        "evaluations not counted"
    )


def stages_in(section: BaseModel) -> list[str]:
    """The stages that a section names."""

    def named(value: Any) -> Iterator[str]:
        if isinstance(value, dict | list):
            for each in value.values() if isinstance(value, dict) else value:
                yield from named(each)
        elif isinstance(value, str) and (match := HANDOVER.fullmatch(value)):
            yield match[1]

    return list(dict.fromkeys(named(section.model_dump(mode="json"))))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))

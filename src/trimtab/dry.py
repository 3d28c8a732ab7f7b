"""What a run would cost: rows kept, tokens, and memory and time from one measured step."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from trimtab.core.build import build
from trimtab.core.config import RunFile
from trimtab.core.probe import sharing_is_exact
from trimtab.core.processes import Processes
from trimtab.core.runfile import load
from trimtab.plugins.registry import Plugins
from trimtab.summary import clock


def dry_run(file: str | Path, overrides: Iterable[str]) -> Iterator[str]:
    """Lines for each stage. Nothing is written; later stages are measured from the plain base."""
    plugins = Plugins()
    for stage in load(file, overrides, plugins).stages:
        name = f"{stage.name}: " if stage.name else ""
        for line in _measured(stage.run, plugins):
            yield name + line


def _measured(file: RunFile, plugins: Plugins) -> Iterator[str]:
    if file.model.start is not None and file.model.start.startswith("stages."):
        file = file.model_copy(update={"model": file.model.model_copy(update={"start": None})})
    parts = build(file, plugins, Processes())
    account = parts.source.describe()
    if "read" in account:
        yield f"rows: {account['kept']} kept of {account['read']} read"
    yield from parts.objective.advice(account)
    if file.model.prefix_sharing is None:
        parts.model.share = sharing_is_exact(parts.model, parts.source.longest()).share
    began = time.monotonic()
    metrics = parts.loop.step(0)
    seconds = time.monotonic() - began
    yield f"tokens: {metrics['tokens']:.0f} in the first step, {parts.steps} steps"
    yield f"memory: {_peak() / 2**30:.1f} GiB at the peak of a step"
    yield (
        f"time: {seconds:.1f} s a step, about {clock(seconds * parts.steps)} in all, "
        "evaluations not counted"
    )


def _peak() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

"""Measure a resume: ``trimtab.resume``, stopped as soon as its first step is done."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import peft  # noqa: F401  (what a run imports when it needs it counts as imports here)
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

from trimtab import hookimpl
from trimtab.api import resume
from trimtab.benchmarks.clock import timed
from trimtab.benchmarks.process import serve
from trimtab.benchmarks.saves import Enough, Resumed, ToResume
from trimtab.core import build, run

PARTS = {
    "data": (build, "_source"),
    "model": (build, "_model"),
    "reference cache": (run, "open_cache"),
    "restore": (run, "restore"),
}
"""The functions that a resume spends its time in."""


class Clock:
    """When the run was ready, and when its first step had ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    @hookimpl
    def run_started(self, run: Any, step: int, steps: int) -> None:
        """All is built and restored."""
        self.times.append(time.monotonic())

    @hookimpl
    def step_ended(self, run: Any, step: int, metrics: Any) -> None:
        """What follows is no part of a resume."""
        self.times.append(time.monotonic())
        raise Enough


def measure(request: ToResume, folder: Path) -> Resumed:
    """Resume under a clock."""
    imports = time.monotonic() - request.began
    clock = Clock()
    spans: dict[str, list[float]] = {part: [] for part in PARTS}
    for part, (module, name) in PARTS.items():
        timed(module, name, spans[part])
    with contextlib.suppress(Enough):
        resume(request.run, observers=[clock])
    ready, stepped = clock.times
    parts = {"imports": imports, **{part: sum(seconds) for part, seconds in spans.items()}}
    rest = ready - request.began - sum(parts.values())
    return Resumed(parts={**parts, "the rest": rest}, step=stepped - ready)


if __name__ == "__main__":
    serve(ToResume, measure)

"""What a run cost: seconds, tokens, memory, and what judges were asked; in its ``cost.json``."""

from __future__ import annotations

import re
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from trimtab.core.errors import RunError
from trimtab.core.files import DamagedFile, read_json, write_json
from trimtab.core.hookspecs import hookimpl
from trimtab.core.rundir import RunDirectory

COST = "cost.json"
PAUSE = 30.0
"""Seconds between two notes of it: so much a death may lose."""

ASKED = ("requests", "cached", "prompt_tokens", "completion_tokens")
"""What is counted of judges; ``metrics.jsonl`` has it as ``judge/requests``, say."""

MB = 1e6
_PEAK = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


class Meter:
    """An observer of one run, from when it is made: before the model is loaded.

    ``{"seconds": 12.3, "tokens": 4567, "peak_memory_mb": 890.1, "memory": "process"}``.
    Seconds are the wall's, over all starts of the run, those that were killed too. Tokens are
    those of the steps that count. The peak is the largest of all starts: memory of the GPU that
    torch has allocated (``cuda``), else the resident memory of the main process; what the process
    held before, such as a base that it goes on using, is in it. Where judges were asked there is
    ``"judge": {"requests", "cached", "prompt_tokens", "completion_tokens"}``, of the steps that
    count; ``cached`` are answers that were there already, beside the requests.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory
        self.before = cost_of(directory.path)
        self.began = self.noted = time.monotonic()
        reset_peak()

    @hookimpl
    def step_ended(self) -> None:
        """Write it down now and then."""
        if time.monotonic() - self.noted > PAUSE:
            self.write()

    @hookimpl
    def run_ended(self) -> None:
        """Write it down, however it ended."""
        self.write()

    def write(self) -> None:
        """What is known now. A disk that is full does not end the run here."""
        self.noted = time.monotonic()
        memory, peak = peak_memory()
        with suppress(OSError, RunError):
            self.directory.check_ours()
            metrics = self.directory.records("metrics")
            asked = judge_cost(metrics)
            found = {
                "seconds": round(self.before.get("seconds", 0.0) + self.noted - self.began, 3),
                "tokens": sum(each.get("tokens") or 0 for each in metrics),
                "peak_memory_mb": round(max(self.before.get("peak_memory_mb", 0.0), peak / MB), 1),
                "memory": memory,
                **({"judge": asked} if asked else {}),
            }
            write_json(self.directory.path / COST, found)


def cost_of(directory: Path) -> Mapping[str, Any]:
    """What ``cost.json`` holds; nothing where there is none that can be read."""
    with suppress(DamagedFile):
        found = read_json(directory / COST)
        if isinstance(found, dict):
            return found
    return {}


def judge_cost(metrics: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """What all judges and rewards of a run were asked, over its steps; nothing where none was.

    >>> judge_cost([{"judge/requests": 8.0, "requests": 1}, {"judge/requests": 4.0}])
    {'requests': 12}
    """
    found: Counter[str] = Counter()
    for step in metrics:
        for key, value in step.items():
            whose, _, name = key.rpartition("/")
            if whose and name in ASKED:
                found[name] += int(value or 0)
    return {name: found[name] for name in ASKED if name in found}


def reset_peak() -> None:
    """From here on the peak is counted anew, where the system can."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        _RESET.write_text("5")  # proc(5): resets VmHWM


def peak_memory() -> tuple[str, int]:
    """Whose memory is counted, and its peak in bytes."""
    if torch.cuda.is_available():
        return "cuda", torch.cuda.max_memory_allocated()
    with suppress(OSError):
        if match := re.search(r"VmHWM:\s+([0-9]+) kB", _PEAK.read_text()):
            return "process", int(match[1]) * 1024
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return "process", largest * (1 if sys.platform == "darwin" else 1024)

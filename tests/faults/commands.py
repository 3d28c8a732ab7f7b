"""Runs as commands, each with a reference cache of its own, and what they come to."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import interrupting
import pytest
import warm
from worlds import World

STEPS = 4
EXITS = {"SIGTERM": 143, "SIGINT": 130, "SIGINT,SIGINT": 130, "SIGKILL": -signal.SIGKILL}
OBJECTIVES = ("sft", "dpo", "kto", "reward_model", "grpo", "ppo", "rloo", "reinforce_pp")


def mostly_slow(*cases: Any, quick: Collection[Any]) -> list[Any]:
    """Parameters of which those that are not quick are slow."""
    return [
        case if case in quick else pytest.param(*_words(case), marks=pytest.mark.slow)
        for case in cases
    ]


def _words(case: Any) -> tuple[Any, ...]:
    return case if isinstance(case, tuple) else (case,)


def learned(world: World, home: Path, objective: str = "dpo", **changes: Any) -> Path:
    """A run that nothing interrupts, in ``home/run``; its run file is ``home/run.yaml``."""
    settings = {**world.learning(objective), "plugins": [interrupting.__file__], **changes}
    return train(world.file(home / "run.yaml", **settings), home / "run")


def file_of(run: Path) -> Path:
    """The run file of ``learned``."""
    return run.parent / "run.yaml"


def own(directory: Path, interrupt: str = "0:") -> dict[str, str]:
    """The variables of a run's processes."""
    cache = directory.parent / f"cache-of-{directory.name}"
    return {"TRIMTAB_CACHE": str(cache), "INTERRUPT": interrupt}


def train(file: Path, directory: Path, interrupt: str = "0:") -> Path:
    """Train in a new directory."""
    _ended(warm.trimtab("train", file, "--run", directory, **own(directory, interrupt)), interrupt)
    return directory


def resume(directory: Path, interrupt: str = "0:") -> str:
    """Go on with a run; what that says, in one line."""
    return _ended(warm.trimtab("resume", directory, **own(directory, interrupt)), interrupt)


def _ended(ended: warm.Ended, interrupt: str) -> str:
    how = interrupt.partition(":")[2].partition("@")[0]
    assert ended.status == EXITS.get(how, 0), ended.output
    return " ".join(ended.output.split())


def start(file: Path, run: Path, interrupt: str = "0:") -> warm.Running:
    """Begin the run, or go on with it where it was begun."""
    begun = (run / "config.yaml").exists()
    words = ["resume", run] if begun else ["train", file, "--run", run]
    return warm.start(*words, **own(run, interrupt))


def to_its_end(file: Path, run: Path) -> str:
    """Begin or go on, and finish; what that says, in one line."""
    return _ended(start(file, run).end(), "0:")


def state_of(run: Path) -> tuple[str, int]:
    """What ``run.json`` says."""
    state = json.loads((run / "run.json").read_text())
    return state["state"], state["step"]


def wait_for(holds: Callable[[], bool], file: Path) -> None:
    """Until a file is there and a condition holds."""
    deadline = time.monotonic() + 30
    while not (file.exists() and holds()):
        assert time.monotonic() < deadline
        time.sleep(0.01)

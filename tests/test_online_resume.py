"""A run with several updates a step stops between any two, and resumes to the same bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from worlds import World, differences, lines

from trimtab import load_run_file
from trimtab.core.checkpoint import verify
from trimtab.core.processes import Processes
from trimtab.core.run import Run
from trimtab.core.rundir import RunDirectory
from trimtab.core.runfile import dump
from trimtab.core.signals import Stop, Stopped
from trimtab.plugins.registry import Plugins

STEPS = 2


class AtLook(Stop):
    """A signal that is there when the run looks for the n-th time."""

    def __init__(self, look: int) -> None:
        self.left = look

    @property
    def number(self) -> int | None:
        self.left -= 1
        return 15 if self.left == 0 else None


def go(file: Path, directory: Path, look: int = 0) -> bool:
    """Train or go on; False: it was stopped at that look."""
    registry = Plugins(installed=False)
    if (directory / "config.yaml").exists():
        home = RunDirectory.open(directory)
        run = load_run_file(directory / "config.yaml", (), registry).stages[0].run
    else:
        run = load_run_file(file, (), registry).stages[0].run
        home = RunDirectory.create(directory, dump(run), file.read_text(), {})
    try:
        Run(run, home, registry, None, Processes(), AtLook(look)).execute()
    except Stopped:
        return False
    return True


OTHERS = ("grpo", "rloo", "reinforce_pp")


@pytest.fixture(
    scope="module",
    params=["ppo", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)],
)
def whole(request, world, tmp_path_factory):
    """A run that nothing stopped."""
    return made(world, tmp_path_factory.mktemp("whole"), request.param)


def made(world: World, home: Path, name: str, **changes: Any) -> Path:
    """Two steps, with dropout and a reference that follows; no checkpoint but the last."""
    dropout = {"adapter": {"rank": 4, "dropout": 0.3}}
    settings: dict[str, Any] = {**world.learning(name), "model": dropout, **changes}
    settings["reference"] = {"name": "moving", "ema": 0.3}
    settings["train"] = {**settings["train"], "steps": STEPS, "checkpoint_every": 50, "keep": 1}
    file = world.file(home / "run.yaml", **settings)
    assert go(file, home / "run")
    return home / "run"


def updates(run: Path) -> int:
    """Of all its steps."""
    made = sum(int(record["updates"]) for record in lines(run / "metrics.jsonl"))
    assert made in (STEPS * 2, STEPS * 4)
    return made


def test_stopped_before_every_update(whole, tmp_path):
    """Look 1 is at the start, 2 before the step, 3 before the next update, and 4 after it."""
    file, run = whole.parent / "run.yaml", tmp_path / "run"
    stops = 0
    while not go(file, run, 4):
        stops += 1
    assert stops == updates(whole) - 1
    assert differences(run, whole) == []


@pytest.mark.slow
def test_stopped_at_any_look(whole, tmp_path):
    """Before the first evaluation, before each step, and before each update."""
    file = whole.parent / "run.yaml"
    for look in range(1, 2 + STEPS + updates(whole)):
        run = tmp_path / str(look)
        assert not go(file, run, look)
        assert go(file, run)
        assert differences(run, whole) == [], look
    assert go(file, tmp_path / "never", look + 1)


def test_a_stop_between_updates_says_where_it_is(whole, tmp_path):
    assert not go(whole.parent / "run.yaml", tmp_path / "run", 4)
    said = json.loads((tmp_path / "run/run.json").read_text())
    planned = updates(whole) // STEPS
    assert said["error"].startswith(f"stopped after step 0 of 2, and 1 of {planned} updates of")
    assert not (tmp_path / "run/metrics.jsonl").exists(), "its step is not over"
    saved = tmp_path / "run/checkpoints/step-0"
    verify(saved)
    assert {"in_flight.json", "in_flight.safetensors"} <= {file.name for file in saved.iterdir()}

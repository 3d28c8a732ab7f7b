"""A run that dies anywhere, and is resumed, ends with the bits of one that does not."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import deaths
import pytest
import warm
from faults import tracing
from faults.commands import (
    STEPS,
    file_of,
    own,
    resume,
    start,
    to_its_end,
    train,
)
from worlds import differences


def died(whole: Path, run: Path, step: int, event: int) -> bool:
    """Let a run die at a change of the disk after a step; False: it ended before."""
    words = ["train", file_of(whole), "--run", run]
    interrupted = warm.trimtab(*words, **own(run, f"{step}:{event}"))
    assert interrupted.status in (0, deaths.DIED), interrupted.output
    return interrupted.status == deaths.DIED


def assert_it_can_go_on(whole: Path, run: Path) -> None:
    """Begin or go on, and end with the bits of the whole run."""
    to_its_end(file_of(whole), run)
    assert differences(run, whole) == []


@pytest.mark.parametrize("step, event", [(0, 12), (2, 9), (2, 21)])
def test_death_at_a_change_of_the_disk(whole, tmp_path, step, event):
    assert died(whole, tmp_path / "run", step, event)
    assert_it_can_go_on(whole, tmp_path / "run")


@pytest.mark.slow
def test_death_at_every_change_of_the_disk_from_step_2_on(any_whole, tmp_path, record_property):
    event = 1
    while died(any_whole, tmp_path / str(event), 2, event):
        assert_it_can_go_on(any_whole, tmp_path / str(event))
        event += 1
    assert differences(tmp_path / str(event), any_whole) == []
    assert event > 70
    record_property("deaths", event - 1)


@pytest.mark.slow
def test_death_at_every_change_of_the_disk_until_the_first_checkpoint(
    whole, tmp_path, record_property
):
    event = 0
    saved = False
    while not saved:
        event += 1
        run = tmp_path / str(event)
        assert died(whole, run, 0, event)
        saved = (run / "checkpoints/step-1").exists()
        assert_it_can_go_on(whole, run)
    assert event > 40
    record_property("deaths", event)


@pytest.mark.skipif(not tracing.works(), reason="processes cannot be traced by ptrace here")
@pytest.mark.slow
def test_death_at_every_system_call_of_the_last_save_and_of_the_finish(
    any_whole, tmp_path, record_property
):
    """The save of the last step, with its rotation, and then adapter, card and ``run.json``."""
    home, dead = tmp_path / "home", tmp_path / "dead"
    home.mkdir()
    run = train(file_of(any_whole), home / "run", f"{STEPS}:EVERY@{dead}")
    assert differences(run, any_whole) == []
    left = sorted(path for path in dead.iterdir() if path.name != "before")
    for each in left:
        resume(each / "run")
        assert differences(each / "run", any_whole) == [], each.name
    assert len(left) > 100
    record_property("deaths", len(left))
    calls = {each.name.partition("-")[2] for each in left}
    assert calls >= {"write", "half", "fsync", "rename", "mkdir", "unlink", "openat"}


def killed_at_random(whole: Path, run: Path, kills: int, seed: int) -> list[int]:
    """Kill the run so many times, each at a random instant, and let it end.

    The exit statuses: 0 where it had ended before.
    """
    draw = random.Random(seed)
    statuses = []
    for _ in range(kills):
        running = start(file_of(whole), run)
        time.sleep(draw.uniform(0.05, 0.9))
        running.process.kill()
        statuses.append(running.end().status)
    assert_it_can_go_on(whole, run)
    return statuses


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_random_instants(whole, tmp_path, seed):
    killed_at_random(whole, tmp_path / "run", kills=3, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 63))
def test_killed_at_many_random_instants(any_whole, tmp_path, seed, record_property):
    statuses = killed_at_random(any_whole, tmp_path / "run", kills=1, seed=seed)
    assert statuses in ([-signal.SIGKILL], [0])
    record_property("killed", statuses != [0])

"""A pipeline that dies anywhere, in a stage or between two, ends with the bits of one that does
not, and no stage that is finished is run again."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import deaths
import pytest
import warm
from faults.commands import own
from pipelines import finished, on_disk, pipeline, write
from worlds import differences

EVENTS = 700
"""Changes of the disk that the whole pipeline makes, or some more."""


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """One that was never interrupted."""
    home = tmp_path_factory.mktemp("pipeline")
    file = write(home / "run.yaml", pipeline(world))
    began = time.monotonic()
    go_on(file, home / "run", by_file=True)
    (home / "seconds").write_text(str(time.monotonic() - began))
    return home / "run"


def go_on(file: Path, run: Path, by_file: bool) -> str:
    """To the end, by the run file or as the directory says."""
    words = ["train", file, "--run", run]
    if not by_file and (run / "config.yaml").exists():
        words = ["resume", run]
    ended = warm.start(*words, **own(run)).end(300)
    assert ended.status == 0, ended.output
    return ended.output


def assert_it_ends_the_same(whole: Path, run: Path, by_file: bool) -> None:
    """And leaves alone what is finished."""
    before = {name: on_disk(run, name) for name in finished(run)}
    go_on(whole.parent / "run.yaml", run, by_file)
    assert differences(run, whole) == []
    for name, files in before.items():
        now = on_disk(run, name)
        same = [path for path in files if path != "cost.json"]  # death may come just before it
        assert [path for path in same if now[path] != files[path]] == [], name


def dies_at_a_change(whole: Path, run: Path, event: int) -> bool:
    """At the event-th change of the disk; False: it ended before."""
    words = ["train", whole.parent / "run.yaml", "--run", run]
    ended = warm.start(*words, **own(run, f"0:{event}")).end(300)
    assert ended.status in (0, deaths.DIED), ended.output
    return ended.status == deaths.DIED


def dies_at_a_time(whole: Path, run: Path, share: float) -> int:
    """After this share of the seconds that the whole one took; the exit status."""
    running = warm.start("train", whole.parent / "run.yaml", "--run", run, **own(run))
    time.sleep(share * float((whole.parent / "seconds").read_text()))
    running.process.kill()
    return running.end().status


@pytest.mark.parametrize(
    "share, by_file",
    [pytest.param(0.35, False, marks=pytest.mark.slow), (0.6, True), (0.85, False)],
)
def test_killed_in_the_middle(whole, tmp_path, share, by_file):
    dies_at_a_time(whole, tmp_path / "run", share)
    assert_it_ends_the_same(whole, tmp_path / "run", by_file)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30))
def test_killed_at_a_random_instant(whole, tmp_path, seed, record_property):
    share = random.Random(seed).uniform(0.05, 1)
    status = dies_at_a_time(whole, tmp_path / "run", share)
    assert status in (-signal.SIGKILL, 0)
    record_property("finished", finished(tmp_path / "run"))
    assert_it_ends_the_same(whole, tmp_path / "run", by_file=seed % 2 == 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30))
def test_death_at_a_random_change_of_the_disk(whole, tmp_path, seed, record_property):
    event = random.Random(seed).randrange(seed * EVENTS // 30, (seed + 1) * EVENTS // 30) + 1
    record_property("died", dies_at_a_change(whole, tmp_path / "run", event))
    record_property("finished", finished(tmp_path / "run"))
    assert_it_ends_the_same(whole, tmp_path / "run", by_file=seed % 2 == 0)


@pytest.mark.slow
def test_killed_again_and_again(whole, tmp_path):
    run, draw = tmp_path / "run", random.Random(0)
    for _ in range(8):
        dies_at_a_time(whole, run, draw.uniform(0.2, 0.6))
    assert_it_ends_the_same(whole, run, by_file=False)

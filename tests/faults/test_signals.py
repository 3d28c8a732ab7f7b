"""A run that is asked to stop, at whatever instant, says so and can go on to the same bits."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
import warm
from faults.commands import (
    EXITS,
    file_of,
    learned,
    mostly_slow,
    own,
    start,
    state_of,
    to_its_end,
    wait_for,
)
from worlds import differences

from trimtab.core.checkpoint import newest


def assert_stopped(whole: Path, run: Path, ended: warm.Ended, status: int) -> None:
    """It has stopped, or was at its last step and has finished; no checkpoint has suffered."""
    assert newest(run / "checkpoints")[1] == []
    if ended.status == 0:
        assert state_of(run)[0] == "finished"
    else:
        assert (ended.status, state_of(run)[0]) == (status, "stopped"), ended.output
        assert "Traceback" not in ended.output
        to_its_end(file_of(whole), run)
    assert differences(run, whole) == []


def interrupted(whole: Path, run: Path, interrupt: str) -> warm.Ended:
    return warm.trimtab("train", file_of(whole), "--run", run, **own(run, interrupt))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_before_there_is_a_run(whole, tmp_path, name):
    ended = interrupted(whole, tmp_path / "run", f"0:{name}")
    assert ended.status == EXITS[name]
    assert "Traceback" not in ended.output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "interrupt",
    mostly_slow(
        "0:SIGTERM@8",
        "0:SIGINT@8",
        "0:SIGINT@30",
        "2:SIGTERM@9",
        "2:SIGINT@20",
        "2:SIGINT,SIGINT@9",
        "4:SIGTERM@30",
        "4:SIGINT,SIGINT@45",
        quick=["0:SIGTERM@8", "2:SIGINT,SIGINT@9", "4:SIGTERM@30"],
    ),
)
def test_while_it_is_made_and_saved_and_finished(whole, tmp_path, interrupt):
    ended = interrupted(whole, tmp_path / "run", interrupt)
    name = interrupt.partition(":")[2].partition("@")[0]
    assert_stopped(whole, tmp_path / "run", ended, EXITS[name])


@pytest.mark.slow
@pytest.mark.parametrize("event", range(1, 100, 3))
def test_a_second_interrupt_at_many_changes_of_the_disk(whole, tmp_path, event):
    ended = interrupted(whole, tmp_path / "run", f"2:SIGINT,SIGINT@{event}")
    assert_stopped(whole, tmp_path / "run", ended, 130)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 20))]
)
def test_at_random_instants(whole, tmp_path, number, seed):
    run = tmp_path / "run"
    running = start(file_of(whole), run)
    wait_for(lambda: True, run / "config.yaml")
    time.sleep(random.Random(seed).uniform(0, 0.9))
    if running.process.is_alive():
        running.signal(number)
    assert_stopped(whole, run, running.end(), 128 + number)


@pytest.fixture(scope="module", params=["ppo", pytest.param("grpo", marks=pytest.mark.slow)])
def sampling(request, world, tmp_path_factory):
    """A run that samples and makes several updates a step, and was never interrupted."""
    train = {**world.learning(request.param)["train"], "keep": 1}
    return learned(world, tmp_path_factory.mktemp(request.param), request.param, train=train)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 20))]
)
def test_while_sampling_and_between_updates(sampling, tmp_path, number, seed, record_property):
    run = tmp_path / "run"
    running = start(file_of(sampling), run)
    wait_for(lambda: True, run / "samples.jsonl")  # the first evaluation is over
    time.sleep(random.Random(seed).uniform(0, 0.9))
    if running.process.is_alive():
        running.signal(number)
    ended = running.end()
    record_property("within", "updates of the next" in ended.output)
    assert_stopped(sampling, run, ended, 128 + number)

"""What a run cost: seconds and tokens over all its starts, and the peak of its memory alone."""

from __future__ import annotations

import sys

import pytest
import torch
from worlds import lines

from trimtab.api import resume, train
from trimtab.core.cost import MB, Meter, cost_of, peak_memory, reset_peak
from trimtab.core.rundir import RunDirectory
from trimtab.plugins.registry import Plugins


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is counted anew on Linux alone")
@pytest.mark.skipif(torch.cuda.is_available(), reason="the peak is the GPU's here")
def test_the_peak_is_of_what_came_since():
    reset_peak()
    _, before = peak_memory()
    held = torch.ones(32 * 2**20)
    _, during = peak_memory()
    del held
    _, after = peak_memory()
    reset_peak()
    _, anew = peak_memory()
    assert during - before > 100 * MB
    assert after - before > 100 * MB
    assert after - anew > 100 * MB


def test_what_was_spent_before_is_counted(tmp_path):
    run = RunDirectory.create(tmp_path / "run", "", "", {})
    first = Meter(run)
    first.began -= 10
    first.write()
    second = Meter(run)
    second.began -= 5
    run.log("metrics", {"step": 1, "tokens": 7.0})
    run.log("metrics", {"step": 2, "tokens": 8.0})
    second.write()
    found = cost_of(run.path)
    assert 15 <= found["seconds"] < 20
    assert found["tokens"] == 15
    assert found["peak_memory_mb"] >= second.before["peak_memory_mb"] > 0


def test_what_judges_were_asked_is_added_up_over_the_steps(tmp_path):
    run = RunDirectory.create(tmp_path / "run", "", "", {})
    run.log("metrics", {"step": 1, "judge/requests": 8.0, "judge/cached": 2.0, "requests": 5})
    run.log("metrics", {"step": 2, "judge/requests": 4.0, "help/requests": 3.0, "loss": None})
    run.log("metrics", {"step": 3, "judge/prompt_tokens": 70.0, "judge/requests": None})
    Meter(run).write()
    assert cost_of(run.path)["judge"] == {"requests": 15, "cached": 2, "prompt_tokens": 70}


def test_a_run_without_a_judge_says_nothing_of_one(tmp_path):
    run = RunDirectory.create(tmp_path / "run", "", "", {})
    run.log("metrics", {"step": 1, "tokens": 8.0})
    Meter(run).write()
    assert "judge" not in cost_of(run.path)


def test_a_disk_that_is_full_or_another_run_is_left_alone(tmp_path):
    run = RunDirectory.create(tmp_path / "run", "", "", {})
    with run.lock():
        (run.path / "run.lock").rename(tmp_path / "lock")
        Meter(run).write()
    assert not (run.path / "cost.json").exists()


def test_a_plain_run_says_what_it_cost(world, tmp_path):
    plugins = Plugins()
    run = train(world.file(tmp_path / "run.yaml"), tmp_path / "run", registry=plugins)
    found = cost_of(run)
    steps = lines(run / "metrics.jsonl")
    assert found["tokens"] == sum(step["tokens"] for step in steps)
    assert found["seconds"] > sum(step["seconds"] for step in steps)
    assert resume(run, registry=plugins) == run
    assert cost_of(run) == found

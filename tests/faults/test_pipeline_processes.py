"""Pipelines of two processes make what one does, and after deaths the same bits."""

from __future__ import annotations

from pathlib import Path

import deaths
import pytest
import warm
from faults.commands import own
from pipelines import finished, pipeline, write
from safetensors.torch import load_file
from test_processes import begin_two, two
from tiny import relative
from worlds import differences, lines

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def file(world, tmp_path_factory):
    return write(tmp_path_factory.mktemp("pipeline") / "run.yaml", pipeline(world))


@pytest.fixture(scope="module")
def together(file):
    """A pipeline of two processes that nothing interrupts."""
    run = file.parent / "together"
    ended = two("train", file, "--run", run, **own(run))
    assert [each.status for each in ended] == [0, 0], ended
    return run


def test_two_processes_make_the_rows_and_the_policies_of_one(file, together):
    alone = file.parent / "alone"
    ended = warm.trimtab("train", file, "--run", alone, **own(alone))
    assert ended.status == 0, ended.output
    for name in ("data/train.jsonl", "samples.jsonl"):
        made = [lines(run / "stages/picked" / name) for run in (alone, together)]
        assert made[0] == made[1], name
    for stage in ("imitate", "scores", "improve"):
        folder = Path("stages", stage, "adapter/adapter_model.safetensors")
        one, other = (load_file(run / folder) for run in (alone, together))
        assert all(relative(one[name], other[name]) <= 1e-3 for name in one), stage


def test_one_of_two_processes_dies_again_and_again(file, together, tmp_path):
    """At ever later instants after a second step. As a launcher does, the other one is killed."""
    run, died_in = tmp_path / "run", []
    for event in range(10, 400, 20):
        running = begin_two("train", file, "--run", run, **own(run, f"2:{event}"))
        ended = running[0].end(120)
        running[1].process.kill()
        running[1].end()
        if ended.status == 0:
            break
        assert ended.status == deaths.DIED, ended.output
        died_in.append(len(finished(run)))
    assert len(set(died_in)) > 2 and died_in == sorted(died_in)
    ended = two("train", file, "--run", run, **own(run))
    assert [each.status for each in ended] == [0, 0], ended
    assert differences(run, together) == []

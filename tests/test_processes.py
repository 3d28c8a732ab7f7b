"""Two processes do what one does: the same adapter, the last ragged batch included."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import deaths
import interrupting
import pytest
import warm
from safetensors.torch import load_file
from tiny import relative
from torch.distributed.run import main as torchrun
from worlds import differences, lines, untimed

TOLERANCE = 1e-5
ADAPTER = "adapter/adapter_model.safetensors"
LAUNCH = {"WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK"}
"""The variables that a launcher sets."""


@pytest.fixture(scope="module")
def file(world, tmp_path_factory):
    """Batches of 4 and of 3 rows: of the last, one process has two and the other one."""
    home = tmp_path_factory.mktemp("processes")
    return world.file(home / "run.yaml", plugins=[interrupting.__file__])


@pytest.fixture(scope="module")
def alone(file):
    """The run of one process."""
    run = file.parent / "alone"
    ended = warm.trimtab("train", file, "--run", run, TRIMTAB_CACHE=str(file.parent / "cache-1"))
    assert ended.status == 0, ended.output
    return run


@pytest.fixture(scope="module")
def together(file):
    """The run of two."""
    run = file.parent / "together"
    ended = two("train", file, "--run", run, TRIMTAB_CACHE=str(file.parent / "cache-2"))
    assert [each.status for each in ended] == [0, 0], ended
    return run


def begin_two(*arguments: object, **environment: str) -> list[warm.Running]:
    """A command in two processes, with the variables that a launcher sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launch = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        warm.start(*arguments, **launch, **environment, RANK=rank, LOCAL_RANK=rank)
        for rank in ("0", "1")
    ]


def two(*arguments: object, **environment: str) -> list[warm.Ended]:
    """A command in two processes, to its end."""
    return [each.end(120) for each in begin_two(*arguments, **environment)]


def assert_close(run: Path, other: Path) -> None:
    one, two = load_file(run / ADAPTER), load_file(other / ADAPTER)
    assert one.keys() == two.keys()
    for name in one:
        assert relative(one[name], two[name]) <= TOLERANCE, name


def test_the_adapter_is_that_of_one_process(alone, together):
    assert_close(together, alone)
    for one, two in zip(*(lines(run / "metrics.jsonl") for run in (alone, together)), strict=True):
        assert two["seconds"] and untimed(two) == pytest.approx(
            untimed(one), rel=TOLERANCE, abs=1e-4
        )


def test_statistics_of_the_batch_are_of_all_processes(world, tmp_path):
    """KTO's z0 is the mean over the rows of both, and with it the steps are those of one."""
    file = world.file(tmp_path / "run.yaml", **world.learning("kto"))
    ones, twos = tmp_path / "alone", tmp_path / "together"
    caches = [{"TRIMTAB_CACHE": str(tmp_path / name)} for name in ("cache-1", "cache-2")]
    ended = warm.trimtab("train", file, "--run", ones, **caches[0])
    assert ended.status == 0, ended.output
    both = two("train", file, "--run", twos, **caches[1])
    assert [each.status for each in both] == [0, 0], both
    alone, together = (lines(run / "metrics.jsonl") for run in (ones, twos))
    assert max(record["z0"] for record in alone) > 1
    for one, other in zip(alone, together, strict=True):
        for name in ("z0", "loss", "grad_norm", "logratio_desirable", "logratio_undesirable"):
            assert other[name] == pytest.approx(one[name], rel=TOLERANCE)


def test_a_run_of_two_resumes_to_the_same_bits(file, together, tmp_path):
    run, cache = tmp_path / "run", {"TRIMTAB_CACHE": str(tmp_path / "cache")}
    stopped = two("train", file, "--run", run, INTERRUPT="2:SIGTERM", **cache)
    assert [each.status for each in stopped] == [143, 143], stopped
    resumed = two("resume", run, **cache)
    assert [each.status for each in resumed] == [0, 0], resumed
    assert "resumed from step 2" in resumed[0].output
    assert differences(run, together) == []


def test_one_of_two_processes_speaks(together, file):
    refused = two("train", file, "--run", together)
    assert refused[0].status == 2
    assert "trimtab resume" in refused[0].output


def test_torchrun_sets_the_variables_that_two_processes_have_here(tmp_path):
    launch = ["--standalone", "--nproc_per_node", "2", "--no-python"]
    command = ["sh", "-c", f"env > {tmp_path}/$RANK"]
    assert deaths.fork(lambda: torchrun([*launch, *command])) == 0
    for rank in ("0", "1"):
        given = dict(line.split("=", 1) for line in (tmp_path / rank).read_text().splitlines())
        assert given.keys() >= LAUNCH
        assert (given["WORLD_SIZE"], given["RANK"], given["LOCAL_RANK"]) == ("2", rank, rank)


@pytest.mark.slow
def test_torchrun(world, alone, tmp_path):
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2"]
    launch = [*launcher, "-m", "--", "trimtab", "train"]
    run = tmp_path / "run"
    cache = {"TRIMTAB_CACHE": str(tmp_path / "cache")}
    file = world.file(tmp_path / "run.yaml")
    subprocess.run(
        [sys.executable, *launch, file, "--run", run],
        env=os.environ | cache,
        check=True,
        timeout=120,
        capture_output=True,
    )
    assert_close(run, alone)


@pytest.mark.parametrize(
    "objective",
    [
        pytest.param("grpo", marks=pytest.mark.slow),
        "ppo",
    ],
)
def test_rollouts_are_those_of_one_process(world, tmp_path, objective):
    """Both sample, score and learn from the same rows, with policy and critic."""
    settings = world.learning(objective)
    options = {**settings["objective"], **({"warmup": 1} if objective == "ppo" else {})}
    file = world.file(tmp_path / "run.yaml", **{**settings, "objective": options})
    ones, twos = tmp_path / "alone", tmp_path / "together"
    ended = warm.trimtab("train", file, "--run", ones)
    assert ended.status == 0, ended.output
    both = two("train", file, "--run", twos)
    assert [each.status for each in both] == [0, 0], both
    assert lines(ones / "samples.jsonl")[0] == lines(twos / "samples.jsonl")[0]
    alone, together = ([untimed(r) for r in lines(r / "metrics.jsonl")] for r in (ones, twos))
    assert together[0] == pytest.approx(alone[0], rel=TOLERANCE, abs=1e-5)
    assert together[1] == pytest.approx(alone[1], rel=1e-3, abs=1e-4)
    for folder in ones.rglob("adapter_model.safetensors"):
        one, other = (load_file(run / folder.relative_to(ones)) for run in (ones, twos))
        assert all(relative(one[name], other[name]) <= 1e-3 for name in one), folder

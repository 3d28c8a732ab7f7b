"""Full disks, read-only folders and other processes cost a run nothing but time."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import interrupting
import pytest
import troubled
import warm
from faults.commands import file_of, mostly_slow, own, start, state_of, to_its_end
from faults.mounts import enlarge, fill, read_only, small_disk
from worlds import differences

from trimtab.core.checkpoint import newest


def goes_on(whole: Path, run: Path) -> None:
    to_its_end(file_of(whole), run)
    assert differences(run, whole) == []


SIZES = range(8, 440, 16)


@pytest.mark.parametrize(
    "kilobytes",
    [pytest.param(n, marks=() if n == 296 else pytest.mark.slow) for n in SIZES],
)
def test_a_full_disk(whole, tmp_path, kilobytes):
    """At whatever it is full, what is there stays, and with more room the run goes on."""
    disk = tmp_path / "disk"
    run = disk / "run"
    with small_disk(disk, kilobytes):
        ended = start(file_of(whole), run).end()
        assert ended.status in (1, 2), ended.output
        assert "No space left on device" in ended.output
        assert "Traceback" not in ended.output and "a fault of trimtab" not in ended.output
        assert newest(run / "checkpoints")[1] == []
        if (run / "config.yaml").exists():
            filler = disk / "filler"
            fill(filler)
            again = start(file_of(whole), run).end()
            assert again.status in (1, 2), again.output
            assert "a fault of trimtab" not in again.output
            filler.unlink()
        enlarge(disk)
        goes_on(whole, run)


@pytest.mark.parametrize(
    "limit",
    [pytest.param(40_000, marks=pytest.mark.slow), pytest.param(4000, marks=pytest.mark.slow)],
)
def test_files_that_may_not_grow(world, whole, tmp_path, limit):
    """A limit that the kernel enforces everywhere: EFBIG."""
    run = tmp_path / "run"
    file = world.file(tmp_path / "run.yaml", plugins=[interrupting.__file__, troubled.__file__])
    ended = warm.trimtab("train", file, "--run", run, **own(run), FILE_BYTES=str(limit))
    assert ended.status == 1, ended.output
    assert "File too large" in ended.output and "then resume the run" in ended.output
    to_its_end(file, run)
    assert set(differences(run, whole)) <= {"config.yaml", "config.source.yaml"}


def test_a_read_only_run_is_refused_and_untouched(whole, run):
    with read_only(run):
        ended = start(file_of(whole), run).end()
        assert ended.status == 2, ended.output
        assert f"cannot lock the run {run}: " in ended.output
        again = warm.trimtab("train", file_of(whole), "--run", run / "inside", **own(run))
        assert again.status == 2 and "cannot make the run directory" in again.output
    goes_on(whole, run)


@pytest.mark.parametrize("what", mostly_slow("checkpoints", "cache", quick=["checkpoints"]))
def test_a_folder_that_becomes_read_only(whole, run, what):
    folder = run / "checkpoints" if what == "checkpoints" else Path(own(run)["TRIMTAB_CACHE"])
    if what == "cache":
        shutil.rmtree(folder / "reference")
    with read_only(folder):
        ended = start(file_of(whole), run).end()
        assert ended.status == 1, ended.output
        assert "ee to the disk, then resume" in " ".join(ended.output.split())
        assert "a fault of trimtab" not in ended.output
        assert state_of(run) == ("failed", 3)
    goes_on(whole, run)


@pytest.mark.parametrize("command", mostly_slow("train", "resume", quick=["resume"]))
@pytest.mark.parametrize(
    "attempt", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 10))]
)
def test_of_two_processes_exactly_one_wins(whole, run, tmp_path, command, attempt):
    if command == "train":
        run = tmp_path / "run"
        words = ["train", file_of(whole), "--run", run]
    else:
        words = ["resume", run]
    both = [warm.start(*words, **own(run)) for _ in range(2)]
    ended = [each.end() for each in both]
    statuses = [each.status for each in ended]
    assert sorted(statuses) == [0, 2], ended
    winner, loser = both[statuses.index(0)].process, ended[statuses.index(2)]
    assert winner.pid != os.getpid()
    at_work = f"is in use by process {winner.pid} on "
    assert at_work in loser.output or "holds a run already" in loser.output, loser.output
    if command == "resume":
        assert at_work in loser.output
    assert differences(run, whole) == []

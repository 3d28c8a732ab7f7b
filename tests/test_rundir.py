"""A run directory has one owner, loses no line, and says what is wrong with it."""

from __future__ import annotations

import datetime
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from deaths import dies_at, ended, fork, start

from trimtab.core.environment import environment
from trimtab.core.errors import RunError, UserError
from trimtab.core.rundir import LOGS, RunDirectory, RunState, new_run_path

REFUSED = 3
HOLD = """
import os, sys, time
from pathlib import Path
from trimtab.core.rundir import RunDirectory

with RunDirectory.open(Path(sys.argv[1])).lock():
    if sys.argv[2] == "fork" and os.fork() == 0:
        time.sleep(60)
    print("locked", flush=True)
    sys.stdin.read()
"""


def make(path: Path) -> RunDirectory:
    return RunDirectory.create(path, "resolved: 1\n", "given: 1\n", {"python": "3"})


@contextmanager
def holder(run: RunDirectory, how: str = "") -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the run's lock, in a process group of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.path), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin and process.stdout
    with process.stdin, process.stdout:
        try:
            assert process.stdout.readline() == "locked\n"
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def strict(line: str) -> object:
    """Read JSON as other languages do, without NaN and Infinity."""

    def refuse(constant: str) -> object:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(line, parse_constant=refuse)


def lines(run: RunDirectory, name: str) -> list[object]:
    return [strict(line) for line in (run.path / f"{name}.jsonl").read_text().splitlines()]


def test_a_new_run_holds_what_it_was_given(tmp_path: Path) -> None:
    run = make(tmp_path / "runs" / "a")
    assert sorted(os.listdir(run.path)) == [
        "checkpoints",
        "config.source.yaml",
        "config.yaml",
        "env.json",
        "run.json",
        "run.lock",
    ]
    assert run.config == "resolved: 1\n"
    assert (run.path / "config.source.yaml").read_text() == "given: 1\n"
    assert json.loads((run.path / "env.json").read_text()) == {"python": "3"}
    assert run.state() == RunState("running", 0, None)
    assert RunDirectory.open(run.path) == run


def test_an_existing_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    run = make(tmp_path / "a")
    run.set_state("stopped", 7)
    with pytest.raises(UserError, match=r"holds a run already.*trimtab resume .*a`.*--run DIR"):
        RunDirectory.create(run.path, "other", "other", {})
    assert run.state().step == 7
    assert run.config == "resolved: 1\n"


@pytest.mark.parametrize("name", ["notes.txt", ".git", "run.json", "checkpoints"])
def test_a_directory_of_something_else_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"is not empty .it holds {name}.*choose another"):
        make(tmp_path)
    assert os.listdir(tmp_path) == [name]


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(UserError, match=r"a is a file: choose another place with --run DIR"):
        make(tmp_path / "a")
    with pytest.raises(UserError, match=r"cannot make the run directory .*Not a directory.*--run"):
        make(tmp_path / "a" / "b")


def test_an_empty_directory_is_taken(tmp_path: Path) -> None:
    assert make(tmp_path).state() == RunState("running", 0, None)


def test_a_death_at_any_event_of_the_making_can_be_made_good(tmp_path: Path) -> None:
    event, died = 1, True
    while died:
        path = tmp_path / str(event)
        died = dies_at(event, lambda path=path: make(path))
        if (path / "config.yaml").exists():
            with pytest.raises(UserError, match="holds a run already"):
                make(path)
        else:
            with pytest.raises(UserError):
                RunDirectory.open(path)
            make(path)
        run = RunDirectory.open(path)
        assert run.config == "resolved: 1\n"
        assert run.state() == RunState("running", 0, None)
        with run.lock():
            assert not [name for name in os.listdir(path) if name.startswith(".")]
        event += 1
    assert event > 15


def test_an_unfinished_making_with_checkpoints_in_it_is_not_taken_over(tmp_path: Path) -> None:
    run = make(tmp_path / "a")
    (run.path / "config.yaml").unlink()
    (run.checkpoints / "step-1").mkdir()
    with pytest.raises(UserError, match="is not empty"):
        make(run.path)


def test_of_processes_that_make_one_run_exactly_one_wins(tmp_path: Path) -> None:
    def make_at(start_time: float, path: Path, text: str) -> None:
        while time.monotonic() < start_time:
            pass
        try:
            RunDirectory.create(path, text, text, {})
        except UserError:
            os._exit(REFUSED)

    for attempt in range(10):
        path = tmp_path / str(attempt)
        soon = time.monotonic() + 0.05
        children = [
            start(lambda path=path, child=child, soon=soon: make_at(soon, path, f"{child}\n"))
            for child in range(4)
        ]
        statuses = [ended(child) for child in children]
        assert sorted(statuses) == [0, REFUSED, REFUSED, REFUSED]
        winner = f"{statuses.index(0)}\n"
        assert RunDirectory.open(path).config == winner
        assert (path / "config.source.yaml").read_text() == winner


def test_opening_what_is_no_run_says_what_to_open(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no run directory .*/absent$"):
        RunDirectory.open(tmp_path / "absent")
    with pytest.raises(UserError, match=r"is not a run directory: it has no config.yaml$"):
        RunDirectory.open(tmp_path)
    old = make(tmp_path / "runs" / "old")
    new = make(tmp_path / "runs" / "new")
    os.utime(old.path / "config.yaml", (1, 1))
    hint = f"The newest of the runs in {tmp_path / 'runs'} is {new.path}"
    for wrong in (tmp_path / "runs", tmp_path / "runs" / "mistyped"):
        with pytest.raises(UserError) as refusal:
            RunDirectory.open(wrong)
        assert hint in str(refusal.value)
    with pytest.raises(UserError, match=r"is a file, not a run directory"):
        RunDirectory.open(new.path / "config.yaml")


def test_opening_the_parent_of_stages_names_a_stage(tmp_path: Path) -> None:
    stage = make(tmp_path / "stages" / "first")
    with pytest.raises(UserError, match=f"The newest of the runs in .*stages is {stage.path}"):
        RunDirectory.open(tmp_path)


def test_opening_an_unfinished_making_says_how_to_finish_it(tmp_path: Path) -> None:
    run = make(tmp_path / "a")
    (run.path / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"died while it was made: `trimtab train FILE --run "):
        RunDirectory.open(run.path)


def test_a_second_process_is_kept_out_and_told_who_is_in(tmp_path: Path) -> None:
    run = make(tmp_path / "a")
    with holder(run) as process:
        host = os.uname().nodename
        with (
            pytest.raises(
                UserError, match=f"run .*/a is in use by process {process.pid} on {host}: wait"
            ),
            run.lock(),
        ):
            pass
        with pytest.raises(UserError, match=f"in use by process {process.pid} on"):
            make(run.path)


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    run = make(tmp_path / "a")
    with holder(run) as process:
        process.kill()
        process.wait()
        with run.lock():
            pass


def test_a_child_that_outlives_the_killed_owner_does_not_hold_the_lock(tmp_path: Path) -> None:
    run = make(tmp_path / "a")
    with holder(run, "fork") as process:
        process.kill()
        process.wait()
        os.killpg(process.pid, 0)
        with run.lock():
            pass


def test_a_forked_child_that_leaves_the_lock_does_not_release_it(tmp_path: Path) -> None:
    run = make(tmp_path / "a")
    lock = run.lock()
    with lock:
        assert fork(lambda: lock.__exit__(None, None, None)) == 0
        with pytest.raises(UserError, match=f"in use by process {os.getpid()} on"), run.lock():
            pass


def test_the_lock_can_be_taken_again(tmp_path: Path) -> None:
    run = make(tmp_path / "a")
    for _ in range(2):
        with run.lock(), pytest.raises(UserError, match="is in use"), run.lock():
            pass
    assert (run.path / "run.lock").read_text() == ""


def test_a_run_whose_directory_was_made_anew_leaves_the_new_one_alone(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run = make(path)
    with run.lock():
        run.log("metrics", {"step": 1})
        shutil.rmtree(path)
        with pytest.raises(RunError, match="deleted or replaced"):
            run.log("metrics", {"step": 2})
        other = make(path)
        with pytest.raises(RunError, match="deleted or replaced"):
            run.log("metrics", {"step": 2})
        with pytest.raises(RunError, match="deleted or replaced"):
            run.set_state("failed", 2)
    assert other.state() == RunState("running", 0) and other.records("metrics") == []


def test_locking_deletes_what_the_dead_left(tmp_path: Path) -> None:
    run = make(tmp_path / "a")
    (run.path / ".staging-run.json-ab").write_text("{")
    (run.checkpoints / ".staging-step-3-ab").mkdir()
    (run.checkpoints / ".removing-step-1-ab").mkdir()
    (run.path / "roles/.staging-reward_1-ab").mkdir(parents=True)
    with run.lock():
        assert os.listdir(run.checkpoints) == os.listdir(run.path / "roles") == []
        assert not (run.path / ".staging-run.json-ab").exists()


def test_the_state_is_what_was_said_last(tmp_path: Path) -> None:
    run = make(tmp_path / "a")
    run.set_state("failed", 12, "the loss of row 7 is not finite")
    assert json.loads((run.path / "run.json").read_text()) == {
        "state": "failed",
        "step": 12,
        "error": "the loss of row 7 is not finite",
    }
    assert run.state() == RunState("failed", 12, "the loss of row 7 is not finite")
    (run.path / "run.json").unlink()
    assert run.state() == RunState("running", 0, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"state": "running"}',
        '{"a": 1}',
        '{"state": "finishee", "step": 1}',
        '{"state": "running", "step": "1"}',
    ],
)
def test_a_damaged_state_says_what_to_do(tmp_path: Path, text: str) -> None:
    run = make(tmp_path / "a")
    (run.path / "run.json").write_text(text)
    with pytest.raises(RunError, match=r"run.json does not say how the run stands.*delete it"):
        run.state()


def test_the_resolved_config_can_be_rewritten(tmp_path: Path) -> None:
    run = make(tmp_path / "a")
    run.rewrite_config("resolved: 2 é\n")
    assert RunDirectory.open(run.path).config == "resolved: 2 é\n"


def test_a_log_is_strict_json_whatever_the_numbers(tmp_path: Path) -> None:
    run = make(tmp_path / "a")
    run.log("metrics", {"step": 1, "loss": math.nan, "parts": {"a": [math.inf, 1, (-math.inf,)]}})
    run.log("samples", {"completion": "a\u2028b\x85c\nd \udc80 é", "reward": None})
    assert lines(run, "metrics") == [{"step": 1, "loss": None, "parts": {"a": [None, 1, [None]]}}]
    assert lines(run, "samples") == [{"completion": "a\u2028b\x85c\nd \udc80 é", "reward": None}]


def test_each_line_is_in_the_file_at_once(tmp_path: Path) -> None:
    run = make(tmp_path / "a")

    def log_and_die() -> None:
        run.log("metrics", {"step": 1})
        os._exit(0)

    assert fork(log_and_die) == 0
    assert lines(run, "metrics") == [{"step": 1}]


def test_rewinding_repeats_and_loses_no_line(tmp_path: Path) -> None:
    run = make(tmp_path / "a")
    expected = [{"step": step, "loss": 1 / step} for step in range(1, 9)]
    for record in expected[:5]:
        run.log("metrics", record)
    run.log("evals", {"step": 5})
    positions = run.positions()
    assert set(positions) == {"metrics", "evals"}
    for record in expected[5:7]:
        run.log("metrics", record)
    run.log("evals", {"step": 7})
    run.log("samples", {"step": 7})
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "lo')

    assert RunDirectory.open(run.path).rewind(positions) == []
    for record in expected[5:]:
        run.log("metrics", record)
    assert lines(run, "metrics") == expected
    assert lines(run, "evals") == [{"step": 5}]
    assert lines(run, "samples") == []


def test_without_positions_every_log_starts_again(tmp_path: Path) -> None:
    run = make(tmp_path / "a")
    assert run.positions() == {}
    for name in LOGS:
        run.log(name, {"step": 1})
    assert run.rewind({}) == []
    assert run.positions() == {name: 0 for name in LOGS}


@pytest.mark.parametrize("how", ["shorter", "gone", "edited", "flipped"])
def test_a_log_that_lost_lines_is_reported_and_goes_on_with_whole_ones(
    tmp_path: Path, how: str
) -> None:
    run = make(tmp_path / "a")
    for step in (1, 2, 3):
        run.log("metrics", {"step": step})
    positions = run.positions()
    file = run.path / "metrics.jsonl"
    if how == "gone":
        file.unlink()
    elif how == "shorter":
        os.truncate(file, positions["metrics"] - 3)
    elif how == "flipped":
        file.write_text(file.read_text().replace("2", "r"))
    else:
        file.write_text(file.read_text().replace("2", "22"))
    whole = 0 if how == "gone" else positions["metrics"] // 3 * 2 + (how == "edited")
    assert run.rewind(positions) == [
        f"{file} should have {positions['metrics']} bytes of whole lines and has {whole}: "
        "lines from before the checkpoint are lost"
    ]
    run.log("metrics", {"step": 4})
    kept = {"gone": [], "shorter": [1, 2], "edited": [1, 22], "flipped": [1, 3]}[how]
    assert lines(run, "metrics") == [{"step": step} for step in [*kept, 4]]


def test_a_log_on_a_full_disk_is_an_error_of_the_run(tmp_path: Path) -> None:
    run = make(tmp_path / "a")

    def log_too_much() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        with pytest.raises(RunError, match=r"cannot write .*samples.jsonl: File too large"):
            run.log("samples", {"completion": "x" * 1000})

    assert fork(log_too_much) == 0
    assert run.rewind({}) == []


def test_new_runs_are_numbered_by_the_day(tmp_path: Path) -> None:
    today = datetime.date.today().isoformat()
    base = tmp_path / "runs"
    assert new_run_path(base, "acme.mine") == base / f"acme.mine-{today}-1"
    for name in (f"mine-{today}-1", f"mine-{today}-10", f"mine-{today}-x", "mine-2000-01-01-99"):
        make(base / name)
    assert new_run_path(base, "mine") == base / f"mine-{today}-11"


def test_the_environment_says_what_results_depend_on_and_nothing_private() -> None:
    found = environment()
    text = json.dumps(found, allow_nan=False)
    import torch

    assert found["packages"]["torch"] == torch.__version__
    assert found["packages"]["trimtab"]
    assert found["threads"] == torch.get_num_threads()
    assert found["cpu"]
    assert os.uname().nodename not in text
    assert str(Path.home()) not in text

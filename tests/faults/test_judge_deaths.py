"""Labelling by an endpoint that is killed half-way: what was answered is not asked again."""

from __future__ import annotations

import json
import random
import threading
import time
import zlib
from contextlib import suppress
from signal import SIGKILL

import pytest
import warm
import yaml
from faults.commands import own, state_of
from judge_server import JudgeServer
from worlds import lines, write_rows

KEY = "sk-very-secret-4711"
AT_A_TIME = 3
PAIRS = 12


@pytest.fixture
def server():
    with JudgeServer().serving() as server:
        yield server


@pytest.fixture
def file(world, server, tmp_path):
    """Twelve pairs to label, four a step: 24 requests."""
    return labelling(world, server, tmp_path)


def labelling(world, server, home, **judge):
    rows = write_rows(home / "pairs.jsonl", pair, PAIRS)
    settings = {
        "model": {"name": str(world.model), "quantization": "none"},
        "data": {"train": str(rows)},
        "source": {"name": "labels", "by": "judge", "soft": True},
        "judge": {
            "name": "openai",
            "model": "small",
            "base_url": server.url,
            "api_key_env": "MY_KEY",
            "concurrency": AT_A_TIME,
            **judge,
        },
        "train": {"rows": 4},
    }
    file = home / "label.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


def pair(number):
    names = ("chosen", "rejected")
    return {"prompt": f"Say {number}.", **{name: f"{name} {number}" for name in names}}


def start(file, run, **more):
    begun = (run / "config.yaml").exists()
    words = ["resume", run] if begun else ["train", file, "--run", run]
    return warm.start(*words, **own(run), MY_KEY=KEY, **more)


def to_its_end(file, run, **more):
    ended = start(file, run, **more).end()
    assert ended.status == 0, ended.output


def kill(running):
    with suppress(ProcessLookupError):  # it may have ended by itself
        running.signal(SIGKILL)
    running.process.join()


def held_from(server, first):
    """Requests from this one on are held until the event is set, and then never answered."""
    dead = threading.Event()

    def hold(number, body):
        if number < first or dead.is_set():
            return None
        dead.wait()
        return "drop"

    server.faults = hold
    return dead


def until_held(server, running, first, at_a_time):
    """Until so many are held; then all earlier ones were read."""
    deadline = time.monotonic() + 60
    while len(server.asked) < first - 1 + at_a_time:
        assert time.monotonic() < deadline and running.process.exitcode is None
        time.sleep(0.01)


def data_of(run):
    return (run / "data/train.jsonl").read_bytes()


@pytest.mark.parametrize("cache", [pytest.param(None, marks=pytest.mark.slow), False])
def test_no_answered_request_is_sent_again(world, server, tmp_path, cache):
    """Requests from the 13th on are held, so all earlier ones were read by then; it is killed,
    and they are never answered."""
    file = labelling(world, server, tmp_path, cache=cache)
    dead = held_from(server, 13)
    running = start(file, tmp_path / "run")
    until_held(server, running, 13, AT_A_TIME)
    kill(running)
    dead.set()
    assert state_of(tmp_path / "run") == ("running", 1)
    assert sum(server.answered.values()) == 12
    to_its_end(file, tmp_path / "run")
    assert list(server.answered.values()) == [1] * 2 * PAIRS
    assert len(server.asked) == 2 * PAIRS + AT_A_TIME
    to_its_end(file, tmp_path / "whole")
    assert data_of(tmp_path / "run") == data_of(tmp_path / "whole")
    assert len(lines(tmp_path / "run/judge_requests.jsonl")) == 2 * PAIRS


@pytest.mark.slow
def test_a_training_that_the_judge_rewards_asks_nothing_again(world, server, tmp_path):
    """It dies within its third step. What that step samples again gets the answers it got."""
    changes = world.learning("grpo")
    judge = {"name": "openai", "model": "small", "base_url": server.url, "mode": "score"}
    changes |= {"reward": [{"name": "judge"}], "judge": {**judge, "concurrency": 1}}
    file = world.file(tmp_path / "run.yaml", **changes)
    server.answer = rated
    to_its_end(file, tmp_path / "whole")
    kept = lines(tmp_path / "whole/samples.jsonl")
    assert len({one["reward"] for one in kept}) > 2
    asked = list(server.answered)
    server.answered.clear()
    server.asked.clear()
    dead = held_from(server, len(asked) - 4)
    running = start(file, tmp_path / "run")
    until_held(server, running, len(asked) - 4, 1)
    kill(running)
    dead.set()
    to_its_end(file, tmp_path / "run")
    assert list(server.answered) == asked and set(server.answered.values()) == {1}
    assert lines(tmp_path / "run/samples.jsonl") == kept
    adapters = [tmp_path / run / "adapter/adapter_model.safetensors" for run in ("run", "whole")]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()


def rated(text):
    """A rating that follows from the text."""
    best = 1 + zlib.crc32(text.encode()) % 10
    return str(best), {str(n): -abs(n - best) - 1.0 for n in range(1, 11)}


@pytest.mark.slow
def test_whenever_it_is_killed_only_what_was_under_way_is_sent_again(file, server, tmp_path):
    to_its_end(file, tmp_path / "whole")
    drawn, run, kills = random.Random(0), tmp_path / "run", 0
    server.delay = 0.02
    server.answered.clear()
    while not (run / "data").exists():
        until = sum(server.answered.values()) + drawn.randrange(1, 8)
        running = start(file, run)
        while running.process.exitcode is None and sum(server.answered.values()) < until:
            running.process.join(0.001)
        kills += running.process.exitcode is None
        kill(running)
    repeated = sum(server.answered.values()) - 2 * PAIRS
    assert kills > 3 and 0 <= repeated <= kills * AT_A_TIME
    assert data_of(run) == data_of(tmp_path / "whole")


def test_a_budget_that_is_spent_stops_the_run_and_raised_it_goes_on(world, server, tmp_path):
    file = labelling(world, server, tmp_path, budget={"requests": 10})
    run = tmp_path / "run"
    ended = start(file, run).end()
    said = " ".join(ended.output.split())
    assert ended.status == 2 and "the run has paid for 10 requests" in said
    assert f"raise it in {run}/config.yaml, then: trimtab resume {run}" in said
    assert json.loads((run / "run.json").read_text())["state"] == "stopped"
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("requests: 10", "requests: 24"))
    to_its_end(file, run)
    assert list(server.answered.values()) == [1] * 2 * PAIRS


@pytest.mark.slow
def test_a_budget_is_of_all_stages_together(file, server, tmp_path):
    """The second asks otherwise: what quotes the texts follows from the seed."""
    settings = yaml.safe_load(file.read_text())
    settings["judge"]["budget"] = {"requests": 30}
    settings["stages"] = [{"name": "one"}, {"name": "other", "train": {"seed": 1}}]
    file.write_text(yaml.safe_dump(settings))
    run = tmp_path / "run"
    ended = start(file, run).end()
    said = " ".join(ended.output.split())
    assert ended.status == 2 and "the run has paid for 30 requests" in said
    assert f"raise it in {run}/config.yaml, then: trimtab resume {run}" in said
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("requests: 30", "requests: 48"))
    to_its_end(file, run)
    assert list(server.answered.values()) == [1] * 4 * PAIRS
    assert len(lines(run / "judge_requests.jsonl")) == 4 * PAIRS
    assert not list(run.glob("stages/*/judge_requests.jsonl"))


def test_the_key_is_in_no_file_of_a_run_or_its_cache_nor_in_a_traceback(file, server, tmp_path):
    server.faults = lambda n, body: "400" if n > 12 else None  # it repeats the key
    run = tmp_path / "run"
    ended = start(file, run, TRIMTAB_DEBUG="1", OPENAI_LOG="debug").end()
    assert ended.status != 0 and "Traceback" in ended.output and "[the key]" in ended.output
    server.faults = lambda n, body: None
    resumed = start(file, run, OPENAI_LOG="debug").end()
    assert resumed.status == 0, resumed.output
    assert server.keys == {f"Bearer {KEY}"}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 2 * PAIRS
    assert not any(KEY.encode() in path.read_bytes() for path in files)
    assert KEY not in ended.output + resumed.output

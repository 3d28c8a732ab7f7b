"""A stage that makes a data set: whole after any death, the same whoever makes it, and read on."""

from __future__ import annotations

import json
import random
import shutil
import signal
from pathlib import Path

import deaths
import making_toys
import pytest
from test_processes import two
from worlds import differences, lines

from trimtab import hookimpl, load_run_file, train
from trimtab.api import resume
from trimtab.core.errors import UserError
from trimtab.core.signals import Stopped
from trimtab.plugins.registry import Plugins

REWARD = [{"name": "function", "function": "rewarding:variety"}]


def candidates(world, path, **changes):
    """Seven prompts, three at a time, twice: six steps."""
    made = {
        "objective": None,
        "source": {"name": "candidates"},
        "reward": REWARD,
        "data": {"train": str(world.demonstrations), "eval": None, "holdout": 0.0},
        "rollout": {"group": 3, "max_new_tokens": 5},
        "train": {"rows": 3, "epochs": 2},
    }
    return world.file(path, **{**made, **changes})


def toys(world, path, options=None, **changes):
    """What needs no model: five steps of two rows."""
    made = {
        "objective": None,
        "plugins": [making_toys.__file__],
        "source": {"name": "toys.numbers", **(options or {})},
        "train": {"rows": 2, "epochs": None},
    }
    return world.file(path, **{**made, **changes})


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """A run that nothing interrupted."""
    home = tmp_path_factory.mktemp("making")
    return train(candidates(world, home / "run.yaml"), run=home / "whole")


def go(file: Path, run: Path) -> None:
    """Begin, or go on."""
    if (run / "config.yaml").exists():
        resume(run)
    else:
        train(file, run=run)


def assert_whole_after_death_at(event: int, whole: Path, run: Path) -> bool:
    file = whole.parent / "run.yaml"
    died = deaths.dies_at(event, lambda: go(file, run))
    assert deaths.fork(lambda: go(file, run)) == 0
    assert differences(run, whole) == []
    shutil.rmtree(run)
    return died


def test_a_death_leaves_nothing_out_and_nothing_twice(whole, tmp_path):
    assert assert_whole_after_death_at(52, whole, tmp_path / "run")


@pytest.mark.slow
def test_a_death_at_any_change_of_the_disk(world, tmp_path, record_property):
    """Of a run of five steps, from its first file to ``run.json`` at its end."""
    whole = train(toys(world, tmp_path / "run.yaml"), run=tmp_path / "whole")
    event = 1
    while assert_whole_after_death_at(event, whole, tmp_path / "run"):
        event += 1
    assert event > 100
    record_property("deaths", event - 1)


@pytest.mark.slow
def test_a_run_that_dies_again_and_again(whole, tmp_path):
    drawn, file, run = random.Random(0), whole.parent / "run.yaml", tmp_path / "run"
    deaths_so_far = 0
    while deaths.dies_at(drawn.randrange(20, 60), lambda: go(file, run)):
        deaths_so_far += 1
    assert deaths_so_far > 2 and differences(run, whole) == []


def test_the_steps_are_gone_when_the_data_is_whole(whole):
    assert not (whole / "made").exists()
    assert sorted(path.name for path in (whole / "data").iterdir()) == ["train.jsonl"]


def test_the_account_adds_up_and_the_card_says_it(whole):
    made = json.loads((whole / "data.json").read_text())["made"]
    rows, sampled = lines(whole / "data/train.jsonl"), lines(whole / "samples.jsonl")
    assert made["read"] == made["used"] + len(made["dropped"]) == 14
    assert made["written"] == len(rows) == made["used"] and made["steps"] == 6
    assert made["counts"]["completions"] == len(sampled) == 42
    left = sum("left_out" in sample for sample in sampled)
    assert sum(len(row["responses"]) for row in rows) <= 42 - left
    card = (whole / "README.md").read_text()
    assert f"{len(rows)} rows that Trimtab made with the source `candidates`" in card
    assert "14 rows read" in card and "- Reward: `function`" in card
    assert json.dumps(rows[0]["prompt"][0]["content"]) in card


def test_the_second_epoch_samples_anew(whole):
    responses = {}
    for row in lines(whole / "data/train.jsonl"):
        responses.setdefault(json.dumps(row["prompt"]), []).append(row["responses"])
    assert all(len(both) == 2 and both[0] != both[1] for both in responses.values())


class StopAfter:
    """Sends a signal after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    @hookimpl
    def step_ended(self, run, step, metrics):
        if step == self.step:
            signal.raise_signal(signal.SIGTERM)


def test_a_signal_stops_after_a_step_and_a_resume_goes_on_with_the_next(whole, tmp_path):
    file, run = whole.parent / "run.yaml", tmp_path / "run"
    with pytest.raises(Stopped, match="stopped after step 2 of 6; go on with: trimtab resume"):
        train(file, run=run, observers=[StopAfter(2)])
    state = json.loads((run / "run.json").read_text())
    assert (state["state"], state["step"]) == ("stopped", 2)
    assert not (run / "data").exists()
    resume(run)
    assert differences(run, whole) == []


def test_the_rows_do_not_depend_on_how_many_are_made_at_a_time(world, whole, tmp_path):
    other = candidates(world, tmp_path / "run.yaml", train={"rows": 5, "epochs": 2})
    run = train(other, run=tmp_path / "run")
    assert lines(run / "data/train.jsonl") == lines(whole / "data/train.jsonl")
    assert [one["completion"] for one in lines(run / "samples.jsonl")] == [
        one["completion"] for one in lines(whole / "samples.jsonl")
    ]


@pytest.mark.slow
def test_two_processes_make_the_rows_of_one(whole, tmp_path):
    run = tmp_path / "run"
    ended = two("train", whole.parent / "run.yaml", "--run", run)
    assert [each.status for each in ended] == [0, 0], ended
    assert differences(run, whole) == []


def test_a_failure_is_resumed_where_it_was(world, tmp_path):
    file = toys(world, tmp_path / "run.yaml", {"fails_at": 3, "until": str(tmp_path / "mended")})
    with pytest.raises(ValueError, match="out of luck"):
        train(file, run=tmp_path / "run")
    state = json.loads((tmp_path / "run/run.json").read_text())
    assert (state["state"], state["step"]) == ("failed", 3)
    (tmp_path / "mended").touch()
    rows = lines(resume(tmp_path / "run") / "data/train.jsonl")
    assert [row["completion"] for row in rows] == [f"it is {n}" for n in range(10)]
    assert [one["step"] for one in lines(tmp_path / "run/metrics.jsonl")] == [1, 2, 3, 4, 5]


def test_a_stage_that_waits_for_people_is_stopped_and_goes_on(world, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "Say:", "responses": [" one", " two"]}) + "\n")
    source = {"name": "labels", "by": "file"}
    data = {"train": str(rows), "eval": None, "holdout": 0.0}
    file = candidates(world, tmp_path / "run.yaml", source=source, data=data, reward=[], train={})
    run = tmp_path / "run"
    with pytest.raises(UserError, match="1 of 1 pairs have no label yet"):
        train(file, run=run)
    state = json.loads((run / "run.json").read_text())
    assert state["state"] == "stopped" and "no label yet" in state["error"]
    (asked,) = lines(run / "to_label.jsonl")
    (run / "labels.jsonl").write_text(json.dumps({"id": asked["id"], "winner": "b"}) + "\n")
    (made,) = lines(resume(run) / "data/train.jsonl")
    assert (made["chosen"], made["rejected"]) == (asked["b"], asked["a"])


def test_what_is_not_renewed_is_made_once_and_fewer_steps_are_said(world, tmp_path):
    said = Said()
    run = train(
        toys(world, tmp_path / "a.yaml", train={"rows": 2, "steps": 9, "epochs": None}),
        run=tmp_path / "a",
        observers=[said],
    )
    assert len(lines(run / "data/train.jsonl")) == 10 and said.notes == []
    few = toys(world, tmp_path / "b.yaml", train={"rows": 2, "steps": 2, "epochs": None})
    run = train(few, run=tmp_path / "b", observers=[said])
    assert len(lines(run / "data/train.jsonl")) == 4
    assert said.notes == ["2 of the 5 steps that go through all of the data"]


class Said:
    """Keeps the notes of a run."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    @hookimpl
    def noted(self, run, text):
        self.notes.append(text)


def test_other_data_under_a_run_that_goes_on_is_refused(world, tmp_path):
    file = toys(world, tmp_path / "run.yaml", {"fails_at": 3, "about": str(tmp_path / "about")})
    (tmp_path / "about").write_text("one")
    with pytest.raises(ValueError, match="out of luck"):
        train(file, run=tmp_path / "run")
    (tmp_path / "about").write_text("other")
    with pytest.raises(UserError, match="the data is not what the finished steps of this run"):
        resume(tmp_path / "run")


def test_a_maker_that_makes_nothing_says_why(world, tmp_path):
    file = toys(world, tmp_path / "run.yaml", {"drops": True})
    with pytest.raises(UserError) as raised:
        train(file, run=tmp_path / "run")
    assert str(raised.value) == "no row could be made: 10 read; 10 dropped, not wanted"


def test_running_statistics_are_refused(world, tmp_path):
    reward = [{**REWARD[0], "standardize": True}]
    with pytest.raises(UserError, match=r"reward.0.standardize: this takes off the running mean"):
        load_run_file(candidates(world, tmp_path / "run.yaml", reward=reward))


def test_rewards_that_a_maker_does_not_ask_may_have_running_statistics(world, tmp_path):
    reward = [{**REWARD[0], "standardize": True}]
    source = {"name": "selection", "by": "random", "budget": 3}
    load_run_file(candidates(world, tmp_path / "run.yaml", source=source, reward=reward))


def test_a_source_that_makes_no_data_set_wants_an_objective(world, tmp_path):
    with pytest.raises(UserError, match="makes no data set: name an objective"):
        file = candidates(world, tmp_path / "run.yaml", source={"name": "dataset"})
        train(file, run=tmp_path / "run")


def test_makers_are_listed_with_the_sources():
    assert {"candidates", "best", "selection", "labels"} <= set(Plugins().names("source"))

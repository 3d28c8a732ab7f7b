"""The source ``labels`` by a judge: who asks, what it costs, what was said, and whole runs."""

from __future__ import annotations

import json
from dataclasses import replace

import opinions
import pytest
from data_fixtures import turns
from judged_fixtures import GIVEN, AlwaysFirst, Letters, Shorter, figures, labelled, made_by
from maker_fixtures import ANSWERED, assert_all_accounted_for, opened, setting
from test_processes import two
from test_rollouts import OneOf
from worlds import differences, lines

from trimtab import Config, train
from trimtab.api import resume
from trimtab.core.errors import RunError, UserError, Waits
from trimtab.plugins.makers.labels import Labels, LabelsConfig


def test_a_judge_labels_and_its_abstentions_are_counted(tmp_path):
    rows = [
        {"prompt": turns(f"Question {n}?"), "responses": [f"a{n}", f"bb{n}"]} for n in range(5, 9)
    ]
    judge = Shorter(Config())
    made, steps = labelled(tmp_path, judge, rows=rows, soft=True, steps_of=9)
    assert {(row["preference"], row["annotator"]) for row in made} == {(0.8, "judge:shorter")}
    assert all(row["chosen"][0]["content"].startswith("a") for row in made) and len(made) == 3
    assert steps[0].dropped == [{"row": 3, "reason": "the judge abstained"}]
    assert steps[0].counts["the judge abstained"] == 1
    assert {one.prompt for one in judge.asked} == {f"Question {n}?" for n in range(5, 9)}


def test_a_row_that_is_dropped_says_why_the_judge_abstained(tmp_path):
    rows = [{"prompt": turns("Question?"), "responses": ["bb", "c"]}]
    made, steps = labelled(tmp_path, Letters(Config()), rows=rows)
    assert steps[0].dropped == [{"row": 1, "reason": "the judge abstained: no such letter"}]
    assert steps[0].counts["the judge abstained"] == 1 and not made


def test_two_processes_share_what_a_judge_is_asked(tmp_path):
    judge = Shorter(Config())
    given = setting(tmp_path, ANSWERED, judge=judge)
    config = LabelsConfig(by="judge", pairs="all", soft=True)
    whole = opened(Labels, config, given).make(None, 0, 5)
    shares, asked = [], []
    for rank in (0, 1):
        one = OneOf(rank)
        with pytest.raises(KeyError):
            opened(Labels, config, replace(given, processes=one)).make(None, 0, 5)
        shares.append(one.given[0])
        asked.append(len(judge.asked))
    assert asked == [3 * 3, 2 * 3]
    both = OneOf(1, [shares])
    assert opened(Labels, config, replace(given, processes=both)).make(None, 0, 5) == whole


def test_by_a_judge_the_best_is_the_one_that_wins_most(tmp_path):
    judge = Shorter(Config())
    rows = [
        {**row, "responses": [row["responses"][place] for place in places]}
        for row, places in zip(ANSWERED, ([0, 1, 2], [1, 2, 0], [2, 1, 0]), strict=False)
    ]
    made, _ = labelled(tmp_path, judge, rows=rows)
    assert [(row["chosen"][:2], row["rejected"][:2]) for row in made] == [(" a", " c")] * 3


def test_what_it_cost_is_added_up_over_processes(tmp_path):
    given = setting(tmp_path, ANSWERED, judge=Letters(Config()))
    config = LabelsConfig(by="judge", pairs="all")
    whole = opened(Labels, config, given).make(None, 0, 5)
    shares = []
    for rank in (0, 1):
        one = OneOf(rank)
        with pytest.raises(KeyError):
            opened(Labels, config, replace(given, processes=one)).make(None, 0, 5)
        shares.append(one.given[0])
    one = opened(Labels, config, replace(given, processes=OneOf(0, [shares])))
    asked = one.make(None, 0, 5)
    assert whole.counts["judge/requests"] == asked.counts["judge/requests"] == 30
    assert asked.metrics["judge/requests"] == 30


class Unreachable(Shorter):
    """Fails as it is told."""

    def compare(self, comparisons):
        raise self.failure


@pytest.mark.parametrize("kind", [RunError, UserError, Waits])
def test_a_judge_that_one_process_cannot_reach_stops_them_all(tmp_path, kind):
    """The others wait for what was said, and would wait for ever."""
    given = setting(tmp_path, ANSWERED, judge=Unreachable(Config()))
    given.judge.failure = kind("the judge cannot be reached")
    down = OneOf(0)
    with pytest.raises(kind, match="^the judge cannot be reached$"):
        opened(Labels, LabelsConfig(by="judge"), replace(given, processes=down)).make(None, 0, 5)
    up = replace(given, judge=Shorter(Config()), processes=OneOf(1, [[down.given[0]] * 2]))
    with pytest.raises(kind, match="^the judge cannot be reached$") as raised:
        opened(Labels, LabelsConfig(by="judge"), up).make(None, 0, 5)
    assert raised.type is kind


def test_a_judge_that_always_takes_the_first_labels_nothing_and_is_found_out(tmp_path):
    made, rows, steps = made_by(tmp_path, AlwaysFirst(Config()), pairs="all")
    assert rows == []
    assert_all_accounted_for(steps, 8)
    assert {one["reason"] for step in steps for one in step.dropped} == {"a tie"}
    assert all(step.metrics["judge/position_bias"] == 1 for step in steps)
    assert all(step.metrics["judge/agreement"] == 0 for step in steps)
    assert "none of 9 comparisons, with a position bias of 1: it goes by" in steps[0].notes[0]
    said = figures(made, steps)
    assert said["position_bias"]["value"] == said["position_bias"]["high"] == 1
    assert 0.7 < said["position_bias"]["low"] < 1 and said["position_bias"]["n"] == 24
    assert said["agreement"]["value"] == 0 and said["ties"]["value"] == 1
    assert said["asked"] == 24 and said["abstained"]["value"] == 0


def test_all_that_was_said_is_kept_row_by_row(tmp_path):
    _, steps = labelled(tmp_path, Letters(Config()), rows=GIVEN, soft=True)
    samples = sorted((one for step in steps for one in step.samples), key=lambda one: one["row"])
    assert [one["row"] for one in samples] == [1, 2, 3, 4, 5, 6]
    assert samples[3] == {
        "row": 4,
        "prompt": "Four:",
        "a": " bb",
        "b": " b",
        "first": None,
        "orders": [None, None],
        "said": ["neither"],
        "why": "no such letter",
        "principle": None,
        "weight": 1.0,
    }
    assert samples[0]["first"] == pytest.approx(2 / 3) and samples[0]["said"] == ["1", "2"]


def test_the_judge_is_described_by_what_it_says_of_itself(tmp_path):
    made, *_ = made_by(tmp_path, Letters(Config()))
    assert made.describe()["judged_by"] == {"name": "letters", "model": "none", "mode": "compare"}


# whole runs


def file_of(world, home, **judge):
    """Four preferences a movie, and a reward to compare the judge with."""
    return world.file(
        home / "run.yaml",
        plugins=[opinions.__file__],
        objective=None,
        source={"name": "labels", "by": "judge", "soft": True},
        judge={"name": "toys.opinions", "mode": "compare", "sharp": True, **judge},
        reward=[{"name": "function", "function": "rewarding:variety", "label": "variety"}],
        data={"train": str(world.pairs), "eval": None, "holdout": 0.0},
        train={"rows": 3, "epochs": None},
    )


def test_a_run_writes_down_the_judge_what_it_said_and_how_far_it_agrees(world, tmp_path):
    run = train(file_of(world, tmp_path), run=tmp_path / "run")
    found = json.loads((run / "data.json").read_text())
    rows, said = lines(run / "data/train.jsonl"), lines(run / "samples.jsonl")
    judge = found["judge"]
    assert found["judged_by"] == {"name": "toys.opinions", "model": "none", "mode": "compare"}
    assert judge["asked"] == judge["requests"] / 2 == len(said) == 7
    assert [one["step"] for one in said] == [1, 1, 1, 2, 2, 2, 3]
    assert set(judge["gold_agreement"]) == {"given", "variety"}
    ties = found["made"]["counts"].get("ties", 0)
    right = sum(row["given_preference"] for row in rows) + ties / 2
    assert judge["gold_agreement"]["given"]["value"] == pytest.approx(right / 7)
    metrics = lines(run / "metrics.jsonl")
    assert sum(record["judge/requests"] for record in metrics) == 14
    card = (run / "README.md").read_text()
    assert "- Judge: 7 verdicts, 14 requests" in card and "- Agreement with `given`: " in card
    assert "Sampled from" not in card and "or judged is in `samples.jsonl`" in card


def test_where_the_judge_is_down_the_run_goes_on_with_the_next_step(world, tmp_path):
    file = file_of(world, tmp_path, down_after=7, up=str(tmp_path / "up"))
    with pytest.raises(RunError, match="the judge cannot be reached"):
        train(file, run=tmp_path / "run")
    state = json.loads((tmp_path / "run/run.json").read_text())
    assert (state["state"], state["step"]) == ("failed", 1)
    (tmp_path / "up").touch()
    resume(tmp_path / "run")
    whole = train(file, run=tmp_path / "whole")
    assert differences(tmp_path / "run", whole) == []


@pytest.mark.slow
def test_two_processes_write_the_run_of_one(world, tmp_path):
    file = file_of(world, tmp_path)
    whole = train(file, run=tmp_path / "whole")
    ended = two("train", file, "--run", tmp_path / "run")
    assert [each.status for each in ended] == [0, 0], ended
    assert differences(tmp_path / "run", whole) == []

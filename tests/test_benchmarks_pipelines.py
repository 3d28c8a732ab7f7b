"""Benchmarks of whole pipelines: what is counted; and, with a tiny model, that they measure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import save_tiny

from trimtab import load_run_file
from trimtab.benchmarks.active_selection import ARMS, difference, marked
from trimtab.benchmarks.active_selection import main as active_selection
from trimtab.benchmarks.pipeline import main as pipeline
from trimtab.benchmarks.pipeline import models
from trimtab.plugins.registry import Plugins

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_critics_marks_are_rewards():
    assert marked([" good", "bad "], ["good", "good"]) == [1.0, 0.0]


def test_differences_are_paired_by_seed():
    def seed(active, random):
        return dict(zip(ARMS, ({"accuracy": active}, {"accuracy": random}), strict=True))

    found = difference([seed(0.7, 0.6), seed(0.5, 0.5), seed(0.8, 0.6)], "accuracy")
    # gaps 0.1, 0, 0.2: mean 0.1, deviation 0.1; t(0.975; 2) = 4.3027
    assert found["mean"] == pytest.approx(0.1)
    assert found["high"] - found["mean"] == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)
    assert difference([seed(0.7, 0.6)], "accuracy") == {"mean": pytest.approx(0.1)}


def test_every_model_of_a_stage_is_counted_once():
    registry = Plugins()
    plan = load_run_file(EXAMPLES / "instructgpt.yaml", [], registry)
    assert {stage.name: models(stage.run, registry) for stage in plan.stages} == {
        "sft": ["policy"],
        "rm": ["reward"],
        "ppo": ["policy", "critic", "reference", "proxy"],
    }


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(save_tiny(tmp_path_factory.mktemp("tiny")))


@pytest.mark.slow
def test_both_arms_get_as_many_labels(tiny, tmp_path):
    sizes = {"first": 8, "budget": 6, "pool": 24, "held_out": 16, "members": 2, "epochs": 1}
    out, home = tmp_path / "active.json", tmp_path / "runs"
    for _ in range(2):  # a finished run is read
        active_selection(home, tiny, seeds=1, rate=1e-3, longest=90, out=out, **sizes)
        record = json.loads(out.read_text())
        assert set(record["seeds"][0]) == {"first", *ARMS}
    rows = {
        arm: (home / f"seed-0/stages/labelled-{arm}/data/train.jsonl").read_text().splitlines()
        for arm in ARMS
    }
    assert [len(each) for each in rows.values()] == [14, 14]
    first = (home / "data-0/first.jsonl").read_text().splitlines()
    for each in rows.values():
        assert [json.loads(row) for row in each[:8]] == [json.loads(row) for row in first]
        assert all(json.loads(row)["chosen"] == json.loads(row)["fresh"] for row in each[8:])


@pytest.mark.slow
def test_each_stage_of_a_file_is_a_line_of_the_report(tiny, tmp_path):
    file = tmp_path / "two.yaml"
    file.write_text(
        json.dumps(
            {
                "model": {"name": tiny, "quantization": "none"},
                "data": {"train": "rotten-tomatoes/pairs", "eval_limit": 4},
                "objective": {"name": "reward_model"},
                "train": {"steps": 1, "rows": 2, "eval_samples": 2},
                "rollout": {"max_new_tokens": 2},
                "stages": [{"name": "one"}, {"name": "two", "objective": {"name": "dpo"}}],
            }
        )
    )
    out = tmp_path / "pipeline.json"
    pipeline(tmp_path / "run", file, out=out)
    record = json.loads(out.read_text())
    assert [stage["models"] for stage in record["stages"]] == [["reward"], ["policy", "reference"]]
    assert min(stage["seconds"] for stage in record["stages"]) > 0
    assert record["base"] > 0
    assert "| two | dpo |" in out.with_suffix(".md").read_text()

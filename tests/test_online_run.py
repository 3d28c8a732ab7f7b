"""A whole online run through the command line: what it logs, measures, keeps and goes on from."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import warm
from worlds import World, lines

SAMPLED = {"row", "prompt", "completion", "length", "truncated", "reward", "parts", "sample"}


def settings(world: World, **train: object) -> dict[str, object]:
    """Three steps of two groups of four."""
    return {
        "data": {
            "train": str(world.demonstrations),
            "eval": f"{world.demonstrations.with_suffix('')}-eval.jsonl",
        },
        "objective": {"name": "grpo", "beta": 0.1},
        "reward": [
            {"name": "function", "function": "rewarding:without_digits", "label": "variety"},
            {"name": "function", "function": "rewarding:short", "label": "short", "weight": 0},
        ],
        "rollout": {"group": 4, "max_new_tokens": 5, "max_unscored": 0.9},
        "train": {"epochs": None, "steps": 3, "rows": 8, "eval_samples": 64, **train},
    }


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    """A finished run."""
    home = tmp_path_factory.mktemp("online")
    ended = warm.trimtab(
        "train", world.file(home / "run.yaml", **settings(world)), "--run", home / "run"
    )
    assert ended.status == 0, ended.output
    (home / "said.txt").write_text(ended.output)
    return home / "run"


def test_metrics_are_of_what_was_sampled(run):
    metrics = lines(run / "metrics.jsonl")
    names = {
        *("step", "seconds", "tokens", "rows", "loss", "grad_norm", "learning_rate"),
        *("reward", "reward/variety", "reward/short", "length", "truncated", "entropy"),
        *("unscored", "kl_sequence", "kl_token", "seconds_rollout", "seconds_score"),
        *("seconds_annotate", "seconds_collect", "seconds_train"),
    }
    assert [record["step"] for record in metrics] == [1, 2, 3]
    assert all(names <= record.keys() for record in metrics)
    samples = lines(run / "samples.jsonl")
    for record in metrics:
        made = [s for s in samples if s["step"] == record["step"] and not s["held_out"]]
        rewards = [s["reward"] for s in made if s["reward"] is not None]
        assert len(made) == 8 and len(rewards) == record["rows"]
        assert record["unscored"] == pytest.approx(1 - len(rewards) / 8)
        assert (
            record["unscored/variety" if record["unscored"] else "unscored"]
            == (record["unscored"])
        )
        assert record["reward"] == pytest.approx(sum(rewards) / len(rewards))
        assert record["length"] == pytest.approx(sum(s["length"] for s in made) / 8)
        shorts = [s["parts"]["short"] for s in made]
        assert record["reward/short"] == pytest.approx(sum(shorts) / 8)
        assert 0 < record["entropy"] < math.log(384)


def test_samples_have_their_parts_advantage_and_kl(run):
    samples = [s for s in lines(run / "samples.jsonl") if not s["held_out"]]
    trained = [s for s in samples if s.get("trained", True)]
    assert all({*SAMPLED, "advantage", "kl_sequence", "step"} <= s.keys() for s in trained)
    assert all(s["parts"].keys() == {"variety", "short"} for s in samples)
    assert all(s["reward"] == s["parts"]["variety"] for s in samples), "short is only watched"
    assert [s["sample"] for s in sorted(samples, key=lambda s: s["sample"])] == list(range(24))
    left_out = [s for s in samples if not s.get("trained", True)]
    assert all(s["reward"] is None and s["why"] for s in left_out)
    for step in (1, 2, 3):
        groups = {s["sample"] // 4 for s in trained if s["step"] == step}
        for group in groups:
            rows = [s for s in trained if s["sample"] // 4 == group]
            assert sum(s["advantage"] for s in rows) == pytest.approx(0, abs=1e-4)
    first = [s["kl_sequence"] for s in trained if s["step"] == 1]
    assert first == pytest.approx([0.0] * len(first), abs=1e-4), "it starts at its reference"
    assert any(abs(s["kl_sequence"]) > 1e-3 for s in trained if s["step"] == 3)


def test_held_out_prompts_are_answered_and_scored(run):
    evals = lines(run / "evals.jsonl")
    assert [record["step"] for record in evals] == [0, 3]
    names = {"reward", "reward/variety", "reward/short", "unscored", "length", "truncated"}
    held_out = [s for s in lines(run / "samples.jsonl") if s["held_out"]]
    for record in evals:
        assert {*names, "entropy"} <= record.keys()
        made = [s for s in held_out if s["step"] == record["step"]]
        assert len(made) == 4 == record["unscored"]["n"] == record["reward/short"]["n"]
        rewards = [s["reward"] for s in made if s["reward"] is not None]
        assert record["reward"]["n"] == len(rewards)
        assert record["reward"]["value"] == pytest.approx(sum(rewards) / len(rewards))
        assert record["reward"]["low"] <= record["reward"]["value"] <= record["reward"]["high"]
        assert record["unscored"]["value"] == pytest.approx(1 - len(rewards) / 4)
        assert "kl_sequence" not in record, "four samples are too few to say one"


def test_what_was_read_and_the_card_name_the_rewards(run):
    account = json.loads((run / "data.json").read_text())
    assert account["kind"] == "prompts" and account["group"] == 4
    assert account["rewards"].keys() == {"variety", "short"}
    card = (run / "README.md").read_text()
    assert "- Rewards: `variety` (function, weight 1), `short` (function, only watched)" in card
    assert "- Rollouts: 4 completions of each prompt, of at most 5 tokens" in card
    assert "| reward/variety |" in card and "## Samples" in card
    assert card.count("- step 0") == card.count("- step 3") == 3


def test_it_tells_the_best_and_the_worst(run):
    said = (run.parent / "said.txt").read_text()
    assert "\nstep 1/3  loss " in said and "reward " in said and "\n  best " in said
    if any(s["reward"] is None for s in lines(run / "samples.jsonl") if not s["held_out"]):
        assert "reward variety: " in said


@pytest.mark.slow
def test_its_curves_are_drawn(run, tmp_path: Path):
    assert warm.trimtab("plot", run, "--out", tmp_path).status == 0
    files = {file.stem for file in tmp_path.iterdir()}
    assert {"overview", "reward", "reward-variety", "kl_sequence", "length", "entropy"} <= files


def test_an_offline_run_scores_its_answers_too(world, tmp_path):
    changes = {
        **world.learning("sft"),
        "reward": settings(world)["reward"],
        "train": {"epochs": None, "steps": 1, "eval_samples": 2},
    }
    file = world.file(tmp_path / "run.yaml", **changes)
    ended = warm.trimtab("train", file, "--run", tmp_path / "run")
    assert ended.status == 0, ended.output
    for record in lines(tmp_path / "run/evals.jsonl"):
        assert record["reward/short"]["n"] == 2 and "logp_token" in record
    card = (tmp_path / "run/README.md").read_text()
    assert "- Rewards: `variety`" in card and "- Rollouts" not in card

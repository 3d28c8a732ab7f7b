"""Runs that learn from pairs of what they sample: what they log, and that they stop and go on."""

from __future__ import annotations

import pytest
from test_online_resume import go
from wheels import SIMPO
from worlds import World, differences, lines, untimed

from trimtab.api import train
from trimtab.plugins.registry import Plugins

STEPS = 3
SOURCE = {"name": "rollout_pairs", "soft": True}


def settings(world: World, **changes):
    """Three steps of four pairs, each of one prompt, with dropout and a reference that follows."""
    online = world.learning("grpo")
    return {
        **online,
        "model": {"adapter": {"rank": 4, "dropout": 0.3}},
        "objective": {"name": "dpo", "beta": 0.5},
        "reference": {"name": "moving", "ema": 0.3},
        "source": SOURCE,
        "rollout": {"group": 3, "max_new_tokens": 5},
        "train": {**online["train"], "steps": STEPS, "checkpoint_every": 50, "keep": 1},
        **changes,
    }


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """A run that nothing stopped."""
    home = tmp_path_factory.mktemp("pairs")
    assert go(world.file(home / "run.yaml", **settings(world)), home / "run")
    return home / "run"


def test_a_step_logs_its_pairs_and_every_completion(whole):
    metrics = lines(whole / "metrics.jsonl")
    samples = [one for one in lines(whole / "samples.jsonl") if not one["held_out"]]
    assert [record["step"] for record in metrics] == [1, 2, 3]
    for record in metrics:
        own = [one for one in samples if one["step"] == record["step"]]
        assert len(own) == 4 * 3
        chosen = [one for one in own if one["chosen"]]
        rejected = [one for one in own if one["rejected"]]
        assert len(chosen) == len(rejected) == record["pairs"] == record["rows"]
        assert record["ties"] == 1 - record["pairs"] / 4
        gap = sum(one["reward"] for one in chosen) - sum(one["reward"] for one in rejected)
        assert record["gap"] == pytest.approx(gap / len(chosen))
        assert record["reward"] == pytest.approx(sum(one["reward"] for one in own) / 12)
        assert all(abs(one["kl_sequence"]) < 9 for one in chosen + rejected)
        assert {"margin", "accuracy", "length", "entropy", "unpaired"} <= record.keys()
    first = [one["kl_sequence"] for one in samples if one["step"] == 1 and one["chosen"]]
    assert first == pytest.approx([0.0] * len(first), abs=1e-4), "it starts at its reference"


def test_held_out_prompts_are_answered(whole):
    for record in lines(whole / "evals.jsonl"):
        assert {"reward", "length", "entropy", "truncated"} <= record.keys()


def test_stopped_before_every_step_it_comes_to_the_same_bits(whole, tmp_path):
    """Look 1 is at the start, 2 before a step, 3 before its update, and 4 before the next step."""
    file, run = whole.parent / "run.yaml", tmp_path / "run"
    stops = 0
    while not go(file, run, 4):
        stops += 1
    assert stops == STEPS - 1
    assert differences(run, whole) == []


def test_the_recipe_is_the_source_and_the_objective(world, whole, tmp_path):
    recipe = {"name": "online_dpo", "soft": True, "optimizer": {"name": "dpo", "beta": 0.5}}
    changes = {"objective": recipe, "source": None}
    assert go(world.file(tmp_path / "run.yaml", **settings(world, **changes)), tmp_path / "run")
    made, expected = (lines(run / "metrics.jsonl") for run in (tmp_path / "run", whole))
    assert [untimed(one) for one in made] == [untimed(one) for one in expected]


def test_a_strangers_objective_learns_from_them_unchanged(world, tmp_path):
    registry = Plugins(installed=False)
    registry.add_file(SIMPO / "src" / "trimtab_simpo" / "__init__.py")
    recipe = {"name": "online_dpo", "optimizer": {"name": "example.simpo", "beta": 1.5}}
    changes = {"objective": recipe, "source": None, "reference": {"name": "adapter_off"}}
    file = world.file(tmp_path / "run.yaml", **settings(world, **changes))
    run = train(file, tmp_path / "run", registry=registry)
    records = lines(run / "metrics.jsonl")
    assert len(records) == STEPS and all(one["grad_norm"] > 0 for one in records)

"""Whatever a reward does, what it cannot score is lost alone and counted; weights stay finite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import rewarding
from safetensors.torch import load_file
from worlds import lines

import trimtab
from trimtab.core.errors import RunError
from trimtab.plugins.registry import Plugins

ROWS = 6
SCALINGS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "grpo, by group": ("grpo", {"scale": "group"}, {}),
    "grpo, by batch": ("grpo", {"scale": "batch"}, {}),
    "grpo, unscaled": ("grpo", {"scale": "none"}, {}),
    "grpo, dynamic, standardized": ("grpo", {"dynamic": True}, {"standardize": True}),
    "rloo": ("rloo", {}, {}),
    "rloo, normalised": ("rloo", {"normalise": True}, {"standardize": True}),
    "reinforce_pp": ("reinforce_pp", {}, {}),
    "reinforce_pp, by group": ("reinforce_pp", {"baseline": "group"}, {"weight": 1000.0}),
    "ppo, whitened": ("ppo", {"whiten": True}, {}),
    "ppo, rewards whitened": ("ppo", {"whiten_rewards": True}, {}),
    "ppo, as they are": ("ppo", {"whiten": False}, {"weight": 1000.0}),
    "ppo, standardized": ("ppo", {}, {"standardize": True, "clip": [-1.0, 1.0]}),
}
QUICK = ("grpo, by group", "ppo, whitened")


def train(world: Any, home: Path, scaling: str, **rollout: Any) -> Path:
    """As many steps as there are faults, each with its own; all checkpoints are kept."""
    name, options, section = SCALINGS[scaling]
    settings = world.learning(name)
    function = {"function": "rewarding:faulty", "args": {"rows": ROWS}}
    steps = len(rewarding.FAULTS)
    steps_and_rows = {"epochs": None, "steps": steps, "rows": ROWS, "max_tries": 1}
    file = world.file(
        home / "run.yaml",
        **{
            **settings,
            "objective": {**settings["objective"], **options},
            "reward": [{"name": "function", **function, **section}],
            "rollout": {
                **settings["rollout"],
                "reward_timeout": 1.0,
                "max_unscored": 1,
                **rollout,
            },
            "train": {**steps_and_rows, "keep": steps, "eval_samples": 0},
        },
    )
    return trimtab.train(file, home / "run", registry=Plugins(installed=False))


def unscored(fault: str, samples: list[dict[str, Any]]) -> int:
    """How many of these completions such a fault must leave without a score."""
    bad = sum(rewarding.disliked(sample["completion"]) for sample in samples)
    return len(samples) if bad and fault in rewarding.OF_A_CALL else bad


@pytest.mark.parametrize(
    "scaling",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in SCALINGS],
)
def test_every_fault_is_counted_and_no_weight_is_ever_not_finite(world, tmp_path, scaling):
    run = train(world, tmp_path, scaling)
    records = lines(run / "metrics.jsonl")
    samples = [each for each in lines(run / "samples.jsonl") if not each["held_out"]]
    seen = 0
    for record, fault in zip(records, rewarding.FAULTS, strict=True):
        assert None not in record.values(), "a metric that is not finite is written as null"
        own = [sample for sample in samples if sample["step"] == record["step"]]
        without = [sample for sample in own if sample["reward"] is None]
        assert len(own) == ROWS
        assert len(without) == unscored(fault, own) == round(ROWS * record["unscored"]), fault
        assert all(sample["why"] for sample in without)
        assert record["rows"] <= ROWS - len(without)
        seen += bool(without)
        saved = run / f"checkpoints/step-{record['step']}/roles"
        for file in saved.iterdir():
            assert all(bool(each.isfinite().all()) for each in load_file(file).values())
    assert seen > len(rewarding.FAULTS) / 2
    assert any(record["rows"] for record in records)


@pytest.mark.parametrize(
    "name", ["grpo, by group", pytest.param("ppo, whitened", marks=pytest.mark.slow)]
)
def test_past_the_share_the_run_stops_with_the_last_error(world, tmp_path, name):
    with pytest.raises(RunError, match="could not be scored, .*max_unscored is 0. .*out of luck"):
        train(world, tmp_path, name, max_unscored=0.0)
    state = json.loads((tmp_path / "run/run.json").read_text())
    assert state["state"] == "failed" and "out of luck" in state["error"]

"""Whatever a reward does, no run saves a number that is not finite, and each fault is counted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from faulty_rewards import ACTIONS, FAULTS, is_bad
from safetensors.torch import load_file
from worlds import World, lines

from trimtab import train
from trimtab.core.errors import RunError

SCALINGS = {
    "plain": {},
    "standardized": {"standardize": True},
    "clipped": {"standardize": True, "clip": [-1.0, 1.0], "weight": 100.0},
}
FEW = [("grpo", "nan", "plain"), ("ppo", "raise", "clipped"), ("grpo", "hang", "standardized")]
ONLINE = ("grpo", "ppo", "rloo", "reinforce_pp")
ALL = [(o, f, s) for o in ONLINE for f in FAULTS for s in SCALINGS]


def run_with(
    world: World, home: Path, objective: str, fault: str, scaling: str, **rollout: object
):
    """A run of three steps with such a reward."""
    changes = world.learning(objective)
    function = {"function": "faulty_rewards:faulty", "args": {"kind": fault}}
    changes["reward"] = [{"name": "function", **function, **SCALINGS[scaling]}]
    limits = {"max_unscored": 1.0, "reward_timeout": 0.1 if fault == "hang" else 60.0}
    changes["rollout"] |= {"group": 4, **limits, **rollout}
    changes["train"] = {"epochs": None, "steps": 3, "rows": 8, "checkpoint_every": 1}
    train(world.file(home / "run.yaml", **changes), run=home / "run")
    return home / "run"


@pytest.mark.parametrize(
    ("objective", "fault", "scaling"),
    [pytest.param(*case, marks=[] if case in FEW else pytest.mark.slow) for case in ALL],
)
def test_no_fault_of_a_reward_reaches_the_weights(world, tmp_path, objective, fault, scaling):
    run = run_with(world, tmp_path, objective, fault, scaling)
    for file in run.rglob("*.safetensors"):
        for name, tensor in load_file(file).items():
            assert bool(tensor.isfinite().all()), (file, name)
    samples = [s for s in lines(run / "samples.jsonl") if not s["held_out"]]
    assert len(samples) == 24
    for record in lines(run / "metrics.jsonl"):
        made = [s for s in samples if s["step"] == record["step"]]
        unscored = [s for s in made if s["reward"] is None]
        assert record["unscored"] == pytest.approx(len(unscored) / 8)
        assert record["rows"] == 8 - len(unscored)
        assert all(s["why"].startswith("function: ") for s in unscored)
        bad = [s for s in made if is_bad(s["completion"], 3)]
        if fault in ACTIONS[2:]:  # nothing of such a call can be trusted
            assert len(unscored) == (8 if bad else 0) or fault == "hang"
        else:
            assert [s["sample"] for s in unscored] == [s["sample"] for s in bad]


def test_a_run_stops_when_a_reward_fails_too_often(world, tmp_path):
    with pytest.raises(RunError, match="could not be scored, and rollout.max_unscored is 0") as e:
        run_with(world, tmp_path, "grpo", "raise", "plain", max_unscored=0.0)
    assert "it raised ValueError: a bad completion" in str(e.value)
    assert not list(tmp_path.rglob("checkpoints/step-1"))


def test_a_function_is_found_from_wherever_a_run_is_resumed(world, tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    (work / "beside_the_run.py").write_text(
        "def f(completions, **_):\n    return [float(len(c)) for c in completions]\n"
    )
    monkeypatch.chdir(work)
    changes = world.learning("grpo")
    changes["reward"] = [{"name": "function", "function": "beside_the_run:f"}]
    changes["train"] = {"epochs": None, "steps": 1}
    run = train(world.file(tmp_path / "run.yaml", **changes), run=tmp_path / "run")
    assert f"folder: {os.fspath(work)}" in (Path(run) / "config.yaml").read_text()

"""What a run does when numbers, memory or what it starts from are bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import troubled
import warm
import yaml
from safetensors.torch import load_file, save_file
from tiny import relative
from worlds import differences, pair, write_rows

from trimtab import load_run_file
from trimtab.core.build import build
from trimtab.core.errors import RunError
from trimtab.core.processes import Processes
from trimtab.core.run import Run
from trimtab.core.rundir import RunDirectory
from trimtab.core.saving import save
from trimtab.plugins.registry import Plugins

ADAPTER = "adapter/adapter_model.safetensors"


def train(file: Path, run: Path, status: int = 0, **environment: str) -> str:
    cache = {"TRIMTAB_CACHE": str(run.parent / "cache")}
    ended = warm.trimtab("train", file, "--run", run, **cache, **environment)
    assert ended.status == status, ended.output
    return ended.output


def state_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())


def trouble(rows: list[int], value: str = "inf") -> dict[str, Any]:
    """The changes that make the loss of these rows not finite."""
    return {
        "plugins": [troubled.__file__],
        "objective": {"name": "troubled.loss", "rows": rows, "value": value},
    }


@pytest.mark.parametrize("value", [pytest.param("inf", marks=pytest.mark.slow), "nan"])
def test_rows_that_are_not_finite_are_named_and_nothing_is_changed(world, tmp_path, value):
    run, sound = tmp_path / "run", tmp_path / "sound"
    train(world.file(tmp_path / "sound.yaml", **trouble([])), sound)
    said = train(world.file(tmp_path / "run.yaml", **trouble([5, 7], value)), run, status=1)
    # The order of an epoch follows from the seed: the first batch of four has row 5, not row 7.
    assert f"the loss is {value}" in said
    assert "Rows that are not finite: 5." in said
    state = state_of(run)
    assert (state["state"], state["step"]) == ("failed", 0)
    assert state["error"].startswith("NotFinite: ") and state["error"][11:] in said
    assert not list((run / "checkpoints").iterdir()) and not (run / "adapter").exists()

    config = yaml.safe_load((run / "config.yaml").read_text())
    config["objective"]["rows"] = []
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    resumed = warm.trimtab("resume", run, TRIMTAB_CACHE=str(tmp_path / "cache"))
    assert resumed.status == 0, resumed.output
    assert set(differences(run, sound)) <= {"config.source.yaml", "config.yaml"}


def test_a_fault_in_a_later_step_keeps_the_earlier_ones(world, tmp_path):
    run = tmp_path / "run"
    said = train(world.file(tmp_path / "run.yaml", **trouble([7])), run, status=1)
    assert "Rows that are not finite: 7." in said
    assert (state_of(run)["state"], state_of(run)["step"]) == ("failed", 1)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-1"]


def test_weights_that_are_not_finite_are_never_saved(world, tmp_path):
    registry = Plugins()
    file = load_run_file(world.file(tmp_path / "run.yaml"), (), registry).stages[0].run
    directory = RunDirectory.create(tmp_path / "run", "", "", {})
    run, parts = Run(file, directory, registry), build(file, registry, Processes())
    save(run, parts, None, 1)
    with torch.no_grad():
        parts.model.roles.parameters("policy")[0][0, 0] = torch.inf
    with pytest.raises(RunError, match=r"step 2 left .* not finite. It is not saved: lower"):
        save(run, parts, None, 2)
    assert [path.name for path in directory.checkpoints.iterdir()] == ["step-1"]


def test_a_start_that_is_not_finite_is_refused(world, tmp_path):
    first = tmp_path / "first"
    train(world.file(tmp_path / "first.yaml"), first)
    weights = load_file(first / ADAPTER)
    name = min(weights)
    weights[name][0, 0] = torch.nan
    save_file(weights, first / ADAPTER, metadata={"format": "pt"})
    second = world.file(tmp_path / "second.yaml", model={"start": str(first)})
    said = train(second, tmp_path / "second", status=2)
    assert "model.start" in said and "is not finite" in said
    assert state_of(tmp_path / "second")["state"] == "failed"


def test_out_of_memory_halves_the_micro_batch_and_goes_on(world, tmp_path):
    """Under a real limit, which is set when the run has loaded its model."""
    rows = write_rows(tmp_path / "rows.jsonl", pair, 120)
    file = world.file(
        tmp_path / "run.yaml",
        plugins=[troubled.__file__],
        data={"train": str(rows)},
        train={"epochs": None, "steps": 2, "rows": 120, "micro_tokens": 16000},
    )
    train(file, tmp_path / "free")
    said = train(file, tmp_path / "short", MEGABYTES="24")
    free, short = (
        yaml.safe_load((tmp_path / name / "config.yaml").read_text())["train"]["micro_tokens"]
        for name in ("free", "short")
    )
    assert free == 16000 and short in {16000 >> halvings for halvings in range(1, 12)}
    assert f"out of memory: micro_tokens is {short} from here on" in said
    one, other = (load_file(tmp_path / name / ADAPTER) for name in ("free", "short"))
    assert all(relative(one[name], other[name]) <= 1e-5 for name in one)

"""Stages: each starts from what an earlier one made, and none is run twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import interrupting
import pytest
import warm
import yaml
from worlds import World, differences, lines, whole_state

from trimtab.core.paths import absolute
from trimtab.core.runfile import load
from trimtab.plugins.registry import Plugins

STEPS = 2


@pytest.fixture(scope="module")
def file(world, tmp_path_factory):
    """Two steps on demonstrations, then two on pairs from there."""
    shared = world.settings(train={"epochs": 1}, plugins=[interrupting.__file__])
    shared |= {"data": world.demonstrating()["data"], "objective": {"name": "sft"}}
    pairs = {key: world.settings()[key] for key in ("data", "objective")}
    second = {"name": "prefer", "model": {"start": "stages.imitate"}, **pairs}
    stages = [{"name": "imitate"}, {**second, "train": {"learning_rate": 0.005}}]
    path = tmp_path_factory.mktemp("stages") / "run.yaml"
    path.write_text(yaml.safe_dump({**shared, "stages": stages}))
    return path


@pytest.fixture(scope="module")
def whole(file):
    """Both stages, never interrupted."""
    return train(file, file.parent / "run")


def train(file: Path, run: Path, *words: str, status: int = 0, interrupt: str = "0:") -> Path:
    ended = warm.trimtab("train", file, "--run", run, *words, **own(run, interrupt))
    assert ended.status == status, ended.output
    return run


def resume(run: Path) -> str:
    ended = warm.trimtab("resume", run, **own(run, "0:"))
    assert ended.status == 0, ended.output
    return ended.output


def own(run: Path, interrupt: str) -> dict[str, str]:
    return {"TRIMTAB_CACHE": str(run.parent / "cache"), "INTERRUPT": interrupt}


def state_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())


def test_each_stage_is_a_run_directory(whole):
    assert state_of(whole) == {"state": "finished", "step": 2 * STEPS, "error": None}
    assert sorted(path.name for path in (whole / "stages").iterdir()) == ["imitate", "prefer"]
    for name in ("imitate", "prefer"):
        stage = whole / "stages" / name
        assert state_of(stage) == {"state": "finished", "step": STEPS, "error": None}
        assert [record["step"] for record in lines(stage / "metrics.jsonl")] == [1, 2]
        assert (stage / "adapter/adapter_model.safetensors").is_file()


def test_the_start_is_the_reference(whole):
    second = whole / "stages/prefer"
    first = lines(second / "metrics.jsonl")[0]
    assert (first["margin"], first["logratio_chosen"], first["logratio_rejected"]) == (0, 0, 0)
    start, *_, end = lines(second / "evals.jsonl")
    assert start["margin"]["value"] == 0 and end["margin"]["value"] != 0
    plain, taught = (
        record["logp_token"]["value"] for record in lines(whole / "stages/imitate/evals.jsonl")
    )
    assert start["logp_token_chosen"]["value"] == pytest.approx(taught)
    assert abs(taught - plain) > 0.1


@pytest.mark.parametrize(
    "interrupt, status",
    [pytest.param("1:SIGTERM", 143, marks=pytest.mark.slow), ("1:SIGKILL", -9)],
)
def test_a_stop_in_the_first_stage(file, whole, tmp_path, interrupt, status):
    run = train(file, tmp_path / "run", status=status, interrupt=interrupt)
    assert not (run / "stages/prefer").exists()
    resume(run)
    assert differences(run, whole) == []


def test_a_stop_in_a_stage_says_that_the_pipeline_is_to_be_resumed(file, tmp_path):
    run = tmp_path / "run"
    ended = warm.trimtab("train", file, "--run", run, **own(run, "1:SIGTERM"))
    assert f"go on with: trimtab resume {run}\n" in ended.output


def test_a_signal_in_the_last_step_of_a_stage_starts_no_other(file, whole, tmp_path):
    run = train(file, tmp_path / "run", status=143, interrupt=f"{STEPS}:SIGTERM")
    assert state_of(run / "stages/imitate")["state"] == "finished"
    assert state_of(run) == {**state_of(run), "state": "stopped", "step": STEPS}
    assert not (run / "stages/prefer/metrics.jsonl").exists()
    resume(run)
    assert differences(run, whole) == []


def test_a_death_in_the_second_stage(file, whole, tmp_path):
    run = tmp_path / "run"
    train(file, run, status=143, interrupt=f"{STEPS}:SIGTERM")
    ended = warm.trimtab("resume", run, **own(run, "1:SIGKILL"))
    assert ended.status == -9
    first = whole_state(run / "stages/imitate")
    written = (run / "stages/imitate/metrics.jsonl").stat().st_mtime_ns
    assert "imitate is finished: nothing is left to do" in resume(run)
    assert whole_state(run / "stages/imitate") == first
    assert (run / "stages/imitate/metrics.jsonl").stat().st_mtime_ns == written
    assert differences(run, whole) == []


def test_a_run_that_was_moved_goes_on(file, whole, tmp_path):
    run = tmp_path / "run"
    train(file, run, status=143, interrupt=f"{STEPS}:SIGTERM")
    moved = run.rename(tmp_path / "moved")
    resume(moved)
    adapter = "stages/prefer/adapter/adapter_model.safetensors"
    assert (moved / adapter).read_bytes() == (whole / adapter).read_bytes()
    shutil.move(moved, run)
    measured = warm.trimtab("evaluate", run, "--json")
    assert measured.status == 0, measured.output
    found = json.loads(measured.output)
    assert (found["run"], found["step"]) == (str(run / "stages/prefer"), STEPS)
    last = lines(run / "stages/prefer/evals.jsonl")[-1]
    assert found["measures"]["loss"]["value"] == pytest.approx(last["loss"]["value"], rel=1e-5)


def test_stages_can_be_overridden(file, tmp_path):
    changed = ["--set", "stages.prefer.objective.beta=0.5", "--set", "train.learning_rate=0.001"]
    run = train(file, tmp_path / "run", *changed)
    settings = [
        yaml.safe_load((run / f"stages/{name}/config.yaml").read_text())
        for name in ("imitate", "prefer")
    ]
    assert settings[1]["objective"]["beta"] == 0.5
    assert [each["train"]["learning_rate"] for each in settings] == [0.001, 0.005]


def test_local_paths_are_kept_absolute_those_of_plugins_too(tmp_path, monkeypatch):
    world = World.make(tmp_path)
    monkeypatch.chdir(tmp_path)
    relative = {
        "model": {"name": "model"},
        "data": {"train": "pairs.jsonl", "eval": "owner/name"},
        "reference": {"name": "model", "model": "model"},
    }
    plugins = Plugins()
    asked = load(world.file(tmp_path / "relative.yaml", **relative), (), plugins).stages[0].run
    file = absolute(asked, plugins)
    assert file.model.name == file.reference.options["model"] == str(world.model)
    assert (file.data.train, file.data.eval) == (str(world.pairs), "owner/name")


def test_a_file_of_labels_that_is_not_there_yet_is_awaited_where_the_run_was_started(
    tmp_path, monkeypatch
):
    world = World.make(tmp_path)
    monkeypatch.chdir(tmp_path)
    settings = world.settings(source={"name": "labels", "by": "file", "file": "labels.jsonl"})
    del settings["objective"]
    plugins = Plugins()
    written = tmp_path / "file.yaml"
    written.write_text(json.dumps(settings))
    asked = load(written, (), plugins).stages[0].run
    source = absolute(asked, plugins).source
    assert source is not None
    assert source.options["file"] == str(tmp_path.resolve() / "labels.jsonl")

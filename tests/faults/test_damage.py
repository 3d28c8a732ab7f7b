"""Damaged files of a run are refused by name, or what they held is recovered: never in silence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import warm
from faults import damages
from faults.commands import mostly_slow, own, resume, state_of
from safetensors.torch import load_file, save_file
from worlds import differences

from trimtab import load_run_file
from trimtab.core.errors import UserError
from trimtab.core.pipeline import resolved
from trimtab.core.rundir import RunDirectory
from trimtab.core.runfile import dump_plan
from trimtab.plugins.registry import Plugins

CHECKPOINT = (
    "MANIFEST.json",
    "optimizer.json",
    "optimizer.safetensors",
    "roles/policy.safetensors",
    "run.json",
)
ADAPTER = "adapter/adapter_model.safetensors"


def refused(run: Path, status: int) -> str:
    """What a resume says that is refused."""
    ended = warm.trimtab("resume", run, **own(run))
    assert ended.status == status, ended.output
    assert "Traceback" not in ended.output and "a fault of trimtab" not in ended.output
    return " ".join(ended.output.split())


def test_the_files_of_a_checkpoint(stopped):
    for step in (2, 3):
        folder = stopped / f"checkpoints/step-{step}"
        found = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
        assert sorted(found) == sorted(CHECKPOINT)


SOME = [("optimizer.safetensors", damages.flipped), ("MANIFEST.json", damages.swapped)]


@pytest.mark.parametrize(
    "name, damage",
    [*mostly_slow(*((name, damage) for name in CHECKPOINT for damage in damages.ALL), quick=SOME)],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(run, whole, name, damage):
    checkpoints = run / "checkpoints"
    damage(checkpoints / "step-3" / name, checkpoints / "step-2" / name)
    said = resume(run)
    assert f"{checkpoints / 'step-3'} is damaged: " in said
    assert "resumed from step 2" in said
    assert differences(run, whole) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKPOINT)
@pytest.mark.parametrize("damage", damages.EXCEPT_SWAPPED)
def test_without_a_checkpoint_that_verifies_the_run_starts_again(run, whole, name, damage):
    for step in (2, 3):
        damage(run / f"checkpoints/step-{step}" / name, run)
    said = resume(run)
    assert said.count("is damaged: ") == 2
    assert "no checkpoint verifies: the run starts again" in said
    assert differences(run, whole) == []


@pytest.mark.parametrize(
    "damage, status, said",
    [
        (damages.missing, 2, "is not a run directory: it has no config.yaml"),
        (damages.empty, 2, "data"),
        (damages.halved, 2, "config.yaml"),
    ],
)
def test_a_damaged_config_is_refused(run, damage, status, said):
    before = (run / "run.json").read_text()
    damage(run / "config.yaml", run)
    assert said in refused(run, status)
    assert (run / "run.json").read_text() == before


def test_a_checkpoint_of_another_version_is_refused(run):
    file = run / "checkpoints/step-3/run.json"
    state = json.loads(file.read_text())
    del state["shards"]
    file.write_text(json.dumps(state))
    damages.resealed(file.parent, "run.json")
    assert "run.json lacks shards: another version of trimtab has saved it" in refused(run, 1)


def prefixes(text: str, step: int) -> Iterator[str]:
    """What is left of a text that is cut off, down to its last line."""
    last = text.rstrip("\n").rindex("\n") + 1
    yield from (text[:length] for length in range(0, last, step))


def assert_cut_off_is_refused(run: Path, step: int) -> None:
    file, registry = run / "config.yaml", Plugins()
    text = file.read_text()
    resolved(RunDirectory(run), registry)
    for prefix in prefixes(text, step):
        file.write_text(prefix)
        with pytest.raises(UserError):
            resolved(RunDirectory(run), registry)
    file.write_text(text)


@pytest.mark.parametrize("step", [197, pytest.param(1, marks=pytest.mark.slow)])
def test_a_config_cut_off_anywhere_is_refused(run, step):
    assert_cut_off_is_refused(run, step)


@pytest.mark.parametrize("step", [197, pytest.param(1, marks=pytest.mark.slow)])
def test_a_config_of_stages_cut_off_anywhere_is_refused(world, tmp_path, step):
    """Between two stages too, where what is left is a run file by itself."""
    stages = [{"name": "first", **world.learning("sft")}, {"name": "second"}]
    plan = load_run_file(world.file(tmp_path / "run.yaml", stages=stages))
    run = RunDirectory.create(tmp_path / "run", dump_plan(plan), plan.text, {})
    assert_cut_off_is_refused(run.path, step)


def test_a_config_that_says_something_else_is_noted(run):
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("learning_rate: 0.01", "learning_rate: 0.03"))
    said = resume(run)
    assert "config.yaml has changed since step 3: train.learning_rate is 0.03 and was 0.01" in said


@pytest.mark.parametrize(
    "damage",
    mostly_slow(damages.missing, damages.empty, damages.halved, quick=[damages.halved]),
)
def test_a_damaged_run_json_is_refused_and_can_be_deleted(run, whole, damage):
    file = run / "run.json"
    damage(file, run)
    if file.exists():
        said = refused(run, 1)
        assert "run.json does not say how the run stands" in said
        assert "delete it, then resume" in said
        file.unlink()
    resume(run)
    assert differences(run, whole) == []


@pytest.mark.slow
def test_no_flipped_bit_of_run_json_changes_what_a_run_comes_to(run, whole):
    """Either it is refused, or it says something of the past that a resume replaces."""
    content = (run / "run.json").read_bytes()
    statuses = []
    for position in range(0, len(content) * 8, 37):
        damaged = bytearray(content)
        damaged[position // 8] ^= 1 << position % 8
        (run / "run.json").write_bytes(damaged)
        ended = warm.trimtab("resume", run, **own(run))
        statuses.append(ended.status)
        assert ended.status in (0, 1), ended.output
        if ended.status == 0:
            assert differences(run, whole) == []
    assert set(statuses) == {0, 1}


def test_a_run_that_says_finished_without_a_result_goes_on(run, whole):
    state = json.loads((whole / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(state))
    assert "resumed from step 3" in resume(run)
    assert differences(run, whole) == []


def test_half_a_line_after_the_checkpoint_is_cut_off(run, whole):
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "seconds": 0.1, "lo')
    resume(run)
    assert differences(run, whole) == []


@pytest.mark.parametrize(
    "damage",
    mostly_slow(damages.missing, damages.empty, damages.halved, quick=[damages.halved]),
)
def test_lost_lines_of_a_log_are_told_and_the_weights_are_the_same(run, whole, damage):
    damage(run / "metrics.jsonl", run)
    said = resume(run)
    assert (
        "metrics.jsonl should have" in said and "lines from before the checkpoint are lost" in said
    )
    assert differences(run, whole) == ["metrics.jsonl"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["data.json", "env.json", "config.source.yaml", "run.lock"])
def test_what_only_informs_may_be_missing(run, whole, name):
    (run / name).unlink()
    resume(run)
    assert set(differences(run, whole)) <= {name}


@pytest.mark.parametrize("damage", mostly_slow(*damages.EXCEPT_SWAPPED, quick=[damages.flipped]))
def test_a_damaged_reference_cache_json_is_refused_or_told(run, whole, damage):
    file = run / "reference_cache.json"
    damage(file, run)
    ended = warm.trimtab("resume", run, **own(run))
    said = " ".join(ended.output.split())
    if damage in (damages.empty, damages.halved):
        assert ended.status == 1 and "reference_cache.json is" in said
    if ended.status:
        assert ended.status == 1 and "Delete it, then resume" in said
        file.unlink()
        resume(run)
    else:
        assert damage is damages.missing or "the reference cache has lost" in said
    assert differences(run, whole) == []


@pytest.mark.parametrize("key, name", [("run_id", "1`2"), ("visible", ["../1-0.safetensors"])])
def test_a_reference_cache_json_with_no_such_name_is_refused(run, key, name):
    file = run / "reference_cache.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: name}))
    ended = warm.trimtab("resume", run, **own(run))
    assert ended.status == 1 and "Delete it, then resume" in " ".join(ended.output.split())


def shards(run: Path) -> list[Path]:
    return sorted(Path(own(run)["TRIMTAB_CACHE"]).rglob("*.safetensors"))


@pytest.mark.parametrize("damage", mostly_slow(*damages.ALL, quick=[damages.flipped]))
def test_a_damaged_shard_of_the_reference_cache_is_told_and_never_used(run, whole, damage):
    first, last = shards(run)[0], shards(run)[-1]
    assert first != last
    rows = load_file(last)
    rows["values"] += 1
    other = run.parent / "other.safetensors"
    save_file(rows, other)
    damage(first, other)
    said = resume(run)
    assert f"{first.name}" in said and "computed again" in said
    assert differences(run, whole) == []


def test_a_death_in_the_finish_leaves_no_half_of_an_adapter(run, whole, tmp_path):
    """What a death leaves there has another name; a half of one under that name is replaced."""
    staged = run / ".staging-adapter-0123abcd"
    shutil.copytree(whole / "adapter", staged)
    shutil.copytree(whole / "adapter", run / "adapter")
    for folder in (staged, run / "adapter"):
        damages.halved(folder / "adapter_model.safetensors", run)
    resume(run)
    assert not staged.exists()
    assert differences(run, whole) == []


@pytest.mark.parametrize(
    "name, damage, said",
    mostly_slow(
        ("adapter_model.safetensors", damages.missing, "holds no adapter_model.safetensors"),
        ("adapter_model.safetensors", damages.empty, "cannot be read"),
        ("adapter_model.safetensors", damages.halved, "cannot be read"),
        ("adapter_config.json", damages.missing, "holds no PEFT adapter"),
        ("adapter_config.json", damages.empty, "holds no PEFT adapter"),
        ("adapter_config.json", damages.halved, "holds no PEFT adapter"),
        quick=[("adapter_model.safetensors", damages.halved, "cannot be read")],
    ),
)
def test_a_damaged_adapter_is_no_start(world, whole, tmp_path, name, damage, said):
    adapter = shutil.copytree(whole / "adapter", tmp_path / "start")
    damage(adapter / name, adapter)
    file = world.file(tmp_path / "run.yaml", model={"start": str(adapter)})
    ended = warm.trimtab("train", file, "--run", tmp_path / "run")
    assert ended.status == 2 and said in ended.output, ended.output
    assert state_of(tmp_path / "run") == ("failed", 0)

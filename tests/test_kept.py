"""A run file that changed: what comes out the same is kept, the rest is moved aside, none lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import deaths
import pytest
from pipelines import STAGES, changed, on_disk, pipeline, write
from worlds import World, differences, lines, whole_state

from trimtab.api import resume, train
from trimtab.core.errors import UserError
from trimtab.core.kept import keep
from trimtab.core.paths import absolute
from trimtab.core.rundir import RunDirectory
from trimtab.core.runfile import load
from trimtab.plugins.registry import Plugins

PLUGINS = Plugins()
LATER = {"picked", "imitate", "improve"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The whole pipeline, in a world of its own."""
    home = tmp_path_factory.mktemp("made")
    train(write(home / "run.yaml", pipeline(World.make(home))), home / "run", registry=PLUGINS)
    return home


@pytest.fixture
def settings(made):
    names = ("model", "pairs.jsonl", "demonstrations.jsonl", "labels.jsonl")
    return pipeline(World(made, *(made / name for name in names)))


@pytest.fixture
def run(made, tmp_path):
    """A copy of it, elsewhere."""
    shutil.copytree(made / "run", tmp_path / "run")
    return tmp_path / "run"


def kept(run: Path, settings: dict[str, Any]) -> tuple[set[str], list[str]]:
    """The stages that are there by these settings, and what is said of the others."""
    plan = load(write(run.parent / "run.yaml", settings), (), PLUGINS)
    files = {str(stage.name): absolute(stage.run, PLUGINS) for stage in plan.stages}
    said: list[str] = []
    keep(run, files, PLUGINS, said.append)
    return names(run / "stages"), said


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def everything(run: Path) -> list[Any]:
    """Which files there are, wherever they lie."""
    files = [path for path in run.rglob("*") if path.is_file() and path.name != "run.lock"]
    return sorted((path.name, path.stat().st_ino, path.stat().st_mtime_ns) for path in files)


def test_what_is_unchanged_is_kept_wherever_it_lies(run, settings):
    before = everything(run)
    assert kept(run, settings) == (set(STAGES), [])
    assert everything(run) == before and not (run / "replaced").exists()


def test_what_depends_on_an_option_is_moved_aside_and_nothing_else(run, settings):
    before = everything(run)
    there, said = kept(run, changed(settings, "picked", "source", share=0.5))
    assert there == {"scores"}
    assert names(run / "replaced") == {f"{name}-1" for name in LATER}
    assert any("picked-1: source.share: 1.0 -> 0.5" in text for text in said)
    assert any("imitate-1: the stage that data.train names" in text for text in said)
    assert everything(run) == before


def test_what_was_moved_aside_is_taken_back_by_the_options_that_made_it(run, settings):
    before = {name: on_disk(run, name) for name in STAGES}
    other = changed(settings, "picked", "source", share=0.5)
    for _ in range(2):
        kept(run, other)
        there, said = kept(run, settings)
        assert there == set(STAGES) and names(run / "replaced") == set()
        assert len([text for text in said if "is taken back from" in text]) == 3
    assert {name: on_disk(run, name) for name in STAGES} == before


def test_what_is_moved_aside_is_numbered_on(run, settings):
    before = everything(run)
    for number in (1, 2):
        assert "scores" not in kept(run, changed(settings, "scores", "train", seed=number))[0]
        assert names(run / "replaced") >= {f"scores-{n}" for n in range(1, number + 1)}
        if number == 1:
            shutil.copytree(run / "replaced/scores-1", run / "stages/scores")
    shutil.rmtree(run / "replaced/scores-2")
    assert everything(run) == before


def test_a_stage_of_another_name_is_the_same_stage(run, settings):
    before = on_disk(run, "imitate")
    renamed = json.loads(json.dumps(settings).replace("imitate", "copy"))
    assert kept(run, renamed)[0] == {"picked", "copy", "scores", "improve"}
    assert on_disk(run, "copy") == before


def test_where_stages_merge_a_stage_keeps_its_name(run, settings):
    merging = changed(settings, "improve", "model", start_as="merge")
    renamed = json.loads(json.dumps(merging).replace("imitate", "copy"))
    assert kept(run, renamed)[0] == {"picked", "scores"}


def test_a_directory_at_work_is_refused(run, settings):
    file = write(run.parent / "run.yaml", settings)
    with RunDirectory(run).lock(), pytest.raises(UserError, match="is in use by process"):
        train(file, run, registry=PLUGINS)


def test_a_file_without_stages_is_refused(run, settings):
    (alone,) = [each for each in settings["stages"] if each["name"] == "scores"]
    shared = {key: each for key, each in settings.items() if key != "stages"}
    single = {**shared, **alone}
    del single["name"]
    with pytest.raises(UserError, match="holds a run already"):
        train(write(run.parent / "run.yaml", single), run, registry=PLUGINS)


def test_a_stage_that_the_file_has_no_more_is_moved_aside(run, settings):
    shorter = {**settings, "stages": settings["stages"][:-1]}
    there, said = kept(run, shorter)
    assert there == set(STAGES) - {"improve"} and names(run / "replaced") == {"improve-1"}
    assert said == [
        f"stage improve is moved to {run / 'replaced/improve-1'}: the run file has no such stage "
        "any more"
    ]


def test_what_does_not_say_what_it_was_made_of_is_moved_aside(run, settings):
    (run / "stages/scores/stage.json").write_text("{")
    there, said = kept(run, settings)
    assert there == set(STAGES) - {"scores"}
    assert "it does not say what it was made of" in said[0]


def test_what_is_at_work_is_not_moved(run, settings):
    with (
        RunDirectory(run / "stages/improve").lock(),
        pytest.raises(UserError, match=r"improve is in use by process"),
    ):
        kept(run, changed(settings, "improve", "objective", beta=0.2))
    assert names(run / "stages") == set(STAGES)


@pytest.mark.slow
def test_a_death_while_stages_are_moved_loses_none(made, tmp_path, settings):
    other = changed(settings, "picked", "source", share=0.5)
    event, died = 0, True
    while died:
        event += 1
        run = tmp_path / str(event) / "run"
        shutil.copytree(made / "run", run)
        kept(run, other)
        kept(run, changed(other, "scores", "train", seed=1))  # scores-1 is beside the others
        before = everything(run)
        died = deaths.dies_at(event, lambda run=run: kept(run, settings))
        assert everything(run) == before
        assert kept(run, settings)[0] == set(STAGES)
        assert everything(run) == before
        shutil.rmtree(run)
    assert event > 20


@pytest.mark.slow
def test_a_death_while_another_file_is_taken_up(run, settings):
    """At each change of the disk until the stage that it changes has begun anew."""
    file = write(run.parent / "run.yaml", settings)
    other = write(run.parent / "other.yaml", changed(settings, "scores", "train", seed=1))
    train(file, run, registry=PLUGINS)
    key, whole = run / "stages/scores/stage.json", whole_state(run)
    before, event, begun = key.read_text(), 0, False
    while not begun:
        event += 1
        assert deaths.dies_at(event, lambda: train(other, run, registry=PLUGINS))
        begun = (key.parent / "config.yaml").exists() and key.read_text() != before
        train(file, run, registry=PLUGINS)
        state = whole_state(run)
        assert {name: state[name] for name in state if name in whole} == whole
        assert {name for name in state if name not in whole and "replaced/" not in name} == set()
    assert event > 20


def test_another_option_of_the_last_stage_runs_that_alone(run, made, settings):
    before = {name: on_disk(run, name) for name in STAGES}
    file = write(run.parent / "run.yaml", changed(settings, "improve", "objective", beta=0.2))
    train(file, run, registry=PLUGINS)
    for name in ("picked", "imitate", "scores"):
        now = on_disk(run, name)
        rewritten = {path for path, one in now.items() if one != before[name][path]}
        assert rewritten <= {"config.yaml"}, name  # it names its inputs where they lie now
    assert on_disk_of(run / "replaced/improve-1") == before["improve"]
    was, now = (lines(each / "stages/improve/metrics.jsonl") for each in (made / "run", run))
    assert [each["step"] for each in now] == [each["step"] for each in was]
    found = json.loads((run / "summary.json").read_text())["stages"]
    assert [stage["kept"] for stage in found] == [True, True, True, False]
    assert [stage["steps"] for stage in found] == list(STAGES.values())
    written = everything(run)
    resume(run, registry=PLUGINS)
    assert [one for one in everything(run) if one not in written and one[0] not in HOMES] == []


HOMES = ("run.json", "summary.json", "README.md")
"""What is written of the whole at each end."""


def on_disk_of(stage: Path) -> dict[str, tuple[int, int]]:
    return on_disk(stage.parent.parent, f"../replaced/{stage.name}")


def test_a_new_stage_at_the_end_runs_alone(run, settings):
    before = {name: on_disk(run, name) for name in STAGES}
    last = {**settings["stages"][1], "name": "again", "train": {"seed": 1}}
    longer = {**settings, "stages": [*settings["stages"], last]}
    train(write(run.parent / "run.yaml", longer), run, registry=PLUGINS)
    assert names(run / "stages") == {*STAGES, "again"}
    for name in STAGES:
        now = on_disk(run, name)
        assert {path for path in now if now[path] != before[name][path]} <= {"config.yaml"}
    assert json.loads((run / "run.json").read_text())["step"] == sum(STAGES.values()) + 2


def test_a_result_that_is_lost_is_made_again(run, made, settings):
    shutil.rmtree(run / "stages/imitate/adapter")
    shutil.rmtree(run / "stages/picked/data")
    train(write(run.parent / "run.yaml", settings), run, registry=PLUGINS)
    assert differences(run, made / "run") == []


def test_the_summary_and_the_card_name_every_result(made):
    run = made / "run"
    stages = json.loads((run / "summary.json").read_text())["stages"]
    assert [(each["name"], each["steps"]) for each in stages] == list(STAGES.items())
    assert [each["what"] for each in stages] == ["best", "sft", "reward_model", "ppo"]
    assert {each["state"] for each in stages} == {"finished"}
    assert not any(each["kept"] for each in stages)
    card = (run / "README.md").read_text()
    for each in stages:
        assert (run / each["result"]).exists() and each["result"] in card
        assert each["seconds"] > 0 and each["peak_memory_mb"] > 100
    first, last = lines(run / "stages/improve/evals.jsonl")
    assert stages[3]["measures"]["reward"] == {"before": first["reward"], "after": last["reward"]}
    assert stages[0]["measures"] == {}

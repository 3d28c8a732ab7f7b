"""The label step alone: which stages it is, what it prints, and that training goes on from it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import judging_toys
import pytest
import warm
import yaml
from pipelines import on_disk
from worlds import GOOD, differences, lines, prompt, write_rows

import trimtab
from trimtab import resume
from trimtab.core.errors import RunError, UserError
from trimtab.core.runfile import RunFileError
from trimtab.labelling import label_ai, label_plan
from trimtab.plugins.registry import Plugins

TOYS = judging_toys.__file__
JUDGE = {"name": "toys.vowels", "sharp": 8.0}
RLAIF = {"name": "rlaif", "n": 3}


def answered(number):
    """A row with two responses to judge."""
    both = [GOOD[number % 4], f"grrr {number}"]
    return {"prompt": prompt(number), "responses": both[:: 1 if number % 2 else -1]}


def whole(world, **changes):
    """A run file on the small world's prompts."""
    return world.settings(
        **{
            "data": {"train": str(world.demonstrations), "eval": None, "holdout": 0.2},
            "judge": JUDGE,
            "plugins": [TOYS],
            "rollout": {"max_new_tokens": 8},
            "train": {"epochs": None, "steps": 2, "rows": 3, "eval_samples": 2},
            **changes,
        }
    )


def write(path, settings):
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture
def bare(world, tmp_path):
    """A file that has a judge and rows, and says nothing of what is to be done."""
    rows = write_rows(tmp_path / "rows.jsonl", answered, 8)
    model = {"name": str(world.model), "quantization": "none"}
    sections = {"model": model, "data": {"train": str(rows)}, "judge": JUDGE, "plugins": [TOYS]}
    return write(tmp_path / "bare.yaml", {**sections, "train": {"rows": 3}})


def plan_of(path, *overrides):
    return label_plan(path, overrides, Plugins(installed=False))[1]


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        ({"name": "local", "template": "words.yaml"}, "words.yaml:1: "),
        ({"name": "local", "model": "./no-model"}, "the model './no-model' is no folder"),
        (
            {"name": "openai", "model": "m", "api_key_env": "NO_SUCH_KEY"},
            "the environment variable NO_SUCH_KEY is not set",
        ),
    ],
)
def test_what_a_judge_lacks_is_told_before_anything_is_sampled(
    world, tmp_path, monkeypatch, judge, said
):
    monkeypatch.chdir(tmp_path)
    Path("words.yaml").write_text("- no prompts\n")
    file = write(tmp_path / "run.yaml", whole(world, judge=judge, objective=RLAIF))
    with pytest.raises(UserError, match=re.escape(said)):
        label_ai(file, tmp_path / "run")
    assert not (tmp_path / "run" / "stages").exists()


def test_of_a_recipe_the_stages_up_to_the_labels(world, tmp_path):
    path = write(tmp_path / "run.yaml", whole(world, objective=RLAIF))
    assert [stage.name for stage in plan_of(path).stages] == ["candidates", "labels"]


def test_what_the_labels_depend_on_is_carried_out_and_nothing_else(world, tmp_path):
    stages = [
        {"name": "sft", "objective": {"name": "sft"}},
        {"name": "aside", "objective": {"name": "sft"}},
        {"name": "ai", "objective": RLAIF, "model": {"start": "stages.sft"}},
        {"name": "after", "objective": {"name": "sft"}, "model": {"start": "stages.ai"}},
    ]
    path = write(tmp_path / "run.yaml", whole(world, objective=None, stages=stages))
    assert [stage.name for stage in plan_of(path).stages] == ["sft", "ai-candidates", "ai-labels"]


def test_a_judge_and_data_are_enough(bare):
    (stage,) = plan_of(bare).stages
    said = {"by": "judge", "soft": True, "budget": 5}
    assert stage.name == "labels" and stage.run.objective is None
    (stage,) = plan_of(bare, "source.budget=5").stages
    assert said.items() <= stage.run.source.options.items()
    (stage,) = plan_of(bare, "source.soft=false").stages
    assert stage.run.source.options["soft"] is False


@pytest.mark.parametrize(
    "changes, error, said",
    [
        ({"judge": None}, UserError, "does not say who labels: give judge: {name: local}"),
        ({"objective": {"name": "dpo"}}, UserError, "makes a data set of what a judge says: name"),
        ({"source": {"name": "candidates"}}, UserError, "makes a data set of what a judge says"),
        ({"judge": {"name": "toys.vovels"}}, RunFileError, "Did you mean 'toys.vowels'?"),
        ({"data": {"trian": "x"}}, RunFileError, "data.trian: unknown key"),
    ],
)
def test_where_nothing_is_to_be_labelled_it_says_so(bare, changes, error, said):
    settings = {**yaml.safe_load(bare.read_text()), **changes}
    with pytest.raises(error, match=said.replace("?", r"\?")):
        plan_of(write(bare, {key: each for key, each in settings.items() if each}))


def test_the_labels_are_pairs_and_the_account_adds_up(bare, tmp_path):
    (made,) = label_ai(bare, tmp_path / "run")
    rows = lines(made.data)
    assert made.rows == len(rows) == 8
    assert {row["chosen"] for row in rows} <= set(GOOD)
    assert all(0.5 < row["preference"] < 1 for row in rows)
    account = json.loads((made.data.parents[1] / "data.json").read_text())["made"]
    assert account["read"] == account["used"] + len(account["dropped"]) == 8


def test_it_prints_where_the_labels_are_and_goes_on_where_it_was(bare, tmp_path):
    ended = warm.trimtab("label-ai", bare, "--run", tmp_path / "run")
    assert ended.status == 0, ended.output
    data = tmp_path / "run/stages/labels/data/train.jsonl"
    assert f"made  {data}   (8 rows)" in ended.output
    assert f"trimtab data check {data}" in ended.output
    before = on_disk(tmp_path / "run", "labels")
    again = warm.trimtab("label-ai", bare, "--run", tmp_path / "run")
    assert again.status == 0 and "(8 rows)" in again.output
    assert on_disk(tmp_path / "run", "labels") == before
    checked = warm.trimtab("data", "check", data, "--json")
    assert json.loads(checked.output)["kept"] == 8


def test_a_wrong_file_is_bad_input(bare):
    ended = warm.trimtab("label-ai", bare, "--set", "judge.nmae=x")
    assert ended.status == 2 and "judge.nmae: unknown key" in ended.output


def test_training_goes_on_from_the_labels_and_makes_none_anew(world, tmp_path):
    path, run = write(tmp_path / "run.yaml", whole(world, objective=RLAIF)), tmp_path / "run"
    (made,) = label_ai(path, run)
    before = {stage: on_disk(run, stage) for stage in ("candidates", "labels")}
    trimtab.train(path, run)
    assert {stage: on_disk(run, stage) for stage in before} == before
    assert (run / "stages/policy/adapter/adapter_model.safetensors").is_file()
    with pytest.raises(UserError, match="holds more than labels: policy. Label into another dir"):
        label_ai(path, run)
    assert made.data.is_file() and not (run / "replaced").exists()


@pytest.mark.slow
def test_what_is_trained_before_the_labels_is_told(world, tmp_path):
    stages = [
        {"name": "sft", "objective": {"name": "sft"}},
        {"name": "ai", "objective": RLAIF, "model": {"start": "stages.sft"}},
    ]
    path = write(tmp_path / "run.yaml", whole(world, objective=None, stages=stages))
    ended = warm.trimtab("label-ai", path, "--run", tmp_path / "run")
    assert ended.status == 0, ended.output
    assert "the labels are of what this trains: sft: sft on " in ended.output
    made = sorted(stage.name for stage in (tmp_path / "run/stages").iterdir())
    assert made == ["ai-candidates", "ai-labels", "sft"]
    dry = warm.trimtab("label-ai", path, "--dry-run")
    assert dry.status == 0 and "ai-labels: rows: what ai-candidates will make" in dry.output


@pytest.mark.parametrize("by_file", [True, False])
def test_a_judge_that_fails_is_not_asked_again_what_it_has_answered(bare, tmp_path, by_file):
    log, run = tmp_path / "asked", tmp_path / "run"
    overrides = [f"judge.log={log}", "judge.fails_at=5"]
    log.write_text("")
    with pytest.raises(RunError, match="the judge cannot be reached"):
        label_ai(bare, run, overrides)
    assert json.loads((run / "run.json").read_text())["state"] == "failed"
    Path(f"{log}.up").touch()
    if by_file:
        label_ai(bare, run, overrides)
    else:
        resume(run)
    asked = log.read_text().splitlines()
    steps_of = 3  # what the failed step had asked of a judge without a memory is asked again
    assert len(asked) == 8 + 5 % steps_of and len(set(asked)) == 8
    fresh = label_ai(bare, tmp_path / "fresh")[0].data
    assert fresh.read_text() == (run / "stages/labels/data/train.jsonl").read_text()
    assert differences(fresh.parent, run / "stages/labels/data") == []

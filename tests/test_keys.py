"""Keys of stages: what counts changes them, and nothing else does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import opinions
import pytest
from pipelines import STAGES, changed, pipeline, write
from worlds import World

from trimtab.core.keys import Key, keys_of, refreshed
from trimtab.core.paths import absolute
from trimtab.core.runfile import dump_plan, load
from trimtab.plugins.registry import Plugins

ALL = set(STAGES)
LATER = {"picked", "imitate", "improve"}
"""The first stage and what depends on it; the reward model does not."""


@pytest.fixture(scope="module")
def plugins():
    return Plugins()


@pytest.fixture
def own(tmp_path):
    """A world that a test may spoil."""
    return World.make(tmp_path)


def keys(settings: dict[str, Any], folder: Path, plugins: Plugins) -> dict[str, Key]:
    plan = load(write(folder / "run.yaml", settings), (), plugins)
    stages = {str(stage.name): absolute(stage.run, plugins) for stage in plan.stages}
    return keys_of(stages, plugins, folder / "nothing")


def differing(one: dict[str, Key], other: dict[str, Key]) -> set[str]:
    return {name for name in one if one[name].key != other[name].key}


@pytest.mark.parametrize(
    "stage, section, options, concerned",
    [
        ("improve", "objective", {"beta": 0.2}, {"improve"}),
        ("improve", "rollout", {"temperature": 0.9}, {"improve"}),
        ("scores", "train", {"seed": 1}, {"scores", "improve"}),
        ("imitate", "train", {"learning_rate": 0.1}, {"imitate", "improve"}),
        ("picked", "source", {"share": 0.5}, LATER),
        ("picked", "train", {"seed": 1}, LATER),
        ("picked", "train", {"learning_rate": 0.1, "eval_every": 1}, set()),
        ("improve", "train", {"checkpoint_every": 2, "keep": 1}, set()),
    ],
)
def test_an_option_concerns_what_depends_on_it(own, plugins, stage, section, options, concerned):
    settings = pipeline(own)
    other = changed(settings, stage, section, **options)
    assert differing(*(keys(each, own.home, plugins) for each in (settings, other))) == concerned


def judged(own: World, options: dict[str, Any], **judge: Any) -> dict[str, Any]:
    """Labels by judge or by reward, from which a policy learns."""
    settings = own.settings(plugins=[opinions.__file__])
    rows = {"data": settings.pop("data"), "judge": {"name": "toys.opinions", **judge}}
    reward = [{"name": "function", "function": "rewarding:variety"}]
    source = {"name": "labels", **options}
    labels = {"name": "labels", "source": source, "reward": reward, **rows}
    learn = {"name": "learn", "objective": settings.pop("objective"), **rows}
    learn["data"] = {"train": "stages.labels"}
    settings["train"] = {"rows": 4}
    return {**settings, "stages": [labels, learn]}


@pytest.mark.parametrize(
    "by, judge, concerned",
    [
        ("judge", {"sharp": True}, {"labels", "learn"}),
        ("judge", {"mode": "compare"}, {"labels", "learn"}),
        ("judge", {"down_after": 3}, set()),
        ("reward", {"sharp": True}, set()),
    ],
)
def test_a_judge_concerns_who_asks_it_and_only_with_what_it_says(
    own, plugins, by, judge, concerned
):
    """The stage that learns from labels asks no judge; labels by reward neither."""
    one, other = (
        keys(judged(own, {"by": by}, **options), own.home, plugins) for options in ({}, judge)
    )
    if concerned:
        assert other["labels"].key != one["labels"].key
        assert other["learn"].changes(one["learn"]) == [
            "the stage that data.train names is another one"
        ]
    assert differing(one, other) == concerned


def test_a_judge_concerns_the_training_that_it_rewards(own, plugins):
    settings = pipeline(own)
    settings["plugins"] = [*settings["plugins"], opinions.__file__]
    improve = settings["stages"][-1]
    improve["reward"] = [{"name": "judge"}]
    found = []
    for sharp in (False, True):
        improve["judge"] = {"name": "toys.opinions", "sharp": sharp}
        found.append(keys(settings, own.home, plugins))
    assert differing(*found) == {"improve"}


def test_a_run_that_goes_on_takes_what_is_incidental_as_it_is_now(own, plugins):
    first, later = (
        load(write(own.home / "run.yaml", judged(own, {"by": "judge"}, **judge)), (), plugins)
        for judge in ({"down_after": 3, "sharp": True}, {"down_after": None, "sharp": False})
    )
    settled = refreshed(first.stages[0].run, later.stages[0].run, plugins)
    assert settled.judge.options["down_after"] is None and settled.judge.options["sharp"] is True


def test_the_content_of_a_path_counts_and_not_where_it_lies(own, plugins, tmp_path):
    before = keys(pipeline(own), own.home, plugins)
    moved = World(tmp_path, *(own.home / name for name in ("m", "p.jsonl", "d.jsonl", "l.jsonl")))
    own.model.rename(moved.model)
    for was, now in ((own.pairs, moved.pairs), (own.demonstrations, moved.demonstrations)):
        was.rename(now)
        was.with_name(f"{was.stem}-eval.jsonl").rename(now.with_name(f"{now.stem}-eval.jsonl"))
    assert differing(before, keys(pipeline(moved), own.home, plugins)) == set()
    with moved.pairs.open("a") as rows:
        rows.write("\n")
    found = keys(pipeline(moved), own.home, plugins)
    assert differing(before, found) == {"scores", "improve"}
    assert not found["scores"].fits(before["scores"])
    assert found["scores"].changes(before["scores"]) == [
        "what data.train names has another content"
    ]
    assert found["improve"].changes(before["improve"]) == [
        "the stage that reward.0.from names is another one"
    ]


def test_a_base_in_a_folder_counts_with_all_its_files(own, plugins):
    before = keys(pipeline(own), own.home, plugins)
    (own.model / ".cache").mkdir()
    (own.model / ".cache/of-a-download").write_text("")
    assert differing(before, keys(pipeline(own), own.home, plugins)) == set()
    (own.model / "another.json").write_text("{}")
    assert differing(before, keys(pipeline(own), own.home, plugins)) == ALL


def test_the_names_of_a_folders_files_count(own, plugins):
    before = keys(pipeline(own), own.home, plugins)
    (own.model / "generation_config.json").rename(own.model / "other.json")
    assert differing(before, keys(pipeline(own), own.home, plugins)) == ALL


def test_a_plugin_file_counts_by_its_content(own, plugins):
    plugin = own.home / "plugin.py"
    plugin.write_text("from trimtab import hookimpl\n\n@hookimpl\ndef run_ended():\n    pass\n")
    settings = {**pipeline(own), "plugins": ["plugin.py"]}
    before = keys(settings, own.home, plugins)
    plugin.write_text(f"{plugin.read_text()}# changed\n")
    assert differing(before, keys(settings, own.home, plugins)) == ALL


def test_of_the_folder_of_a_reward_its_module_alone_counts(own, plugins):
    (own.home / "mine.py").write_text("def worth(completions):\n    return [0.0]\n")
    given = {"name": "function", "function": "mine:worth", "folder": str(own.home)}
    settings = changed(pipeline(own), "picked", "train")
    settings["stages"][0]["reward"] = [given]
    before = keys(settings, own.home, plugins)
    (own.home / "another.py").write_text("")
    assert differing(before, keys(settings, own.home, plugins)) == set()
    (own.home / "mine.py").write_text("def worth(completions):\n    return [1.0]\n")
    assert differing(before, keys(settings, own.home, plugins)) == LATER


def test_of_another_run_what_it_made_counts(own, plugins):
    run = own.home / "other"
    (run / "adapter").mkdir(parents=True)
    (run / "config.yaml").write_text("")
    (run / "adapter/adapter_model.safetensors").write_text("weights")
    settings = changed(pipeline(own), "imitate", "model", start=str(run))
    before = keys(settings, own.home, plugins)
    (run / "metrics.jsonl").write_text("{}\n")
    assert differing(before, keys(settings, own.home, plugins)) == set()
    (run / "adapter/adapter_model.safetensors").write_text("others")
    assert differing(before, keys(settings, own.home, plugins)) == {"imitate", "improve"}


def test_what_is_gone_may_be_unchanged(own, plugins):
    before = keys(pipeline(own), own.home, plugins)
    own.pairs.unlink()
    after = keys(pipeline(own), own.home, plugins)
    assert differing(before, after) == {"scores", "improve"}
    assert after["scores"].fits(before["scores"])
    assert not keys(changed(pipeline(own), "scores", "train", seed=1), own.home, plugins)[
        "scores"
    ].fits(before["scores"])


def test_a_resolved_plan_has_the_same_keys(own, plugins):
    before = keys(pipeline(own), own.home, plugins)
    plan = load(own.home / "run.yaml", (), plugins)
    (own.home / "resolved.yaml").write_text(dump_plan(plan))
    again = load(own.home / "resolved.yaml", (), plugins)
    stages = {str(stage.name): absolute(stage.run, plugins) for stage in again.stages}
    assert differing(before, keys_of(stages, plugins, own.home / "nothing")) == set()


def test_an_option_that_is_null_is_one_that_is_not_there(own, plugins, tmp_path):
    """A version that has learned an option keeps what one without it has made."""
    key = keys(pipeline(own), own.home, plugins)["improve"]
    inputs = json.loads(json.dumps(key.inputs))
    inputs["data"] |= {"unheard_of": None, "columns": {**inputs["data"]["columns"], "x": None}}
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "stage.json").write_text(json.dumps({"key": "old", "inputs": inputs}))
    assert key.fits(Key.stored(tmp_path / "stage"))
    assert "null" not in json.dumps(key.inputs)


def test_changes_are_told_with_both_values(own, plugins):
    before = keys(pipeline(own), own.home, plugins)["improve"]
    settings = changed(pipeline(own), "improve", "objective", beta=0.2)
    found = keys(settings, own.home, plugins)["improve"]
    assert found.changes(before) == ["objective.beta: 0.05 -> 0.2"]

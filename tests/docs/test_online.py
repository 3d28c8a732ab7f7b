"""What the guide to online training says can be done, can be done."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from trimtab import Group, load_run_file
from trimtab.cli import COMMANDS
from trimtab.plugins.registry import Plugins

GUIDE = (Path(__file__).parents[2] / "docs/how-to/online.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.M | re.S)


def named(kind):
    """The names in the table that lists them."""
    table = GUIDE.partition(f"| {kind} | ")[2].partition("\n\n")[0]
    return {name for line in table.splitlines() for name in _first_column(line)}


def _first_column(line):
    return re.findall(r"`([a-z_]+)`", line.split("|")[1]) if line.startswith("|") else []


def test_the_run_file_is_valid(tmp_path):
    text, _ = blocks("yaml")
    (tmp_path / "run.yaml").write_text(text)
    (stage,) = load_run_file(tmp_path / "run.yaml").stages
    assert [one.name for one in stage.run.reward] == ["classifier", "length"]


def test_the_sections_of_a_watched_stage_are_valid(tmp_path):
    _, watched = blocks("yaml")
    pairs, prompts = ({"train": f"rotten-tomatoes/{view}"} for view in ("pairs", "prompts"))
    fitted = {"name": "rm", "data": pairs, "objective": {"name": "reward_model"}}
    online = {"name": "online", "data": prompts, "objective": {"name": "grpo"}}
    stages = [fitted, {**online, **yaml.safe_load(watched)}]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"stages": stages}))
    _, stage = load_run_file(tmp_path / "run.yaml").stages
    assert stage.run.watch.reward == "gold"


def test_the_function_cannot_judge_nothing():
    function, _ = blocks("python")
    scope = {}
    exec(function, scope)
    assert scope["short"](["p", "p"], ["12", ""]) == [-0.02, None]


def test_the_plugin_scores(tmp_path):
    _, plugin = blocks("python")
    (tmp_path / "mine.py").write_text(plugin)
    plugins = Plugins()
    plugins.add_file(tmp_path / "mine.py")
    reward = plugins.make("reward", "mine.exclaim", {"most": 1})
    ((first, second),) = reward.score([Group("p", ["!", "!!!"])])
    assert (first.value, second.value) == (0, -2)


@pytest.mark.parametrize("kind", ["reward", "reference"])
def test_every_built_in_is_in_its_table(kind):
    assert named(kind) == set(Plugins(installed=False).names(kind))


def test_commands_exist():
    assert set(re.findall(r"`trimtab ([a-z-]+)", GUIDE)) <= set(COMMANDS)

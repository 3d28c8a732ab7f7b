"""What the guide to pipelines says can be done, can be done."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from worlds import World, lines

from trimtab import Recipe, load_run_file
from trimtab.api import train
from trimtab.cli import COMMANDS
from trimtab.core.config import ModelConfig
from trimtab.core.maker import Maker
from trimtab.plugins.registry import Plugins

GUIDE = (Path(__file__).parents[2] / "docs/how-to/pipelines.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.M | re.S)


def named(heading):
    """The names in the first column of the table with this heading."""
    table = GUIDE.partition(f"| {heading} | ")[2].partition("\n\n")[0]
    return set(re.findall(r"^\| `([a-z_]+)` \|", table, re.M))


@pytest.mark.parametrize("text", blocks("yaml"))
def test_run_files_are_valid(text, tmp_path):
    (tmp_path / "run.yaml").write_text(text)
    assert load_run_file(tmp_path / "run.yaml", (), Plugins(installed=False)).stages


def test_every_recipe_and_maker_is_in_its_table():
    plugins = Plugins(installed=False)
    objectives = {name: plugins.find("objective", name) for name in plugins.names("objective")}
    sources = {name: plugins.find("source", name) for name in plugins.names("source")}
    assert named("recipe") == {n for n, one in objectives.items() if issubclass(one, Recipe)}
    assert named("source") == {n for n, one in sources.items() if issubclass(one, Maker)}


def test_every_way_to_start_is_in_its_table():
    ways = ModelConfig.model_fields["start_as"].annotation.__args__
    assert named("`start_as`") == set(ways)


def test_commands_exist():
    assert set(re.findall(r"`trimtab ([a-z-]+)", GUIDE)) <= set(COMMANDS)


def test_the_recipe_imitates_the_shortest_of_what_was_sampled(tmp_path):
    world = World.make(tmp_path)
    (plugin,) = blocks("python")
    (tmp_path / "mine.py").write_text(plugin)
    file = world.file(
        tmp_path / "run.yaml",
        plugins=["./mine.py"],
        data={"train": str(world.demonstrations), "eval": None, "holdout": 0.0},
        objective={"name": "mine.brevity", "n": 3},
        train={"epochs": 1, "rows": 4},
    )
    run = train(file, tmp_path / "run", registry=Plugins(installed=False))
    asked = lines(run / "stages/answers/data/train.jsonl")
    learned = lines(run / "stages/shortest/data/train.jsonl")
    assert len(asked) == len(learned) > 0
    for row, chosen in zip(asked, learned, strict=True):
        assert chosen["completion"] in row["responses"]
        shortest = min(len(str(response)) for response in row["responses"])
        assert len(str(chosen["completion"])) == shortest
    assert (run / "stages/learn/adapter/adapter_model.safetensors").is_file()

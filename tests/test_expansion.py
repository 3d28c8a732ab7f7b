"""Recipes: what stands for them, by what names, and where their faults are told."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from typing import Annotated, Any

import pytest
from made import faults, provider, reader
from made import plugins as made_plugins
from pydantic import Field

from trimtab import Config, Part, Recipe
from trimtab.core.config import Selected
from trimtab.core.errors import UserError
from trimtab.core.options import OfKind
from trimtab.core.recipe import OptionError
from trimtab.core.runfile import load
from trimtab.core.written import shortest
from trimtab.plugins.registry import OURS, Distribution

TOP = "data: {train: pairs.jsonl}\n"


class Options(Config):
    """Options of the recipes of these tests."""

    optimizer: Annotated[Selected | None, OfKind("objective")] = None
    """Learns in the last part."""

    train: dict[str, Any] = Field(default_factory=dict)
    """Of the last part."""

    parts: list[str] = ["make", "learn"]
    refuse: str | None = None


class Made(Recipe[Options]):
    """Makes rows, and learns from them."""

    name = "made_then_learned"
    options = Options

    def expand(self, around):
        config = self.config
        if config.refuse == "optimizer":
            raise OptionError("optimizer", "no such thing")
        if config.refuse:
            raise UserError("not with this")
        chosen = config.optimizer.model_dump(mode="json") if config.optimizer else None
        train = {**around.section("train"), **config.train}
        *makers, last = config.parts
        made = [
            Part(name, {"objective": None, "source": {"name": "rows", "shape": "square"}})
            for name in makers
        ]
        data = {**around.section("data"), "train": f"stages.{makers[-1]}"} if makers else None
        learning = {"objective": chosen or {"name": "plain"}, "train": train}
        return [*made, Part(last, {**learning, **({"data": data} if data else {})})]


class Outer(Recipe[Options]):
    """A recipe whose second part is the other recipe."""

    name = "outer"
    options = Options

    def expand(self, around):
        again = self.config.refuse
        inner = {"name": again, "refuse": again} if again else {"name": Made.name}
        return [
            Part("first", {"objective": {"name": "plain"}}),
            Part("second", {"objective": inner}),
        ]


@pytest.fixture(scope="module")
def plugins():
    registry = made_plugins()
    recipes = provider(Made, Outer)
    registry.add("recipes", Distribution(OURS), lambda: recipes)
    return registry


@pytest.fixture
def read(tmp_path, plugins, monkeypatch):
    """Load a text as run.yaml."""
    monkeypatch.chdir(tmp_path)
    return reader(plugins)


@pytest.fixture
def errors(read):
    return partial(faults, read)


def names(plan):
    return [stage.name for stage in plan.stages]


def test_a_recipe_alone_becomes_stages_named_as_its_parts(read):
    plan = read(TOP + "objective: {name: made_then_learned}\ntrain: {steps: 3}\n")
    assert names(plan) == ["make", "learn"]
    make, learn = (stage.run for stage in plan.stages)
    assert make.objective is None and make.source.options["shape"] == "square"
    assert (learn.objective.name, learn.source) == ("plain", None)
    assert (make.data.train, learn.data.train) == ("pairs.jsonl", "stages.make")
    assert (make.train.steps, learn.train.steps) == (3, 3)
    assert plan.recipes == ("made_then_learned",)


def test_a_recipe_of_one_part_is_one_run(read):
    plan = read(TOP + "objective: {name: made_then_learned, parts: [only]}")
    assert names(plan) == [None]
    assert plan.stages[0].run.objective.name == "plain"


def test_the_last_part_has_the_name_of_the_stage(read):
    text = """\
data: {train: pairs.jsonl}
stages:
  - {name: first, objective: {name: plain}}
  - {name: mid, objective: {name: made_then_learned}, model: {start: stages.first}}
  - name: last
    objective: {name: plain}
    model: {start: stages.mid}
    data: {train: stages.mid-make}
"""
    plan = read(text)
    assert names(plan) == ["first", "mid-make", "mid", "last"]
    _, make, mid, last = (stage.run for stage in plan.stages)
    assert (make.model.start, mid.model.start) == ("stages.first", "stages.first")
    assert mid.data.train == "stages.mid-make"
    assert (last.model.start, last.data.train) == ("stages.mid", "stages.mid-make")


def test_recipes_within_recipes(read, errors):
    text = TOP + "stages: [{name: all, objective: {name: outer}}]"
    assert names(read(text)) == ["all-first", "all-make", "all"]
    assert names(read(TOP + "objective: {name: outer}")) == ["first", "second-make", "second"]
    endless = TOP + "objective: {name: outer, refuse: outer}"
    (error,) = errors(endless)
    assert error == "run.yaml:2: objective: recipes within recipes, 4 deep: name an objective"


@pytest.mark.parametrize(
    "objective, error",
    [
        ("{name: made_then_learned, refuse: x}", "2: objective: not with this"),
        ("{name: made_then_learned, refuse: optimizer}", "2: objective.optimizer: no such thing"),
        (
            "\n  name: made_then_learned\n  refuse: optimizer\n  optimizer: {name: plain}",
            "5: objective.optimizer: no such thing",
        ),
        (
            "\n  name: made_then_learned\n  optimizer: {name: plian}",
            "4: objective.optimizer.name: no objective 'plian'. Did you mean 'plain'?",
        ),
        (
            "\n  name: made_then_learned\n  optimizer:\n    name: plain\n    strenght: 2",
            "6: objective.optimizer.strenght: unknown key. Did you mean 'strength'?",
        ),
        (
            "\n  name: made_then_learned\n  strength: 2",
            "4: objective.strength: unknown key. Did you mean 'optimizer.strength'?",
        ),
        (
            "\n  name: made_then_learned\n  train: {stpes: 2}",
            "4: objective.train.stpes: unknown key. Did you mean 'steps'?",
        ),
        (
            "\n  name: made_then_learned\n  train:\n    rows: 0",
            "5: objective.train.rows: must be greater than 0, not 0",
        ),
        (
            "{name: made_then_learned, parts: [a, a]}",
            "2: objective: the recipe 'made_then_learned' is wrong: it is to have parts whose",
        ),
        ("{name: made_then_learned, parts: [A]}", "2: objective: the recipe 'made_then_learned'"),
    ],
)
def test_faults_are_told_where_they_were_written(errors, objective, error):
    (found,) = errors(TOP + f"objective: {objective}\n")
    assert found.startswith(f"run.yaml:{error}")


def test_all_faults_at_once_whatever_the_recipe(errors):
    text = """\
data: {train: pairs.jsonl, lmit: 3}
train: {seed: x}
objective:
  name: made_then_learned
  optimzer: {name: plain}
  optimizer: {name: plain, strenght: 1}
reward: [{name: lenght}]
"""
    starts = [
        "run.yaml:1: data.lmit: unknown key. Did you mean 'limit'?",
        "run.yaml:2: train.seed: wants a whole number, not the text 'x'",
        "run.yaml:5: objective.optimzer: unknown key. Did you mean 'optimizer'?",
        "run.yaml:6: objective.optimizer.strenght: unknown key. Did you mean 'strength'?",
        "run.yaml:7: reward.0.name: no reward 'lenght'. Did you mean 'length'?",
    ]
    found = errors(text)
    assert len(found) == len(starts)
    assert all(error.startswith(start) for error, start in zip(found, starts, strict=True))


def test_overrides_reach_the_options_of_a_recipe(read, errors):
    text = (
        TOP + "stages: [{name: a, objective: {name: made_then_learned, optimizer: {name: plain}}}]"
    )
    plan = read(text, "stages.a.objective.optimizer.strength=3", "stages.a.train.rows=5")
    assert plan.stages[-1].run.objective.options["strength"] == 3.0
    assert [stage.run.train.rows for stage in plan.stages] == [5, 5]
    plan = read(TOP + "objective: {name: made_then_learned}", "objective.optimizer.name=other")
    assert plan.stages[-1].run.objective.name == "other"
    (error,) = errors(text, "stages.a.objective.optimizer.shape=sqare")
    assert error.startswith(
        "--set stages.a.objective.optimizer.shape=sqare: stages.0.objective.optimizer.shape: "
    )


def test_a_name_that_two_stages_would_have(errors):
    text = """\
data: {train: pairs.jsonl}
stages:
  - {name: a-make, objective: {name: plain}}
  - {name: a, objective: {name: made_then_learned}}
"""
    assert errors(text) == [
        "run.yaml:4: stages.1.objective: a stage of this recipe is named 'a-make', as another "
        "stage is; rename one"
    ]


def test_a_stage_cannot_be_told_from_a_part_of_that_name(errors):
    text = """\
data: {train: pairs.jsonl}
stages:
  - {name: make, objective: {name: plain}}
  - {name: a, objective: {name: made_then_learned}, model: {start: stages.make}}
"""
    assert errors(text) == [
        "run.yaml:4: stages.1.model.start: 'make' is also a part of the recipe: rename the stage "
        "that is meant"
    ]


def test_the_same_file_gives_the_same_stages(read):
    text = TOP + "stages: [{name: a, objective: {name: made_then_learned, train: {rows: 3}}}]"
    one, other = read(text), read(text)
    assert one == other
    assert "objective" in text  # and nothing of the file was changed in place
    assert [stage.run for stage in one.stages] == [stage.run for stage in other.stages]


@pytest.mark.parametrize(
    "text",
    [
        "objective: {name: made_then_learned, train: {rows: 3}}\nmodel: {quantization: none}",
        "objective: {name: made_then_learned, parts: [only]}\nreward: [{name: length, weight: 2}]",
        "stages:\n- {name: a, objective: {name: outer}}\n"
        "- {name: b, objective: {name: other, strength: 3}, model: {start: stages.a}}",
        "objective: {name: plain}\nrollout: {engine: {name: transformers, strength: 2}}",
        "objective: {name: plain}\nstreams: {ptx: {data: {train: x}, source: {name: rows}}}",
    ],
)
def test_what_is_printed_is_the_plan(read, tmp_path, plugins, text):
    plan = read(TOP + text)
    written = shortest(plan, plugins)
    (tmp_path / "whole.yaml").write_text(written)
    again = load(tmp_path / "whole.yaml", (), plugins)
    assert again.stages == plan.stages
    assert again.recipes == ()
    assert shortest(again, plugins) == written


def test_expanding_imports_no_torch():
    code = (
        "import sys, trimtab.core.runfile, trimtab.core.expansion, trimtab.core.written\n"
        "import trimtab.core.recipe, trimtab.core.runschema\n"
        "assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_recipe_by_a_plugin_file(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from trimtab import Config, Part, Recipe, hookimpl\n"
        "class Options(Config):\n"
        "    seeds: int = 2\n"
        "class Seeds(Recipe[Options]):\n"
        "    '''The same run with several seeds.'''\n"
        "    name, options = 'mine.seeds', Options\n"
        "    def expand(self, around):\n"
        "        train = around.section('train')\n"
        "        return [Part(f'seed-{n}', {'objective': {'name': 'plain'},\n"
        "                'train': {**train, 'seed': n}}) for n in range(self.config.seeds)]\n"
        "@hookimpl\n"
        "def provide_objectives():\n"
        "    return [Seeds]\n"
    )
    text = {"data": {"train": "x"}, "objective": {"name": "mine.seeds"}, "plugins": ["mine.py"]}
    (tmp_path / "run.yaml").write_text(json.dumps(text))
    plan = load(tmp_path / "run.yaml", ["objective.seeds=3"], made_plugins())
    assert names(plan) == ["seed-0", "seed-1", "seed-2"]
    assert [stage.run.train.seed for stage in plan.stages] == [0, 1, 2]

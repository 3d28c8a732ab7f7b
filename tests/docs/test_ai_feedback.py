"""What the guide to AI feedback says can be done, can be done."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from worlds import World, lines, write_rows

from trimtab import Comparison, Rating, load_run_file
from trimtab.cli import COMMANDS
from trimtab.core.recipe import Recipe
from trimtab.labelling import label_ai, label_plan
from trimtab.plugins.constitutions import load_constitution
from trimtab.plugins.judges.account import COST, counts_of, figures_of
from trimtab.plugins.judges.chat import ChatConfig
from trimtab.plugins.registry import Plugins
from trimtab.testing import check_judge

GUIDE = (Path(__file__).parents[2] / "docs/how-to/ai-feedback.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.M | re.S)


FILES = [text for text in blocks("yaml") if not text.startswith("judge:")]
SECTIONS = [text for text in blocks("yaml") if text.startswith("judge:")]


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "specification.md").write_text("Be brief.")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def titled(text):
    """What a file is of: its recipe, its source, or its judge alone."""
    sections = yaml.safe_load(text)
    name = sections.get("objective", {}).get("name") or next(
        (stage["source"]["name"] for stage in sections.get("stages", ())), "labels"
    )
    return f"{name}, {sections.get('objective', {}).get('feedback', 'the default')}"


def test_there_is_a_file_of_everything():
    assert {titled(text).split(",")[0] for text in FILES} == {
        "rlaif",
        "constitutional",
        "deliberative",
        "labels",
    }


@pytest.mark.parametrize("text", FILES, ids=titled)
def test_run_files_are_valid(text, home):
    file = home / "run.yaml"
    file.write_text(text)
    plugins = Plugins(installed=False)
    if titled(text).startswith("labels"):
        assert [stage.name for stage in label_plan(file, (), plugins)[1].stages] == ["labels"]
    else:
        assert load_run_file(file, (), plugins).stages


@pytest.mark.parametrize("text", SECTIONS, ids=["local", "openai"])
def test_the_sections_of_judges_are_valid(text, home):
    (home / "a-larger-model").mkdir()
    without = re.sub(r"^judge:.*\n", "", FILES[0], flags=re.M)
    (home / "run.yaml").write_text(without + text)
    plan = load_run_file(home / "run.yaml", (), Plugins(installed=False))
    judges = [stage.run.judge for stage in plan.stages if stage.run.judge]
    assert {judge.name for judge in judges} == {yaml.safe_load(text)["judge"]["name"]}


def test_the_constitution_is_one(tmp_path):
    indented = re.search(r"^    name: mine\n(?:    .*\n)+", GUIDE, re.M)[0]
    file = tmp_path / "mine.yaml"
    file.write_text(re.sub(r"^    ", "", indented, flags=re.M))
    (principle,) = load_constitution(str(file)).principles
    assert (principle.id, principle.weight, principle.source) == ("no-swearing", 3, "the editors")


def test_commands_options_and_figures_exist():
    commands = re.findall(r"trimtab ([a-z-]+) (?:DIR|FILE)", GUIDE)
    assert {"label-ai", "show", "resume", "train", "validate"} <= set(commands) <= set(COMMANDS)
    table = GUIDE.partition("| option of both |")[2].partition("\n\n")[0]
    options = re.findall(r"`([a-z_]+)`", "".join(re.findall(r"^\| (`[^|]*) \|", table, re.M)))
    assert set(options) <= set(ChatConfig.model_fields) and len(options) == 6
    told = re.findall(r"^\| (`[^|]*) \|", GUIDE.partition("## What is reported")[2], re.M)
    figures = set(re.findall(r"`([a-z_]+)`", "".join(told)))
    known = figures_of(dict.fromkeys([*COST, "asked", "pairs"], 1))
    assert figures == {*known, "gold_agreement"}


def test_the_options_of_the_recipe_exist():
    recipe = Plugins(installed=False).find("objective", "constitutional")
    assert issubclass(recipe, Recipe)
    table = GUIDE.partition("rounds: 2")[2].partition("| option |")[2].partition("\n\n")[0]
    options = re.findall(r"^\| `([a-z_]+)(?::| |`)", table, re.M)
    assert set(options) <= set(recipe.options.model_fields) and len(options) == 5


def test_the_links_lead_somewhere():
    folder = Path(__file__).parents[2] / "docs/how-to"
    for target in re.findall(r"\]\(([^)#]+)\)", GUIDE):
        assert (folder / target).exists(), target


def test_the_judge_takes_the_longer_one(tmp_path):
    (plugin,) = blocks("python")
    world = World.make(tmp_path)
    (tmp_path / "mine.py").write_text(plugin)
    rows = {"prompt": "Q", "responses": ["short", "a longer one"]}
    file = world.file(
        tmp_path / "run.yaml",
        plugins=["./mine.py"],
        data={"train": str(write_rows(tmp_path / "rows.jsonl", lambda _: rows, 4))},
        judge={"name": "mine.longer"},
        objective=None,
    )
    plugins = Plugins(installed=False)
    (made,) = label_ai(file, tmp_path / "run", registry=plugins)
    assert [row["chosen"] for row in lines(made.data)] == ["a longer one"] * 4
    judge = plugins.make("judge", "mine.longer", {})
    verdicts = judge.compare([Comparison("Q", "", ""), Comparison("Q", "ab", "a")])
    assert [verdict.value for verdict in verdicts] == [None, 1.0]
    assert figures_of(counts_of(verdicts))["position_bias"] == 0
    assert judge.score([Rating("Q", "x" * 900)])[0].value == 10
    check_judge(judge)

"""What the README says can be done, can be done."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from trimtab import load_run_file
from trimtab.cli import COMMANDS

ROOT = Path(__file__).parents[2]
TEXTS = sorted(
    [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/README.md")]
)
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.split(":")[0])
def test_run_files_are_valid(block, tmp_path):
    if block.startswith("stages"):
        block = "model: {adapter: {rank: 16}}\n" + block
    (tmp_path / "run.yaml").write_text(block)
    assert load_run_file(tmp_path / "run.yaml").stages


def test_python_runs(monkeypatch, tmp_path):
    """As one module in a file: descriptions of options are read from its source."""
    monkeypatch.chdir(ROOT)
    (tmp_path / "readme.py").write_text("\n".join(blocks("python")))
    spec = importlib.util.spec_from_file_location("readme", tmp_path / "readme.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "readme", module)
    spec.loader.exec_module(module)


def test_the_objective_is_selected_from_a_file(tmp_path):
    (objective,) = [block for block in blocks("python") if "mine.plain" in block]
    (tmp_path / "mine.py").write_text(objective)
    (tmp_path / "run.yaml").write_text(
        "plugins: [./mine.py]\nobjective: {name: mine.plain}\ndata: {train: rotten-tomatoes}\n"
    )
    (stage,) = load_run_file(tmp_path / "run.yaml").stages
    assert stage.run.objective.options == {"beta": 0.1}


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda p: p.name)
def test_examples_are_valid(path):
    assert load_run_file(path).stages


def test_every_command_is_in_the_table():
    named = set(re.findall(r"`trimtab ([a-z-]+)", README))
    assert named == set(COMMANDS)


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if "://" not in link:
            assert (path.parent / link).exists(), link

"""The core names no objective, and imports nothing that is built on it."""

import ast
import importlib
import re
from pathlib import Path

import pytest

import trimtab.core.gradient
import trimtab.objectives.sft
from trimtab.core.recipe import Recipe
from trimtab.plugins.admission import KINDS
from trimtab.plugins.registry import Plugins

CORE = sorted(Path(trimtab.core.gradient.__file__).parent.glob("*.py"))
SHARED = "feedback_"
"""Begins the names of the modules that recipes have in common."""
OBJECTIVES = sorted(Path(trimtab.objectives.sft.__file__).parent.glob("*.py"))


def builtin_classes():
    """What the hooks of objectives/*.py provide."""
    modules = [importlib.import_module(f"trimtab.objectives.{path.stem}") for path in OBJECTIVES]
    hooks = [
        module.provide_objectives for module in modules if hasattr(module, "provide_objectives")
    ]
    return [cls for provide in hooks for cls in provide()]


def builtin_names():
    """What run files call them."""
    return sorted(cls.name for cls in builtin_classes())


def recipes():
    """The files of the recipes among them."""
    modules = {
        path: importlib.import_module(f"trimtab.objectives.{path.stem}") for path in OBJECTIVES
    }
    return [
        path
        for path, module in modules.items()
        if hasattr(module, "provide_objectives")
        and all(issubclass(cls, Recipe) for cls in module.provide_objectives())
    ]


def said(source):
    """The identifiers of a source, and its texts, each whole."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.Name | ast.Attribute | ast.alias):
            yield getattr(node, "id", None) or getattr(node, "attr", None) or node.name


def imported(source):
    """Every module that the source imports, whatever the function it does so in."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide what they import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def named(source, names):
    """Which of the names stand in the source, as words and as parts of snake_case names."""
    pattern = rf"(?<![a-z0-9])({'|'.join(names)})(?![a-z0-9])"
    return sorted(set(re.findall(pattern, source, re.IGNORECASE)))


def test_the_names_are_found():
    assert {"dpo", "sft"} <= set(builtin_names())
    assert named("a dpo_loss, # DPO, sftp", ["dpo", "sft"]) == ["DPO", "dpo"]


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_core_names_no_objective(path):
    assert named(path.read_text(encoding="utf-8"), builtin_names()) == []


@pytest.mark.parametrize("path", recipes(), ids=lambda path: path.stem)
def test_recipes_name_no_objective(path):
    """Whole words: a plugin of another kind may share its name with an objective."""
    module = importlib.import_module(f"trimtab.objectives.{path.stem}")
    own = {cls.name for cls in module.provide_objectives()}
    elsewhere = {name for kind in KINDS if kind != "objective" for name in Plugins().names(kind)}
    classes = {cls.__name__ for cls in builtin_classes() if not issubclass(cls, Recipe)}
    banned = (set(builtin_names()) - own - elsewhere) | classes
    options = f"trimtab.objectives.{path.stem}_options."
    for file in (*path.parent.glob(f"{path.stem}*.py"), *path.parent.glob(f"{SHARED}*.py")):
        source = file.read_text(encoding="utf-8")
        assert banned & set(said(source)) == set()
        allowed = (options, f"trimtab.objectives.{SHARED}")
        others = [name for name in imported(source) if not name.startswith(allowed)]
        assert not [name for name in others if name.startswith("trimtab.objectives")]


def test_the_recipes_are_found():
    assert {path.stem for path in recipes()} >= {"online_dpo", "best_of_n", "iterated"}


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_core_imports_neither_plugins_nor_objectives(path):
    outside = re.compile(r"trimtab\.(?!core\b)")
    found = [name for name in imported(path.read_text(encoding="utf-8")) if outside.match(name)]
    assert found == []


def test_imports_inside_functions_count():
    source = "def late():\n    from trimtab.plugins import registry"
    assert list(imported(source)) == ["trimtab.plugins.registry"]

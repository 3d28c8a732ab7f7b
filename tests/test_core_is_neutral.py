"""The core names no objective, and imports nothing that is built on it."""

import ast
import importlib
import re
from pathlib import Path

import pytest

import trimtab.core.gradient
import trimtab.objectives.sft

CORE = sorted(Path(trimtab.core.gradient.__file__).parent.glob("*.py"))
OBJECTIVES = sorted(Path(trimtab.objectives.sft.__file__).parent.glob("*.py"))


def builtin_names():
    """What the hooks of objectives/*.py provide."""
    modules = [importlib.import_module(f"trimtab.objectives.{path.stem}") for path in OBJECTIVES]
    hooks = [
        module.provide_objectives for module in modules if hasattr(module, "provide_objectives")
    ]
    return sorted(cls.name for provide in hooks for cls in provide())


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


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_core_imports_neither_plugins_nor_objectives(path):
    outside = re.compile(r"trimtab\.(?!core\b)")
    found = [name for name in imported(path.read_text(encoding="utf-8")) if outside.match(name)]
    assert found == []


def test_imports_inside_functions_count():
    source = "def late():\n    from trimtab.plugins import registry"
    assert list(imported(source)) == ["trimtab.plugins.registry"]

"""Run files with a recipe, and the stages that they stand for, for the tests of recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trimtab.core.config import RunFile
from trimtab.core.runfile import RunFileError, load
from trimtab.plugins.registry import Plugins

SIMPO = Path(__file__).parents[1] / "examples/trimtab-simpo/src/trimtab_simpo/__init__.py"
"""The example of a stranger's objective."""


def knowing(*files: str | Path) -> Plugins:
    """A registry with the plugins in these files, beside those that come with trimtab."""
    registry = Plugins(installed=False)
    for file in files:
        registry.add_file(Path(file))
    return registry


class Expanding:
    """Expands a recipe in a run file; ``given`` are sections that all files have."""

    def __init__(self, folder: Path, plugins: Plugins, **given: Any) -> None:
        self.file, self.plugins, self.given = folder / "run.yaml", plugins, given

    def __call__(
        self, name: str, options: dict[str, Any] | None = None, **sections: Any
    ) -> dict[str | None, RunFile]:
        """The stages, by name."""
        whole = {"data": {"train": "prompts.jsonl"}, **self.given}
        whole |= {"objective": {"name": name, **(options or {})}, **sections}
        self.file.write_text(json.dumps(whole))
        return {stage.name: stage.run for stage in load(self.file, (), self.plugins).stages}

    def error(self, name: str, *args: Any, **sections: Any) -> str:
        """The one thing that is wrong, without the line."""
        with pytest.raises(RunFileError) as caught:
            self(name, *args, **sections)
        (found,) = caught.value.errors
        return found.partition("run.yaml:1: ")[2]

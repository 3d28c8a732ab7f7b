"""The directories of a run's stages, and their resolved run files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trimtab.core.rundir import CONFIG
from trimtab.core.stages import STAGES
from trimtab.core.yamlfile import read as read_yaml


def stages_of(home: Path) -> Iterator[tuple[str, Path]]:
    """Name and directory, in the order of the run file; one that it does not name comes last.

    A run without stages is one, without a name.
    """
    there = {path.name: path for path in (home / STAGES).glob("[!.]*") if path.is_dir()}
    if not there:
        yield "", home
    stages = config(home).get("stages") or ()
    named = [str(stage["name"]) for stage in stages if isinstance(stage, Mapping)]
    for name in dict.fromkeys([*(name for name in named if name in there), *sorted(there)]):
        yield name, there[name]


def config(path: Path) -> dict[str, Any]:
    """The resolved run file of a run directory, as plain values; nothing where it has none."""
    file = path / CONFIG
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    node, faults = read_yaml(text, str(file), lines=False)
    sections = None if faults else node.plain()
    return sections if isinstance(sections, dict) else {}

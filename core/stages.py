"""``stages:`` of a run file -> the sections of each run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from trimtab.core.errors import suggestion
from trimtab.core.yamlfile import Fault, Node

NAME = re.compile(r"[a-z][a-z0-9_-]*")
STAGES = "stages"
"""The section of a run file; and the folder of a run, where each stage has its directory."""

OF_THE_FILE = ("plugins", "run", STAGES)
PLUGIN_SECTIONS = ("objective", "reference", "source", "judge")
HANDOVER = re.compile(rf"stages\.({NAME.pattern})")
"""Wherever it is the whole value, it stands for the directory of that earlier stage."""


def split(root: Node, faults: list[Fault]) -> list[tuple[str | None, Node]]:
    """(name, sections) of every run. The file's own sections are the defaults of each stage."""
    section = root.child(STAGES)
    if section is None:
        return [(None, root)]
    if not isinstance(section.value, list) or not section.value:
        faults.append(Fault(section.origin, section.key, "wants a list of stages"))
        return []
    defaults = {key: node for key, node in (root.value or {}).items() if key != STAGES}
    stages: list[tuple[str | None, Node]] = []
    names = [_name(stage) for stage in section.value]
    for index, stage in enumerate(section.value):
        if not isinstance(stage.value, dict):
            faults.append(Fault(stage.origin, stage.key, "wants keys with values, a name first"))
            continue
        earlier = [name for name in names[:index] if name]
        _check_name(stage, names[index], earlier, faults)
        stages.append((names[index], _over_defaults(stage, defaults, faults)))
    return stages


def _over_defaults(stage: Node, defaults: Mapping[str, Node], faults: list[Fault]) -> Node:
    """The stage's own sections over those of the file."""
    merged = dict(defaults)
    for key, node in stage.value.items():
        if key in OF_THE_FILE:
            said = f"{key!r} belongs to the whole file; write it outside stages"
            faults.append(Fault(node.origin, node.key, said))
        elif key != "name":
            merged[key] = _merged(defaults.get(key), node, key in PLUGIN_SECTIONS)
    return stage.having(merged)


def _name(stage: Node) -> str | None:
    node = stage.child("name")
    return node.value if node and isinstance(node.value, str) else None


def _check_name(
    stage: Node, name: str | None, earlier: Sequence[str], faults: list[Fault]
) -> None:
    node = stage.child("name")
    origin = node.origin if node else stage.origin
    if node is None:
        said = "this is required"
    elif name is None or not NAME.fullmatch(name):
        said = "a stage's name is lower-case letters, digits, - and _, a letter first"
    elif name in earlier:
        said = f"two stages are named {name!r}; rename one"
    else:
        return
    faults.append(Fault(origin, stage.under("name"), said))


def _merged(default: Node | None, own: Node, names_plugin: bool) -> Node:
    """``own`` over ``default``, key by key. Another plugin takes no options of the default's."""
    if default is None or not (isinstance(default.value, dict) and isinstance(own.value, dict)):
        return own
    names = [node.value for side in (default, own) if (node := side.child("name"))]
    if names_plugin and len(names) == 2 and names[0] != names[1]:
        return own
    merged = {key: _merged(default.child(key), node, False) for key, node in own.value.items()}
    return own.having({**default.value, **merged})


def check_handovers(runs: Sequence[tuple[str | None, Node]], faults: list[Fault]) -> None:
    """Every ``stages.NAME`` must be a stage that has ended when this one starts."""
    names = [name for name, _ in runs]
    for index, (_, run) in enumerate(runs):
        earlier = [name for name in names[:index] if name]
        for node in handovers(run):
            name = str(node.value).removeprefix("stages.")
            if name in earlier:
                continue
            if name in names:
                said = f"the stage {name!r} does not come before this one"
            else:
                said = f"no stage is named {name!r}.{suggestion(name, earlier)}"
                said += f" Earlier stages: {', '.join(earlier) or 'none'}."
            faults.append(Fault(node.origin, node.key, said))


def handovers(node: Node) -> Iterator[Node]:
    """Every ``stages.NAME`` among these sections."""
    inside = node.value.values() if isinstance(node.value, dict) else node.value
    if isinstance(node.value, dict | list):
        for each in inside:
            yield from handovers(each)
    elif isinstance(node.value, str) and HANDOVER.fullmatch(node.value):
        yield node


def whole_run(directory: Path) -> Path:
    """What is to be resumed: this run, or the pipeline of which it is a stage."""
    home = directory.parent.parent
    is_stage = directory.parent.name == STAGES and (home / "config.yaml").is_file()
    return home if is_stage else directory

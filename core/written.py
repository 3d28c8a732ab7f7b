"""A plan as the shortest run file that says the same: what differs from the defaults."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import to_jsonable_python

from trimtab.core.config import RolloutConfig, RunFile
from trimtab.core.registry import Registry
from trimtab.core.runfile import KINDS, Plan, Stage, nested
from trimtab.core.yamlfile import write


def shortest(plan: Plan, registry: Registry) -> str:
    """YAML that ``load`` gives an equal plan for; a comment above each stage says what it is.

    What all stages share stands above them.
    """
    first = plan.stages[0]
    differing = [_differing(stage.run, registry) for stage in plan.stages]
    if first.name is None:
        return _commented(first, write(differing[0], flat=True))
    shared = _shared(differing)
    written = [write(shared, flat=True)] if shared else []
    written.append("stages:\n")
    for stage, sections in zip(plan.stages, differing, strict=True):
        own = _without(sections, shared)
        item = write([{"name": stage.name, **own}], flat=True)
        written.append(textwrap.indent(_commented(stage, item), "  "))
    return "".join(written)


def summary(stage: Stage) -> str:
    """What a stage does, in a line."""
    run, name = stage.run, f"{stage.name}: " if stage.name else ""
    if run.objective is None:
        assert run.source is not None
        return f"{name}makes {run.source.name} of {run.data.named}"
    return (
        f"{name}{run.objective.name} on {run.data.named}, from {run.model.start or run.model.name}"
    )


def _commented(stage: Stage, text: str) -> str:
    return f"# {summary(stage)}\n{text}"


def _differing(run: RunFile, registry: Registry) -> dict[str, Any]:
    """The sections without what they would be if nothing were said."""
    sections: dict[str, Any] = run.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    defaults = RunFile.model_fields | RolloutConfig.model_fields
    chosen = [((section,), kind) for section, kind in KINDS.items()]
    for path, kind in (*chosen, *nested(run)):
        outer, last = sections, path[-1]
        for key in path[:-1]:
            outer = outer.get(key, {})
        if isinstance(outer.get(last), list):
            outer[last] = [_chosen(one, kind, registry) for one in outer[last]]
        elif outer.get(last) is not None:
            outer[last] = _chosen(outer[last], kind, registry)
            if outer[last] == to_jsonable_python(defaults[last].get_default()):
                del outer[last]
    return {key: value for key, value in sections.items() if value != {}}


def _chosen(section: Mapping[str, Any], kind: str, registry: Registry) -> dict[str, Any]:
    """A plugin's section without the options that are at the plugin's defaults."""
    options = registry.find(kind, section["name"]).options.model_fields
    defaults = {
        field.alias or key: to_jsonable_python(field.get_default(call_default_factory=True))
        for key, field in options.items()
        if not field.is_required()
    }
    return {
        key: value
        for key, value in section.items()
        if key not in defaults or value != defaults[key]
    }


def _shared(stages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The sections, or within them the keys, that are the same in all stages."""
    found: dict[str, Any] = {}
    for section, first in stages[0].items():
        others: list[Any] = [stage.get(section) for stage in stages[1:]]
        if all(other == first for other in others):
            found[section] = first
        elif section not in KINDS and all(isinstance(other, dict) for other in others):
            same = {
                key: value
                for key, value in first.items()
                if all(key in other and other[key] == value for other in others)
            }
            found |= {section: same} if same else {}
    return found


def _without(sections: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """What is not said above."""
    found = {}
    for section, value in sections.items():
        if section not in shared:
            found[section] = value
        elif value != shared[section]:
            found[section] = {k: v for k, v in value.items() if k not in shared[section]}
    return found

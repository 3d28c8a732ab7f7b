"""Recipes of a run file -> the stages that they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from trimtab.core.errors import UserError
from trimtab.core.explain import check
from trimtab.core.recipe import Around, Part, Recipe
from trimtab.core.stages import HANDOVER, OF_THE_FILE
from trimtab.core.yamlfile import Fault, Node

Named = tuple[str | None, Node]
DEEPEST = 4
"""Recipes within recipes."""


class Registry(Protocol):
    """Finds objectives and recipes by name."""

    def find(self, kind: str, name: str) -> type[Any]:
        """The class; ``PluginError`` when there is none that can be used."""

    def names(self, kind: str) -> list[str]:
        """Every name of this kind that can be used."""


def expanded(
    runs: Iterable[Named], registry: Registry, faults: list[Fault], depth: int = 0
) -> list[Named]:
    """The same runs, with the parts of each recipe in its place.

    The last part has the name of the stage that was the recipe, so that later stages find it.
    """
    found: list[Named] = []
    for name, node in runs:
        recipe = _recipe(node, registry)
        if recipe is None:
            found.append((name, node))
        elif depth == DEEPEST:
            found_at = node.child("objective") or node
            said = f"recipes within recipes, {DEEPEST} deep: name an objective"
            faults.append(Fault(found_at.origin, found_at.key, said))
        else:
            parts = list(_parts(name, node, recipe, registry, faults))
            found += expanded(parts, registry, faults, depth + 1)
    return found


def _recipe(node: Node, registry: Registry) -> type[Recipe[Any]] | None:
    objective = node.child("objective")
    name = objective.child("name") if objective else None
    if name is None or not isinstance(name.value, str):
        return None
    try:
        cls = registry.find("objective", name.value)
    except UserError:
        return None  # told with the other sections
    return cls if issubclass(cls, Recipe) else None


def _parts(
    name: str | None,
    node: Node,
    cls: type[Recipe[Any]],
    registry: Registry,
    faults: list[Fault],
) -> Iterator[Named]:
    objective = node.value["objective"]
    given = {key: value for key, value in objective.plain().items() if key != "name"}
    options, found = check(cls.options, objective, given, also=("name",))
    faults.extend(found)
    if options is None:
        return
    try:
        parts = list(cls(options).expand(_around(node, registry)))
    except UserError as error:
        faults.append(Fault(objective.origin, objective.key, str(error)))
        return
    names = _names(name, parts)
    for part in parts:
        yield names[part.name], _sections(node, objective, part, names)


def _around(node: Node, registry: Registry) -> Around:
    def learns_from(name: str) -> Any:
        cls = registry.find("objective", name)
        if issubclass(cls, Recipe):
            raise UserError(f"{name!r} is a recipe, and an objective is wanted here")
        return cls.data

    def the_one(batch: Any) -> str:
        names = [name for name in registry.names("objective") if "." not in name]
        fit = [n for n in names if getattr(registry.find("objective", n), "data", None) is batch]
        if len(fit) != 1:
            several = ", ".join(fit) or "none is built in"
            raise UserError(f"say which objective learns from {batch.__name__}: {several}")
        return fit[0]

    sections = {
        key: one.plain() for key, one in node.value.items() if key not in ("objective", "name")
    }
    return Around(sections, learns_from, the_one)


def _names(name: str | None, parts: list[Part]) -> dict[str, str | None]:
    """What each part is called in the file. A recipe of one part stays what it was."""
    if name is None:
        return {part.name: part.name if len(parts) > 1 else None for part in parts}
    inner = {part.name: f"{name}-{part.name}" for part in parts[:-1]}
    return {**inner, parts[-1].name: name}


def _sections(node: Node, objective: Node, part: Part, names: Mapping[str, str | None]) -> Node:
    """The part's own sections over those around, with origins as near as can be."""
    own = {
        key: _node(_renamed(value, names), node.child(key), objective, key)
        for key, value in part.sections.items()
    }
    kept = {key: one for key, one in node.value.items() if key != "objective"}
    merged = {
        key: one
        for key, one in {**kept, **own}.items()
        if key in OF_THE_FILE or one.value is not None
    }
    return node.having(merged)


def _renamed(value: Any, names: Mapping[str, str | None]) -> Any:
    """``stages.PART`` as the file calls it; what is no part is a stage of the file."""
    if isinstance(value, Mapping):
        return {key: _renamed(each, names) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_renamed(each, names) for each in value]
    if isinstance(value, str) and (match := HANDOVER.fullmatch(value)):
        return f"stages.{names.get(match[1]) or match[1]}"
    return value


def _node(value: Any, around: Node | None, objective: Node, key: str) -> Node:
    """A value as it was written, where it was, else as one of the recipe's own line."""
    if around is not None and around.plain() == value:
        return around
    if isinstance(value, Mapping):
        options: list[Node] = list(objective.value.values())
        if same := [option for option in options if option.plain() == value]:
            return same[0]
        inside = {
            str(name): _node(
                each, around.child(name) if around else None, objective, f"{key}.{name}"
            )
            for name, each in value.items()
        }
        return Node(inside, objective.origin, key)
    if isinstance(value, list):
        items = [_node(each, None, objective, f"{key}.{n}") for n, each in enumerate(value)]
        return Node(items, objective.origin, key)
    return Node(value, objective.origin, key)

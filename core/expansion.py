"""Recipes of a run file -> the stages that they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, create_model

from trimtab.core.config import RunFile
from trimtab.core.errors import UserError
from trimtab.core.explain import check, models_in
from trimtab.core.options import Config, OfKind
from trimtab.core.origins import placed
from trimtab.core.recipe import Around, OptionError, Part, Recipe
from trimtab.core.registry import Registry
from trimtab.core.stages import HANDOVER, NAME, OF_THE_FILE, handovers
from trimtab.core.yamlfile import Fault, Node

Named = tuple[str | None, Node]
DEEPEST = 4
"""Recipes within recipes."""

Sections = create_model(
    "Sections",
    __base__=Config,
    **{
        name: (Any if name == "objective" else field.annotation, None)
        for name, field in RunFile.model_fields.items()
    },  # type: ignore[call-overload]
)
"""The sections of a run of which a recipe may give any: none is required."""


def expanded(
    runs: Iterable[Named], registry: Registry, faults: list[Fault], depth: int = 0
) -> list[Named]:
    """The same runs, with the parts of each recipe in its place.

    The last part has the name of the stage that was the recipe, so that later stages find it. A
    recipe that something is wrong with, or around, stays as it is, and ``faults`` says why or the
    check of its sections will.
    """
    runs = list(runs)
    found: list[Named] = []
    for name, node in runs:
        recipe = _recipe(node, registry)
        if recipe is None:
            found.append((name, node))
        elif depth == DEEPEST:
            said = f"recipes within recipes, {DEEPEST} deep: name an objective"
            faults.append(_fault(node.value["objective"], said))
            found.append((name, node))
        else:
            parts = _parts(name, node, recipe, registry, faults)
            inner = expanded(parts, registry, faults, depth + 1) if parts else [(name, node)]
            others = [other for other, _ in (*found, *runs) if other != name]
            if taken := [each for each, _ in inner if each is not None and each in others]:
                said = f"a stage of this recipe is named {taken[0]!r}, as another stage is"
                faults.append(_fault(node.value["objective"], f"{said}; rename one"))
            found += inner
    return found


def recipes_of(runs: Iterable[Named], registry: Registry) -> tuple[str, ...]:
    """The names of the recipes that these runs name, each once."""
    found = (_recipe(node, registry) for _, node in runs)
    return tuple(dict.fromkeys(recipe.name for recipe in found if recipe))


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
) -> list[Named]:
    """The recipe's parts as stages; none where something is wrong."""
    objective = node.value["objective"]
    given = {key: value for key, value in objective.plain().items() if key != "name"}
    selected = list(_selected(cls.options, objective, registry))
    within = list(_within(cls.options, selected, registry))
    options, found = check(cls.options, objective, given, also=("name", *within))
    for _, section, plugin in selected:
        found += _check_selected(section, plugin)
    faults.extend(found)
    sections = {key: one for key, one in node.value.items() if key != "objective"}
    _, wrong = check(Sections, node, node.having(sections).plain(), whole=False)
    if options is None or found or wrong:
        return []
    try:
        parts = list(cls(options).expand(_around(sections, registry)))
        _check_parts(cls, parts)
    except OptionError as error:
        faults.append(_fault(_at(objective, error.option), str(error), error.option))
        return []
    except UserError as error:
        faults.append(_fault(objective, str(error)))
        return []
    names = _names(name, parts)
    for written in handovers(node):
        if (part := str(written.value).removeprefix("stages.")) in names:
            said = f"{part!r} is also a part of the recipe: rename the stage that is meant"
            faults.append(_fault(written, said))
    return [(names[part.name], _sections(node, objective, part, names)) for part in parts]


def _selected(
    options: type[BaseModel], node: Node, registry: Registry
) -> Iterator[tuple[str, Node, type[Any] | Fault]]:
    """(option, section, plugin) of each option that selects a plugin, and is given."""
    for key, field in options.model_fields.items():
        below = node.child(field.alias or key)
        if below is None or not isinstance(below.value, dict):
            continue
        kinds = [mark.kind for mark in field.metadata if isinstance(mark, OfKind)]
        for model in models_in(field.annotation):
            if not kinds:
                for inner, section, plugin in _selected(model, below, registry):
                    yield f"{key}.{inner}", section, plugin
                continue
            name = below.child("name") or Node(
                model.model_fields["name"].get_default(), below.origin, below.under("name")
            )
            if isinstance(name.value, str):
                yield key, below, _found(registry, kinds[0], name)


def _found(registry: Registry, kind: str, name: Node) -> type[Any] | Fault:
    try:
        return registry.find(kind, name.value)
    except UserError as error:
        return _fault(name, str(error))


def _within(
    options: type[BaseModel], selected: Sequence[tuple[str, Node, type[Any] | Fault]], r: Registry
) -> Iterator[str]:
    """``optimizer.beta`` and so on: what an unknown option may have been meant for."""
    for key, _, plugin in selected:
        if not isinstance(plugin, Fault):
            yield from (f"{key}.{option}" for option in plugin.options.model_fields)
    for key, field in options.model_fields.items():
        kinds = [mark.kind for mark in field.metadata if isinstance(mark, OfKind)]
        if kinds and key not in [given for given, _, _ in selected]:
            for name in r.names(kinds[0]):
                yield from (f"{key}.{o}" for o in r.find(kinds[0], name).options.model_fields)


def _check_selected(section: Node, plugin: type[Any] | Fault) -> list[Fault]:
    """The options beside a plugin's name, by the plugin's own class."""
    if isinstance(plugin, Fault):
        return [plugin]
    given = {key: value for key, value in section.plain().items() if key != "name"}
    return check(plugin.options, section, given, also=("name",), whole=False)[1]


def _around(sections: Mapping[str, Node], registry: Registry) -> Around:
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

    plain = {key: node.plain() for key, node in sections.items() if key != "name"}
    return Around(plain, learns_from, the_one)


def _check_parts(cls: type[Recipe[Any]], parts: Sequence[Part]) -> None:
    names = [part.name for part in parts]
    if not parts or len(set(names)) < len(names) or not all(map(NAME.fullmatch, names)):
        raise UserError(
            f"the recipe {cls.name!r} is wrong: it is to have parts whose names differ, of "
            f"lower-case letters, digits, - and _, a letter first. It has: {names}"
        )


def _names(name: str | None, parts: Sequence[Part]) -> dict[str, str | None]:
    """What each part is called in the file. A recipe of one part stays what it was."""
    if name is None:
        return {part.name: part.name if len(parts) > 1 else None for part in parts}
    inner = {part.name: f"{name}-{part.name}" for part in parts[:-1]}
    return {**inner, parts[-1].name: name}


def _sections(node: Node, objective: Node, part: Part, names: Mapping[str, str | None]) -> Node:
    """The part's own sections over those around."""
    own = {
        key: placed(_renamed(value, names), node.child(key), objective, key)
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


def _at(objective: Node, option: str) -> Node:
    """Where an option stands, or the nearest above it that was written."""
    here = objective
    for part in option.split("."):
        below = here.child(part)
        if below is None:
            break
        here = below
    return here


def _fault(node: Node, said: str, option: str | None = None) -> Fault:
    """``option`` names it where it was not written."""
    key = node.key if option is None or node.key.endswith(f".{option}") else f"objective.{option}"
    return Fault(node.origin, key, said)

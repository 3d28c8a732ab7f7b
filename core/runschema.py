"""The JSON Schema of run files, with the options of the installed plugins, for editors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from trimtab.core.config import RunFile, Selected, SelectedReward
from trimtab.core.options import SELECTS
from trimtab.core.recipe import Recipe
from trimtab.core.registry import Registry
from trimtab.core.runfile import KINDS
from trimtab.core.stages import NAME, OF_THE_FILE

DIALECT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]


def run_schema(registry: Registry) -> Schema:
    """A run file: one run, or ``stages`` over sections that are their defaults."""
    complete = RunFile.model_json_schema()
    defs: Schema = {
        name: schema
        for name, schema in complete.pop("$defs").items()
        if name not in (Selected.__name__, SelectedReward.__name__)
    }
    sections: Schema = complete["properties"]
    for section, kind in KINDS.items():
        schema = _any_plugin(registry, kind, defs)
        if isinstance(sections[section].get("items"), dict):
            sections[section]["items"] = schema
        elif RunFile.model_fields[section].default is None:
            sections[section] = {"anyOf": [schema, {"type": "null"}], "default": None}
        else:
            sections[section] = schema
    engines = _any_plugin(registry, "engine", defs)
    by_name = {"enum": registry.names("engine")}
    defs["RolloutConfig"]["properties"]["engine"] = {"anyOf": [engines, by_name]}
    source = _any_plugin(registry, "source", defs)
    defs["StreamSection"]["properties"]["source"] = {"anyOf": [source, {"type": "null"}]}
    defs = {name: _selecting(schema, registry, defs) for name, schema in defs.items()}
    defaults, partial_defs = _partial(sections, defs)
    own = {key: schema for key, schema in defaults.items() if key not in OF_THE_FILE}
    stage = {
        "type": "object",
        "description": "One run: its own sections, over those of the file.",
        "properties": {"name": {"type": "string", "pattern": f"^{NAME.pattern}$"}, **own},
        "required": ["name"],
        "additionalProperties": False,
    }
    staged = {
        **complete,
        "title": "StagedRunFile",
        "properties": {**defaults, "stages": {"type": "array", "items": stage, "minItems": 1}},
        "required": ["stages"],
    }
    return {
        "$schema": DIALECT,
        "title": "Trimtab run file",
        "if": {"type": "object", "required": ["stages"]},
        "then": {"$ref": "#/$defs/StagedRunFile"},
        "else": {"$ref": "#/$defs/RunFile"},
        "$defs": {
            **defs,
            **partial_defs,
            "RunFile": {**complete, "anyOf": [_given("objective"), _given("source")]},
            "StagedRunFile": staged,
        },
    }


def plugin_schema(kind: str, name: str, cls: type[Any]) -> Schema:
    """The section of a run file that selects this plugin; its ``$defs`` are within."""
    base = SelectedReward if kind == "reward" else Selected
    section: Schema = base.model_json_schema()
    options: Schema = cls.options.model_json_schema()
    title = f"{kind} {name}"
    schema = {
        "title": title,
        "type": "object",
        "description": inspect.cleandoc(cls.__doc__ or title),
        "properties": {
            **section["properties"],
            "name": {"const": name, "description": section["properties"]["name"]["description"]},
            **options.get("properties", {}),
        },
        "required": ["name", *options.get("required", [])],
        "additionalProperties": False,
    }
    return {**schema, "$defs": options["$defs"]} if "$defs" in options else schema


def _any_plugin(registry: Registry, kind: str, defs: Schema) -> Schema:
    """One of the plugins of a kind. Their schemas are added to ``defs``."""
    choices = []
    for name in registry.names(kind):
        schema = plugin_schema(kind, name, registry.find(kind, name))
        title = f"{kind}.{name}"
        inner = schema.pop("$defs", {})
        names = {f"#/$defs/{key}": f"#/$defs/{title}.{key}" for key in inner}
        defs[title] = _renamed(schema, names)
        defs.update({f"{title}.{key}": _renamed(value, names) for key, value in inner.items()})
        choices.append({"$ref": f"#/$defs/{title}"})
    return {"anyOf": choices} if choices else {"not": {}}


def _given(section: str) -> Schema:
    return {"required": [section], "properties": {section: {"type": "object"}}}


def _selecting(schema: Any, registry: Registry, defs: Schema) -> Any:
    """A copy in which an option that selects a plugin is a section of one of that kind."""
    if isinstance(schema, list):
        return [_selecting(item, registry, defs) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if SELECTS not in schema:
        return {key: _selecting(value, registry, defs) for key, value in schema.items()}
    kind = schema[SELECTS]
    choices = schema.get("anyOf", [schema])
    usable = [n for n in registry.names(kind) if not issubclass(registry.find(kind, n), Recipe)]
    sections: list[Schema] = [{"$ref": f"#/$defs/{kind}.{name}"} for name in usable]
    for choice in choices:
        section = defs.get(choice.get("$ref", "").removeprefix("#/$defs/"), {})
        usual = section.get("properties", {}).get("name", {}).get("default")
        if usual in usable:  # its name may be left out
            named = defs[f"{kind}.{usual}"]
            required = [key for key in named["required"] if key != "name"]
            sections.append({**named, "required": required})
    null = [choice for choice in choices if choice == {"type": "null"}]
    kept = {key: schema[key] for key in ("title", "description", "default") if key in schema}
    return {**kept, "anyOf": [*sections, *null]}


def _partial(sections: Schema, defs: Schema) -> tuple[Schema, Schema]:
    """The same sections with nothing required: a stage may give what another place leaves out."""
    names = {f"#/$defs/{name}": f"#/$defs/partial.{name}" for name in defs}
    partial = {f"partial.{name}": _renamed(schema, names) for name, schema in defs.items()}
    for schema in partial.values():
        schema.pop("required", None)
    return _renamed(sections, names), partial


def _renamed(schema: Any, names: Mapping[str, str]) -> Any:
    """A copy with other references."""
    if isinstance(schema, dict):
        return {
            key: names.get(value, value) if key == "$ref" else _renamed(value, names)
            for key, value in schema.items()
        }
    if isinstance(schema, list):
        return [_renamed(item, names) for item in schema]
    return schema

"""``trimtab describe``: what a plugin does, needs and takes."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimtab.commands import AsJson

if TYPE_CHECKING:
    from trimtab.plugins.registry import Plugins, Provided

SELECTS = "x-selects"
"""As in ``trimtab.core.options``, which imports what takes long."""

PAPER = re.compile(r"(?:[A-Z][\w'-]+(?: et al\.| and [A-Z][\w'-]+)? \d{4}, )?arXiv:\d{4}\.\d{4,5}")
TYPES = {"string": "text", "integer": "whole number", "boolean": "true or false"}
BOUNDS = {
    "exclusiveMinimum": ">",
    "minimum": ">=",
    "exclusiveMaximum": "<",
    "maximum": "<=",
}
Name = Annotated[
    str,
    typer.Argument(
        metavar="KIND/NAME", help="Such as objective/NAME; NAME alone where it is one."
    ),
]


def describe(name: Name, as_json: AsJson = False) -> None:
    """Show a plugin's options with types, defaults and meaning; its paper; what it needs."""
    from trimtab.core.runschema import DIALECT, plugin_schema
    from trimtab.plugins.registry import Plugins

    kind, provided = _found(Plugins(), name)
    about = _about(kind, provided)
    schema = plugin_schema(kind, provided.cls.name, provided.cls)
    if as_json:
        typer.echo(json.dumps({"$schema": DIALECT, **schema, "x-trimtab": about}, indent=2))
    else:
        typer.echo(_page(about, schema))


def _found(plugins: Plugins, name: str) -> tuple[str, Provided]:
    from trimtab.core.errors import UserError, suggestion
    from trimtab.plugins.admission import KINDS

    kind, slash, bare = name.rpartition("/")
    if slash:
        if kind not in KINDS:
            raise UserError(
                f"no kind {kind!r}.{suggestion(kind, KINDS)} Kinds: {', '.join(KINDS)}."
            )
        return kind, plugins.provided(kind, bare)
    kinds = [kind for kind in KINDS if bare in plugins.names(kind)]
    if len(kinds) > 1:
        choices = " or ".join(f"{kind}/{bare}" for kind in kinds)
        raise UserError(f"{bare!r} is the name of several plugins: say {choices}")
    if not kinds:
        everything = {entry.name: entry for entry in plugins.entries()}
        if bare in everything:
            raise UserError(f"{bare!r} is broken: {everything[bare].error}")
        raise UserError(
            f"no plugin {bare!r}.{suggestion(bare, everything)} "
            "'trimtab plugins' lists what is installed."
        )
    return kinds[0], plugins.provided(kinds[0], bare)


def _about(kind: str, provided: Provided) -> dict[str, Any]:
    """What the schema of the options does not say, as JSON."""
    cls = provided.cls
    text = " ".join(inspect.cleandoc(cls.__doc__ or "").split())
    about: dict[str, Any] = {
        "kind": kind,
        "name": cls.name,
        "distribution": provided.distribution.name,
        "version": provided.distribution.version,
        "papers": PAPER.findall(text),
    }
    if makes := _makes(kind, cls):
        about["makes"] = makes
    elif kind == "objective":
        about["data"] = getattr(getattr(cls, "data", None), "__name__", None)
        about["needs"] = _needs(cls)
    return about


def _makes(kind: str, cls: type[Any]) -> str | None:
    """Of what stands where an objective or a source does, and is none."""
    from trimtab.core.recipe import Recipe

    if kind == "objective" and issubclass(cls, Recipe):
        return "stages, which trimtab validate prints"
    if kind == "source":
        from trimtab.core.maker import Maker

        return "a data set, in a stage without objective" if issubclass(cls, Maker) else None
    return None


def _needs(cls: type[Any]) -> list[str]:
    """What the core computes for it, at its default options where it has defaults for all."""
    from pydantic import ValidationError

    try:
        needs = cls(cls.options()).needs
    except ValidationError:
        needs = cls.needs
    found = []
    for field in fields(needs):
        value = getattr(needs, field.name)
        if value:
            names = "" if value is True else f" ({', '.join(sorted(value))})"
            found.append(f"{field.name}{names}")
    return found


def _page(about: dict[str, Any], schema: dict[str, Any]) -> str:
    lines = [
        f"{about['kind']}/{about['name']}   ({about['distribution']} {about['version']})".rstrip(),
        "",
        schema["description"],
        "",
    ]
    if about["papers"]:
        lines.append(f"papers:  {'; '.join(about['papers'])}")
    if about.get("data"):
        lines.append(f"data:    {about['data']}")
    if "needs" in about:
        lines.append(f"needs:   {', '.join(about['needs']) or 'nothing'}")
    if about.get("makes"):
        lines.append(f"makes:   {about['makes']}")
    lines.append("options:")
    lines += _options(schema, schema.get("$defs", {}))
    return "\n".join(lines)


def _options(schema: dict[str, Any], defs: dict[str, Any], above: str = "") -> Iterator[str]:
    """What each option is; those within a section by their dotted names."""
    for option, field in schema["properties"].items():
        if option == "name" and not above:
            continue
        section = defs.get(field.get("$ref", "").rpartition("/")[2])
        within = section if section and SELECTS not in field else None
        need = "required" if option in schema.get("required", ()) else "optional"
        need = f"default {json.dumps(field['default'])}" if "default" in field else need
        kind = "keys with values" if within else f"{_type(field)}; {need}"
        yield f"  {above}{option}: {kind}"
        said = " ".join(field.get("description", "").split())
        yield from textwrap.wrap(said, 90, initial_indent=" " * 6, subsequent_indent=" " * 6)
        if within:
            yield from _options(within, defs, f"{above}{option}.")


def _type(field: dict[str, Any]) -> str:
    """A JSON Schema type in words."""
    if SELECTS in field:
        null = " or null" if {"type": "null"} in field.get("anyOf", ()) else ""
        return f"{field[SELECTS]} by name, with its options{null}"
    if "anyOf" in field:
        return " or ".join(_type(choice) for choice in field["anyOf"])
    if "enum" in field:
        return " | ".join(map(str, field["enum"]))
    if "const" in field:
        return str(field["const"])
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    kind = field.get("type", "anything")
    if kind == "array":
        return f"list of {_type(field.get('items', {}))}"
    bounds = [f"{sign} {field[key]:g}" for key, sign in BOUNDS.items() if key in field]
    return " ".join([TYPES.get(kind, kind), *bounds])

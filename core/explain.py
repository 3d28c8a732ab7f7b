"""Says what is wrong with checked options, where, and what to write instead."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from trimtab.core.errors import suggestion
from trimtab.core.yamlfile import Fault, Node

M = TypeVar("M", bound=BaseModel)

WANTS = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "keys with values",
    "model_type": "keys with values",
    "model_attributes_type": "keys with values",
    "finite_number": "a finite number",
    "none_required": "null",
}


def check(
    model: type[M], node: Node, plain: Any, also: Sequence[str] = (), whole: bool = True
) -> tuple[M | None, list[Fault]]:
    """``plain`` as a ``model``, or None with all that is wrong with it.

    Values are read as JSON is: a list may become a tuple, text an enum, but ``"3"`` no number.
    ``node`` is where they were written. ``also`` are names to suggest for an unknown key.
    Unless it is to be ``whole``, for more will be added to it, nothing is told that is missing,
    nor of options that do not fit together.
    """
    try:
        return model.model_validate_json(json.dumps(plain)), []
    except ValidationError as error:
        errors = error.errors(include_url=False)
        told = [each for each in errors if whole or (each["type"] != "missing" and each["loc"])]
        complaints = [_complaint(model, node, each, also) for each in told]
    return None, [_fault(group) for group in _by_choice(complaints)]


@dataclass(frozen=True)
class _Complaint:
    """One of pydantic's errors, and the value it is about."""

    node: Node
    key: str
    kind: str
    said: str
    choice: str
    """The dotted path of the value that had several types to choose from, if one had."""

    wants: str | None = None
    known: tuple[str, ...] = ()


def _complaint(
    model: type[BaseModel], node: Node, error: Mapping[str, Any], also: Sequence[str]
) -> _Complaint:
    loc = error["loc"] or ("",)
    *path, last = loc
    choice = ""
    for part in (*path, last):
        below = node.child(part)
        if below is None:
            choice = choice or node.key
        node = below or node
    kind, said = error["type"], error["msg"]
    context = error.get("ctx", {})
    if kind == "missing":
        return _Complaint(node, node.under(last), kind, "this is required", "")
    if kind == "extra_forbidden":
        known = (*_fields(model, path), *(() if path else also))
        return _Complaint(node, node.key, kind, "unknown key", "", known=known)
    if kind in ("literal_error", "enum"):
        known = tuple(re.findall(r"'([^']*)'", context["expected"]))
        return _Complaint(node, node.key, kind, said, choice, context["expected"], known)
    if kind == "value_error":
        said = str(context["error"])
        if below is None and last in _fields(model, path):
            return _Complaint(node, node.under(last), kind, said, choice)
    wants = WANTS.get(kind)
    if kind == "model_type" and isinstance(node.value, str) and "name" in _fields(model, loc):
        wants = f"keys with values, such as {{name: {node.value}}}"
    return _Complaint(node, node.key, kind, said, choice, wants)


def _by_choice(complaints: Sequence[_Complaint]) -> Iterator[list[_Complaint]]:
    """One group a value; of the types it could have had, those it came nearest to."""
    groups: dict[tuple[str, object], list[_Complaint]] = {}
    for number, complaint in enumerate(complaints):
        alone = number if not complaint.choice else None
        groups.setdefault((complaint.choice, alone), []).append(complaint)
    for group in groups.values():
        depth = max(complaint.key.count(".") for complaint in group)
        yield [complaint for complaint in group if complaint.key.count(".") == depth]


def _fault(group: Sequence[_Complaint]) -> Fault:
    first = group[0]
    node = first.node
    wants = [complaint.wants for complaint in group if complaint.wants]
    known = [name for complaint in group for name in complaint.known]
    if first.kind == "extra_forbidden":
        said = f"{first.said}.{_near(first.key.rpartition('.')[2], known)}"
        here = ", ".join(name for name in known if "." not in name)
        said += f" Known: {here}." if here else " There are no options."
    elif wants:
        said = f"wants {' or '.join(wants)}, not {_shown(node)}"
        near = suggestion(node.text or str(node.value), known)
        mistaken = node.text and not isinstance(node.value, str)
        if mistaken and ("text" in wants or node.text in known):
            said += f"; quote it: '{node.text}'"
        elif near:
            said += f".{near}"
    elif first.kind == "too_short":
        said = "this is empty" if not node.value else f"these are too few: {len(node.value)}"
    elif first.kind in ("missing", "value_error"):
        said = first.said
    else:
        said = first.said.replace("Input should be", "must be") + f", not {_shown(node)}"
    return Fault(node.origin, first.key, said)


def _near(key: str, known: Sequence[str]) -> str:
    """A suggestion; else a dotted name that ends in this key."""
    inside = [name for name in known if name.endswith(f".{key}")]
    return suggestion(key, known) or (f" Did you mean {inside[0]!r}?" if inside else "")


def _shown(node: Node) -> str:
    """The value as it was written, and what YAML takes it for where that may surprise."""
    if isinstance(node.value, dict):
        return "keys with values"
    if isinstance(node.value, list):
        return "a list"
    if isinstance(node.value, str):
        return f"the text {node.value[:60]!r}"
    shown = json.dumps(node.value)
    if isinstance(node.value, bool) and node.text != shown:
        return f"{node.text}, which is YAML for {shown}"
    return node.text or shown


def _fields(model: type[BaseModel], path: Sequence[str | int]) -> tuple[str, ...]:
    """The keys that the model at this path of the outermost model has."""
    models = [model]
    for part in path:
        named = [inner for inner in models if inner.__name__ == part]
        fields = [inner.model_fields[part] for inner in models if part in inner.model_fields]
        if fields:
            models = [inner for field in fields for inner in models_in(field.annotation)]
        models = named or models
    return tuple(field.alias or name for m in models for name, field in m.model_fields.items())


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in an annotation such as ``list[Model] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models_in(inner)

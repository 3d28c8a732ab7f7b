"""Where the values that a recipe gives its parts were written, so that faults are told there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trimtab.core.yamlfile import Node


def placed(value: Any, around: Node | None, objective: Node, key: str) -> Node:
    """A section that a recipe gives, each value at the place it was taken from.

    That is where an equal one stands: in the section of that name around (``around``), or in the
    recipe's own options, among those that share most with it. What was written nowhere, the recipe
    made: it stands on the recipe's line, under ``key``.
    """
    return _placed(value, around, list(_mappings(objective)), objective, key)


def _placed(
    value: Any, around: Node | None, options: Sequence[Node], objective: Node, key: str
) -> Node:
    if around is not None and around.plain() == value:
        return around
    if isinstance(value, Mapping):
        near = _nearest(value, options)
        if near is not None and near.plain() == value:
            return near
        inside = {}
        for name, each in value.items():
            here = near.child(name) if near else None
            if here is None or here.plain() != each:
                here = around.child(name) if around else None
                here = _placed(each, here, options, objective, f"{key}.{name}")
            inside[str(name)] = here
        at = near or around
        return Node(inside, at.origin, at.key) if at else Node(inside, objective.origin, key)
    if isinstance(value, list):
        written = around.value if around is not None and isinstance(around.value, list) else []
        items = [
            _placed(each, _nearest(each, written), options, objective, f"{key}.{number}")
            for number, each in enumerate(value)
        ]
        return Node(items, objective.origin, key)
    return Node(value, objective.origin, key)


def _nearest(value: Any, nodes: Sequence[Node]) -> Node | None:
    """The one that has most of the value's items; None where none has any."""
    if not isinstance(value, Mapping):
        return None
    shared = [
        sum(
            (child := node.child(name)) is not None and child.plain() == each
            for name, each in value.items()
        )
        for node in nodes
    ]
    most = max(shared, default=0)
    return nodes[shared.index(most)] if most else None


def _mappings(node: Node) -> Iterator[Node]:
    """This and all below it that have keys."""
    if isinstance(node.value, dict):
        yield node
    for below in node.value.values() if isinstance(node.value, dict) else node.value:
        if isinstance(below.value, dict | list):
            yield from _mappings(below)

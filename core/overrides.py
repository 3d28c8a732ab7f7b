"""``--set a.b=c``: a value on the command line in place of one in the run file."""

from __future__ import annotations

from trimtab.core.errors import suggestion
from trimtab.core.yamlfile import Fault, Node, Origin, read


class _Refused(Exception):
    """The path leads nowhere, and the message says why."""


def override(root: Node, assignment: str, faults: list[Fault]) -> Node:
    """The tree with one value replaced. Whether the key exists is checked with the whole.

    An item of a list is named by its number, or by the ``name`` it has.
    """
    path, equals, text = assignment.partition("=")
    origin = Origin(f"--set {assignment}")
    parts = path.strip().split(".")
    if not equals or not all(parts):
        faults.append(Fault(origin, path or "key", "write it as section.key=value"))
        return root
    try:
        return _replaced(root, parts, text, origin, faults)
    except _Refused as refused:
        faults.append(Fault(origin, path, str(refused)))
        return root


def _replaced(
    node: Node, parts: list[str], text: str, origin: Origin, faults: list[Fault]
) -> Node:
    if not parts:
        new, found = read(text, origin.source, key=node.key, lines=False)
        faults.extend(found)
        return new
    part, *rest = parts
    if isinstance(node.value, list):
        index = _index(node, part)
        item = _replaced(node.value[index], rest, text, origin, faults)
        return node.having([*node.value[:index], item, *node.value[index + 1 :]])
    if node.value is not None and not isinstance(node.value, dict):
        raise _Refused(f"{node.key} is {node.value!r}, which has no {part!r} to set")
    below = node.child(part) or Node(None, origin, node.under(part))
    value = {**(node.value or {}), part: _replaced(below, rest, text, origin, faults)}
    return node.having(value)


def _index(node: Node, part: str) -> int:
    if part.isdecimal() and int(part) < len(node.value):
        return int(part)
    names = [str(name.value) for item in node.value if (name := item.child("name"))]
    for index, item in enumerate(node.value):
        name = item.child("name")
        if name is not None and name.value == part:
            return index
    raise _Refused(
        f"{node.key} has {len(node.value)} items, numbered from 0, and none is {part!r}."
        f"{suggestion(part, names)}"
    )

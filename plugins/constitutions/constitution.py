"""A constitution as it is read from its file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Gt, Le, MinLen
from pydantic import AfterValidator

from trimtab.core.errors import UserError
from trimtab.core.explain import check
from trimtab.core.options import Config
from trimtab.core.yamlfile import Fault, Node, read, text_of

OURS = Path(__file__).with_name("trimtab.yaml")
"""The one that comes with trimtab, in our own words."""

BUILT_IN = "trimtab"
"""Selects it by name."""


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("this is empty")
    return text.strip()


Text = Annotated[str, AfterValidator(_said)]


class Principle(Config):
    """One principle, in the words that a model is asked with."""

    id: Text
    """Short, unique in the file."""

    critique: Text
    """The critique request: what to look for in an answer."""

    revise: Text
    """The revision request."""

    compare: Text
    """The question that a judge is asked of two answers."""

    weight: Annotated[float, Gt(0), Le(1e9)] = 1.0
    """How often it is drawn, and how much it counts: votes, say."""

    source: Text | None = None
    """Where it is from."""


class Constitution(Config):
    """A named list of principles."""

    name: Text
    principles: Annotated[list[Principle], MinLen(1)]

    def describe(self) -> dict[str, Any]:
        """What it is, as JSON for the run directory: its name, its hash and its principles."""
        whole = self.model_dump(mode="json")
        digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
        weights = {principle.id: principle.weight for principle in self.principles}
        return {"name": self.name, "hash": digest[:16], "weights": weights}


def load_constitution(named: str | None) -> Constitution:
    """The constitution of a file; None and ``trimtab`` are ours.

    ``UserError`` lists every fault as ``FILE:LINE: key: message``.
    """
    path = OURS if named in (None, BUILT_IN) else Path(str(named))
    text = text_of(path, "the constitution")
    if isinstance(text, Fault):
        raise UserError(str(text))
    node, faults = read(text, str(path))
    found = None
    if not faults and not isinstance(node.value, dict):
        said = "a constitution holds 'name:' and 'principles:'"
        faults = [Fault(node.origin, "yaml", said)]
    if not faults:
        found, faults = check(Constitution, node, node.plain())
        faults += _repeated(node)
    if found is None or faults:
        ordered = sorted(faults, key=lambda fault: fault.origin.line or 0)
        raise UserError("\n".join(map(str, ordered)))
    return found


def _repeated(node: Node) -> Iterator[Fault]:
    """Principles with the id of an earlier one."""
    principles = node.child("principles")
    first: dict[str, Node] = {}
    for principle in principles.value if principles and isinstance(principles.value, list) else ():
        named = principle.child("id")
        if named is None or not isinstance(named.value, str):
            continue
        other = first.setdefault(named.value.strip(), named)
        if other is not named:
            said = f"another principle is called {named.value!r}: at {other.origin}"
            yield Fault(named.origin, named.key, said)

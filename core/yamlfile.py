"""YAML text -> a tree in which every value knows where it was written.

A stricter YAML than the usual one: no anchors, aliases, merge keys or tags, no key twice, one
document, keys that are text. ``1e-5`` is a number. ``yes``, ``no``, ``on`` and ``off`` are
booleans, as YAML 1.1 has them. Dates, times and octal numbers are text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from yaml import events

from trimtab.core.errors import UserError

MAX_BYTES = 1 << 20
MAX_DEPTH = 50

BOOL, INT, FLOAT, NULL = (f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "float", "null"))
NUMBERS = {
    INT: (r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)", "-+0123456789"),
    FLOAT: (
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?"
        r"|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
}

LINE_BREAKS = re.compile("[\x85\u2028\u2029]")


class Loader(yaml.SafeLoader):
    """PyYAML's parser, with our reading of plain scalars."""


class Dumper(yaml.SafeDumper):
    """Writes what ``Loader`` reads back: text that looks like another type is quoted."""

    def ignore_aliases(self, data: Any) -> bool:
        """A value that occurs twice is written twice."""
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Unicode's own line breaks are escaped: PyYAML would fold them to spaces."""
        style = '"' if LINE_BREAKS.search(data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)


Dumper.add_representer(str, Dumper.represent_str)
Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag in (BOOL, NULL)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, (_pattern, _first) in NUMBERS.items():
    for _class in (Loader, Dumper):
        _class.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), list(_first))


@dataclass(frozen=True)
class Origin:
    """Where something was written: a line of a file, or an override on the command line."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a run file."""

    origin: Origin
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.key}: {self.message}"


@dataclass(frozen=True)
class Node:
    """A value of a run file: a dict or list of nodes, or a scalar."""

    value: Any
    origin: Origin
    key: str = ""
    """The dotted path from the top of the file: ``reward.0.weight``."""

    text: str | None = None
    """A scalar as it was written, when it stood without quotes."""

    def child(self, part: str | int) -> Node | None:
        """What stands under a key or at an index, if anything does."""
        if isinstance(self.value, list):
            items = dict(enumerate(self.value))
            return items.get(part) if isinstance(part, int) else None
        return self.value.get(part) if isinstance(self.value, dict) else None

    def under(self, part: str | int) -> str:
        """The dotted path of a key or an item below this."""
        return f"{self.key}.{part}" if self.key else str(part)

    def having(self, value: Any) -> Node:
        """Another value in this one's place."""
        return replace(self, value=value, text=None)

    def plain(self) -> Any:
        """The value without its origins."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


def text_of(path: Path, what: str) -> str | Fault:
    """The text of a file that holds ``what``, or why it is none: its size, or not UTF-8.

    Raises ``UserError`` where it cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot read {what} {path}: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        said = f"the file is larger than {MAX_BYTES >> 20} MiB"
        return Fault(Origin(str(path), 1), "yaml", said)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        origin = Origin(str(path), data.count(b"\n", 0, error.start) + 1)
        return Fault(origin, "yaml", "this is not UTF-8 text")


def read(text: str, source: str, *, key: str = "", lines: bool = True) -> tuple[Node, list[Fault]]:
    """The tree that ``text`` holds, and everything that is wrong with it as YAML.

    ``source`` is named in origins, with line numbers unless ``lines`` is false. ``key`` is the
    dotted path of the whole.

    >>> node, faults = read("train: {learning_rate: 1e-5, seed: 0}", "run.yaml")
    >>> node.plain(), str(node.child("train").origin), faults
    ({'train': {'learning_rate': 1e-05, 'seed': 0}}, 'run.yaml:1', [])
    """
    reader = _Reader(source, lines)
    try:
        node = reader.document(text, key)
    except _Stop:
        node = Node(None, reader.origin(0), key)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = ", ".join(part for part in (error.context, error.problem) if part)
        node = Node(None, reader.origin(mark.line if mark else 0), key)
        reader.fault(node.origin, key, f"this is not YAML: {said}")
    except yaml.reader.ReaderError as error:
        node = Node(None, reader.origin(text.count("\n", 0, error.position)), key)
        reader.fault(node.origin, key, f"the character {chr(error.character)!r} is not allowed")
    return node, reader.faults


def write(value: Any, *, flat: bool = False) -> str:
    """YAML that ``read`` gives back as ``value``, in the order of its keys.

    ``flat`` writes what holds scalars alone in a line: ``{rank: 16}``.
    """
    style = None if flat else False
    return yaml.dump(
        value,
        Dumper=Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=99,
        default_flow_style=style,
    )


class _Stop(Exception):
    """What follows cannot be read, and the fault is recorded."""


class _Reader:
    """Builds the tree from the parser's events, so that it can go on after most faults."""

    def __init__(self, source: str, lines: bool) -> None:
        self.source = source
        self.lines = lines
        self.faults: list[Fault] = []

    def origin(self, line: int) -> Origin:
        return Origin(self.source, line + 1 if self.lines else None)

    def fault(self, origin: Origin, key: str, message: str) -> None:
        self.faults.append(Fault(origin, key or "yaml", message))

    def document(self, text: str, key: str) -> Node:
        loader: Any = Loader(text)
        loader.get_event()  # the stream's start
        if loader.check_event(events.StreamEndEvent):
            return Node(None, self.origin(0), key)
        loader.get_event()  # the document's start
        root = self.node(loader, key, self.origin(loader.peek_event().start_mark.line), 0)
        loader.get_event()  # the document's end
        if not loader.check_event(events.StreamEndEvent):
            second = self.origin(loader.peek_event().start_mark.line)
            self.fault(second, key, "a second document starts here; give one")
        return root

    def node(self, loader: Any, key: str, origin: Origin, depth: int) -> Node:
        """The next value. ``origin`` is where its key stands."""
        event = loader.get_event()
        if depth > MAX_DEPTH:
            self.fault(origin, key, f"nested more than {MAX_DEPTH} deep")
            raise _Stop
        if isinstance(event, events.AliasEvent):
            self.fault(origin, key, f"the alias *{event.anchor} is not allowed; repeat the value")
            return Node(None, origin, key)
        if event.anchor is not None:
            self.fault(origin, key, f"the anchor &{event.anchor} is not allowed; leave it out")
        if event.tag is not None:
            self.fault(origin, key, f"the tag {event.tag} is not allowed; leave it out")
        if isinstance(event, events.MappingStartEvent):
            return Node(dict(self.items(loader, key, depth)), origin, key)
        if isinstance(event, events.SequenceStartEvent):
            return Node(list(self.elements(loader, key, depth)), origin, key)
        return self.scalar(loader, event, key, origin)

    def scalar(self, loader: Any, event: Any, key: str, origin: Origin) -> Node:
        text = event.value if event.style is None else None
        if event.tag is not None or text is None:
            return Node(event.value, origin, key)
        tag = loader.resolve(yaml.ScalarNode, text, (True, False))
        try:
            value = loader.construct_object(yaml.ScalarNode(tag, text))
        except ValueError:
            self.fault(origin, key, f"{text[:20]} is not a number that can be read")
            value = None
        return Node(value, origin, key, text)

    def elements(self, loader: Any, key: str, depth: int) -> Iterator[Node]:
        index = 0
        while not loader.check_event(events.SequenceEndEvent):
            origin = self.origin(loader.peek_event().start_mark.line)
            yield self.node(loader, f"{key}.{index}" if key else str(index), origin, depth + 1)
            index += 1
        loader.get_event()

    def items(self, loader: Any, key: str, depth: int) -> Iterator[tuple[str, Node]]:
        first: dict[str, Origin] = {}
        while not loader.check_event(events.MappingEndEvent):
            origin = self.origin(loader.peek_event().start_mark.line)
            name = self.name(self.node(loader, key, origin, depth + 1))
            path = f"{key}.{name}" if key and name else name or key
            node = self.node(loader, path, origin, depth + 1)
            if name is None:
                continue
            if name in first:
                self.fault(origin, path, f"given twice: first at {first[name]}. Keep one.")
                continue
            first[name] = origin
            yield name, node
        loader.get_event()

    def name(self, node: Node) -> str | None:
        """The key that this node is; None when it cannot be one."""
        if node.text == "<<":
            self.fault(node.origin, node.key, "the merge key << is not allowed; repeat the keys")
            return None
        if isinstance(node.value, str):
            return node.value
        why = "" if node.text is None else f"; quote it: '{node.text}'"
        self.fault(node.origin, node.key, f"a key must be text{why}")
        return None

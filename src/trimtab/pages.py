"""What a run said, a page a record: for reading in a terminal, or in plain text.

The texts are a model's, and nothing in them is obeyed: what is no printable character is shown by
its name or number, and there is no markup.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from trimtab.reading import Record, kind_of
from trimtab.worddiff import marked

OF_A_PAGE = ("row", "id", "sample", "step")
"""Keys of a record whose numbers stand in its heading."""

SAMPLE = ("prompt", "completion", "reward", "parts", "why", "said", "length", "truncated")
"""Keys of a sample that are shown in their own way; what else it has follows."""

JUDGEMENT = ("prompt", "a", "b", "first", "orders", "said", "why", "principle", "weight")
SCORED = ("draft_reward", "final_reward", "draft_parts", "final_parts")
CHAIN = ("prompt", "draft", "rounds", "final", *SCORED)


class Line(NamedTuple):
    """A text with what it is."""

    label: str
    text: Text
    deep: bool = False
    """Does it belong to the line above?"""


class Page(NamedTuple):
    """One record."""

    heading: str
    lines: Sequence[Line]


def page(record: Record, *, colours: bool) -> Page:
    """A chain, a judgement or a sample."""
    kind = kind_of(record)
    shown = {"chain": CHAIN, "judgement": JUDGEMENT, "sample": SAMPLE}[kind]
    lines = {"chain": _chain, "judgement": _judgement, "sample": _sample}[kind]
    rest = [
        Line(visible(key), words(value))
        for key, value in record.items()
        if key not in (*OF_A_PAGE, "held_out", *shown) and value not in (None, "", [], {})
    ]
    return Page(_heading(record), [*lines(record, colours), *rest])


def table(page: Page) -> Padding:
    """For a terminal: labels beside texts."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text, deep in page.lines:
        grid.add_row(Text(f"  {label}" if deep else label), text)
    return Padding(grid, (0, 0, 1, 2))


def plain(page: Page) -> Iterator[str]:
    """The same as lines of text; what goes on in the next line is indented."""
    for label, text, deep in page.lines:
        indent = "    " if deep else "  "
        first, *others = text.plain.split("\n")
        yield f"{indent}{label}: {first}".rstrip()
        yield from (f"{indent}  {other}".rstrip() for other in others)


def words(value: Any) -> Text:
    """Anything of a record as text: turns, lists and mappings an item a line, a measure with its
    interval."""
    return Text(_words(value))


def visible(text: str) -> str:
    """The text with all that a terminal would obey, or not show, made visible.

    >>> visible("red \\x1b[31m, bell \\a, right to left \\u202e")
    'red \u241b[31m, bell \u2407, right to left \\\\u202e'
    """
    return "".join(_visible(c) for c in text.replace("\r\n", "\n"))


def _chain(record: Record, colours: bool) -> Iterator[Line]:
    yield Line("prompt", words(record.get("prompt")))
    yield Line(_with("draft", record, "draft_"), words(record["draft"]))
    text = record["draft"]
    for number, one in enumerate(_mappings(record.get("rounds")), 1):
        yield Line(f"{number}. principle", words(one.get("principle")))
        yield Line("critique", words(one.get("critique")), deep=True)
        revision, kept = one.get("revision"), one.get("kept", True)
        if revision is not None:
            label = _with("revision", one) if kept else "revision, left out"
            yield Line(label, _changed(text, revision, colours), deep=True)
        if one.get("why"):
            yield Line("why", words(one["why"]), deep=True)
        if kept and revision is not None:
            text = revision
    final = record.get("final")
    same = "the draft" if final == record["draft"] else "the last revision"
    shown = words(f"as {same}") if final == text else words(final)
    yield Line(_with("final", record, "final_"), shown)


def _changed(before: Any, after: Any, colours: bool) -> Text:
    if isinstance(before, str) and isinstance(after, str):
        return marked(visible(before.strip()), visible(after.strip()), colours=colours)
    return words(after)


def _judgement(record: Record, colours: bool) -> Iterator[Line]:
    yield Line("prompt", words(record.get("prompt")))
    if record.get("principle") is not None:
        weight = record.get("weight", 1)
        counts = "" if weight == 1 else f", counts {_number(weight)}"
        yield Line(f"principle{counts}", words(record["principle"]))
    yield Line("a", words(record["a"]))
    yield Line("b", words(record["b"]))
    yield Line("verdict", words(_verdict(record)))
    yield from _spoken(record.get("said"))


def _verdict(record: Record, first: str = "a", second: str = "b") -> str:
    """Who won, with P(the first is better), and the same in each order."""
    value = record.get("first")
    if not isinstance(value, (int, float)):
        return f"abstained: {record.get('why') or 'no reason is given'}"
    won = "a tie" if value == 0.5 else f"{first if value > 0.5 else second} is better"
    orders = record.get("orders")
    shown = zip(("first", "second"), orders if isinstance(orders, list) else (), strict=False)
    each = ", ".join(f"{first} shown {place} {_number(p)}" for place, p in shown)
    return f"{won}, P({first}) = {_number(value)}" + (f" ({each})" if each else "")


def _sample(record: Record, colours: bool) -> Iterator[Line]:
    yield Line("prompt", words(record.get("prompt")))
    if "completion" in record:
        cut = " (truncated)" if record.get("truncated") else ""
        yield Line(f"completion{cut}", words(record["completion"]))
    if "reward" in record:
        yield Line("reward", words(_reward(record)))
    elif record.get("why"):
        yield Line("why", words(record["why"]))
    said = record.get("said")
    if isinstance(said, Mapping):
        for label, each in said.items():
            yield from _spoken(each, visible(str(label)))
    else:
        yield from _spoken(said)


def _reward(record: Record) -> str:
    """The total and its parts, or why there is none."""
    each = _parts(record)
    why = f": {record['why']}" if record.get("why") else ""
    return _number(record["reward"]) + (f" ({each})" if each else "") + why


def _spoken(said: Any, label: str = "said") -> Iterator[Line]:
    """What was said, a line a time it was asked. Of a completion that was compared with others of
    its prompt, the verdicts on those pairs of which it is the first."""
    if isinstance(said, Mapping) and isinstance(said.get("pairs"), list):
        for pair in _mappings(said["pairs"]):
            other = f"completion {_number(pair.get('against'))}"
            yield Line(label, words(f"against {other}: {_verdict(pair, 'this', other)}"))
            yield from _spoken(pair.get("said"))
        return
    for each in said if isinstance(said, list) else [said]:
        if each not in (None, "", {}):
            yield Line(label, words(each))


def _heading(record: Record) -> str:
    parts = [f"{key} {record[key]}" for key in OF_A_PAGE if key in record]
    return visible(", ".join([*parts, *(["held out"] if record.get("held_out") else [])]))


def _parts(record: Record, before: str = "") -> str:
    parts = record.get(f"{before}parts")
    items = parts.items() if isinstance(parts, Mapping) else ()
    return ", ".join(f"{name} {_number(value)}" for name, value in items)


def _with(label: str, record: Record, before: str = "") -> str:
    """The label with the reward where there is one, else with its parts."""
    reward, parts = record.get(f"{before}reward"), _parts(record, before)
    if reward is None:
        return f"{label}, {parts}" if parts else label
    return f"{label}, reward {_number(reward)}"


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _words(value: Any) -> str:
    if isinstance(value, str):
        return visible(value.strip())
    if isinstance(value, list):
        return "\n".join(_words(each) for each in value)
    if isinstance(value, Mapping) and value.keys() == {"role", "content"}:
        return f"{_words(value['role'])}: {_words(value['content'])}"
    if isinstance(value, Mapping) and {"value", "low", "high"} <= value.keys():
        return f"{_number(value['value'])} [{_number(value['low'])}, {_number(value['high'])}]"
    if isinstance(value, Mapping):
        known = {visible(str(key)): one for key, one in value.items() if one is not None}
        return "\n".join(f"{key}: {_words(one)}" for key, one in known.items())
    return _number(value) if value is None or isinstance(value, float) else json.dumps(value)


def _number(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value:.4g}"
    return "none" if value is None else _words(value)


def _visible(c: str) -> str:
    if c.isprintable() or c in "\n\t":
        return c
    if ord(c) < 0x20:
        return chr(0x2400 + ord(c))  # its picture
    return " " if c.isspace() else f"\\u{ord(c):04x}"

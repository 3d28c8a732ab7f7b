"""A row of a data set, before and after something is found wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


class BadRow(Exception):
    """One row cannot be used; the message is the reason, in the same words for every such row."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it was read."""

    number: int
    """As the user counts: the line of a JSONL file, else the row, from 1, header not counted."""

    columns: Mapping[str, Any]
    place: str = ""
    """``file:number`` where several files are one table and ``number`` runs through them."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """One row that is not used, and why."""

    row: int
    reason: str
    place: str = ""

    def as_json(self) -> dict[str, Any]:
        """``place`` only where there is one."""
        said: dict[str, Any] = {"row": self.row, "reason": self.reason}
        return said | {"place": self.place} if self.place else said


Rows = Iterable[Row | Dropped]
"""What a reader gives: one entry for each row there is, readable or not."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows to train on, and rows to hold out where the data has a split of its own."""

    train: Rows
    held_out: Rows | None = None


def called(value: Any) -> str:
    """A value's type, in the words of data files.

    >>> called(3), called({"a": 1})
    ('a number', 'an object')
    """
    names = {bool: "true or false", int: "a number", float: "a number", str: "text"}
    names |= {list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), f"of type {type(value).__name__}")


def is_unicode(text: str) -> bool:
    """False for lone surrogates, which is how bytes that are not UTF-8 survive a lenient reader.

    >>> is_unicode("naïve"), is_unicode("na\\udcefve")
    (True, False)
    """
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

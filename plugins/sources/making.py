"""What the conversions share: the account of their rows, and how a made row is written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from trimtab.plugins.sources.formats import Columns, Example, Side
from trimtab.plugins.sources.rows import BadRow, Dropped, Row

Made = tuple[Sequence[Row], Columns]
"""The rows that a made row comes from, and its columns."""

_CARRIED = ("tools", "chat_template_kwargs", "annotator")


@dataclass
class Account:
    """Of the rows that a conversion reads: ``read`` is ``used`` + the number of ``dropped``."""

    name: str
    read: int = 0
    made: int = 0
    """Rows that came out."""

    ties: int = 0
    """Comparisons that prefer neither side, and so make no row."""

    dropped: list[Dropped] = field(default_factory=list)

    @property
    def used(self) -> int:
        """Rows that take part, whatever was made of them."""
        return self.read - len(self.dropped)

    def drop(self, row: Row, reason: str) -> None:
        """This row is not used."""
        self.dropped.append(Dropped(row.number, reason, row.place))

    def read_as(
        self, reader: Callable[[Columns], Example], rows: Iterable[Row]
    ) -> Iterator[tuple[Row, Example]]:
        """Each row with what it says; bad ones are dropped."""
        for row in rows:
            try:
                yield row, reader(row.columns)
            except BadRow as fault:
                self.drop(row, str(fault))

    def warnings(self) -> Iterator[str]:
        """What the user should know of it: rows that are not used, and comparisons without one."""
        for reason, count in Counter(row.reason for row in self.dropped).items():
            yield f"rows that {self.name} cannot use ({reason}): {count}"
        if self.ties:
            yield f"comparisons without a winner, which make no pair: {self.ties}"

    def as_json(self) -> dict[str, Any]:
        """For the run directory and ``trimtab data check``."""
        return {
            "name": self.name,
            "read": self.read,
            "used": self.used,
            "dropped": [row.as_json() for row in self.dropped],
            "made": self.made,
            "ties": self.ties,
        }


def others(row: Row) -> Columns:
    """What a made row keeps of the one that it comes from."""
    return {name: row.columns[name] for name in _CARRIED if name in row.columns}


def pair_of(
    prompt: Side, first: Side, second: Side, probability: float | Fraction
) -> dict[str, Any]:
    """The columns of a pair, the better side chosen; ``preference`` unless it is certain."""
    if probability < 0.5:
        first, second, probability = second, first, 1 - probability
    columns: dict[str, Any] = {"prompt": prompt, "chosen": first, "rejected": second}
    return columns if probability == 1 else {**columns, "preference": float(probability)}


def key(value: Any) -> str:
    """What two equal texts, or two equal lists of turns, have in common."""
    return json.dumps(value, sort_keys=True, default=str)

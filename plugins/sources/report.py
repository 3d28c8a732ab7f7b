"""What was read, kept and dropped, and what looks wrong with the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

from trimtab.core.errors import suggestion
from trimtab.plugins.sources.kinds import Kind
from trimtab.plugins.sources.making import Account
from trimtab.plugins.sources.rows import Dropped
from trimtab.plugins.sources.tokens import Encoded

_SHOWN = 5


@dataclass(frozen=True)
class Report:
    """An account of one table: ``read`` is always ``kept`` + the number of ``dropped``."""

    name: str
    kind: Kind
    read: int
    kept: int
    dropped: Sequence[Dropped]
    warnings: Sequence[str]
    columns: Sequence[str]
    """The columns of the first readable row."""

    conversion: Account | None = None
    """Of the rows that those of this table were made of: ``data.convert``."""

    def as_json(self) -> dict[str, Any]:
        """For the run directory and ``trimtab data check``."""
        return {
            "name": self.name,
            "kind": self.kind.name,
            "read": self.read,
            "kept": self.kept,
            "dropped": [row.as_json() for row in self.dropped],
            "warnings": list(self.warnings),
            **({"conversion": self.conversion.as_json()} if self.conversion else {}),
        }

    def reasons(self) -> list[tuple[str, int, str]]:
        """Each reason, how many rows it cost, and the first of them; the costliest first."""
        return _reasons(self.dropped)

    def fault(self, max_dropped: float) -> str | None:
        """What to tell the user when too many rows were dropped to trust the rest."""
        made = self.conversion
        if not (made.read if made else self.read):
            return f"{self.name} holds no rows"
        if made:
            lost = _lost(made.dropped, made.read, made.used, f"for {made.name}", max_dropped)
            if lost:
                return f"{self.name}: {lost}"
            if not made.made:
                return f"{self.name}: {made.name} makes no rows of its {made.read}"
        lost = _lost(self.dropped, self.read, self.kept, f"as {self.kind.name}", max_dropped)
        return f"{self.name}: {lost}{self._mapping()}" if lost else None

    def _mapping(self) -> str:
        """What to do when the columns have other names."""
        known = set(self.kind.columns)
        if not self.columns or len(known & set(self.columns)) > 1:
            return ""
        near = "".join(suggestion(name, known) for name in self.columns if name not in known)
        return (
            f"\n  Its columns are {', '.join(self.columns)}; {self.kind.name} are made of "
            f"{', '.join(self.kind.columns)}. data.columns maps our names to yours.{near}"
        )


def _reasons(dropped: Sequence[Dropped]) -> list[tuple[str, int, str]]:
    counts = Counter(row.reason for row in dropped)
    return [(reason, count, _first(dropped, reason)) for reason, count in counts.most_common()]


def _first(dropped: Sequence[Dropped], reason: str) -> str:
    rows = [row.place or str(row.row) for row in dropped if row.reason == reason]
    return ", ".join(rows[:_SHOWN]) + (", ..." if len(rows) > _SHOWN else "")


def _lost(
    dropped: Sequence[Dropped], read: int, kept: int, use: str, max_dropped: float
) -> str | None:
    """What was dropped and why, if it is too much."""
    if kept and len(dropped) <= max_dropped * read:
        return None
    faults = "".join(
        f"\n  {count:>6}  {reason} (row {first})" for reason, count, first in _reasons(dropped)
    )
    limit = f", and data.max_dropped is {max_dropped:g}" if kept else ""
    return f"{len(dropped)} of {read} rows cannot be used {use}{limit}:{faults}"


def lengths(rows: Sequence[Encoded]) -> dict[str, dict[str, int]]:
    """How many tokens prompts, and completions if there are any, have: median, 95th percentile,
    longest."""
    parts = {
        "prompt": [len(row.prompt) for row in rows],
        "completion": [len(one.ids) for row in rows for one in row.completions],
    }
    return {name: _spread(numbers) for name, numbers in parts.items() if numbers}


def _spread(numbers: list[int]) -> dict[str, int]:
    cuts = quantiles(numbers, n=20, method="inclusive") if len(numbers) > 1 else numbers * 19
    return {"median": round(cuts[9]), "p95": round(cuts[18]), "longest": max(numbers)}

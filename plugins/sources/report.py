"""What was read, kept and dropped, and what looks wrong with the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

from trimtab.core.errors import suggestion
from trimtab.plugins.sources.kinds import Kind
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

    def as_json(self) -> dict[str, Any]:
        """For the run directory and ``trimtab data check``."""
        return {
            "name": self.name,
            "kind": self.kind.name,
            "read": self.read,
            "kept": self.kept,
            "dropped": [row.as_json() for row in self.dropped],
            "warnings": list(self.warnings),
        }

    def reasons(self) -> list[tuple[str, int, str]]:
        """Each reason, how many rows it cost, and the first of them; the costliest first."""
        counts = Counter(row.reason for row in self.dropped)
        return [(reason, count, self._first(reason)) for reason, count in counts.most_common()]

    def fault(self, max_dropped: float) -> str | None:
        """What to tell the user when too many rows were dropped to trust the rest."""
        if not self.read:
            return f"{self.name} holds no rows"
        if self.kept and len(self.dropped) <= max_dropped * self.read:
            return None
        faults = "".join(
            f"\n  {count:>6}  {reason} (row {first})" for reason, count, first in self.reasons()
        )
        limit = f", and data.max_dropped is {max_dropped:g}" if self.kept else ""
        return (
            f"{self.name}: {len(self.dropped)} of {self.read} rows cannot be used as "
            f"{self.kind.name}{limit}:{faults}{self._mapping()}"
        )

    def _first(self, reason: str) -> str:
        rows = [row.place or str(row.row) for row in self.dropped if row.reason == reason]
        return ", ".join(rows[:_SHOWN]) + (", ..." if len(rows) > _SHOWN else "")

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


def lengths(rows: Sequence[Encoded]) -> dict[str, dict[str, int]]:
    """How many tokens prompts and completions have: median, 95th percentile, longest."""
    return {
        "prompt": _spread([len(row.prompt) for row in rows]),
        "completion": _spread([len(one.ids) for row in rows for one in row.completions]),
    }


def _spread(numbers: list[int]) -> dict[str, int]:
    cuts = quantiles(numbers, n=20, method="inclusive") if len(numbers) > 1 else numbers * 19
    return {"median": round(cuts[9]), "p95": round(cuts[18]), "longest": max(numbers)}

"""The account of a table that is read as it is used: what is known so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from trimtab.plugins.sources.report import Report

LISTED = 1000
"""So many dropped rows are listed with their reasons; the others are counted by reason."""
ENOUGH = 1000
"""After so many rows the share of dropped ones is judged, without waiting for the end."""


class Tally:
    """Counts of rows: ``read`` is ``kept`` + ``dropped``."""

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        said = state or {}
        self.read: int = said.get("read", 0)
        self.kept: int = said.get("kept", 0)
        self.reasons = Counter[str](said.get("reasons", {}))
        self.first: dict[str, str] = dict(said.get("first", {}))
        self.listed: list[dict[str, Any]] = list(said.get("dropped", []))
        self.warnings = Counter[str](said.get("warnings", {}))
        self.complete: bool = said.get("complete", False)

    @property
    def dropped(self) -> int:
        """Rows that cannot be used."""
        return self.reasons.total()

    def add(self, report: Report) -> None:
        """Count the rows of one chunk."""
        self.read += report.read
        self.kept += report.kept
        for row in report.dropped:
            self.reasons[row.reason] += 1
            self.first.setdefault(row.reason, row.place or str(row.row))
        room = LISTED - len(self.listed)
        self.listed += [row.as_json() for row in report.dropped[:room]]
        for warning in report.warnings:
            text, _, count = warning.rpartition(": ")
            self.warnings[text] += int(count)

    def fault(self, name: str, kind: str, max_dropped: float) -> str | None:
        """Why reading must not go on, as far as one can tell by now."""
        if self.complete and not self.read:
            return f"{name} holds no rows"
        judged = self.complete or self.read >= ENOUGH
        if not judged or (self.kept and self.dropped <= max_dropped * self.read):
            return None
        faults = "".join(
            f"\n  {count:>6}  {reason} (first: row {self.first[reason]})"
            for reason, count in self.reasons.most_common()
        )
        limit = f", and data.max_dropped is {max_dropped:g}" if self.kept else ""
        return (
            f"{name}: {self.dropped} of the {self.read} rows read so far cannot be used as "
            f"{kind}{limit}:{faults}"
        )

    def as_json(self) -> dict[str, Any]:
        """For the run directory and for checkpoints."""
        return {
            "read": self.read,
            "kept": self.kept,
            "dropped": list(self.listed),
            "reasons": dict(self.reasons),
            "first": dict(self.first),
            "warnings": dict(self.warnings),
            "complete": self.complete,
        }

"""Labels of people, through two files: what is to be labelled, and what they said of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.core.errors import UserError, Waits
from trimtab.core.files import to_json, write_atomically
from trimtab.core.reward import Group
from trimtab.core.source import Setting
from trimtab.core.stages import whole_run
from trimtab.plugins.makers.answered import pairs, responses
from trimtab.plugins.makers.columns import shown
from trimtab.plugins.makers.labellers import Label, Said, Told, by_pairs
from trimtab.plugins.sources.files import read_file
from trimtab.plugins.sources.load import Kept
from trimtab.plugins.sources.rows import Dropped, Row

TO_LABEL = "to_label.jsonl"
LABELS = "labels.jsonl"
ANNOTATOR = "file"
"""Who labelled, where a label does not say."""

_WINNERS = {"a": 1.0, "b": 0.0, "tie": 0.5}
_SHOWN = 5

Votes = Mapping[str, Mapping[str, float]]
"""By id and annotator, P(a is better); of several labels of one annotator the last."""


class ByFile:
    """Writes down what is to be labelled, and reads what was."""

    def __init__(
        self, setting: Setting, file: str | None, rows: Sequence[Kept], groups: Sequence[Group]
    ) -> None:
        self.home = setting.directory
        if self.home is None:
            raise UserError("labels by file are of a run: train a run file that asks for them")
        self.file = Path(file).expanduser() if file else self.home / LABELS
        wanted = {_id(row, a, b): _asked(row, a, b) for row in rows for a, b in pairs(row)}
        if setting.processes.main:
            lines = (_readable({"id": key, **asked}) + "\n" for key, asked in wanted.items())
            write_atomically(self.home / TO_LABEL, "".join(lines))
        self.votes = _votes(self.file)
        missing = len(wanted.keys() - self.votes.keys())
        if missing:
            raise Waits(
                f"{missing} of {len(wanted)} pairs have no label yet. They are in "
                f"{self.home / TO_LABEL}; write one object a line, "
                '{"id": "...", "winner": "a"}, or "b" or "tie", to '
                f"{self.file}, then: trimtab resume {whole_run(self.home)}"
            )
        self.others = len(self.votes.keys() - wanted.keys())

    def label(self, rows: Sequence[Kept], groups: Sequence[Group]) -> Told:
        return Told([self._said(row) for row in rows])

    def figures(self, counts: Mapping[str, int]) -> Mapping[str, Any]:
        return {}

    def describe(self) -> Mapping[str, Any]:
        content = to_json(self.votes)
        return {
            "labels": str(self.file),
            "labels_of_other_pairs": self.others,
            "labels_digest": hashlib.sha256(content.encode()).hexdigest()[:16],
        }

    def _said(self, row: Kept) -> Said:
        labels = [
            Label(a, b, first, annotator)
            for a, b in pairs(row)
            for annotator, first in self.votes[_id(row, a, b)].items()
        ]
        return Said(labels, by_pairs(labels))


def _asked(row: Kept, a: int, b: int) -> dict[str, Any]:
    assert row.example is not None
    both = responses(row)
    return {"prompt": shown(row.example.prompt), "a": shown(both[a]), "b": shown(both[b])}


def _id(row: Kept, a: int, b: int) -> str:
    """Of a pair, by its content: labels of it are found again whatever the run."""
    digest = hashlib.sha256(row.tokens.prompt.tobytes())
    for place in (a, b):
        digest.update(b"|" + row.tokens.completions[place].ids.tobytes())
    return digest.hexdigest()[:16]


def _votes(file: Path) -> Votes:
    """What was said so far; nothing where there is no file yet."""
    if not file.exists():
        return {}
    found: dict[str, dict[str, float]] = {}
    faults = []
    for row in read_file(file):
        fault = row.reason if isinstance(row, Dropped) else _fault(row)
        if fault:
            faults.append(f"{row.row if isinstance(row, Dropped) else row.number}: {fault}")
        elif isinstance(row, Row):
            annotator = str(row.columns.get("annotator") or ANNOTATOR)
            found.setdefault(row.columns["id"], {})[annotator] = _WINNERS[row.columns["winner"]]
    if faults:
        more = f"\n  and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise UserError("\n  ".join([f"{file}: these are no labels", *faults[:_SHOWN]]) + more)
    return found


def _fault(row: Row) -> str | None:
    if not isinstance(row.columns.get("id"), str):
        return "no id"
    if row.columns.get("winner") not in _WINNERS:
        return f"winner is {row.columns.get('winner')!r}, not 'a', 'b' or 'tie'"
    return None


def _readable(asked: Mapping[str, Any]) -> str:
    """As JSON in one line that people read: letters of all scripts as they are."""
    text = json.dumps(asked, ensure_ascii=False)
    return re.sub("[\x85\u2028\u2029\ud800-\udfff]", lambda end: json.dumps(end[0])[1:-1], text)

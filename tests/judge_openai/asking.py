"""What the judges of these tests are asked, and what their runs paid for."""

from __future__ import annotations

import json

from trimtab.plugins.judges.ledger import LEDGER
from trimtab.plugins.judges.question import Question


def question(number=0, options=("1", "2"), **more):
    """A question of its own; its answer follows from it."""
    return Question(({"role": "user", "content": f"Question {number}?"},), options, **more)


def ledger(tmp_path, home="run"):
    """The lines of a run's ledger; none where there is no file."""
    file = tmp_path / home / LEDGER
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

"""``trimtab score``: what a reward model says of completions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimtab.commands import AsJson, assignment, quiet

if TYPE_CHECKING:
    from trimtab.core.measures import Measure
    from trimtab.core.scoring import Scorer
    from trimtab.plugins.sources.load import Kept, Loaded

AT_A_TIME = 64
"""Rows that are read before their lines are printed."""


@dataclass(frozen=True)
class Line:
    """One row's scores: one for each of its completions, in the order of the file."""

    row: int
    scores: list[float]
    spread: list[float]
    """Over the members of an ensemble; empty of a single model."""

    members: dict[str, list[float]]
    """Of an ensemble."""

    def as_json(self) -> dict[str, Any]:
        """``spread`` and ``members`` only where there are several."""
        said = {"row": self.row, "scores": self.scores}
        return {**said, "spread": self.spread, "members": self.members} if self.members else said

    def __str__(self) -> str:
        shown = "  ".join(f"{score:9.4f}" for score in self.scores)
        spread = "  ".join(f"{one:.4f}" for one in self.spread)
        return f"{self.row:>6}  {shown}" + (f"   spread {spread}" if spread else "")


def score(
    where: Annotated[
        str,
        typer.Argument(metavar="DIR", help="A run that trained a reward model, or its folder."),
    ],
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="Rows with completions: a data file, a folder, a datasets id, rotten-tomatoes.",
        ),
    ],
    column: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="OURS=THEIRS", help="As data.columns; may be repeated."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many rows.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score every completion, and say how well that agrees with the rows' preferences.

    With --json, one object a row: row, scores (one a completion), and of an ensemble spread and
    members; then one with kept, dropped and measures. Scores are centred on the held-out rows of
    the run that trained the model.
    """
    quiet()
    from trimtab.core.card import said
    from trimtab.core.finished import load_scorer
    from trimtab.plugins.registry import Plugins

    scorer = load_scorer(where, Plugins())
    loaded = _rows(file, scorer.tokenizer, dict(map(assignment, column or ())), limit)
    for dropped in loaded.report.dropped:
        typer.echo(f"dropped row {dropped.row}: {dropped.reason}", err=True)
    lines = []
    for line in _lines(scorer, loaded.rows):
        typer.echo(json.dumps(line.as_json()) if as_json else str(line))
        lines.append(line)
    measures = _measures(loaded.rows, lines)
    if as_json:
        last = {
            "kept": len(lines),
            "dropped": [dropped.as_json() for dropped in loaded.report.dropped],
            "measures": {name: asdict(measure) for name, measure in measures.items()},
        }
        typer.echo(json.dumps(last))
        return
    typer.echo(f"{len(lines)} of {loaded.report.read} rows scored")
    for name, measure in measures.items():
        typer.echo(f"  {name:<24}{said(measure)}  n={measure.n}")


def _rows(file: str, tokenizer: Any, columns: Mapping[str, str], limit: int | None) -> Loaded:
    """Every row of the file that can be scored, in its order."""
    from itertools import islice

    from trimtab.core.config import DataConfig
    from trimtab.core.errors import UserError
    from trimtab.plugins.sources.candidates import CANDIDATES
    from trimtab.plugins.sources.load import load
    from trimtab.plugins.sources.tables import open_table
    from trimtab.plugins.sources.tokens import Encoder

    data = DataConfig(train=file, columns=dict(columns))
    rows = islice(open_table(file).train, limit)
    loaded = load(file, rows, CANDIDATES, Encoder(tokenizer, data), data)
    if not loaded.rows:
        raise UserError(
            f"{file}: no row can be scored. {loaded.report.fault(0.0) or 'It is empty'}"
        )
    return loaded


def _lines(scorer: Scorer, rows: Sequence[Kept]) -> Iterator[Line]:
    from trimtab.plugins.sources.candidates import CANDIDATES

    for begin in range(0, len(rows), AT_A_TIME):
        part = rows[begin : begin + AT_A_TIME]
        scored = scorer.score(CANDIDATES.stack([row.tokens for row in part]))
        for n, row in enumerate(part):
            own = [*scored.values()][: len(row.tokens.completions)]
            several = len(scorer.center) > 1
            yield Line(
                row.row,
                [float(one.mean_N[n]) for one in own],
                [float(one.spread_N[n]) for one in own] if several else [],
                {
                    role: [float(one.members_RN[member, n]) for one in own]
                    for member, role in enumerate(scorer.center if several else ())
                },
            )


def _measures(rows: Sequence[Kept], lines: Sequence[Line]) -> dict[str, Measure]:
    """How well the scores agree with what the rows say; nothing where they compare nothing."""
    import torch

    from trimtab.core.measures import measure
    from trimtab.core.scoring import measured
    from trimtab.plugins.sources.candidates import CANDIDATES

    batch = CANDIDATES.stack([row.tokens for row in rows])
    found = {
        name: torch.tensor([line.scores[k] if k < len(line.scores) else 0.0 for line in lines])
        for k, name in enumerate(batch.sequences)
    }
    measures = {name: measure(column) for name, column in measured(batch, found).items()}
    return {name: one for name, one in measures.items() if one is not None}

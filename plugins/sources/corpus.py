"""What the ``data`` section of a run file comes to: rows to train on and rows held out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.core.config import DataConfig
from trimtab.core.errors import UserError
from trimtab.plugins.sources.convert import conversion_for
from trimtab.plugins.sources.kinds import LABELS, Kind, named
from trimtab.plugins.sources.load import Kept, Loaded, all_soft, load
from trimtab.plugins.sources.report import Report, lengths
from trimtab.plugins.sources.rows import Rows
from trimtab.plugins.sources.split import by_prompt, limited
from trimtab.plugins.sources.tables import names_for, open_table, placed
from trimtab.plugins.sources.tokens import Encoder

_FEW = 50


@dataclass(frozen=True)
class Corpus:
    """Tokenized rows, and the account of those that were read."""

    data: DataConfig
    kind: Kind
    train: Sequence[Kept]
    held_out: Sequence[Kept]
    trained: Sequence[Report]
    """Of each table to train on."""

    evaluated: Sequence[Report] = ()
    """Of each table that is held out, where those are others."""

    notes: Sequence[str] = ()
    """What the user should know of the tables."""

    @property
    def reports(self) -> list[Report]:
        """Of all tables."""
        return [*self.trained, *self.evaluated]

    def faults(self) -> list[str]:
        """Why a run must not train on it: the tables that lost too many rows."""
        found = [report.fault(self.data.max_dropped) for report in self.reports]
        return [fault for fault in (*found, self._one_prompt()) if fault]

    def _one_prompt(self) -> str | None:
        """Labelled rows need completions that answer another prompt."""
        prompts = {row.tokens.prompt.tobytes() for row in self.train}
        if self.kind is not LABELS or len(prompts) != 1:
            return None
        return (
            f"{self.data.named}: all {len(self.train)} training rows have one prompt, so no "
            "completion can follow the prompt of another row, and the KL that labels are weighed "
            "against (z0) cannot be estimated: add rows with other prompts"
        )

    def check(self) -> None:
        """Raise ``UserError`` with every fault."""
        if self.faults():
            raise UserError("\n".join(self.faults()))

    def warnings(self) -> Iterator[str]:
        """What the user should look at, though the run can go on."""
        for report in self.reports:
            for warning in report.warnings:
                yield f"{report.name}: {warning}"
        yield from self.notes
        shared = {row.prompt for row in self.train} & {row.prompt for row in self.held_out}
        if shared:
            yield f"prompts both in the training rows and held out: {len(shared)}"
        if self.data.holdout and len(self.held_out) < _FEW:
            yield f"few rows are held out, so measures on them are vague: {len(self.held_out)}"

    def account(self) -> dict[str, Any]:
        """What was read, kept and dropped, and how long the rows are, as JSON."""
        return {
            **_accounted(self.data.named, self.trained),
            "warnings": list(self.warnings()),
            "train_rows": len(self.train),
            "held_out_rows": len(self.held_out),
            "tokens": lengths([row.tokens for row in self.train]),
            **({"eval": self._evaluation()} if self.evaluated else {}),
        }

    def _evaluation(self) -> dict[str, Any]:
        return _accounted(self.data.eval or f"{self.data.named} (held out)", self.evaluated)


def _accounted(name: str, reports: Sequence[Report]) -> dict[str, Any]:
    """The account of one table; of several their sums, and the account of each."""
    tables = [report.as_json() for report in reports]
    if len(tables) == 1:
        return tables[0]
    return {
        "name": name,
        "kind": reports[0].kind.name,
        "read": sum(report.read for report in reports),
        "kept": sum(report.kept for report in reports),
        "dropped": [row for table in tables for row in table["dropped"]],
        "warnings": [f"{each['name']}: {one}" for each in tables for one in each["warnings"]],
        "tables": tables,
    }


def read_corpus(data: DataConfig, kind: Kind, tokenizer: Any) -> Corpus:
    """Read, check, tokenize and split. Held out are ``data.eval``, else what every table holds out
    of its own, else a share of the prompts of all.

    The rows of several tables are numbered on, from the first table to the last. Each is converted
    for itself.
    """
    encoder = Encoder(tokenizer, data)
    conversion = conversion_for(kind, data.convert)
    read_as = named(conversion.reads) if conversion else kind
    tables = [(name, open_table(name, read_as)) for name in data.tables]
    trained = _loaded([(name, table.train) for name, table in tables], kind, encoder, data)
    own = [(name, table.held_out) for name, table in tables if table.held_out is not None]
    apart = [(f"{name} (held out)", rows) for name, rows in own]
    notes = []
    if data.eval is not None:
        other = open_table(data.eval, read_as)
        apart = [(data.eval, other.train if other.held_out is None else other.held_out)]
    elif len(own) < len(tables):
        apart = []
        notes = [
            f"{name}: its own held-out rows are not used, for not all have some" for name, _ in own
        ]
    evaluated = _loaded(apart, kind, encoder, data)
    rows: Sequence[Kept] = _rows(trained)
    held_out: Sequence[Kept] = _rows(evaluated)
    if not apart:
        rows, held_out = by_prompt(rows, data.holdout)
    return Corpus(
        data,
        kind,
        limited(rows, data.limit),
        limited(held_out, data.eval_limit),
        [each.report for each in trained],
        [each.report for each in evaluated],
        notes,
    )


def _loaded(
    tables: Sequence[tuple[str, Rows]], kind: Kind, encoder: Encoder, data: DataConfig
) -> list[Loaded]:
    """Each table's rows; those of several are numbered on."""
    found: list[Loaded] = []
    for name, rows in tables:
        of_several = placed(name, rows) if len(tables) > 1 else rows
        after = found[-1].last if found else 0
        found.append(load(name, of_several, kind, encoder, names_for(name, data), after))
    return found


def _rows(tables: Sequence[Loaded]) -> list[Kept]:
    """Where some pairs have soft labels, be it in another table, those of all are."""
    return all_soft([row for table in tables for row in table.rows])

"""What the ``data`` section of a run file comes to: rows to train on and rows held out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.core.config import DataConfig
from trimtab.core.errors import UserError
from trimtab.plugins.sources.convert import conversion_for
from trimtab.plugins.sources.kinds import LABELS, Kind, named
from trimtab.plugins.sources.load import Kept, load
from trimtab.plugins.sources.report import Report, lengths
from trimtab.plugins.sources.split import by_prompt, limited
from trimtab.plugins.sources.tables import open_table
from trimtab.plugins.sources.tokens import Encoder

_FEW = 50


@dataclass(frozen=True)
class Corpus:
    """Tokenized rows, and the account of those that were read."""

    data: DataConfig
    kind: Kind
    train: Sequence[Kept]
    held_out: Sequence[Kept]
    reports: Sequence[Report]
    """Of the training table, then of the held-out one where it is another."""

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
        shared = {row.prompt for row in self.train} & {row.prompt for row in self.held_out}
        if shared:
            yield f"prompts both in the training rows and held out: {len(shared)}"
        if self.data.holdout and len(self.held_out) < _FEW:
            yield f"few rows are held out, so measures on them are vague: {len(self.held_out)}"

    def account(self) -> dict[str, Any]:
        """What was read, kept and dropped, and how long the rows are, as JSON."""
        train, *others = [report.as_json() for report in self.reports]
        return {
            **train,
            "warnings": list(self.warnings()),
            "train_rows": len(self.train),
            "held_out_rows": len(self.held_out),
            "tokens": lengths([row.tokens for row in self.train]),
            **({"eval": others[0]} if others else {}),
        }


def read_corpus(data: DataConfig, kind: Kind, tokenizer: Any) -> Corpus:
    """Read, check, tokenize and split. Held out are ``data.eval``, else the data's own split,
    else a share of the prompts."""
    encoder = Encoder(tokenizer, data)
    conversion = conversion_for(kind, data.convert)
    read_as = named(conversion.reads) if conversion else kind
    table = open_table(data.named, read_as)
    train = load(data.named, table.train, kind, encoder, data)
    name, apart = f"{data.named} (held out)", table.held_out
    if data.eval is not None:
        other = open_table(data.eval, read_as)
        name, apart = data.eval, other.train if other.held_out is None else other.held_out
    rows: Sequence[Kept]
    held_out: Sequence[Kept]
    if apart is None:
        rows, held_out = by_prompt(train.rows, data.holdout)
        reports = [train.report]
    else:
        evaluation = load(name, apart, kind, encoder, data)
        rows, held_out = train.rows, evaluation.rows
        reports = [train.report, evaluation.report]
    return Corpus(
        data, kind, limited(rows, data.limit), limited(held_out, data.eval_limit), reports
    )

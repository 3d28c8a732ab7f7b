"""Rows a second from a file of pairs to token ids, ours and TRL's, on the same rows.

python -m trimtab.benchmarks.data_preparation --form turns
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from trimtab.benchmarks import options, report
from trimtab.benchmarks.compare import Spread
from trimtab.benchmarks.machine import machine
from trimtab.benchmarks.preparation import Form, Prepared, ToPrepare, write_pairs
from trimtab.benchmarks.process import ask

Round = dict[str, Prepared]
OURS = "Trimtab"


def arms(file: Path) -> list[ToPrepare]:
    """Ours, TRL as it is by default, and TRL with two processes."""
    name = str(file)
    return [
        ToPrepare(arm=OURS, system="trimtab", file=name),
        ToPrepare(arm="TRL, defaults", system="trl", file=name),
        ToPrepare(arm="TRL, dataset_num_proc 2", system="trl", file=name, processes=2),
    ]


def measured(request: ToPrepare) -> Prepared:
    """One measurement, told on the terminal."""
    result = ask("worker_prepare", request, Prepared)
    typer.echo(f"{request.arm}: {result.rows / result.seconds:.0f} rows/s")
    return result


def text(where: Mapping[str, Any], form: Form, rounds: Sequence[Round]) -> str:
    """Markdown."""
    rows = [
        [
            arm,
            str(first.rows),
            str(first.tokens),
            Spread.of([one[arm].rows / one[arm].seconds for one in rounds]).show(0),
            Spread.of([one[arm].seconds for one in rounds]).show(1),
            Spread.of([one[arm].reading for one in rounds]).show(1) if first.reading else "",
            Spread.of([one[arm].seconds / one[OURS].seconds for one in rounds]).show(),
            report.mega(Spread.of([one[arm].peak for one in rounds])),
            report.mega(Spread.of([one[arm].peak - one[arm].loaded for one in rounds])),
            report.mega(Spread.of([one[arm].helper for one in rounds])) if first.helper else "",
        ]
        for arm, first in rounds[0].items()
    ]
    head = [
        "arm", "rows", "tokens", "rows/s", "seconds", "of them reading", "by ours", "peak MB",
        "of it beyond loading", "largest helper MB",
    ]  # fmt: skip
    return report.page(
        f"# Preparing pairs, {form}: Trimtab and TRL",
        "From a JSONL file to token ids with SmolLM2's tokenizer. Ours also checks every row and "
        "digests it; TRL's completions hold what the chat template writes after a turn, too. "
        f"{len(rounds)} rounds; the arms alternate, each measurement in a process of its own "
        "without any cache. Values are medians [least, greatest].",
        report.surroundings(where),
        report.table(head, rows),
    )


def main(
    form: Annotated[str, typer.Option(help="plain or turns")] = "turns",
    rows: Annotated[int, typer.Option(help="in the file")] = 100_000,
    rounds: options.Rounds = 3,
    out: options.Out = None,
) -> None:
    """Measure, compare, write; fail where the systems kept different rows."""
    chosen: Form = "plain" if form == "plain" else "turns"
    where = machine()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pairs.jsonl"
        write_pairs(file, chosen, rows)
        taken = [{one.arm: measured(one) for one in arms(file)} for _ in range(rounds)]
    record = {
        "machine": where,
        "form": chosen,
        "rounds": [{arm: one.model_dump() for arm, one in round.items()} for round in taken],
    }
    path = options.results(out, f"preparation-{chosen}")
    report.publish(path, record, text(where, chosen, taken))
    if {one.rows for one in taken[0].values()} != {rows}:
        typer.echo("the systems kept different rows", err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)

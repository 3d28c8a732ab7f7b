"""``trimtab data``: look at rows before anything trains on them."""

from __future__ import annotations

import json
from collections import Counter
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from trimtab.commands import AsJson, assignment

if TYPE_CHECKING:
    from trimtab.core.config import DataConfig, ModelConfig
    from trimtab.plugins.sources.corpus import Corpus
    from trimtab.plugins.sources.kinds import Kind

_LOOKED_AT = 100

app = typer.Typer(help="Look at rows before anything trains on them.", no_args_is_help=True)

File = Annotated[
    str,
    typer.Argument(
        metavar="FILE",
        help="A run file (YAML); or rows: a data file, a folder, a datasets id, rotten-tomatoes.",
    ),
]
KindName = Annotated[
    str | None,
    typer.Option("--kind", help="demonstrations, pairs, labels, rankings, prompts; else guessed."),
]
Model = Annotated[
    str, typer.Option("--model", help="Whose tokenizer and chat template; not for run files.")
]
Mapping = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="OURS=THEIRS", help="As data.columns; may be repeated."),
]
ConversionName = Annotated[
    str | None, typer.Option("--convert", help="As data.convert: pairs-to-labels, for one.")
]
FeedbackName = Annotated[
    str | None,
    typer.Option("--kind", help="ratings, labels, pairs or rankings; else as the columns look."),
]
LevelName = Annotated[
    Literal["nominal", "ordinal", "interval", "ratio"] | None,
    typer.Option("--level", help="What values are; by default ratings are interval."),
]


@app.callback()
def data() -> None:
    """Look at rows before anything trains on them."""


@app.command()
def check(
    file: File,
    kind: KindName = None,
    model: Model = "smollm2-135m-instruct",
    column: Mapping = None,
    convert: ConversionName = None,
    as_json: AsJson = False,
) -> None:
    """Count the rows that are read, kept and dropped, with the reason for every one dropped."""
    if _is_run_file(file):
        corpora = _of_run_file(Path(file))
    else:
        corpora = [_of_rows(file, kind, model, dict(map(assignment, column or ())), convert)]
    if as_json:
        typer.echo(json.dumps(_account(corpora)))
    else:
        typer.echo("\n\n".join(map(_page, corpora)))


@app.command()
def agreement(
    file: File,
    kind: FeedbackName = None,
    level: LevelName = None,
    column: Mapping = None,
    as_json: AsJson = False,
) -> None:
    """Say how far annotators agree. Rows need a column ``annotator``; training rows are read."""
    from trimtab.plugins.sources.agreement import agreement as compared
    from trimtab.plugins.sources.agreement_page import page
    from trimtab.plugins.sources.judgements import feedback_in, judgements, named
    from trimtab.plugins.sources.tables import open_table

    name, columns = _annotated(file, dict(map(assignment, column or ())))
    rows = iter(open_table(name).train)
    first = list(islice(rows, _LOOKED_AT))
    chosen = named(kind) if kind else feedback_in(name, first, columns)
    found = compared(name, judgements(name, chain(first, rows), chosen, columns), level)
    typer.echo(json.dumps(found.as_json()) if as_json else page(found))


def _annotated(file: str, columns: dict[str, str]) -> tuple[str, dict[str, str]]:
    """The rows that a run file trains on and its columns, changed by those given; or FILE."""
    from trimtab import load_run_file
    from trimtab.core.errors import UserError
    from trimtab.core.stages import HANDOVER
    from trimtab.plugins.registry import Plugins

    if not _is_run_file(file):
        return file, columns
    sections = [stage.run.data for stage in load_run_file(Path(file), (), Plugins()).stages]
    tables = [table for section in sections for table in section.tables]
    names = [name for name in dict.fromkeys(tables) if not HANDOVER.fullmatch(name)]
    if not names:
        raise UserError(f"{file}: its stages make what they read, and nothing is there yet")
    if len(names) > 1:
        raise UserError(f"{file}: its stages read {', '.join(names)}: name one of them")
    return names[0], {**sections[0].columns, **columns}


def _is_run_file(file: str) -> bool:
    return Path(file).suffix in (".yaml", ".yml")


def _of_rows(
    name: str, kind: str | None, model: str, columns: dict[str, str], convert: str | None
) -> Corpus:
    from trimtab.core.config import DataConfig, ModelConfig
    from trimtab.core.errors import UserError, suggestion
    from trimtab.plugins.sources.convert import CONVERSIONS
    from trimtab.plugins.sources.kinds import named
    from trimtab.plugins.sources.tables import kind_in

    given: dict[str, Any] = {"train": name, "columns": columns, "convert": convert}
    if convert is not None:
        if convert not in CONVERSIONS:
            raise UserError(
                f"no conversion {convert!r}.{suggestion(convert, CONVERSIONS)} "
                f"Known: {', '.join(CONVERSIONS)}"
            )
        kind = kind or CONVERSIONS[convert].makes[0]
    config = DataConfig(holdout=0.0, eval_limit=None, **given)
    chosen = named(kind) if kind else kind_in(name, columns)
    return _corpus(config, chosen, ModelConfig(name=model))


def _of_run_file(path: Path) -> list[Corpus]:
    """The data of every stage whose objective learns from fixed rows.

    What an earlier stage is to make is not there yet, and is left out.
    """
    from trimtab import Batch, load_run_file
    from trimtab.core.errors import UserError
    from trimtab.core.stages import HANDOVER
    from trimtab.plugins.registry import Plugins
    from trimtab.plugins.sources.kinds import kind_of

    plugins = Plugins()
    found: list[Corpus] = []
    for stage in load_run_file(path, (), plugins).stages:
        run = stage.run
        there = [name for name in run.data.tables if not HANDOVER.fullmatch(name)]
        if run.objective is None or not there:
            continue
        kind = kind_of(getattr(plugins.find("objective", run.objective.name), "data", Batch))
        if kind is not None:
            data = run.data.model_copy(update={"train": there})
            found.append(_corpus(data, kind, run.model))
    if not found:
        raise UserError(
            f"{path}: no objective in it learns from the rows of a data set that is there"
        )
    return found


def _corpus(data: DataConfig, kind: Kind, model: ModelConfig) -> Corpus:
    from trimtab.core.model import load_tokenizer
    from trimtab.plugins.sources.corpus import read_corpus

    tokenizer = load_tokenizer(model.name, trust_remote_code=model.trust_remote_code)
    return read_corpus(data, kind, tokenizer)


def _account(corpora: list[Corpus]) -> dict[str, Any]:
    """Totals over all tables, and each table's own account."""
    tables = [report.as_json() for corpus in corpora for report in corpus.reports]
    return {
        "read": sum(table["read"] for table in tables),
        "kept": sum(table["kept"] for table in tables),
        "dropped": [
            {**row, "table": table["name"]} if len(tables) > 1 else row
            for table in tables
            for row in table["dropped"]
        ],
        "warnings": [warning for corpus in corpora for warning in corpus.warnings()],
        "stops": [fault for corpus in corpora for fault in corpus.faults()],
        "tables": tables,
    }


def _page(corpus: Corpus) -> str:
    from trimtab.plugins.sources.report import lengths

    lines = []
    for report in corpus.reports:
        made = report.conversion
        if made:
            lines.append(
                f"{report.name}: {made.name}, {made.read} rows read, {made.used} used, "
                f"{len(made.dropped)} dropped; {made.made} rows made, {made.ties} ties"
            )
            reasons = Counter(row.reason for row in made.dropped)
            lines += [f"  {count:>6}  {reason}" for reason, count in reasons.most_common()]
        lines.append(
            f"{report.name}: {report.kind.name}, {report.read} rows read, {report.kept} kept, "
            f"{len(report.dropped)} dropped"
        )
        lines += [
            f"  {count:>6}  {reason} (row {first})" for reason, count, first in report.reasons()
        ]
    rows = [row.tokens for row in (*corpus.train, *corpus.held_out)]
    for part, spread in (lengths(rows) if rows else {}).items():
        numbers = ", ".join(f"{name} {value}" for name, value in spread.items())
        lines.append(f"{part} tokens: {numbers}")
    lines += [f"warning: {warning}" for warning in corpus.warnings()]
    if corpus.faults():
        lines.append(f"a run would stop: data.max_dropped is {corpus.data.max_dropped:g}")
    return "\n".join(lines)

"""``trimtab show``: what a run said, for reading."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimtab.commands import AsJson

if TYPE_CHECKING:
    from rich.console import Console

    from trimtab.reading import Record, Said


def show(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")],
    stage: Annotated[
        str | None, typer.Option(help="Of this stage alone.", show_default=False)
    ] = None,
    row: Annotated[
        int | None, typer.Option(min=0, help="Of this row alone.", show_default=False)
    ] = None,
    limit: Annotated[
        int, typer.Option(min=0, help="The last so many of each stage; 0 is all.")
    ] = 10,
    principles: Annotated[
        bool, typer.Option("--principles", help="What each principle of a constitution changed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read what a run wrote and what was said of it: chains of critiques, judgements, samples.

    Of a critique run the drafts, critiques and revisions with their changes marked; of labels both
    completions and the verdict on them; of others what was sampled, with its rewards. With --json,
    one object a line: stage, kind (chain, judgement or sample), and the record as it was logged.
    """
    if principles:
        _principles(run, stage, as_json)
        return
    from trimtab.reading import said_in

    found = [(each, _chosen(each, row, limit)) for each in said_in(run, stage)]
    if row is not None and not any(chosen for _, chosen in found):
        _refuse_row(run, row, [each for each, _ in found])
    if as_json:
        _print_json(found)
        return
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    for each, chosen in found:
        if chosen:
            _print(console, each, chosen, row)


def _chosen(said: Said, row: int | None, limit: int) -> list[Record]:
    """Of one row, and the last of them."""
    whose = [each for each in said.records if row is None or each.get("row") == row]
    return whose[-limit:] if limit else whose


def _print(console: Console, said: Said, chosen: Sequence[Record], row: int | None) -> None:
    from trimtab.pages import page, plain, table

    colours = console.color_system is not None and not console.no_color
    _say(console, _title(said, len(chosen), row), "bold")
    for record in _apart(said, chosen):
        shown = page(record, colours=colours)
        _say(console, shown.heading, "underline")
        if console.is_terminal:
            console.print(table(shown))
        else:
            _say(console, "\n".join(plain(shown)) + "\n")


def _say(console: Console, text: str, style: str = "") -> None:
    """Without wrapping."""
    console.print(text, style=style, soft_wrap=True)


def _title(said: Said, shown: int, row: int | None) -> str:
    whose = "" if row is None else f" of row {row}"
    count = len(said.records)
    of_all = "" if shown == count else f" of {count}"
    which = " (the last; --limit 0 shows all)" if row is None and shown < count else ""
    lost = f", and {said.lost} lines that cannot be read" if said.lost else ""
    return f"{said.stage or said.path.name}: {shown}{of_all} records{whose}{which}{lost}"


def _apart(said: Said, chosen: Sequence[Record]) -> list[Record]:
    """Samples without the lines that the prompts of their stage share, such as a template's."""
    from trimtab.reading import kind_of
    from trimtab.shown import apart

    sampled = [
        each
        for each in said.records
        if kind_of(each) == "sample" and isinstance(each.get("prompt"), str)
    ]
    prompts = dict(zip(map(id, sampled), apart([each["prompt"] for each in sampled]), strict=True))
    return [{**one, "prompt": prompts.get(id(one), one.get("prompt"))} for one in chosen]


def _print_json(found: Sequence[tuple[Said, Sequence[Record]]]) -> None:
    from trimtab.reading import kind_of

    for each, chosen in found:
        for record in chosen:
            ours = {"stage": each.stage or None, "kind": kind_of(record)}
            typer.echo(json.dumps({**ours, **record, **ours}))


def _refuse_row(run: Path, row: int, found: Sequence[Said]) -> None:
    from trimtab.core.errors import UserError

    rows = {
        r for each in found for record in each.records if isinstance(r := record.get("row"), int)
    }
    there = f"rows {min(rows)} to {max(rows)} are there" if rows else "no record has a row"
    raise UserError(f"nothing was said of row {row} in {run}: {there}")


def _principles(run: Path, stage: str | None, as_json: bool) -> None:
    from rich.console import Console

    from trimtab.reading import principles_in

    console = Console(highlight=False, markup=False, emoji=False)
    for name, records in principles_in(run, stage):
        if as_json:
            for record in records:
                typer.echo(json.dumps({"stage": name or None, **record}))
        else:
            _table(console, name, records)


def _table(console: Console, stage: str, records: Sequence[Mapping[str, Any]]) -> None:
    from rich.table import Table

    from trimtab.pages import words

    heads = list(dict.fromkeys(key for record in records for key in record))
    made = Table(title=stage or None)
    for head in heads:
        made.add_column(words(head))
    for record in records:
        made.add_row(*(words(record[head]) if head in record else "" for head in heads))
    console.print(made)

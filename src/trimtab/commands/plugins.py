"""``trimtab plugins``: what is installed, and what is broken."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict

import typer

from trimtab.commands import AsJson

HEADER = ("KIND", "NAME", "DISTRIBUTION", "VERSION", "STATE")


def plugins(as_json: AsJson = False) -> None:
    """List every plugin: name, kind, distribution, version, and whether it works."""
    from trimtab.plugins.admission import API
    from trimtab.plugins.registry import BrokenPluginWarning, Plugins

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BrokenPluginWarning)  # the list says it
        entries = Plugins().entries()
    if as_json:
        rows = [asdict(entry) for entry in entries]
        typer.echo(json.dumps({"api": API, "plugins": rows}, indent=2))
        return
    lines = [(e.kind or "?", e.name, e.distribution, e.version, e.state) for e in entries]
    typer.echo(_table([HEADER, *lines]))
    for error in dict.fromkeys(f"{e.name}: {e.error}" for e in entries if e.error):
        typer.echo(f"\n{error}")


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(_line(row, widths) for row in rows)


def _line(row: Iterable[str], widths: Iterable[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()

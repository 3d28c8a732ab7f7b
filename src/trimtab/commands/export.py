"""``trimtab export``: one plain model that transformers loads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.commands import quiet


def export(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make.")],
    role: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Which member of a reward ensemble.", show_default=False
        ),
    ] = None,
) -> None:
    """Merge a run's adapter into its base, unquantized, and save it with the tokenizer.

    A reward model becomes an AutoModelForSequenceClassification with one label. An adapter that
    was trained on a quantized base sees slightly other weights here.
    """
    quiet()
    from trimtab.core.finished import export as write
    from trimtab.plugins.registry import Plugins

    write(run, out, Plugins(), role)
    typer.echo(f"made {out}")

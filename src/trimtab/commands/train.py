"""``trimtab train``: a run, or all the stages of one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.commands import DryRun, Overrides, RunFileArgument, ended, quiet


def train(
    file: RunFileArgument,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run",
            help="The run directory to make, or one of stages: what is unchanged is kept.",
            show_default=False,
        ),
    ] = None,
    overrides: Overrides = None,
    dry_run: DryRun = False,
) -> None:
    """Train as a run file says, and print where the result is."""
    quiet()
    if dry_run:
        from trimtab.dry import dry_run as measured

        for line in measured(file, overrides or ()):
            typer.echo(line)
        return
    from trimtab.api import train as carry_out
    from trimtab.plugins.registry import Plugins
    from trimtab.progress import Display

    plugins = Plugins()
    with Display() as display:
        made = carry_out(file, run, overrides or (), observers=[display], registry=plugins)
    ended(made, plugins)

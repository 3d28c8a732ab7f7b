"""``trimtab validate``: every error of a run file at once, and what its recipes stand for."""

from __future__ import annotations

import typer

from trimtab.commands import Overrides, RunFileArgument


def validate(file: RunFileArgument, overrides: Overrides = None) -> None:
    """Check a run file and print every error at once.

    Of a file with recipes, the stages that they stand for are printed, as a run file that one
    could have written in its place.
    """
    from trimtab.core.runfile import load
    from trimtab.core.written import shortest, summary
    from trimtab.plugins.registry import Plugins

    plugins = Plugins()
    plan = load(file, overrides or (), plugins)
    if plan.recipes:
        typer.echo(f"# {file} is valid. What it stands for ({', '.join(plan.recipes)} expanded):")
        typer.echo(shortest(plan, plugins), nl=False)
        return
    for stage in plan.stages:
        typer.echo(summary(stage))
    typer.echo(f"{file} is valid")

"""``trimtab validate``: every error of a run file at once."""

from __future__ import annotations

import typer

from trimtab.commands import Overrides, RunFileArgument


def validate(file: RunFileArgument, overrides: Overrides = None) -> None:
    """Check a run file and print every error at once."""
    from trimtab import load_run_file

    plan = load_run_file(file, overrides or ())
    for stage in plan.stages:
        name = f"{stage.name}: " if stage.name else ""
        run = stage.run
        what = run.objective or run.source
        assert what is not None
        typer.echo(f"{name}{what.name} on {run.data.named}, from {run.model.name}")
    typer.echo(f"{file} is valid")

"""``trimtab label-ai``: what a judge says of pairs, as a data set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from trimtab.commands import DryRun, Overrides, RunFileArgument, quiet


def label_ai(
    file: RunFileArgument,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run",
            help="The run directory to make, or to go on with.",
            show_default=False,
        ),
    ] = None,
    overrides: Overrides = None,
    dry_run: DryRun = False,
) -> None:
    """Have a judge label, and train on nothing of it.

    Of a run file the stages in which a judge labels are carried out, and those they depend on. A
    file with the sections judge and data, and no objective, has its data labelled. The labels are
    a data set in the preference format; `trimtab train FILE --run DIR` goes on from them.
    """
    quiet()
    from trimtab.core.written import summary
    from trimtab.dry import dry_run_of
    from trimtab.labelling import label_ai as carry_out
    from trimtab.labelling import label_plan, said
    from trimtab.plugins.registry import Plugins
    from trimtab.progress import Display

    plugins = Plugins()
    main = os.environ.get("RANK", "0") == "0"
    _, plan = label_plan(file, overrides or (), plugins)
    if dry_run:
        for line in dry_run_of(plan, plugins):
            typer.echo(line)
        return
    for stage in plan.stages:
        if stage.run.objective is not None and main:
            typer.echo(f"the labels are of what this trains: {summary(stage)}")
    with Display() as display:
        made = carry_out(file, run, overrides or (), observers=[display], registry=plugins)
    if main:
        typer.echo()
        for line in said(made):
            typer.echo(line)
        typer.echo(f"try   trimtab data check {made[-1].data}")

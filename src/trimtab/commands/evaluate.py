"""``trimtab evaluate``: the held-out measures of a run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from trimtab.commands import AsJson, quiet


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")],
    as_json: AsJson = False,
) -> None:
    """Measure a run's newest checkpoint on its held-out rows, with 95% intervals."""
    quiet()
    from trimtab.core.card import said
    from trimtab.core.errors import UserError
    from trimtab.core.evaluation import evaluate_parts
    from trimtab.core.finished import load_run
    from trimtab.plugins.registry import Plugins

    parts, file, directory, step = load_run(run, Plugins())
    found = evaluate_parts(parts, file)
    if found is None:
        raise UserError(f"{run} has no held-out rows: give data.eval, or a data.holdout above 0")
    if as_json:
        measures = {name: asdict(measure) for name, measure in found.measures.items()}
        typer.echo(json.dumps({"run": str(directory.path), "step": step, "measures": measures}))
        return
    typer.echo(f"{directory.path}, step {step}")
    for name, measure in found.measures.items():
        typer.echo(f"  {name:<24}{said(measure)}  n={measure.n}")

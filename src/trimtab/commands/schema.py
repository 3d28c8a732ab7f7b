"""``trimtab schema``: the JSON Schema of run files, for editors."""

from __future__ import annotations

import json

import typer


def schema() -> None:
    """Print the JSON Schema of run files, with the options of the installed plugins."""
    from trimtab.core.runschema import run_schema
    from trimtab.plugins.registry import Plugins

    typer.echo(json.dumps(run_schema(Plugins()), indent=2))

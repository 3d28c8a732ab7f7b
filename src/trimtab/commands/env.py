"""``trimtab env``: what a report of a problem should come with."""

from __future__ import annotations

import json
import os
from pathlib import Path

import typer

from trimtab.commands import AsJson


def env(as_json: AsJson = False) -> None:
    """Print versions, devices and cache folders. No other environment variable is shown."""
    from trimtab.core.caches import cache_dir
    from trimtab.core.environment import environment

    hub = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    found = {**environment(), "caches": {"trimtab": str(cache_dir()), "huggingface": str(hub)}}
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for key, value in found.items():
        if isinstance(value, dict):
            typer.echo(f"{key}:")
            for name, inner in value.items():
                typer.echo(f"  {name:<14}{_shown(inner)}")
        else:
            typer.echo(f"{key + ':':<16}{_shown(value)}")


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)

"""The commands, one file each. What is heavy is imported when one runs: help is instant."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated

import typer

RunFileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A run file (YAML).")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Replace one value of the file; may be repeated."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def quiet() -> None:
    """Without the notices that libraries print while they load, and without telemetry."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    for name in ("bitsandbytes", "transformers", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from datasets.utils.logging import disable_progress_bar as without_datasets_bars
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    without_datasets_bars()


def ended(run: Path) -> None:
    """The path of what was made, and what to try next."""
    stages = sorted((run / "stages").glob("*/adapter"), key=lambda path: path.stat().st_mtime)
    made = run / "adapter" if not stages else stages[-1]
    typer.echo(f"made {made if made.exists() else run}")
    typer.echo(f"try  trimtab generate {run} --prompt 'Write a one-sentence review of Alien.'")

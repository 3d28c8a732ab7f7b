"""The commands, one file each. What is heavy is imported when one runs: help is instant."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from trimtab.plugins.registry import Plugins

RunFileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A run file (YAML).")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Replace one value of the file; may be repeated."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what it would cost, from one measured step.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

LOUD = "accelerate|bitsandbytes|datasets|huggingface_hub|peft|torch|transformers"


def quiet() -> None:
    """Without the notices that libraries print while they load, and without telemetry."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    warnings.filterwarnings("ignore", module=rf"({LOUD})(\.|$)")
    from datasets.utils.logging import disable_progress_bar as without_datasets_bars
    from transformers.utils.logging import disable_progress_bar

    for name in LOUD.split("|"):  # after the imports, which set levels of their own
        logging.getLogger(name).setLevel(logging.ERROR)
    disable_progress_bar()
    without_datasets_bars()


def assignment(text: str) -> tuple[str, str]:
    """What ``--column`` is given."""
    ours, equals, theirs = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not OURS=THEIRS", param_hint="--column")
    return ours, theirs


def ended(run: Path, plugins: Plugins) -> None:
    """The path of what was made, and what to try next; from one of several processes."""
    if os.environ.get("RANK", "0") != "0":
        return
    from trimtab.core.adapters import is_scalar
    from trimtab.core.finished import result

    if data := _made_last(run):
        typer.echo(f"\nmade  {data}\ntry   trimtab data check {data}")
        return
    model, made = result(run, plugins)
    typer.echo(f"\nmade  {made}")
    if model.adapter is not None and is_scalar(made):
        typer.echo(f"try   trimtab score {run} FILE")
    else:
        typer.echo(f"try   trimtab generate {run}   (a chat, beside what it started from)")
    typer.echo("and   trimtab train FILE --set objective.name=NAME; trimtab plugins lists names")


def _made_last(run: Path) -> Path | None:
    """The data set that the run, or its last stage, made; None where that trained a model."""
    from trimtab.core.files import read_json
    from trimtab.core.finish import TRAIN, made_data
    from trimtab.core.stages import STAGES
    from trimtab.core.summary import SUMMARY

    if (run / SUMMARY).is_file():
        run = run / STAGES / read_json(run / SUMMARY)["stages"][-1]["name"]
    folder = made_data(run)
    return folder and folder / TRAIN

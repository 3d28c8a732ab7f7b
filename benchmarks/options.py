"""What the commands of the benchmarks are told, the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from trimtab.benchmarks.job import TRL, Job
from trimtab.benchmarks.online import TRL as ONLINE
from trimtab.benchmarks.shapes import SHAPES

DEFAULTS = "TRL, defaults"

Objective = Annotated[str, typer.Option(help=", ".join([*TRL, *ONLINE]))]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or nf4")]
Shape = Annotated[str, typer.Option(help=", ".join(SHAPES))]
Rows = Annotated[int, typer.Option(help="of a step, the smallest one")]
Steps = Annotated[int, typer.Option(help="measured, of each process")]
Rounds = Annotated[int, typer.Option(help="measurements of each arm, alternating")]
MicroTokens = Annotated[int, typer.Option(help="ours: tokens in a forward")]
Model = Annotated[str, typer.Option(help="its name, or its folder")]
Out = Annotated[Path | None, typer.Option(help="JSON; Markdown goes beside it")]


def defaults(**settings: Any) -> Job:
    """TRL as it is by default; every other arm is a change of this one."""
    return Job.model_validate({"arm": DEFAULTS, "system": "trl", **settings})


def results(out: Path | None, name: str) -> Path:
    """Where the JSON goes."""
    return out or Path("benchmarks", "results", f"{name}.json")

"""Seconds and peak memory of each stage of a run file, and what models of their own would hold.

    python -m trimtab.benchmarks.pipeline --file examples/instructgpt.yaml --home runs/measured

The file is carried out by ``trimtab train``, in a process of its own, and the figures are those of
each stage's ``cost.json``. Beside them stand the models that a stage works with, those that it
trains, its reference and its reward models, and what the weights of the base would take if each
of these had a base of its own.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from trimtab import load_run_file
from trimtab.benchmarks import options, report
from trimtab.benchmarks.machine import machine
from trimtab.core.config import ModelConfig, RunFile
from trimtab.core.cost import cost_of
from trimtab.core.errors import RunError
from trimtab.core.model import load_base
from trimtab.core.policy import POLICY, REFERENCE
from trimtab.core.runfile import Plan
from trimtab.plugins.registry import Plugins

REWARD_MODEL = "reward_model"
"""The reward that is a model on the base."""


def main(
    home: Annotated[Path, typer.Option(help="the run directory to make")],
    file: Annotated[Path, typer.Option(help="run file")] = Path("examples/instructgpt.yaml"),
    set_: Annotated[list[str] | None, typer.Option("--set", help="a.b=c, over the file")] = None,
    out: options.Out = None,
) -> None:
    """Run, collect, write."""
    where, changes = machine(), set_ or []
    registry = Plugins()
    plan = load_run_file(file, changes, registry)
    _carry_out(file, home, changes)
    record = {
        "machine": where,
        "file": file.name,
        "changes": [_without_folder(change) for change in changes],
        "model": Path(plan.stages[0].run.model.name).name,
        "quantization": plan.stages[0].run.model.quantization,
        "base": weights(plan.stages[0].run.model),
        "stages": stages(plan, home, registry),
    }
    report.publish(options.results(out, "pipeline"), record, text(record))


def stages(plan: Plan, home: Path, registry: Plugins) -> list[dict[str, Any]]:
    """What each one cost, and the models that it worked with."""
    found = []
    for stage in plan.stages:
        directory = home if stage.name is None else home / "stages" / stage.name
        cost = dict(cost_of(directory))
        if "seconds" not in cost:
            raise RunError(f"{directory} says nowhere what it cost: cost.json is missing")
        found.append(
            {
                "name": stage.name or home.name,
                "does": stage.run.objective.name if stage.run.objective else "makes data",
                **cost,
                "models": models(stage.run, registry),
            }
        )
    return found


def models(run: RunFile, registry: Plugins) -> list[str]:
    """Of a run: what it trains, its reference, and its reward models, an ensemble's as one."""
    found = []
    if run.objective is not None:
        made = registry.make("objective", run.objective.name, run.objective.options)
        found = list(dict.fromkeys(term.role for term in made.terms))
        found += [REFERENCE] if made.needs.reference else []
    elif run.source is not None and registry.find("source", run.source.name).samples:
        found = [POLICY]
    return found + [one.label or one.name for one in run.reward if one.name == REWARD_MODEL]


def weights(model: ModelConfig) -> int:
    """Bytes of the base's weights, as it is held."""
    base = load_base(model, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return sum(one.numel() * one.element_size() for one in base.parameters())


def text(record: Mapping[str, Any]) -> str:
    """Markdown."""
    base = record["base"] / report.MEGA
    lines = [_line(stage, base) for stage in record["stages"]]
    seconds = sum(stage["seconds"] for stage in record["stages"])
    peak = max(stage["peak_memory_mb"] for stage in record["stages"])
    changes = f" with {', '.join(record['changes'])}" if record["changes"] else ""
    return report.page(
        f"# {record['file']}, stage by stage",
        f"{record['model']}, {record['quantization']}{changes}. The weights of one base take "
        f"{base:.0f} MB. In all {seconds:.0f} s, and a peak of {peak:.0f} MB.",
        report.surroundings(record["machine"]),
        "The peak is that of the process, libraries and what earlier stages left included (on a "
        "GPU: what torch has allocated). The last two columns are counted, not measured: a base "
        "for each of the stage's models, and the peak with as many bases as there would be then.",
        report.table(
            [
                "stage",
                "learns",
                "seconds",
                "tokens",
                "peak MB",
                "models",
                "bases apart MB",
                "peak",
            ],
            lines,
        ),
    )


def _line(stage: Mapping[str, Any], base: float) -> list[str]:
    count = len(stage["models"])
    peak = stage["peak_memory_mb"]
    return [
        stage["name"],
        stage["does"],
        f"{stage['seconds']:.0f}",
        f"{stage['tokens']:.0f}",
        f"{peak:.0f}",
        ", ".join(stage["models"]) or "none",
        f"{count * base:.0f}",
        f"{peak + max(count - 1, 0) * base:.0f}",
    ]


def _without_folder(change: str) -> str:
    """Records name no folders of the machine."""
    key, _, value = change.partition("=")
    return f"{key}={Path(value).name}" if Path(value).is_absolute() else change


def _carry_out(file: Path, home: Path, changes: Sequence[str]) -> None:
    command = [sys.executable, "-m", "trimtab", "train", str(file), "--run", str(home)]
    for change in changes:
        command += ["--set", change]
    if subprocess.run(command, check=False).returncode:
        raise RunError(f"{file} failed: {home} says where; the command was {' '.join(command)}")


if __name__ == "__main__":
    typer.run(main)

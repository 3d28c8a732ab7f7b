"""What became of the stages of a run file: ``summary.json`` and ``README.md`` of the whole."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from trimtab.core.cost import cost_of
from trimtab.core.errors import RunError
from trimtab.core.files import DamagedFile, read_json, write_atomically, write_json
from trimtab.core.finish import ADAPTER, DATA, MODEL, TRAIN, made_data
from trimtab.core.rundir import CONFIG, RunDirectory
from trimtab.core.runfile import Plan, Stage
from trimtab.core.stages import STAGES
from trimtab.core.watch import of_the_result

SUMMARY = "summary.json"
CARD = "README.md"


def summary_of(plan: Plan, home: Path, kept: Collection[str]) -> dict[str, Any]:
    """Each stage: what it is, how it stands, what it cost, what it made, what it changed.

    ``kept`` are those that were finished before.
    """
    return {"stages": [_stage(stage, home, str(stage.name) in kept) for stage in plan.stages]}


def write_summary(home: Path, summary: Mapping[str, Any]) -> None:
    """``summary.json``, and ``README.md`` that names the results."""
    write_json(home / SUMMARY, dict(summary))
    rows = [
        f"| {stage['name']} | {stage['what']} | {stage['steps']} | {stage['state']} "
        f"| {_link(stage['result'])} |"
        for stage in summary["stages"]
    ]
    said = [
        f"# {home.name}",
        "",
        "The stages of one run file: `config.source.yaml` as given, `config.yaml` resolved.",
        "",
        "| stage | what | steps | state | result |",
        "|---|---|---|---|---|",
        *rows,
        "",
        f"What each one cost and changed: `{SUMMARY}`.",
    ]
    write_atomically(home / CARD, "\n".join(said) + "\n")


def _stage(stage: Stage, home: Path, kept: bool) -> dict[str, Any]:
    directory = RunDirectory(home / STAGES / str(stage.name))
    what = stage.run.objective or stage.run.source
    assert what is not None
    state, steps = _stood(directory)
    cost = cost_of(directory.path)
    return {
        "name": stage.name,
        "what": what.name,
        "state": state,
        "kept": kept,
        "steps": steps,
        "seconds": cost.get("seconds"),
        "tokens": cost.get("tokens"),
        "peak_memory_mb": cost.get("peak_memory_mb"),
        "judge": cost.get("judge"),
        "result": _result(directory.path, home),
        "rows": rows_made(directory.path),
        "measures": changes(directory),
    }


def _stood(directory: RunDirectory) -> tuple[str, int]:
    """``waiting`` where it has not begun."""
    if not (directory.path / CONFIG).is_file():
        return "waiting", 0
    try:
        found = directory.state()
    except RunError:
        return "unknown", 0
    return found.state, found.step


def _result(stage: Path, home: Path) -> str | None:
    """Where what it made lies, from the home."""
    for made in (stage / ADAPTER, stage / MODEL, stage / DATA / TRAIN):
        if made.exists():
            return made.relative_to(home).as_posix()
    return None


def rows_made(directory: Path) -> int | None:
    """Rows of the data set that the run made; None where it made none."""
    if made_data(directory) is None:
        return None
    with suppress(DamagedFile, KeyError, TypeError):
        return int(read_json(directory / "data.json")["made"]["written"])
    return None


def changes(directory: RunDirectory) -> dict[str, Any]:
    """Each measure of the run's result, and what it was at the first evaluation."""
    evaluations: list[Any] = []
    with suppress(json.JSONDecodeError):  # the last line of one that is dead may be half
        evaluations = directory.records("evals")
    after = of_the_result(directory.path, evaluations)
    if after is None:
        return {}
    return {
        name: {"before": evaluations[0].get(name), "after": measure}
        for name, measure in after.items()
        if name != "step"
    }


def _link(result: str | None) -> str:
    return f"[{result}]({result})" if result else "none yet"

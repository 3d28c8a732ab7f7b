"""The label step of a run file alone: what a judge says, as a data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.core import pipeline
from trimtab.core.config import RunFile
from trimtab.core.errors import UserError
from trimtab.core.files import read_json
from trimtab.core.finish import DATA, TRAIN
from trimtab.core.overrides import override
from trimtab.core.processes import processes
from trimtab.core.registry import Registry
from trimtab.core.rundir import CONFIG
from trimtab.core.runfile import Plan, Stage, load
from trimtab.core.stages import STAGES
from trimtab.core.yamlfile import Node, read
from trimtab.dry import stages_in
from trimtab.plugins.registry import Plugins

LABELS = "labels"
"""The stage of a file without stages; and the source that labels."""

SOURCE = {"name": LABELS, "by": "judge", "soft": "true"}
"""The section ``source`` of a file that has a judge and says no more of what is to be done."""


@dataclass(frozen=True)
class Labelled:
    """What one stage made."""

    stage: str
    data: Path
    rows: int
    figures: Mapping[str, Any]
    """Of the judge: position bias, agreement, abstentions, cost."""


def label_ai(
    file: str | Path,
    run: str | Path | None = None,
    overrides: Iterable[str] = (),
    *,
    observers: Iterable[Any] = (),
    registry: Plugins | None = None,
) -> list[Labelled]:
    """Carry out the stages of a run file in which a judge labels, and those they depend on.

    The arguments are those of ``train``, and so are the errors and the directory: labels are kept
    there while what determines them is what it was, by ``train`` too. In the main process, what
    each of the stages that label has made.
    """
    plugins = registry or Plugins()
    whole, plan = label_plan(file, overrides, plugins)
    home = run or plan.stages[0].run.run
    if home is not None:
        _check_nothing_follows(whole, plan, Path(home))
    group = processes()
    with plugins.observing(list(observers)):
        made = pipeline.start(plan, Path(run) if run else None, plugins, group)
    if not group.main:
        return []  # the main process may still be writing
    asking = [stage for stage in plan.stages if asks_a_judge(stage.run, plugins)]
    return [_made(made, str(stage.name)) for stage in asking]


def label_plan(
    file: str | Path, overrides: Iterable[str], registry: Registry
) -> tuple[Plan, Plan]:
    """The plan of a run file; and of that the stages in which a judge labels, with those they
    depend on. ``UserError`` where there are none.

    A file with ``judge`` and ``data``, and neither an objective nor a source, has its data
    labelled.
    """
    given = list(overrides)
    whole = load(file, [*_added(Path(file), given), *given], registry)
    wanted: list[Stage] = []
    needed: set[str] = set()
    for stage in reversed(whole.stages):
        if asks_a_judge(stage.run, registry) or stage.name in needed:
            wanted.append(stage)
            needed |= set(stages_in(stage.run))
    if not wanted:
        raise UserError(
            f"no stage of {file} makes a data set of what a judge says: name a recipe that does, "
            "such as objective: {name: rlaif}, or give source: {name: labels, by: judge} and "
            "no objective"
        )
    stages = [Stage(stage.name or LABELS, stage.run) for stage in reversed(wanted)]
    return whole, Plan(whole.path, whole.text, tuple(stages), whole.recipes)


def asks_a_judge(run: RunFile, registry: Registry) -> bool:
    """Does it make a data set, and ask the judge for it?"""
    if run.objective is not None or run.source is None:
        return False
    return bool(registry.make("source", run.source.name, run.source.options).judges)


def said(made: Iterable[Labelled]) -> Iterator[str]:
    """For people: where the data is, its rows, and what is known of the judge."""
    for one in made:
        yield f"made  {one.data}   ({one.rows} rows)"
        for name, value in _flat(one.figures):
            yield f"      {name}  {value}"


def _added(file: Path, overrides: Iterable[str]) -> list[str]:
    """The source, as overrides, of a file that has a judge and does not say what is to be done."""
    try:
        root, faults = read(file.read_text(encoding="utf-8-sig"), str(file))
    except (OSError, UnicodeDecodeError):
        return []  # told with the other faults
    for each in overrides:
        root = override(root, each, faults)
    source = root.child("source") or root
    told = any(_given(root, name) for name in ("objective", STAGES)) or _given(source, "name")
    if faults or told or not isinstance(root.value, dict):
        return []
    if not _given(root, "judge"):
        raise UserError(f"{file} does not say who labels: give judge: {{name: local}}, say")
    return [f"source.{key}={value}" for key, value in SOURCE.items() if not _given(source, key)]


def _given(node: Node, key: str) -> bool:
    below = node.child(key)
    return below is not None and below.value is not None


def _check_nothing_follows(whole: Plan, plan: Plan, home: Path) -> None:
    """What was trained on labels would be moved aside by a plan that ends with them."""
    ours = {stage.name for stage in plan.stages}
    later = [
        str(stage.name)
        for stage in whole.stages
        if stage.name not in ours and (home / STAGES / str(stage.name) / CONFIG).is_file()
    ]
    if later:
        raise UserError(
            f"{home} holds more than labels: {', '.join(later)}. Label into another directory, or "
            f"go on with all of it: trimtab train {plan.path} --run {home}"
        )


def _made(home: Path, stage: str) -> Labelled:
    folder = home / STAGES / stage
    account = read_json(folder / "data.json")
    rows = int(account["made"]["written"])
    return Labelled(stage, folder / DATA / TRAIN, rows, account.get("judge", {}))


def _flat(figures: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, str]]:
    """Each number by its path; a measure with its interval in one line."""
    for name, value in figures.items():
        if isinstance(value, Mapping) and {"value", "low", "high"} <= value.keys():
            interval = f"{value['low']:.3f} to {value['high']:.3f}"
            yield f"{under}{name}", f"{value['value']:.3f}   (95% interval {interval})"
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{under}{name}/")
        elif isinstance(value, float):
            yield f"{under}{name}", f"{value:g}"
        else:
            yield f"{under}{name}", str(value)

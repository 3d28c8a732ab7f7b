"""``trimtab plot``: the curves of runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os.path import commonpath
from pathlib import Path
from typing import Annotated, NamedTuple

import typer


class Logs(NamedTuple):
    """Where one run, or one stage of it, has its logs."""

    stage: str
    """ "" where the run has none."""

    path: Path
    label: str
    """The run's."""


def plot(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="Run directories; several share their axes."),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to; default: the first DIR/plots.")
    ] = None,
    watch: Annotated[
        str | None,
        typer.Option(
            metavar="LABEL",
            help="The reward by which over-optimisation is told; default: that of the run's own "
            "watch, else its first of weight 0.",
        ),
    ] = None,
) -> None:
    """Draw every number that runs logged over their steps, as SVG and PNG.

    Rewards are drawn over sqrt(KL) too, where some are only watched, with the mark of where a
    watch has stopped the run, or would have. Of stages, every reward before and after each.
    """
    from trimtab import curves, frontier, gains
    from trimtab.core.errors import UserError

    folder = out or runs[0] / "plots"
    logs = list(_logs(runs))
    drawn = 0
    for stage in dict.fromkeys(each.stage for each in logs):
        whose = [each for each in logs if each.stage == stage]
        read = [curves.read(each.path, each.label) for each in whose]
        if any(run.names for run in read):
            drawn += _told(curves.draw(read, folder / stage))
        ways = [frontier.read(each.path, each.label, watch) for each in whose]
        if there := [way for way in ways if way is not None]:
            drawn += _told(frontier.draw(there, folder / stage))
    if not drawn:
        where = ", ".join(str(run) for run in runs)
        raise UserError(f"nothing is logged yet in {where}: there is no curve to draw")
    changed = [gains.read(each.path, each.label, each.stage) for each in logs if each.stage]
    if any(changed):
        drawn += _told(gains.draw(changed, folder))
    typer.echo(f"made  {folder}, {drawn} files")


def _told(made: Sequence[Path]) -> int:
    """Say which figure comes first; how many files there are."""
    typer.echo(f"drew  {made[0].with_suffix('')}.{{svg,png}}")
    return len(made)


def _logs(runs: Sequence[Path]) -> Iterator[Logs]:
    from trimtab.core.rundir import RunDirectory
    from trimtab.directories import stages_of

    for run, label in zip(runs, _labels(runs), strict=True):
        home = RunDirectory.open(run).path
        for stage, path in stages_of(home):
            yield Logs(stage, path, label)


def _labels(runs: Sequence[Path]) -> list[str]:
    """What tells the directories apart: their names, or as much of their paths as is needed."""
    paths = [run.resolve() for run in runs]
    if len({path.name for path in paths}) == len(paths) or len(set(paths)) == 1:
        return [path.name for path in paths]
    shared = Path(commonpath(paths))
    return [path.relative_to(shared).as_posix() for path in paths]

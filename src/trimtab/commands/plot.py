"""``trimtab plot``: the curves of runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os.path import commonpath
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from trimtab.curves import Curves


def plot(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="Run directories; several share their axes."),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to; default: the first DIR/plots.")
    ] = None,
) -> None:
    """Draw every number that runs logged over their steps, as SVG and PNG."""
    from trimtab.core.errors import UserError
    from trimtab.curves import draw

    folder = out or runs[0] / "plots"
    drawn = 0
    for stage, curves in _by_stage(runs).items():
        if any(run.names for run in curves):
            made = draw(curves, folder / stage)
            drawn += len(made)
            typer.echo(f"drew  {made[0].with_suffix('')}.{{svg,png}}")
    if not drawn:
        logs = ", ".join(str(run) for run in runs)
        raise UserError(f"nothing is logged yet in {logs}: there is no curve to draw")
    typer.echo(f"made  {folder}, {drawn} files")


def _by_stage(runs: Sequence[Path]) -> Mapping[str, list[Curves]]:
    """The curves of each stage, by its name; "" where a run has none."""
    from trimtab.core.rundir import RunDirectory
    from trimtab.curves import read

    found: dict[str, list[Curves]] = {}
    for run, label in zip(runs, _labels(runs), strict=True):
        home = RunDirectory.open(run).path
        for stage, path in _stages(home):
            found.setdefault(stage, []).append(read(path, label))
    return found


def _stages(home: Path) -> Iterator[tuple[str, Path]]:
    stages = sorted(path for path in (home / "stages").glob("*") if path.is_dir())
    if not stages:
        yield "", home
    for path in stages:
        yield path.name, path


def _labels(runs: Sequence[Path]) -> list[str]:
    """What tells the directories apart: their names, or as much of their paths as is needed."""
    paths = [run.resolve() for run in runs]
    if len({path.name for path in paths}) == len(paths) or len(set(paths)) == 1:
        return [path.name for path in paths]
    shared = Path(commonpath(paths))
    return [path.relative_to(shared).as_posix() for path in paths]

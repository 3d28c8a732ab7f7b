"""``trimtab resume``: go on from the newest checkpoint that verifies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.commands import ended, quiet


def resume(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")],
) -> None:
    """Go on with a run that was stopped or killed. A finished one takes no extra step."""
    quiet()
    from trimtab.api import resume as carry_out
    from trimtab.plugins.registry import Plugins
    from trimtab.progress import Display

    plugins = Plugins()
    with Display() as display:
        made = carry_out(run, observers=[display], registry=plugins)
    ended(made, plugins)

"""How a run is carried out where no plugin says otherwise: here and now."""

from __future__ import annotations

from pathlib import Path

from trimtab.core.hookspecs import hookimpl
from trimtab.core.run import Run


@hookimpl(trylast=True)
def execute_run(run: Run) -> Path:
    """Train in this process."""
    return run.execute()

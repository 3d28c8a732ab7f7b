"""What Python programs call: the same composition as the command line's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trimtab.core.registry import Registry
from trimtab.core.runfile import Plan, load
from trimtab.plugins.registry import Plugins


def load_run_file(
    path: str | Path, overrides: Iterable[str] = (), registry: Registry | None = None
) -> Plan:
    """Read and check a run file, with ``a.b=c`` overrides.

    ``registry`` finds the plugins; by default the built-in and the installed ones. Raises
    ``RunFileError``, whose ``errors`` are all that is wrong.
    """
    return load(path, overrides, registry or Plugins())


def train(
    file: str | Path,
    run: str | Path | None = None,
    overrides: Iterable[str] = (),
    *,
    observers: Iterable[Any] = (),
    registry: Plugins | None = None,
) -> Path:
    """Carry out a run file, all its stages; return the run directory.

    Args:
        file: the run file.
        run: the directory to make; by default the file's own ``run:``, else one under ``runs/``.
            Where it holds stages already, those are kept that come out the same by this file, and
            the others are moved to ``replaced/`` in it.
        overrides: ``a.b=c`` each, over what the file says.
        observers: objects with hookimpls of ``step_ended`` and the like.
        registry: the plugins; by default the built-in and the installed ones.

    Raises:
        RunFileError: the file is wrong; every error is in ``errors``.
        UserError: the data, the model or the directory cannot be used.
        RunError: the run failed; its directory says where, and can be resumed.
    """
    from trimtab.core import pipeline
    from trimtab.core.processes import processes

    plugins = registry or Plugins()
    plan = load(file, overrides, plugins)
    with plugins.observing(list(observers)):
        return pipeline.start(plan, Path(run) if run else None, plugins, processes())


def resume(
    run: str | Path, *, observers: Iterable[Any] = (), registry: Plugins | None = None
) -> Path:
    """Go on with a run from its newest checkpoint that verifies; return its directory."""
    from trimtab.core import pipeline
    from trimtab.core.processes import processes

    plugins = registry or Plugins()
    with plugins.observing(list(observers)):
        return pipeline.resume(Path(run), plugins, processes())

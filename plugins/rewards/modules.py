"""Functions by import path."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from trimtab.core.errors import UserError, suggestion


def imported(path: str, folder: Path) -> Callable[..., Any]:
    """The callable at ``module:callable``; modules of the folder come first."""
    module, colon, name = path.partition(":")
    if not (colon and module and name):
        raise UserError(f"reward.function: {path!r} is not of the form module:callable")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        found: Any = _module(module, folder)
    except ModuleNotFoundError as error:
        raise UserError(f"reward.function: {path!r}: {_missing(module, folder, error)}") from error
    except (Exception, SystemExit) as error:  # whatever a stranger's module raises
        raise UserError(
            f"reward.function: importing {module!r} raised {type(error).__name__}: {error}"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            near = suggestion(part, [each for each in dir(found) if not each.startswith("_")])
            raise UserError(f"reward.function: {module!r} has no {name!r}.{near}")
        found = getattr(found, part)
    if not callable(found):
        raise UserError(f"reward.function: {path!r} is {type(found).__name__}, not a function")
    function: Callable[..., Any] = found
    return function


def _module(name: str, folder: Path) -> ModuleType:
    """The folder's own file even where another module of its name was imported before."""
    file = folder / f"{name}.py"
    loaded = sys.modules.get(name)
    if loaded is None or not file.is_file() or getattr(loaded, "__file__", None) == str(file):
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None  # of a .py file
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _missing(module: str, folder: Path, error: ModuleNotFoundError) -> str:
    """Is it this module, or one that it imports?"""
    if error.name is None or not f"{module}.".startswith(f"{error.name}."):
        return f"the module needs {error.name!r}, which is not installed"
    near = suggestion(module, [file.stem for file in folder.glob("*.py")])
    return f"no module {module!r} is installed, or in {folder}.{near}"

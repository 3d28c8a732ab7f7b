"""Which stages of a directory are kept, and where the others go: nothing is deleted."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from trimtab.core.config import RunFile
from trimtab.core.files import fsync_directory, remove, remove_leftovers
from trimtab.core.keys import Key, keys_of
from trimtab.core.registry import Registry
from trimtab.core.rundir import CONFIG, RunDirectory
from trimtab.core.stages import STAGES

REPLACED = "replaced"
"""Beside ``stages/``: what was there under other keys, as ``<stage>-<n>``."""


def keep(
    home: Path, stages: Mapping[str, RunFile], registry: Registry, say: Callable[[str], None]
) -> dict[str, Key]:
    """Leave in ``stages/`` what has the key of the stage of its name; the key of each stage.

    What has another one is moved to ``replaced/``, and what lies there with the key of a stage
    that has no directory is taken back, whatever it was called. Every move is one rename: after a
    death in between, this ends the same when it is called again. Only for the holder of the
    home's lock.
    """
    merging = any(file.model.start_as == "merge" for file in stages.values())
    if (home / STAGES).is_dir():
        remove_leftovers(home / STAGES)
    keys = keys_of(stages, registry, home / STAGES)
    for folder in _begun(home / STAGES):
        why = _why_not(folder, keys.get(folder.name))
        if why is not None:
            aside = _free(home / REPLACED, folder.name)
            _move(folder, aside)
            say(f"stage {folder.name} is moved to {aside}: {why}")
    for name, key in keys.items():
        there = home / STAGES / name
        if (there / CONFIG).exists():
            continue
        # adapters name their merged base by the stage that has it
        if back := _with(home / REPLACED, key, name if merging else None):
            _take_back(back, there)
            say(f"stage {name} is taken back from {back}, which was made by the same options")
    return keys


def _begun(folder: Path) -> list[Path]:
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    return [entry for entry in entries if (entry / CONFIG).is_file()]


def _why_not(folder: Path, key: Key | None) -> str | None:
    """Why what is there is not the stage of its name; None where it is."""
    if key is None:
        return "the run file has no such stage any more"
    stored = Key.stored(folder)
    if stored is None:
        return "it does not say what it was made of"
    return None if stored.key == key.key else "; ".join(key.changes(stored))


def _free(folder: Path, name: str) -> Path:
    numbers = [number for number, _ in _numbered(folder, name)]
    return folder / f"{name}-{max(numbers, default=0) + 1}"


def _numbered(folder: Path, name: str) -> Iterator[tuple[int, Path]]:
    for entry in folder.iterdir() if folder.is_dir() else ():
        if match := re.fullmatch(rf"{re.escape(name)}-([1-9][0-9]*)", entry.name):
            yield int(match[1]), entry


def _with(folder: Path, key: Key, name: str | None) -> Path | None:
    """What has this key among what was replaced; if a name is given, as a stage of that name."""
    named = [path for _, path in _numbered(folder, name)] if name else _begun(folder)
    for each in named:
        stored = Key.stored(each)
        if stored is not None and stored.key == key.key:
            return each
    return None


def _move(folder: Path, to: Path) -> None:
    """Refused while a process runs in it."""
    to.parent.mkdir(exist_ok=True)
    fsync_directory(to.parent.parent)
    with RunDirectory(folder).lock():
        os.rename(folder, to)
    fsync_directory(to.parent)
    fsync_directory(folder.parent)


def _take_back(folder: Path, to: Path) -> None:
    if to.exists():
        remove(to)  # it died while it was made
    _move(folder, to)

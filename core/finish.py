"""What a run leaves: the adapter of each role in PEFT's layout, and a model card."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.core.card import model_card
from trimtab.core.files import (
    STAGING,
    fsync_directory,
    fsync_file,
    remove,
    unique_beside,
    write_atomically,
)
from trimtab.core.policy import POLICY

if TYPE_CHECKING:
    from trimtab.core.build import Parts
    from trimtab.core.run import Run

ADAPTER = "adapter"
MODEL = "model"
"""In place of the adapter, where all weights were trained."""


def write_results(run: Run, parts: Parts) -> None:
    """``adapter/`` (or ``model/``), ``roles/<role>/`` and ``README.md``, each whole or absent."""
    home, roles = run.directory.path, parts.model.roles
    base = run.file.model.name

    def policy(folder: Path) -> None:
        roles.save(POLICY, folder, base)
        parts.tokenizer.save_pretrained(folder)

    write_whole(home / (MODEL if roles.peft is None else ADAPTER), policy)
    for role in sorted(roles.scalar):
        (home / "roles").mkdir(exist_ok=True)
        write_whole(home / "roles" / role, partial(roles.save, role, base_name=base))
    write_atomically(home / "README.md", model_card(run, parts))


def write_whole(folder: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` make a folder under another name; then it gets its own, and is on the disk."""
    staging = unique_beside(folder, STAGING)
    write(staging)
    for path in (staging, *staging.rglob("*")):
        (fsync_directory if path.is_dir() else fsync_file)(path)
    if folder.exists():
        remove(folder)
    os.rename(staging, folder)
    fsync_directory(folder.parent)

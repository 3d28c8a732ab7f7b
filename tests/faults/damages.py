"""What can happen to a file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from trimtab.core.files import sha256_of


def missing(file: Path, other: Path) -> None:
    file.unlink()


def empty(file: Path, other: Path) -> None:
    file.write_bytes(b"")


def halved(file: Path, other: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def flipped(file: Path, other: Path) -> None:
    """One bit in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def swapped(file: Path, other: Path) -> None:
    """With another file of its kind."""
    shutil.copy(other, file)


def resealed(folder: Path, name: str) -> None:
    """Let the manifest of a checkpoint fit what a file holds now."""
    file, manifest = folder / name, folder / "MANIFEST.json"
    content = json.loads(manifest.read_text())
    content["files"][name] = {"sha256": sha256_of(file), "bytes": file.stat().st_size}
    manifest.write_text(json.dumps(content))


Damage = Callable[[Path, Path], None]
ALL: tuple[Damage, ...] = (missing, empty, halved, flipped, swapped)
EXCEPT_SWAPPED = ALL[:-1]

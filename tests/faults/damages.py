"""What can happen to a file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path


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


Damage = Callable[[Path, Path], None]
ALL: tuple[Damage, ...] = (missing, empty, halved, flipped, swapped)
EXCEPT_SWAPPED = ALL[:-1]

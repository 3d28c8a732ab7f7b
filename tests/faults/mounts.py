"""Small and read-only disks: real ones, where mounting is allowed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


def _mount(*words: object) -> None:
    done = subprocess.run(["mount", *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")


@contextmanager
def small_disk(path: Path, kilobytes: int) -> Iterator[None]:
    """A disk of this size at a folder; it is gone at the end, with what is on it."""
    path.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "none", path)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def enlarge(path: Path) -> None:
    """Give a small disk room."""
    _mount("-o", "remount,size=64m", path)


def fill(file: Path) -> None:
    """Take all the room that is left."""
    with suppress(OSError), open(file, "wb", buffering=0) as taken:
        while taken.write(b" " * 512):
            pass


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """Let nobody write in a folder, not even root, who does not mind permissions."""
    if os.geteuid():
        path.chmod(0o500)
        yield
        path.chmod(0o700)
        return
    _mount("--bind", path, path)
    try:
        _mount("-o", "remount,ro,bind", path)
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)

"""Files that are whole or absent, at whatever instant the process that writes them dies.

What is unfinished or no longer wanted has a name that begins with ``.staging-`` or
``.removing-``. Nothing reads such names, and ``remove_leftovers`` deletes them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from trimtab.core.errors import RunError

_OF_THE_DISK = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.ENOSPC,
    errno.EPERM,
    errno.EROFS,
}
STAGING = ".staging-"
REMOVING = ".removing-"


class DamagedFile(RunError):
    """A file that we wrote cannot be read back."""


def of_the_disk(error: Exception, path: Path) -> RunError | None:
    """A full, broken or read-only disk, said as an error of the run; None for other errors."""
    by_rust = isinstance(error, SafetensorError) and "os error" in str(error)
    if by_rust or (isinstance(error, OSError) and error.errno in _OF_THE_DISK):
        told = RunError(f"cannot write {path}: {error}. See to the disk, then resume the run")
        told.__cause__ = error
        return told
    return None


def unique_beside(path: Path, prefix: str) -> Path:
    """A hidden name in the same folder, such as ``.staging-run.json-5f3a09c1``."""
    return path.with_name(f"{prefix}{path.name}-{secrets.token_hex(4)}")


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file so that its name holds all of the old content or all of the new.

    When this returns, the new content survives a loss of power too.
    """
    staging = unique_beside(path, STAGING)
    try:
        write_synced(staging, content)
        os.replace(staging, path)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def write_synced(path: Path, content: bytes | str) -> None:
    """Write a new file and wait for the disk. Its folder is not synced."""
    with open(path, "xb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def fsync_file(path: Path) -> None:
    """Wait until a file's content is on the disk, whoever wrote it."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def fsync_directory(path: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def remove(path: Path) -> None:
    """Delete a file or folder. Its name is gone before any of its content is."""
    doomed = unique_beside(path, REMOVING)
    os.rename(path, doomed)
    fsync_directory(path.parent)
    _delete(doomed)


def leftovers(folder: Path) -> list[Path]:
    """What writers are at work on here, or died over."""
    return sorted(e for e in folder.iterdir() if e.name.startswith((STAGING, REMOVING)))


def remove_leftovers(folder: Path) -> None:
    """Delete what dead writers left here. Only for the one process that may write here."""
    for entry in leftovers(folder):
        _delete(entry)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_json(value: Any, indent: int | None = None) -> str:
    """Strict JSON in ASCII, so that no character of a text looks like the end of a line.

    Raises ``ValueError`` or ``TypeError`` for what is not JSON, NaN and infinity included.
    """
    return json.dumps(value, allow_nan=False, indent=indent)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_atomically(path, to_json(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises ``DamagedFile`` that says what is wrong with it."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DamagedFile(f"{path} is missing") from None
    except OSError as error:
        raise DamagedFile(f"{path} cannot be read: {error.strerror}") from error
    if not content:
        raise DamagedFile(f"{path} is empty")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path} is not JSON: {error}") from None

"""A file that one process at a time holds, and that says which one."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trimtab.core.errors import UserError

_PATIENCE = 1.0
"""Seconds in which a new holder says who it is, and the forks of a dead one let go."""


def me() -> str:
    """What this process writes into a lock."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def holder(file: Path) -> str | None:
    """Who holds a lock, by what it says. The dead of this host do not count."""
    with suppress(FileNotFoundError, ProcessLookupError):
        said = file.read_text(encoding="utf-8", errors="replace").strip()
        match = re.fullmatch(r"process ([0-9]{1,9}) on (.+)", said)
        if match and match[2] == socket.gethostname():
            with suppress(PermissionError):  # it is another user's
                os.kill(int(match[1]), 0)
        return said if match else None
    return None


def in_use(path: Path, by: str) -> UserError:
    """The refusal of a run that another process holds."""
    return UserError(f"run {path} is in use by {by}: wait until it ends, or stop it")


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold a lock. That of a process that died is free.

    Raises ``UserError`` that names the process that holds it.
    """
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _take(descriptor, file)
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{me()}\n".encode())
        except BaseException:
            os.close(descriptor)
            raise
    except OSError as error:
        raise UserError(f"cannot lock the run {file.parent}: {error.strerror}") from error
    _held[descriptor] = file
    try:
        yield
    finally:
        if descriptor in _held:
            del _held[descriptor]
            os.ftruncate(descriptor, 0)
            os.close(descriptor)


def _take(descriptor: int, file: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            by = holder(file)
            if by is not None or time.monotonic() > deadline:
                raise in_use(file.parent, by or "another process") from None
        time.sleep(0.01)


_held: dict[int, Path] = {}


def is_replaced(file: Path) -> bool:
    """Has another file the name of a lock that this process holds, or none?"""
    ours = [os.fstat(descriptor) for descriptor, path in _held.items() if path == file]
    return bool(ours) and not (
        file.exists() and any(os.path.samestat(one, file.stat()) for one in ours)
    )


def _let_go() -> None:
    """A forked child does not hold its parent's locks: it may live longer."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)

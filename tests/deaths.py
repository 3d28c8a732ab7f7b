"""What a process does to the disk, and its death at any one of those instants."""

from __future__ import annotations

import os
import stat
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

DIED = 77
_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def fork(action: Callable[[], object]) -> int:
    """Run the action in a forked process; its exit status, 1 with a traceback if it raised."""
    return ended(start(action))


def ended(pid: int) -> int:
    """Wait for a forked process; its exit status."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def start(action: Callable[[], object]) -> int:
    """Start the action in a forked process; its id.

    Python warns where other threads run, for they might hold a lock. None of ours does.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        action()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def dies_at(event: int, action: Callable[[], object]) -> bool:
    """Run the action in a fork that dies just before its event-th change of the disk.

    Changes are: opening a file to write, mkdir, rename, replace, unlink, rmdir, truncate, fsync.
    At the fsync of a file, half of what was written to it since the last one is lost too.
    False: the action ended before.
    """

    def doomed() -> None:
        doom(event)()
        action()

    status = fork(doomed)
    assert status in (0, DIED), f"the action failed before event {event}"
    return status == DIED


@contextmanager
def recorded() -> Iterator[list[tuple[str, str]]]:
    """The order of what happens to the disk: ("sync", path) and ("name", the new path)."""
    events: list[tuple[str, str]] = []
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def noting(name: str, function: Callable[..., None]) -> Callable[..., None]:
        def noted(*arguments: Any) -> None:
            at = arguments[-1]
            path = os.readlink(f"/proc/self/fd/{at}") if name == "sync" else str(at)
            function(*arguments)
            events.append((name, path))

        return noted

    os.fsync = noting("sync", fsync)
    os.rename, os.replace = noting("name", rename), noting("name", replace)
    try:
        yield events
    finally:
        os.fsync, os.rename, os.replace = fsync, rename, replace


def doom(event: int) -> Callable[[], None]:
    """Prepare the death of this process; it dies at the event-th change after the call of what
    is returned. What is synced before, and from now on, is safe."""
    return at_change(event, lambda: os._exit(DIED), _lose_half)


def at_change(
    event: int, act: Callable[[], None], at_fsync: Callable[[str, int, int], None] | None = None
) -> Callable[[], None]:
    """Prepare to act just before the event-th change after the call of what is returned.

    ``at_fsync`` is called first where that change is the fsync of a file, with its path, its
    size at the last fsync, and its size now.
    """
    events = 0
    counting = False
    fsync = os.fsync
    safe: dict[str, int] = {}

    def due() -> bool:
        nonlocal events
        events += counting
        return counting and events == event

    def audit(name: str, arguments: tuple[Any, ...]) -> None:
        if (name in _CHANGES or (name == "open" and arguments[2] & _WRITING)) and due():
            act()

    def watched_fsync(descriptor: int) -> None:
        path, status = os.readlink(f"/proc/self/fd/{descriptor}"), os.fstat(descriptor)
        if due():
            if at_fsync is not None and stat.S_ISREG(status.st_mode):
                at_fsync(path, safe.get(path, 0), status.st_size)
            act()
        fsync(descriptor)
        safe[path] = status.st_size

    def begin() -> None:
        nonlocal counting
        counting = True

    os.fsync = watched_fsync
    sys.addaudithook(audit)
    return begin


def _lose_half(path: str, synced: int, written: int) -> None:
    os.truncate(path, (synced + written) // 2)

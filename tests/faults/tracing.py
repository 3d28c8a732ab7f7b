"""Deaths at every system call that changes the disk, whoever makes it: Python, Rust or C.

A process forks itself, watches the child by ptrace, and kills it at the n-th such call: before it
happens, and, where it writes to a file, also when half of it is written.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import deaths

_ON_A_FILE = {1: "write", 18: "pwrite64", 20: "writev", 77: "ftruncate", 285: "fallocate"}
_ON_A_FILE |= {74: "fsync", 75: "fdatasync"}
_ON_A_NAME = {76: "truncate", 82: "rename", 264: "renameat", 316: "renameat2", 86: "link"}
_ON_A_NAME |= {88: "symlink", 83: "mkdir", 258: "mkdirat", 84: "rmdir", 87: "unlink"}
_ON_A_NAME |= {263: "unlinkat"}
_OPEN = {2: ("open", 1), 257: ("openat", 2)}
"""Numbers of system calls on x86-64; for those that open a file, which argument is the flags."""

_WRITES = ("write", "pwrite64", "writev")

_TRACEME, _SETOPTIONS, _SYSCALL, _SYSCALL_INFO = 0, 0x4200, 24, 0x420E
_GOOD_SYSCALLS, _EXIT_KILL = 1, 1 << 20
_ENTRY = 1
_SYSCALL_STOP = signal.SIGTRAP | 0x80
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


class _Info(ctypes.Structure):
    """``struct ptrace_syscall_info`` as far as the arguments of a call."""

    _fields_ = [
        ("op", ctypes.c_uint8),
        ("arch", ctypes.c_uint32),
        ("instruction", ctypes.c_uint64),
        ("stack", ctypes.c_uint64),
        ("number", ctypes.c_uint64),
        ("arguments", ctypes.c_uint64 * 6),
    ]


def works() -> bool:
    """Is this Linux on x86-64, and may a process trace its children?"""
    system = os.uname()
    if (system.sysname, system.machine) != ("Linux", "x86_64"):
        return False
    return deaths.fork(lambda: _ptrace(_TRACEME, 0)) == 0


def die_of_everything(home: Path, kept: Path) -> None:
    """Fork at every change of the disk that this process is about to make, until its end.

    ``kept/N-CALL`` and ``kept/N-half`` hold what is in ``home`` as the N-th death left it. Returns
    in every fork, and at last in this process, for which ``home`` is then as it was.
    """
    before = kept / "before"
    shutil.copytree(home, before)
    event, half = 1, False
    while True:
        pid = os.fork()
        if pid == 0:
            _ptrace(_TRACEME, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            return
        call = _killed_at(event, half, pid, home)
        if call is not None:
            shutil.copytree(home, kept / f"{event:03}-{'half' if half else call}")
        shutil.rmtree(home)
        shutil.copytree(before, home)
        if call is None:
            return
        half = not half and call in _WRITES
        event += not half


def _killed_at(event: int, half: bool, pid: int, home: Path) -> str | None:
    """Kill the child at its event-th change of the disk; that call, or None if it ended before."""
    os.waitpid(pid, 0)
    _ptrace(_SETOPTIONS, pid, None, _GOOD_SYSCALLS | _EXIT_KILL)
    events = 0
    delivered = 0
    while True:
        _ptrace(_SYSCALL, pid, None, delivered)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSTOPPED(status):
            assert status == 0, status
            return None
        delivered = 0
        if os.WSTOPSIG(status) != _SYSCALL_STOP:
            delivered = os.WSTOPSIG(status)
            continue
        info = _Info()
        _ptrace(_SYSCALL_INFO, pid, ctypes.sizeof(info), ctypes.byref(info))
        call = _change(pid, info, home) if info.op == _ENTRY else None
        events += call is not None
        if call is not None and events == event:
            if half:
                _let_write_half(pid, info.arguments[0])
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return call


def _change(pid: int, info: _Info, home: Path) -> str | None:
    """The name of a call that is about to change the disk."""
    number = info.number
    if number in _OPEN:
        name, at = _OPEN[number]
        return name if info.arguments[at] & (os.O_CREAT | os.O_TRUNC) else None
    if number in _ON_A_FILE:
        path = os.readlink(f"/proc/{pid}/fd/{info.arguments[0]}")
        return _ON_A_FILE[number] if path.startswith(f"{home}/") else None
    return _ON_A_NAME.get(number)


def _let_write_half(pid: int, descriptor: int) -> None:
    path = os.readlink(f"/proc/{pid}/fd/{descriptor}")
    before = os.stat(path).st_size
    _ptrace(_SYSCALL, pid)
    os.waitpid(pid, 0)
    os.truncate(path, (before + os.stat(path).st_size) // 2)


def _ptrace(request: int, pid: int, address: Any = None, data: Any = None) -> None:
    if _libc.ptrace(request, pid, address, data) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")

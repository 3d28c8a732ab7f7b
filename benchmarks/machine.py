"""The memory of this process, and the machine it runs on, without names of hosts or paths."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from trimtab.core.environment import environment


def peak() -> int:
    """Bytes: the most that this process has held so far; on a GPU, that torch has held there."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return most_here()


def held() -> int:
    """Bytes that this process holds now; on a GPU, that torch holds there."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated()
    return held_here()


def most_here() -> int:
    """Bytes: the most that this process has held in the machine's own memory."""
    return _status("VmHWM")


def held_here() -> int:
    """Bytes that this process holds in the machine's own memory."""
    return _status("VmRSS")


def machine() -> dict[str, Any]:
    """Processor, memory, threads and versions, and how busy the machine was at the time."""
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {**environment(), "memory": pages, "load_average": round(os.getloadavg()[0], 2)}


def _status(name: str) -> int:
    """A line of Linux's account of this process, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")

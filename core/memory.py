"""Out of memory: read less at a time, and go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from trimtab.core.policy import Policy

T = TypeVar("T")


def within_memory(policy: Policy, compute: Callable[[], T]) -> T:
    """The result of ``compute``, begun again with half the micro-batch whenever memory runs out.

    ``compute`` must start from nothing each time, and must not talk to other processes.
    """
    while True:
        try:
            return compute()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        policy.halve()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Is it one? A CPU's is a plain RuntimeError of torch."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)

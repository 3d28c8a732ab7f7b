"""SIGTERM and SIGINT: finish the step, save, and leave."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from trimtab.core.errors import TrimtabError

_NOTICE = b"\nStopping after this step, to save it. Ctrl-C stops at once, without saving.\n"
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(TrimtabError):
    """The run was asked to stop, and can be resumed."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.exit_status = 128 + number


class Stop:
    """Whether a signal has come. A second SIGINT does not wait for the step to end."""

    number: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
        with suppress(OSError):  # the terminal may be gone
            os.write(2, _NOTICE)  # print() may be what the signal interrupted


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Note SIGTERM and SIGINT while the block runs. Outside the main thread nothing is noted."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

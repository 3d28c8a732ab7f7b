"""A plugin that interrupts the run it is in, after a step that ``INTERRUPT`` names.

``3:SIGTERM`` and ``3:SIGINT,SIGINT`` send signals; ``3:12`` lets the process die at the twelfth
change of the disk that follows, which is in the save of step 3.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

import deaths

from trimtab import hookimpl

STEP, _, HOW = os.environ.get("INTERRUPT", "0:SIGTERM").partition(":")

if HOW.isdigit():
    die = deaths.doom(int(HOW))


@hookimpl
def step_ended(run: Any, step: int, metrics: Mapping[str, float]) -> None:
    """Interrupt it, once."""
    if step != int(STEP):
        return
    if HOW.isdigit():
        die()
        return
    for name in HOW.split(","):
        os.kill(os.getpid(), getattr(signal, name))

"""A plugin that interrupts the run it is in, after a step that ``INTERRUPT`` names.

``3:SIGTERM`` and ``3:SIGINT,SIGINT`` send signals. ``3:12`` lets the process die at the twelfth
change of the disk that follows, which is in the save of step 3, and ``3:SIGTERM@12`` sends it the
signal there. ``4:EVERY@FOLDER`` dies in forks at every call that changes the disk, after the
evaluation of step 4, and keeps in ``FOLDER`` what each death leaves (see ``faults.tracing``).
After step 0 means since plugins were loaded.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import deaths
from faults import tracing

from trimtab import hookimpl

STEP, _, HOW = os.environ.get("INTERRUPT", "0:").partition(":")
WHAT, _, WHERE = HOW.partition("@")


def interrupt() -> None:
    """Send the signals."""
    for name in filter(None, WHAT.split(",")):
        os.kill(os.getpid(), getattr(signal, name))


if WHAT.isdigit():
    begin = deaths.doom(int(WHAT))
elif WHERE.isdigit():
    begin = deaths.at_change(int(WHERE), interrupt)
else:
    begin = interrupt

if STEP == "0":
    begin()


@hookimpl
def step_ended(run: Any, step: int, metrics: Mapping[str, float]) -> None:
    """Interrupt it, once."""
    if step == int(STEP) and WHAT != "EVERY":
        begin()


@hookimpl
def evaluation_ended(run: Any, step: int) -> None:
    """Die of everything that follows, in forks."""
    if step == int(STEP) and WHAT == "EVERY":
        tracing.die_of_everything(run.directory.path.parent, Path(WHERE))

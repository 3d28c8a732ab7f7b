"""Commands in processes of their own that start warm: forked from one that imported everything.

It runs nothing itself, so its forks are as clean as fresh processes, and 8 seconds faster.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import sys
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import NamedTemporaryFile
from unittest import mock

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["warm_imports"])


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    status: int
    """The exit status; minus the signal that killed it."""

    output: str
    """What it wrote to stdout and stderr."""


@dataclass(frozen=True)
class Running:
    """A command that runs."""

    process: BaseProcess
    log: Path

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def end(self, timeout: float = 60) -> Ended:
        """Wait for its end."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(self.log.read_text())
        output = self.log.read_text()
        self.log.unlink()
        return Ended(self.process.exitcode, output)


def start(*arguments: object, typed: str = "", **environment: str) -> Running:
    """Start ``trimtab ARGUMENTS`` with these environment variables beside its own.

    ``typed`` is what it reads from stdin, which is no terminal.
    """
    with NamedTemporaryFile(delete=False) as log:
        pass
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    with mock.patch.dict(os.environ, PYTHONPATH=path):
        forkserver.ensure_running()  # Python 3.11 does not give it our sys.path
    words = [str(each) for each in arguments]
    process = _context.Process(target=_command, args=(words, environment, log.name, typed))
    process.start()
    return Running(process, Path(log.name))


def trimtab(*arguments: object, typed: str = "", **environment: str) -> Ended:
    """Run ``trimtab ARGUMENTS`` to its end."""
    return start(*arguments, typed=typed, **environment).end()


def _command(words: list[str], environment: dict[str, str], log: str, typed: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdin = io.StringIO(typed)
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    sys.argv = ["trimtab", *words]
    from trimtab.cli import main

    main()

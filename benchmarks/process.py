"""Work in a process of its own, so that its time and its memory are its own: JSON in, JSON out."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from trimtab.core.errors import RunError
from trimtab.core.options import Config

Request = TypeVar("Request", bound=Config)
Reply = TypeVar("Reply", bound=Config)


def ask(worker: str, request: Config, reply: type[Reply]) -> Reply:
    """Start a worker, a module of this package, and wait for what it answers."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder) / "request.json", Path(folder) / "reply.json"
        asked.write_text(request.model_dump_json(), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", f"trimtab.benchmarks.{worker}", str(asked), str(answer)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RunError(f"{worker} failed with {done.returncode}:\n{done.stderr[-4000:]}")
        return reply.model_validate_json(answer.read_text(encoding="utf-8"))


def serve(request: type[Request], work: Callable[[Request, Path], Config]) -> None:
    """A worker's whole command line: read the request, work in an empty folder, answer."""
    asked, answer = (Path(argument) for argument in sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        reply = work(request.model_validate_json(asked.read_text(encoding="utf-8")), Path(folder))
    answer.write_text(reply.model_dump_json(), encoding="utf-8")

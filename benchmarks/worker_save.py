"""Measure saves: those of a real run, each followed by less work on the same bytes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from pathlib import Path
from typing import Any

from trimtab import train
from trimtab.benchmarks.process import serve
from trimtab.benchmarks.saves import Enough, Saved, ToSave, content
from trimtab.core import run as runs
from trimtab.core.saving import save


def measure(request: ToSave, folder: Path) -> Saved:
    """Train until enough checkpoints are written."""
    seconds: list[float] = []
    plain: list[float] = []
    hashing: list[float] = []
    sizes: list[list[int]] = []

    def measured(run: Any, parts: Any, cache: Any, step: int) -> None:
        began = time.monotonic()
        save(run, parts, cache, step)
        seconds.append(time.monotonic() - began)
        files = content(run.directory.checkpoints / f"step-{step}")
        sizes.append([len(one) for one in files])
        plain.append(_written(Path(request.run).with_name("plain"), files))
        began = time.monotonic()
        hashlib.sha256(b"".join(files)).hexdigest()
        hashing.append(time.monotonic() - began)
        if step > request.saves:
            raise Enough

    vars(runs)["save"] = measured
    with contextlib.suppress(Enough):
        train(request.file, request.run)
    return Saved(
        seconds=seconds[1:],
        plain=plain[1:],
        hashing=hashing[1:],
        bytes=sum(sizes[-1]),
        files=len(sizes[-1]),
    )


def _written(path: Path, files: list[bytes]) -> float:
    """Seconds to write a new file on the same disk, until it is there."""
    began = time.monotonic()
    with open(path, "xb") as file:
        for one in files:
            file.write(one)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.monotonic() - began
    path.unlink()
    return seconds


if __name__ == "__main__":
    serve(ToSave, measure)

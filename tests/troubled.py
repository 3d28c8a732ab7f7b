"""A plugin with an objective that is not finite where it is told so, and a limit on memory."""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from trimtab import Config, Loss, Objective, Pairs, hookimpl


class TroubledConfig(Config):
    """Where the trouble is."""

    rows: tuple[int, ...] = ()
    """Rows of the data, by the user's count."""

    value: Literal["inf", "nan"] = "inf"
    """What their loss is."""


class Troubled(Objective[Pairs, TroubledConfig]):
    """Minus the log-probability of the chosen completion."""

    name = "troubled.loss"

    def loss(self, batch: Pairs) -> Loss:
        """One value a pair."""
        value_N = -batch.chosen.policy_NT.sum(-1)
        bad_N = torch.isin(batch.row_N, torch.tensor(self.config.rows, dtype=torch.long))
        return Loss(value_N * torch.where(bad_N, float(self.config.value), 1.0))


@hookimpl
def provide_objectives() -> Sequence[type]:
    return [Troubled]


@hookimpl
def run_started(run: Any) -> None:
    """Limit the process: ``MEGABYTES=100`` more than it has, files of ``FILE_BYTES=400``."""
    if "MEGABYTES" in os.environ:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + int(os.environ["MEGABYTES"]) * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if "FILE_BYTES" in os.environ:
        limit = int(os.environ["FILE_BYTES"])
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

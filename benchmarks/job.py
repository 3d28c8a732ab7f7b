"""What one measuring process is asked, and what it answers: JSON in, JSON out."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

from trimtab.core.config import PositiveInt
from trimtab.core.errors import RunError
from trimtab.core.options import Config

Dtype = Literal["float32", "bfloat16", "nf4"]
Kind = Literal["dpo", "sft"]
System = Literal["trimtab", "trl"]


class Job(Config):
    """One system in one configuration, on the rows of one shape."""

    arm: str
    """What the report calls it."""

    system: System
    objective: Kind
    dtype: Dtype
    """Of the base and the computation; nf4 computes in float32 on a CPU. Adapters are float32."""

    shape: str
    rows: PositiveInt = 8
    """Pairs, or demonstrations, in a step."""

    steps: PositiveInt = 5
    """Measured ones."""

    warmup: PositiveInt = 1
    """Steps before them: the first one also pays for what happens once."""

    reference: Literal["computed", "cold", "warm"] = "computed"
    """Of DPO: computed in each step, or kept: cold learns rows as they come, warm knows all."""

    micro_tokens: PositiveInt = 512
    """Ours: tokens in a forward."""

    micro_rows: PositiveInt | None = None
    """TRL's: ``per_device_train_batch_size``; null is the default, 8."""

    checkpointing: bool | None = None
    """Recompute activations in the backward pass; null is the system's default."""


class Result(Config):
    """What was measured in one process."""

    job: Job
    seconds: list[float]
    """Of each measured step."""

    losses: list[float]
    """Of every step, those of the warm-up first."""

    peak: int
    """Bytes: the most that the process held at any time (on a GPU: that torch held there)."""

    loaded: int
    """Bytes right after the model, its adapter and the libraries were loaded."""

    preparation: float = 0.0
    """Seconds before the first step to fill a warm cache."""

    sharing: str = ""
    """Ours: whether completions share their prompt, and the measurement that says so."""


def in_own_process(job: Job) -> Result:
    """Measure in a process that does nothing else, so that its peak memory is the job's."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder) / "job.json", Path(folder) / "result.json"
        asked.write_text(job.model_dump_json(), encoding="utf-8")
        worker = f"trimtab.benchmarks.worker_{job.system}"
        done = subprocess.run(
            [sys.executable, "-m", worker, str(asked), str(answer)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RunError(f"{job.arm} failed with {done.returncode}:\n{done.stderr[-4000:]}")
        return Result.model_validate_json(answer.read_text(encoding="utf-8"))


def asked() -> tuple[Job, Path]:
    """A worker's command line: the job, and where its result goes."""
    job, answer = (Path(argument) for argument in sys.argv[1:])
    return Job.model_validate_json(job.read_text(encoding="utf-8")), answer

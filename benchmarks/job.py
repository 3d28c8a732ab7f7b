"""What a process that measures training is asked, and what it answers."""

from __future__ import annotations

from typing import Literal

from trimtab.benchmarks.process import ask
from trimtab.core.embedded import NAME
from trimtab.core.options import Config, PositiveInt

Dtype = Literal["float32", "bfloat16", "nf4"]
Kind = Literal["dpo", "sft", "kto", "reward_model", "grpo", "ppo", "rloo"]
System = Literal["trimtab", "trl"]

TRL: dict[Kind, str] = {"dpo": "DPO", "sft": "SFT", "kto": "KTO", "reward_model": "Reward"}
"""Our objectives by what TRL's ``...Trainer`` and ``...Config`` begin with."""

REFERRING: tuple[Kind, ...] = ("dpo", "kto")
"""Those that need a reference's log-probs, which both systems can keep."""

DEFAULT_ROWS = 8
"""``per_device_train_batch_size`` of transformers."""


class Job(Config):
    """One system in one configuration, on the rows of one shape."""

    arm: str
    """What the report calls it."""

    system: System
    objective: Kind
    dtype: Dtype
    """Of the base and the computation; nf4 computes in float32 on a CPU. Adapters are float32."""

    shape: str
    model: str = NAME
    rows: PositiveInt = 8
    """Pairs, demonstrations or labelled completions in a step."""

    steps: PositiveInt = 5
    """Measured ones."""

    warmup: PositiveInt = 1
    """Steps before them: the first one also pays for what happens once."""

    reference: Literal["computed", "cold", "warm"] = "computed"
    """Computed in each step, or kept: cold learns rows as they come, warm knows all."""

    micro_tokens: PositiveInt = 512
    """Ours: tokens in a forward."""

    micro_rows: PositiveInt | None = None
    """TRL's: ``per_device_train_batch_size``; null is the default, 8, or a step's fewer rows."""

    checkpointing: bool | None = None
    """Recompute activations in the backward pass; null is the system's default."""

    @property
    def at_a_time(self) -> int:
        """Rows of TRL's micro-batch."""
        return self.micro_rows or min(DEFAULT_ROWS, self.rows)


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
    """Measure in a process that does nothing else."""
    return ask(f"worker_{job.system}", job, Result)

"""What a process that measures training on rollouts is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import NonNegativeFloat, PositiveInt

from trimtab.benchmarks.job import Job, Kind, Result
from trimtab.benchmarks.process import ask

TRL: dict[Kind, str] = {"grpo": "GRPO", "rloo": "RLOO"}
"""Our objectives by what TRL's ``...Trainer`` and ``...Config`` begin with."""

BETA: dict[Kind, float] = {"grpo": 0.0, "rloo": 0.05}
"""Weight of the KL that TRL has by default."""

PARTS = ("rollout", "score", "reference", "train")
"""What a step is split into; ``reference`` is every pass without gradient on what was sampled."""


def near_100(prompts: Any, completions: Sequence[str], **more: Any) -> list[float]:
    """A reward with TRL's signature: 0 for texts of 100 characters, less for others."""
    return [-abs(len(text) - 100) / 100 for text in completions]


class OnlineJob(Job):
    """One system in one configuration, on prompts of rotten-tomatoes. ``rows`` are completions."""

    objective: Kind = "grpo"
    shape: str = "prompts"
    rows: PositiveInt = 16
    group: PositiveInt = 8
    """Completions of each prompt."""

    limit: PositiveInt = 48
    """The most tokens of a completion."""

    forced: bool = True
    """No completion ends before the limit, so that both systems do the same work."""

    beta: NonNegativeFloat = 0.0
    """Weight of the KL; 0 needs no reference."""

    reward: str | None = None
    """Folder of a reward model's adapter; null is ``near_100``."""

    critic: Literal["adapter", "trunk"] = "adapter"
    """PPO's."""

    copies: bool = False
    """PPO's reference, critic and reward model are each on a base of its own."""

    continuous: bool = False
    """TRL's: generate with ``use_transformers_continuous_batching``."""

    ahead: PositiveInt = 1
    """TRL's: sample for so many steps at once; all but the first learn from an older policy."""


class OnlineResult(Result):
    """What was measured in one process. ``seconds`` of a step are means over ``job.ahead``."""

    job: OnlineJob
    parts: dict[str, list[float]]
    """Seconds of each of ``PARTS`` in each measured step."""

    tokens: list[int]
    """Generated for each measured step."""


def in_own_process(job: OnlineJob) -> OnlineResult:
    """Measure in a process that does nothing else."""
    worker = "worker_trl_online" if job.system == "trl" else "worker_online"
    return ask(worker, job, OnlineResult)

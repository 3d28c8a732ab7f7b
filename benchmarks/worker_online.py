"""Measure Trimtab on rollouts: the parts that ``trimtab train`` builds, and its loop."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trimtab import load_run_file
from trimtab.benchmarks.clock import timed
from trimtab.benchmarks.four_copies import apart
from trimtab.benchmarks.machine import held, peak
from trimtab.benchmarks.online import PARTS, OnlineJob, OnlineResult
from trimtab.benchmarks.process import serve
from trimtab.benchmarks.start import ADAPTER, LEARNING_RATE
from trimtab.core import loop as core_loop
from trimtab.core.build import Parts, build
from trimtab.core.files import to_json
from trimtab.core.probe import sharing_is_exact
from trimtab.core.processes import Processes
from trimtab.plugins.registry import Plugins


@dataclass
class Clocks:
    """Seconds of every call of what the parts of a step consist of, since they were last read."""

    rollout: list[float] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)

    def taken(self) -> dict[str, float]:
        """Read them."""
        found = {name: sum(seconds) for name, seconds in vars(self).items()}
        for seconds in vars(self).values():
            seconds.clear()
        return found


def run_file(job: OnlineJob) -> dict[str, Any]:
    """The run file of a job."""
    return {
        "model": {
            "name": job.model,
            "quantization": "nf4" if job.dtype == "nf4" else "none",
            "dtype": "auto" if job.dtype == "nf4" else job.dtype,
            "adapter": {"rank": ADAPTER.rank},
            "gradient_checkpointing": bool(job.checkpointing),
        },
        "data": {"train": "rotten-tomatoes/prompts", "eval_limit": 1},
        "objective": {"name": job.objective, **_options(job)},
        "reward": [_reward(job)],
        "rollout": {"group": job.group, "max_new_tokens": job.limit},
        "train": {
            "steps": job.warmup + job.steps,
            "rows": job.rows,
            "micro_tokens": job.micro_tokens,
            "learning_rate": LEARNING_RATE,
            "schedule": "constant",
            "eval_samples": 0,
        },
    }


def _options(job: OnlineJob) -> dict[str, Any]:
    """TRL's GRPO normalises by the tokens of the batch, as DAPO does."""
    if job.objective == "grpo":
        return {"loss": "dapo", "beta": job.beta}
    if job.objective == "rloo":
        return {"beta": job.beta}
    return {"beta": job.beta, "critic": job.critic, "epochs": 1, "minibatches": 1}


def _reward(job: OnlineJob) -> dict[str, Any]:
    if job.reward is None:
        return {"name": "function", "function": "trimtab.benchmarks.online:near_100"}
    return {"name": "reward_model", "from": job.reward}


def measure(job: OnlineJob, folder: Path) -> OnlineResult:
    """Build the parts, decide on prefix sharing as runs do, step."""
    file = folder / "run.yaml"
    file.write_text(to_json(run_file(job)), encoding="utf-8")
    parts = build(load_run_file(file).stages[0].run, Plugins(), Processes())
    _touch(parts)
    if job.copies:
        parts = apart(parts, job, Path(str(job.reward)))
    loaded = held()
    verdict = sharing_is_exact(parts.model, parts.source.longest())
    parts.model.share = verdict.share
    drawn: list[int] = []
    clocks = _clocked(parts, job, drawn)
    seconds: list[float] = []
    split: dict[str, list[float]] = {name: [] for name in PARTS}
    tokens: list[int] = []
    losses: list[float] = []
    for step in range(job.warmup + job.steps):
        began = time.perf_counter()
        losses.append(parts.loop.step(step)["loss"])
        seconds.append(time.perf_counter() - began)
        known = clocks.taken()
        for name, taken in {**known, "train": seconds[-1] - sum(known.values())}.items():
            split[name].append(taken)
        tokens.append(sum(drawn))
        drawn.clear()
    return OnlineResult(
        job=job,
        seconds=seconds[job.warmup :],
        losses=losses,
        peak=peak(),
        loaded=loaded,
        sharing=f"{'on' if verdict.share else 'off'}: {verdict.why}",
        parts={name: taken[job.warmup :] for name, taken in split.items()},
        tokens=tokens[job.warmup :],
    )


def _clocked(parts: Parts, job: OnlineJob, drawn: list[int]) -> Clocks:
    """Time what a step consists of, and count the tokens that are drawn. Where completions are
    forced, nothing ends them."""
    clocks = Clocks()
    source: Any = parts.source
    sample = source.engine.sample

    def counted(*arguments: Any, **more: Any) -> Any:
        made = sample(*arguments, **more)
        drawn.extend(len(completion.tokens) for completion in made)
        return made

    source.engine.sample = counted
    if job.forced:
        source.engine.open(replace(source.engine.setting, stops=frozenset()))
    timed(source.engine, "sample", clocks.rollout)
    timed(source.rewards, "score", clocks.score)
    timed(core_loop, "annotate", clocks.reference)
    return clocks


def _touch(parts: Parts) -> None:
    """Every weight into memory: files are mapped, and read when touched."""
    for weight in parts.model.base.parameters():
        weight.sum()


if __name__ == "__main__":
    serve(OnlineJob, measure)

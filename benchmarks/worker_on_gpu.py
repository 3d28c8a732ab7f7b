"""Measure an objective on a model of random weights: tokens in, one loop, no tokenizer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import PositiveInt

from trimtab import Batch, Config, Objective, Rollouts, Source
from trimtab.benchmarks.clock import timed
from trimtab.benchmarks.drawn import SIZES, drawn
from trimtab.benchmarks.job import Kind
from trimtab.benchmarks.machine import held, peak
from trimtab.benchmarks.process import serve
from trimtab.benchmarks.shapes import Example, batch
from trimtab.benchmarks.start import ADAPTER
from trimtab.core.config import ModelConfig
from trimtab.core.engine import EngineSetting
from trimtab.core.lm import LanguageModel
from trimtab.core.loop import Loop
from trimtab.core.model import device
from trimtab.core.optimizer import make_optimizer, make_schedule
from trimtab.core.policy import CRITIC
from trimtab.core.roles import Roles
from trimtab.core.sampling import as_sequences, uniforms
from trimtab.core.training import TrainConfig
from trimtab.plugins.engines.transformers import TransformersConfig, TransformersEngine
from trimtab.plugins.references.adapter_off import AdapterOff, AdapterOffConfig
from trimtab.plugins.registry import Plugins

OPTIONS: dict[str, dict[str, Any]] = {
    "grpo": {"beta": 0.04},
    "ppo": {"epochs": 1, "minibatches": 1},
}
"""Both ask the reference; one update each."""


class GpuJob(Config):
    """One objective on one model."""

    size: str
    objective: Kind
    group: PositiveInt = 8
    rows: PositiveInt = 16
    """Completions of a step; of dpo, in pairs."""

    prompt: PositiveInt = 768
    completion: PositiveInt = 256
    micro_tokens: PositiveInt = 8192
    share: bool = True
    checkpointing: bool = True
    steps: PositiveInt = 3
    warmup: PositiveInt = 1


class GpuResult(Config):
    """What was measured. Seconds are of each measured step."""

    job: GpuJob
    seconds: list[float]
    sampling: list[float]
    """Of the seconds, those of sampling."""

    peak: int
    loaded: int


class Made(Source[Config]):
    """Random prompts; of online objectives sampled completions, with a reward of their tokens."""

    name = "made"
    options = Config

    def __init__(self, job: GpuJob, engine: TransformersEngine) -> None:
        super().__init__(Config())
        self.job, self.engine = job, engine
        self.taken = 0

    @classmethod
    def serves(cls, batch: type[Batch]) -> bool:
        return True

    def open(self, setting: Any) -> None:
        """There is nothing to read."""

    def collect(self, policy: Any, rows: int) -> Batch:
        job, self.taken = self.job, self.taken + 1
        generator = torch.Generator().manual_seed(self.taken)
        vocabulary = SIZES[job.size]["vocab_size"]

        def ids(length: int) -> list[int]:
            return torch.randint(3, vocabulary, (length,), generator=generator).tolist()

        prompts = [ids(job.prompt) for _ in range(-(-job.rows // job.group))]
        asked = [prompt for prompt in prompts for _ in range(job.group)][: job.rows]
        if job.objective not in ("grpo", "ppo"):
            pairs = 2 if job.objective == "dpo" else 1
            examples = [
                Example(prompt, ids(job.completion), ids(job.completion))
                for prompt in asked[::pairs]
            ]
            return batch(job.objective, examples)
        drawn_NT = uniforms(0, self.taken, range(job.rows), job.completion)
        made = self.engine.sample(asked, drawn_NT, temperature=1.0)
        return Rollouts(
            as_sequences(made),
            torch.tensor([sum(one.tokens) % 97 / 97 for one in made]),
            torch.arange(job.rows) // job.group + self.taken * job.rows,
            torch.ones(job.rows, dtype=torch.bool),
            torch.arange(job.rows) + self.taken * job.rows,
            job.completion,
        )

    def held_out(self) -> None:
        return None

    def state(self) -> dict[str, Any]:
        return {"taken": self.taken}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.taken = state["taken"]


def measure(job: GpuJob, folder: Path) -> GpuResult:
    """Draw the model, step, read clocks and memory."""
    place = device()
    dtype = torch.float32 if place.type == "cpu" else torch.bfloat16
    objective: Objective = Plugins().make(
        "objective", job.objective, OPTIONS.get(job.objective, {})
    )
    needs = objective.needs
    model = LanguageModel(
        Roles(
            drawn(job.size, place, dtype, checkpointing=job.checkpointing),
            ADAPTER,
            scalar=[CRITIC] if needs.values else [],
            zero_heads=[CRITIC],
        ),
        dtype=dtype,
        micro_tokens=job.micro_tokens,
        share=job.share,
    )
    loaded = held()
    engine = TransformersEngine(TransformersConfig())
    engine.open(EngineSetting(ModelConfig(name=job.size), model, None, frozenset()))
    sampling: list[float] = []
    timed(engine, "sample", sampling)
    train = TrainConfig(rows=job.rows, schedule="constant")
    optimizer = make_optimizer(model.trained(), train)
    loop = Loop(
        policy=model,
        objective=objective,
        sources={"batch": Made(job, engine)},
        optimizer=optimizer,
        schedule=make_schedule(optimizer, train, job.warmup + job.steps),
        rows=job.rows // 2 if job.objective == "dpo" else job.rows,
        reference=AdapterOff(AdapterOffConfig()),
    )
    seconds = [_one(loop, step) for step in range(job.warmup + job.steps)]
    return GpuResult(
        job=job,
        seconds=seconds[job.warmup :],
        sampling=_last(sampling, job.steps),
        peak=peak(),
        loaded=loaded,
    )


def _one(loop: Loop, step: int) -> float:
    began = time.perf_counter()
    loop.step(step)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _last(taken: Sequence[float], count: int) -> list[float]:
    return list(taken[-count:]) if taken else [0.0] * count


if __name__ == "__main__":
    serve(GpuJob, measure)

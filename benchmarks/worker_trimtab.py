"""Measure Trimtab: the loop that runs train with, on rows that are tokenized already."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trimtab import Batch, Config, Demonstrations, Objective, Pairs, Source
from trimtab.benchmarks.job import Job, Result, asked
from trimtab.benchmarks.machine import held, peak
from trimtab.benchmarks.shapes import SHAPES, batch
from trimtab.benchmarks.start import ADAPTER, LEARNING_RATE, base, model_config, randomise
from trimtab.core.cached import CachedReference
from trimtab.core.columns import annotate
from trimtab.core.config import TrainConfig
from trimtab.core.lm import LanguageModel
from trimtab.core.loop import Loop
from trimtab.core.model import compute_dtype, device
from trimtab.core.optimizer import make_optimizer, make_schedule
from trimtab.core.policy import POLICY, REFERENCE, Policy
from trimtab.core.probe import sharing_is_exact
from trimtab.core.reference import Reference
from trimtab.core.reference_cache import ReferenceCache
from trimtab.core.roles import Roles
from trimtab.objectives.dpo import DPO, DPOConfig
from trimtab.objectives.sft import SFT, SFTConfig
from trimtab.plugins.references.adapter_off import AdapterOff, AdapterOffConfig


class Given(Source[Config]):
    """A batch for each step, in order."""

    name = "given"
    options = Config

    def __init__(self, batches: Sequence[Batch]) -> None:
        super().__init__(Config())
        self.batches = list(batches)

    @classmethod
    def serves(cls, batch: type[Batch]) -> bool:
        return batch in (Demonstrations, Pairs)

    def open(self, setting: Any) -> None:
        """There is nothing to read."""

    def collect(self, policy: Policy, rows: int) -> Batch:
        return self.batches.pop(0)

    def held_out(self) -> None:
        return None

    def state(self) -> dict[str, Any]:
        return {"left": len(self.batches)}

    def restore(self, state: Any) -> None:
        del self.batches[: len(self.batches) - state["left"]]


def measure(job: Job, folder: Path) -> Result:
    """Build the parts, decide on prefix sharing as runs do, step."""
    steps = job.warmup + job.steps
    examples = SHAPES[job.shape](steps * job.rows)
    batches = [
        batch(job.objective, examples[i * job.rows : (i + 1) * job.rows]) for i in range(steps)
    ]
    model = _model(job)
    loaded = held()
    verdict = sharing_is_exact(
        model, batch(job.objective, [max(examples, key=lambda one: one.tokens)])
    )
    model.share = verdict.share
    objective: Objective = DPO(DPOConfig()) if job.objective == "dpo" else SFT(SFTConfig())
    began = time.perf_counter()
    reference = _reference(job, objective, model, batches, folder)
    preparation = time.perf_counter() - began if job.reference == "warm" else 0.0
    loop = _loop(job, objective, model, batches, reference)
    seconds, losses = [], []
    for step in range(steps):
        began = time.perf_counter()
        losses.append(loop.step(step)["loss"])
        seconds.append(time.perf_counter() - began)
    return Result(
        job=job,
        seconds=seconds[job.warmup :],
        losses=losses,
        peak=peak(),
        loaded=loaded,
        preparation=preparation,
        sharing=f"{'on' if verdict.share else 'off'}: {verdict.why}",
    )


def _model(job: Job) -> LanguageModel:
    roles = Roles(base(job), ADAPTER)
    randomise(roles.named_parameters(POLICY))
    dtype = compute_dtype(model_config(job), device())
    return LanguageModel(roles, dtype=dtype, micro_tokens=job.micro_tokens)


def _reference(
    job: Job, objective: Objective, model: LanguageModel, batches: Sequence[Batch], folder: Path
) -> Reference | None:
    """The base with its adapter off; behind a cache that is empty, or that knows every row."""
    if not objective.needs.reference:
        return None
    computed = AdapterOff(AdapterOffConfig())
    if job.reference == "computed":
        return computed
    cache = ReferenceCache(folder, model.fingerprint(REFERENCE), "benchmark")
    cached = CachedReference(computed, cache)
    if job.reference == "warm":
        for one in batches:
            annotate(model, cached, one, objective.needs)
    return cached


def _loop(
    job: Job,
    objective: Objective,
    model: LanguageModel,
    batches: Sequence[Batch],
    reference: Reference | None,
) -> Loop:
    train = TrainConfig(learning_rate=LEARNING_RATE, schedule="constant", rows=job.rows)
    optimizer = make_optimizer(model.trained(), train)
    return Loop(
        policy=model,
        objective=objective,
        sources={"batch": Given(batches)},
        optimizer=optimizer,
        schedule=make_schedule(optimizer, train, len(batches)),
        rows=job.rows,
        reference=reference,
        max_grad_norm=train.max_grad_norm,
    )


def main() -> None:
    """Read a job, write a result."""
    job, answer = asked()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(job, Path(folder))
    answer.write_text(result.model_dump_json(), encoding="utf-8")


if __name__ == "__main__":
    main()

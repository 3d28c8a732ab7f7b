"""Measure Trimtab: the loop that runs train with, on rows that are tokenized already."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from trimtab import Batch, Config, Needs, Objective, Source
from trimtab.benchmarks.job import Job, Result
from trimtab.benchmarks.machine import held, peak
from trimtab.benchmarks.process import serve
from trimtab.benchmarks.shapes import batch, cut
from trimtab.benchmarks.start import ADAPTER, LEARNING_RATE, base, model_config, randomise
from trimtab.core.cached import CachedReference
from trimtab.core.columns import annotate
from trimtab.core.lm import LanguageModel
from trimtab.core.loop import Loop
from trimtab.core.model import compute_dtype, device
from trimtab.core.optimizer import make_optimizer, make_schedule
from trimtab.core.policy import LANGUAGE_ROLES, POLICY, REFERENCE, Policy
from trimtab.core.probe import sharing_is_exact
from trimtab.core.reference import Reference
from trimtab.core.reference_cache import ReferenceCache
from trimtab.core.roles import Roles
from trimtab.core.training import TrainConfig
from trimtab.plugins.references.adapter_off import AdapterOff, AdapterOffConfig
from trimtab.plugins.registry import Plugins


class Given(Source[Config]):
    """A batch for each step, in order."""

    name = "given"
    options = Config

    def __init__(self, batches: Sequence[Batch]) -> None:
        super().__init__(Config())
        self.batches = list(batches)

    @classmethod
    def serves(cls, batch: type[Batch]) -> bool:
        return True

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
    objective: Objective = Plugins().make("objective", job.objective, {})
    steps = cut(job)
    batches = [batch(job.objective, examples) for examples in steps]
    model = _model(job, objective)
    loaded = held()
    longest = sorted(sum(steps, []), key=lambda one: one.tokens, reverse=True)[:2]
    verdict = sharing_is_exact(model, batch(job.objective, longest)[torch.tensor([0])])
    model.share = verdict.share
    began = time.perf_counter()
    reference = _reference(job, objective, model, batches, folder)
    preparation = time.perf_counter() - began if job.reference == "warm" else 0.0
    loop = _loop(job, objective, model, batches, reference)
    seconds, losses = [], []
    for step in range(len(steps)):
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


def _model(job: Job, objective: Objective) -> LanguageModel:
    trained = {term.role for term in objective.terms}
    scalar = sorted(trained - LANGUAGE_ROLES)
    roles = Roles(base(job), ADAPTER, scalar=scalar, policy=POLICY in trained)
    for role in roles.names:
        randomise(roles.named_parameters(role))
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
            annotate(model, cached, one, Needs(reference=True))
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


if __name__ == "__main__":
    serve(Job, measure)

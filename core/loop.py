"""The one training loop. It never asks which objective it is running.

collect -> annotate what the objective needs -> prepare -> micro-batches -> one step
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from trimtab.core.batches import Batch, join
from trimtab.core.columns import annotate, prepare
from trimtab.core.errors import RunError
from trimtab.core.gradient import Streams, accumulate
from trimtab.core.objective import Objective, Updates
from trimtab.core.optimizer import clip
from trimtab.core.policy import Policy
from trimtab.core.processes import Processes
from trimtab.core.reference import Reference
from trimtab.core.source import Source


class NotFinite(RunError):
    """A loss or a gradient is NaN or infinite. No weight has been changed by it."""


@dataclass
class Loop:
    """The parts that a step puts together."""

    policy: Policy
    objective: Objective
    sources: Mapping[str, Source]
    """One for each stream: ``batch``, and those in the objective's ``streams``."""

    optimizer: torch.optim.Optimizer
    schedule: Any
    rows: int
    """How many are collected in a step."""

    reference: Reference | None = None
    max_grad_norm: float = 1.0
    max_tries: int = 4
    """How often rows are collected for one batch, when the objective does not keep them all."""

    seed: int = 0
    processes: Processes = field(default_factory=Processes)
    stream_rows: Mapping[str, int] = field(default_factory=dict)
    """How many of a stream beside the batch, where that is another number."""

    collected: Callable[[int, Batch], None] = lambda number, batch: None
    """Is shown each batch, prepared, before the updates on it."""

    def step(self, number: int) -> dict[str, float]:
        """Collect a batch and update on it. A step that kept no row updates nothing."""
        metrics: dict[str, float] = {"rows": 0.0, "tokens": 0.0}
        streams = self.collect()
        if streams is not None:
            self.collected(number, streams["batch"])
            metrics = self.update(streams, torch.Generator().manual_seed(self.seed + number))
            self.objective.state = self.objective.advance(self.objective.state, metrics)
            metrics["rows"] = float(len(streams["batch"]))
            metrics["tokens"] = float(sum(tokens(batch) for batch in streams.values()))
            if self.reference is not None:
                self.reference.advance(self.policy)
        metrics |= self.sources["batch"].metrics()
        metrics["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        self.schedule.step()
        return metrics

    def collect(self) -> Streams | None:
        """Rows of every stream, annotated and prepared; None when the objective kept none."""
        kept = self._kept()
        if kept is None:
            return None
        batch = annotate(self.policy, self.reference, kept, self.objective.needs, self.processes)
        others = {
            name: self.sources[name].collect(self.policy, self.stream_rows.get(name, self.rows))
            for name in self.objective.streams
        }
        return {"batch": prepare(self.objective, batch), **others}

    def update(self, streams: Streams, generator: torch.Generator) -> dict[str, float]:
        """Every update on one batch, or fewer when the objective says stop; mean metrics."""
        history = []
        for rows in minibatches(streams, self.objective.updates, generator):
            history.append(self._one(rows))
            if self.objective.stop(history[-1]):
                break
        return _average(history)

    def _kept(self) -> Batch | None:
        """Collect again for the rows that the objective did not keep."""
        parts: list[Batch] = []
        missing = self.rows
        for _ in range(self.max_tries):
            batch = self.sources["batch"].collect(self.policy, missing)
            keep_N = self.objective.keep(batch)
            part = batch if keep_N is None else batch[keep_N]
            if len(part):
                parts.append(part)
            missing -= len(part)
            if missing <= 0 or keep_N is None:
                break
        return join(parts) if parts else None

    def _one(self, streams: Streams) -> dict[str, float]:
        """One update: gradient, check, clip, step."""
        metrics = accumulate(self.policy, self.objective, streams, self.processes)
        norms = clip(self.policy.trained(), self.max_grad_norm)
        metrics["grad_norm"] = math.hypot(*norms.values())
        if not math.isfinite(metrics["loss"]) or not math.isfinite(metrics["grad_norm"]):
            self.optimizer.zero_grad()
            raise NotFinite(self._diagnosis(streams, metrics))
        self.optimizer.step()
        return metrics

    def _diagnosis(self, streams: Streams, metrics: Mapping[str, float]) -> str:
        """Which rows alone are not finite, found by running each of them alone."""
        guilty = [
            f"{number}" if name == "batch" else f"{number} of {name}"
            for name, batch in streams.items()
            for number, rows in _single_rows(batch)
            if not self._finite({**streams, name: rows})
        ]
        self.optimizer.zero_grad()
        named = ", ".join(guilty[:20]) or "none of them alone, only together"
        return (
            f"the loss is {metrics['loss']} and the norm of its gradient {metrics['grad_norm']}. "
            f"Rows that are not finite: {named}. Nothing was changed by this step. Look at these "
            "rows, lower train.learning_rate, or start from an adapter that is finite."
        )

    def _finite(self, streams: Streams) -> bool:
        metrics = accumulate(self.policy, self.objective, streams, self.processes)
        grads = [
            p.grad for group in self.policy.trained().values() for p in group if p.grad is not None
        ]
        return math.isfinite(metrics["loss"]) and all(bool(g.isfinite().all()) for g in grads)


def minibatches(
    streams: Streams, updates: Updates, generator: torch.Generator
) -> Iterator[Streams]:
    """The rows of each update. One update an epoch leaves the order alone, and draws nothing."""
    for _ in range(updates.epochs):
        if updates.minibatches == 1:
            yield streams
            continue
        cuts = {
            name: _cut(batch, updates.minibatches, generator) for name, batch in streams.items()
        }
        for part in range(updates.minibatches):
            yield {name: batches[part] for name, batches in cuts.items()}


def tokens(batch: Batch) -> int:
    """Real tokens of a batch, prompts included, each completion with its own."""
    return sum(
        int((s.prompt_length_N + s.length_N)[s.length_N > 0].sum())
        for s in batch.sequences.values()
    )


def _single_rows(batch: Batch) -> Iterator[tuple[int, Batch]]:
    numbers = range(1, len(batch) + 1) if batch.row_N is None else batch.row_N.tolist()
    for i, number in enumerate(numbers):
        yield number, batch[torch.tensor([i])]


def _cut(batch: Batch, parts: int, generator: torch.Generator) -> list[Batch]:
    """The batch in a new order, in so many parts of nearly equal size."""
    if len(batch) < parts:
        raise ValueError(f"{len(batch)} rows cannot be cut into {parts} minibatches")
    order = torch.randperm(len(batch), generator=generator)
    return [batch[rows] for rows in order.tensor_split(parts)]


def _average(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric over the updates that reported it."""
    names = {name for metrics in history for name in metrics}
    reported = {
        name: [metrics[name] for metrics in history if name in metrics] for name in sorted(names)
    }
    return {name: sum(values) / len(values) for name, values in reported.items()}

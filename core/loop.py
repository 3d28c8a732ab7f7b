"""The one training loop. It never asks which objective it is running.

A step collects rows, annotates what the objective needs, prepares them, and updates on them::

    begin: collect -> annotate -> prepare        update, update, ...: gradient, step        end

Between any two updates it can be saved, and gone on with.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from trimtab.core.batches import Batch, join
from trimtab.core.columns import annotate, prepare
from trimtab.core.errors import RunError
from trimtab.core.gradient import Streams, accumulate
from trimtab.core.inflight import InFlight, settled
from trimtab.core.objective import Objective, Updates
from trimtab.core.optimizer import clip
from trimtab.core.policy import Policy
from trimtab.core.processes import Processes
from trimtab.core.reference import Reference
from trimtab.core.seeds import mixed
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

    group: int = 1
    """Rows that belong together: only whole groups are asked for, so never more than ``rows``."""

    seed: int = 0
    processes: Processes = field(default_factory=Processes)
    stream_rows: Mapping[str, int] = field(default_factory=dict)
    """How many of a stream beside the batch, where that is another number."""

    def step(self, number: int) -> dict[str, float]:
        """Collect a batch and make every update on it."""
        flight = self.begin(number)
        while not self.over(flight):
            self.update(flight)
        return self.end(flight)

    def begin(self, number: int) -> InFlight:
        """Collect, annotate and prepare the rows of every stream."""
        flight = InFlight(number, None)
        with _timed(flight):
            self._seed(number, "collect")
            kept, flight.collected = self._kept()
            flight.collected |= _floats(self.sources["batch"].metrics())
            if kept is not None:
                began = time.monotonic()
                flight.streams = self._streams(kept)
                flight.collected["seconds_annotate"] = time.monotonic() - began
        flight.collected["seconds_collect"] = flight.seconds
        return flight

    def over(self, flight: InFlight) -> bool:
        """Are all its updates done, or left out? A step without rows has none."""
        if flight.streams is None or flight.stopped:
            return True
        return len(flight.history) == self.planned(flight)

    def planned(self, flight: InFlight) -> int:
        """How many updates there are, unless the objective says stop."""
        if flight.streams is None:
            return 0
        updates = self.objective.updates
        return updates.epochs * min(updates.minibatches, len(flight.streams["batch"]))

    def update(self, flight: InFlight) -> None:
        """The next update."""
        assert flight.streams is not None
        with _timed(flight):
            done = len(flight.history)
            self._seed(flight.number, done)
            rows = minibatch(
                flight.streams, self.objective.updates, done, mixed(self.seed, flight.number)
            )
            flight.history.append(self._one(rows))
            flight.stopped = self.objective.stop(flight.history[-1])

    def end(self, flight: InFlight) -> dict[str, float]:
        """Let objective, reference and schedule move on; the step's metrics.

        They are the means over the updates. A step without rows moves the schedule alone.
        ``seconds_collect`` is all before the first update, of which ``seconds_annotate`` is what
        the objective needs to be known of the rows; ``seconds_train`` is all after it.
        """
        metrics: dict[str, float] = {"rows": 0.0, "tokens": 0.0}
        with _timed(flight):
            if flight.streams is not None:
                metrics = _average(flight.history)
                self.objective.state = self.objective.advance(self.objective.state, metrics)
                metrics["rows"] = float(len(flight.streams["batch"]))
                metrics["tokens"] = float(sum(tokens(each) for each in flight.streams.values()))
                if self.reference is not None:
                    self.reference.advance(self.policy)
            else:  # a schedule wants the optimizer's step before its own
                self.optimizer.zero_grad()
                self.optimizer.step()
            if self.planned(flight) > 1:
                metrics["updates"] = float(len(flight.history))
            metrics |= flight.collected
            metrics["learning_rate"] = self.optimizer.param_groups[0]["lr"]
            self.schedule.step()
        metrics["seconds_train"] = flight.seconds - flight.collected["seconds_collect"]
        return metrics

    def _seed(self, number: int, part: int | str) -> None:
        """Dropout draws the same in an update, wherever the run was begun or resumed."""
        torch.manual_seed(mixed(self.seed, number, part, self.processes.rank))

    def _streams(self, kept: Batch) -> Streams:
        batch = annotate(self.policy, self.reference, kept, self.objective.needs, self.processes)
        streams = {"batch": prepare(self.objective, batch)}
        for name in self.objective.streams:
            rows = self.stream_rows.get(name, self.rows)
            streams[name] = self.sources[name].collect(self.policy, rows)
        return {name: settled(each) for name, each in streams.items()}

    def _kept(self) -> tuple[Batch | None, dict[str, float]]:
        """The rows to train on, and how many were collected for them where some were not kept.

        What the objective did not keep is collected again, in whole groups, up to a limit.
        """
        parts: list[Batch] = []
        missing, collected, tries, selects = self.rows, 0, 0, False
        while missing >= self.group and tries < self.max_tries:
            wanted = missing - missing % self.group
            batch = self.sources["batch"].collect(self.policy, wanted)
            tries, collected = tries + 1, collected + len(batch)
            if not len(batch):
                break
            keep_N = self.objective.keep(batch)
            parts.append(batch if keep_N is None else batch[keep_N])
            if keep_N is None:
                break
            selects = True
            missing -= len(parts[-1])
        kept = [part for part in parts if len(part)]
        counts = {"collected": float(collected), "tries": float(tries)} if selects else {}
        return join(kept) if kept else None, counts

    def _one(self, streams: Streams) -> dict[str, float]:
        """One update: gradient, check, clip, step."""
        metrics = accumulate(self.policy, self.objective, streams, self.processes)
        norms = clip(self.policy.trained(), self.max_grad_norm)
        metrics["grad_norm"] = math.hypot(*norms.values())
        if not math.isfinite(metrics["loss"]) or not math.isfinite(metrics["grad_norm"]):
            self.optimizer.zero_grad()
            raise NotFinite(self._diagnosis(streams, metrics, norms))
        self.optimizer.step()
        return metrics

    def _diagnosis(
        self, streams: Streams, metrics: Mapping[str, float], norms: Mapping[str, float]
    ) -> str:
        """Which rows alone are not finite, found by running each of them alone."""
        guilty = [
            f"{number}" if name == "batch" else f"{number} of {name}"
            for name, batch in streams.items()
            for number, rows in _single_rows(batch)
            if not self._finite({**_emptied(streams), name: rows})
        ]
        self.optimizer.zero_grad()
        named = ", ".join(list(dict.fromkeys(guilty))[:20]) or "none of them alone, only together"
        return (
            f"the loss is {metrics['loss']} and the norm of its gradient {metrics['grad_norm']}"
            f"{self._where(metrics, norms)}. "
            f"Rows that are not finite: {named}. Nothing was changed by this update. Look at "
            "these rows, lower train.learning_rate, or start from an adapter that is finite."
        )

    def _where(self, metrics: Mapping[str, float], norms: Mapping[str, float]) -> str:
        """Which terms, and whose gradients, where there are several."""
        methods = [term.method for term in self.objective.terms]
        bad = [
            f"the term {name!r} is {metrics[name]}"
            for name in methods
            if len(methods) > 1 and not math.isfinite(metrics.get(name, 0.0))
        ]
        bad += [
            f"the gradient of the role {role!r} has the norm {norm}"
            for role, norm in norms.items()
            if len(norms) > 1 and not math.isfinite(norm)
        ]
        return f" ({', '.join(bad)})" if bad else ""

    def _finite(self, streams: Streams) -> bool:
        metrics = accumulate(self.policy, self.objective, streams, self.processes)
        grads = [
            p.grad for group in self.policy.trained().values() for p in group if p.grad is not None
        ]
        return math.isfinite(metrics["loss"]) and all(bool(g.isfinite().all()) for g in grads)


def minibatch(streams: Streams, updates: Updates, number: int, seed: int) -> Streams:
    """The rows of the number-th update on a batch, counted from 0.

    Each epoch draws a new order for each stream and cuts it into parts of nearly equal size, as
    many as there are minibatches, or rows of the batch where those are fewer. One minibatch an
    epoch leaves the order alone.
    """
    parts = min(updates.minibatches, len(streams["batch"]))
    epoch, part = divmod(number, parts)
    if parts == 1:
        return streams
    return {
        name: batch[_order(len(batch), seed, epoch, name).tensor_split(parts)[part]]
        for name, batch in streams.items()
    }


def tokens(batch: Batch) -> int:
    """Real tokens of a batch, prompts included, each completion with its own."""
    return sum(
        int((s.prompt_length_N + s.length_N)[s.length_N > 0].sum())
        for s in batch.sequences.values()
    )


def _order(rows: int, seed: int, epoch: int, name: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(mixed(seed, epoch, name))
    return torch.randperm(rows, generator=generator)


def _single_rows(batch: Batch) -> Iterator[tuple[int, Batch]]:
    numbers = range(1, len(batch) + 1) if batch.row_N is None else batch.row_N.tolist()
    for i, number in enumerate(numbers):
        yield number, batch[torch.tensor([i])]


def _emptied(streams: Streams) -> dict[str, Batch]:
    """The same streams without any row."""
    none = torch.zeros(0, dtype=torch.long)
    return {name: batch[none] for name, batch in streams.items()}


@contextmanager
def _timed(flight: InFlight) -> Iterator[None]:
    began = time.monotonic()
    yield
    flight.seconds += time.monotonic() - began


def _floats(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


def _average(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric over the updates that reported it."""
    names = {name for metrics in history for name in metrics}
    reported = {
        name: [metrics[name] for metrics in history if name in metrics] for name in sorted(names)
    }
    return {name: sum(values) / len(values) for name, values in reported.items()}

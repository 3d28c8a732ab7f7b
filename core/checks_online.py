"""What an objective with roles, states, groups and several updates must be like, one claim a
function. See ``conformance``."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

import torch

from trimtab.core.batches import Batch, Rollouts
from trimtab.core.checks import ConformanceError, require
from trimtab.core.examples import ROWS, Example, TablePolicy, same, tables_of, with_terms
from trimtab.core.gradient import accumulate
from trimtab.core.loop import minibatch
from trimtab.core.objective import Objective, Updates

T = TypeVar("T")

STEP = 0.05
"""Of the plain descent between updates."""

FAR = 50.0
"""Nats between what a sampler and training's computation say of one token."""


def _attempt(message: str, compute: Callable[[], T]) -> T:
    """What it computes; an error in it is the objective's."""
    try:
        return compute()
    except ConformanceError:
        raise
    except Exception as error:  # whatever an author's code raises
        raise ConformanceError(f"{message}: {type(error).__name__}: {error}") from error


def check_roles_are_apart(o: Objective) -> None:
    """A term gives gradient to its own role, and to no other."""
    message = "terms of several roles cannot be computed after each other, or each role alone"
    fresh = copy.deepcopy(o)
    example = Example.random(o)
    whole = _attempt(message, example.gradient)
    for role in sorted({term.role for term in o.terms}):
        own = with_terms(fresh, [term for term in o.terms if term.role == role])
        alone = _attempt(message, replace(example, objective=own).gradient)
        for table in sorted(tables_of(o, role)):
            require(
                same({table: whole[table]}, {table: alone[table]}),
                f"another role's term changes the gradient of {role!r}: a backward pass must not "
                "outlive its role; detach what a term keeps for others, or better keep nothing",
            )


def check_minibatches_are_finite(o: Objective) -> None:
    """The prepared batch can be cut into the updates that it asks for, each of them finite.

    The first is at a ratio of exactly 1, where a deviation or a distance is exactly 0.
    """
    asked = o.updates
    require(
        asked.epochs >= 1 and asked.minibatches >= 1,
        f"{asked} asks for no update at all",
    )
    example = Example.random(o)
    message = "prepare() must give one entry a row, so that rows can be cut into minibatches"
    streams = _attempt(message, example.streams)
    for parts in sorted({1, 4, min(asked.minibatches, ROWS)}):
        policy = TablePolicy(example.start)
        cut = Updates(epochs=max(2, asked.epochs), minibatches=parts)
        for number in range(cut.epochs * parts):
            rows = minibatch(streams, cut, number, seed=0)
            metrics = accumulate(policy, example.objective, rows)
            grads = [t.grad for t in policy.tables.values() if t.grad is not None]
            finite = math.isfinite(metrics["loss"]) and all(g.isfinite().all() for g in grads)
            require(finite, f"update {number + 1} of {parts} minibatches is not finite")
            _descend(policy)


@torch.no_grad()
def _descend(policy: TablePolicy) -> None:
    for table in policy.tables.values():
        if table.grad is not None:
            table.sub_(table.grad, alpha=STEP)


def check_state_is_all_that_moves(o: Objective) -> None:
    """active(), stop() and advance() use nothing else: after a resume, the rest is new."""
    for seed in range(5):
        resumed = type(o)(o.config)
        resumed.state = o.state
        answers = [o.active(term) for term in o.terms]
        require(all(isinstance(one, bool) for one in answers), "active() does not return a bool")
        require(any(answers), "no term is active: nothing would be trained")
        require(
            answers == [resumed.active(term) for term in resumed.terms],
            "active() depends on more than the state: a resumed run would go on differently",
        )
        metrics = _in_state(o, seed)
        require(o.stop(metrics) == resumed.stop(metrics), "stop() depends on more than the state")
        message = "advance() fails where not all terms are active"
        after = _attempt(message, partial(o.advance, o.state, metrics))
        require(
            after == resumed.advance(o.state, metrics),
            "advance() depends on more than the state and the metrics: keep nothing in self",
        )
        encoded = json.dumps(after)
        finite = "NaN" not in encoded and "Infinity" not in encoded
        require(finite, f"the state is not finite after {seed + 1} batches: {after}")
        require(json.loads(encoded) == after, "the state does not survive JSON")
        o.state = after


def _in_state(o: Objective, seed: int) -> dict[str, float]:
    """Metrics of those terms that are active in this state."""
    metrics = replace(Example.random(o, seed), objective=o).metrics
    return _attempt("an update fails where not all terms are active", metrics)


def check_groups_may_be_ragged(o: Objective) -> None:
    """Completions that could not be scored are missing from their groups."""
    if not issubclass(o.data, Rollouts):
        return
    cases = {"a group misses a member": [0, 1, 3, 4, 5], "one group is alone": [0, 1, 2]}
    for case, rows in cases.items():
        part = Example.random(o).map_rows(_rows(rows))
        message = f"fails when {case}: groups are rows with one group_N, of any number"
        grads = _attempt(message, part.gradient)
        finite = all(bool(grad.isfinite().all()) for grad in grads.values())
        require(finite, f"the gradient is not finite when {case}")
        whole = same(grads, part.gradient(microbatch=1))
        require(whole, f"the gradient changes when the batch is split by 1 and {case}")


def _rows(rows: list[int]) -> Callable[[Batch], Batch]:
    return lambda batch: batch[torch.tensor(rows)]


def check_temperature_is_applied_once(o: Objective) -> None:
    """Log-probs are those at the temperature of sampling already."""

    def hot(batch: Batch) -> Batch:
        found = {name: replace(one, temperature=0.5) for name, one in batch.sequences.items()}
        return batch.with_sequences(found)

    example = Example.random(o)
    require(
        same(example.gradient(), example.map_rows(hot).gradient()),
        "the gradient changes with the temperature of the same log-probs: they have it already",
    )


def check_sampler_has_limited_influence(o: Objective) -> None:
    """One token of which the sampler said something absurd does not take over the gradient."""
    if not issubclass(o.data, Rollouts):
        return

    def absurd(batch: Batch) -> Batch:
        if not isinstance(batch, Rollouts):
            return batch
        sampled_NT = batch.responses.sampled_NT.clone()
        sampled_NT[0] -= FAR
        return replace(batch, responses=replace(batch.responses, maybe_sampled_NT=sampled_NT))

    example = Example.random(o)
    usual = max(float(grad.abs().max()) for grad in example.gradient().values())
    moved = example.map_rows(absurd).gradient()
    largest = max(float(grad.abs().max()) for grad in moved.values())
    require(
        largest <= math.exp(FAR / 2) * usual,
        f"sampled_NT that is off by {FAR:.0f} nats makes the gradient {largest / usual:.0e} times "
        "larger: truncate importance weights",
    )

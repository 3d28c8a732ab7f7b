"""What every objective declares and returns, one claim a function. See ``conformance``."""

from __future__ import annotations

import copy
import json
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from trimtab.core.batches import NotDeclared, Rollouts
from trimtab.core.columns import annotate
from trimtab.core.examples import (
    ROWS,
    Example,
    TablePolicy,
    TableReference,
    Tables,
    same,
    tensors,
)
from trimtab.core.gradient import total_weight, weights
from trimtab.core.objective import Objective
from trimtab.core.options import Config
from trimtab.core.policy import POLICY, REFERENCE

NEGLIGIBLE = 1e-9
"""On numbers of order 1, a smaller gradient trains nothing, and a smaller change is none."""


class ConformanceError(AssertionError):
    """An objective breaks the contract; the message guesses why."""


def require(condition: bool, message: str) -> None:
    """Raise unless the condition holds."""
    if not condition:
        raise ConformanceError(message)


def check_name_and_source(o: Objective) -> None:
    """It has a plain name, and its docstring cites where it is from."""
    plain = re.fullmatch(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)?", o.name)
    require(bool(plain), f"name {o.name!r} is not lower_snake")
    cited = re.search(r"arXiv:|doi:|https?://", type(o).__doc__ or "")
    require(bool(cited), "the docstring cites no source")


def check_config_is_strict_and_described(o: Objective) -> None:
    """Options refuse unknown keys, describe themselves, have defaults and survive JSON."""
    require(o.options.model_config.get("extra") == "forbid", "Config accepts unknown options")
    for key, info in o.options.model_fields.items():
        require(bool(info.description), f"Config.{key} has no description")
        require(not info.is_required(), f"Config.{key} has no default")
    again = o.options.model_validate_json(o.config.model_dump_json())
    require(again == o.config, "Config does not survive JSON")


def check_terms_are_complete(o: Objective) -> None:
    """Terms name methods, streams and weights that exist, and read only declared columns."""
    known = {"batch", *o.streams}
    for term in o.terms:
        require(callable(getattr(o, term.method, None)), f"term {term.method!r} is no method")
        require(
            term.rows in known,
            f"term {term.method!r} is on rows {term.rows!r}; streams are {sorted(known)}",
        )
    idle = set(o.streams) - {term.rows for term in o.terms}
    require(not idle, f"streams {sorted(idle)} are declared, but no term is on their rows")
    try:
        for term, batch, loss in Example.random(o).losses():
            require(total_weight(term, batch) > 0, f"term {term.method!r} has no weight")
            require(bool(torch.isfinite(loss.value).all()), f"{term.method}() is not finite")
    except (NotDeclared, ValueError) as error:
        raise ConformanceError(str(error)) from error
    except KeyError as error:
        message = f"a term reads the column {error}, which its rows do not have"
        raise ConformanceError(message) from error


def check_loss_is_unreduced(o: Objective) -> None:
    """Values have the shape of their weights, metrics one number a row or a token."""
    for term, batch, loss in Example.random(o).losses():
        want = weights(term, batch).shape
        got = loss.value.shape
        require(
            got == want,
            f"{term.method}() is not unreduced: its shape is {tuple(got)}, not {tuple(want)}",
        )
        for name, metric in loss.metrics.items():
            for part in metric if isinstance(metric, tuple) else (metric,):
                shape = tuple(part.shape)
                require(shape in ((ROWS,), want), f"metric {name!r} has shape {shape}")


def check_before_names_sequences(o: Objective) -> None:
    """What is wanted ``before`` exists, and gets no gradient."""
    example = Example.random(o)
    known = example.raw["batch"].sequences
    for name in sorted(o.needs.before):
        require(
            name in known,
            f"needs.before names {name!r}; the sequences of {o.data.__name__} are {sorted(known)}",
        )
        grads = example.gradient().values()
        still = all(bool((grad[known[name].tokens_NT] == 0).all()) for grad in grads)
        require(still, f"{name}: it is wanted before the updates, but gets gradient")


def check_needs_are_used(o: Objective) -> None:
    """Everything asked for changes something: the core computes it for every row."""
    start: dict[str, str] = {}
    if o.needs.reference:
        start["reference"] = REFERENCE
    if o.needs.behaviour:
        start["behaviour"] = POLICY
    if o.needs.values:
        start["values"] = "critic"
    for need, table in start.items():
        require(_matters(o, table), _UNUSED.format(need))
    for name in sorted(o.needs.before):
        require(_matters(o, POLICY, name), _UNUSED.format(f"before={{{name!r}}}"))
    for name in sorted(o.needs.tokenwise):
        require(_matters(o, name), _UNUSED.format(f"tokenwise {name!r}"))


_UNUSED = "needs asks for {}, but nothing depends on it: leave it out, for it costs a pass"


def _matters(o: Objective, table: str, sequences: str | None = None) -> bool:
    """Does any number change when this table does, at all positions or at those of a name?"""
    for seed, shift in ((0, 1.0), (0, -1.0), (1, 1.0), (1, -1.0)):
        example = Example.random(o, seed)
        named = example.raw["batch"].sequences
        late = [s for name, s in named.items() if name not in o.needs.before]
        moved = [named[sequences]] if sequences else late
        ids = torch.cat([s.tokens_NT.flatten() for s in moved])
        if table in o.needs.tokenwise:
            other = replace(example, now=_moved(example.now, table, ids, shift))
        else:
            other = replace(example, start=_moved(example.start, table, ids, shift))
        if example.metrics() != other.metrics():
            return True
        if not same(example.gradient(), other.gradient()):
            return True
    return False


def _moved(tables: Tables, name: str, ids: Tensor, shift: float) -> Tables:
    """The tables, one of them moved at these positions by about the shift."""
    moved = tables[name].clone()
    moved[ids] += shift * torch.linspace(0.5, 1.5, len(ids), dtype=moved.dtype)
    return {**tables, name: moved}


def check_metrics_come_from_the_batch(o: Objective) -> None:
    """The same batch gives the same metrics, and another batch gives others.

    The terms themselves may be constant: the value of a policy gradient says nothing.
    """
    terms = {"loss", *(term.method for term in o.terms)}
    first = Example.random(o).metrics()
    again = Example.random(o).metrics()
    require(first == again, "a metric differs on the same batch: is it random?")
    others = [Example.random(o, seed).metrics() for seed in range(1, 6)]
    others.append(Example.random(_advanced(o, others)).metrics())
    for name, metric in first.items():
        moved = any(abs(metric - other[name]) > NEGLIGIBLE for other in others)
        require(moved or name in terms, f"metric {name!r} does not depend on the batch")


def _advanced(o: Objective, history: Iterable[Mapping[str, float]]) -> Objective:
    """A copy of it in the state after batches with these metrics."""
    later = copy.deepcopy(o)
    for metrics in history:
        later.state = later.advance(later.state, metrics)
    return later


def check_batch_is_not_written_to(o: Objective) -> None:
    """prepare(), keep() and terms that share a forward all see the same numbers."""
    example = Example.random(o)
    policy, reference = TablePolicy(example.start), TableReference(Config())
    annotated = annotate(policy, reference, example.raw["batch"], o.needs)
    calls = [("prepare", annotated), ("keep", annotated)]
    calls += [(term.method, batch) for term, batch in example.filled()]
    for method, batch in calls:
        before = [tensor.clone() for tensor in tensors(batch)]
        getattr(o, method)(batch)
        clean = all(_equal(old, new) for old, new in zip(before, tensors(batch), strict=True))
        require(clean, f"{method}() has written to the batch")


def _equal(one: Tensor, other: Tensor) -> bool:
    """NaN, which stands for what was not compared, is equal to itself."""
    both_absent = (one != one) & (other != other)
    return one.shape == other.shape and bool(((one == other) | both_absent).all())


def check_prepare_is_deterministic(o: Objective) -> None:
    """Every process prepares the whole batch itself, and all must get the same."""
    example = Example.random(o)
    first, second = (example.streams()["batch"].columns for _ in range(2))
    for name, column in first.items():
        message = f"prepare() gives another {name!r} on the same batch: is it random?"
        require(torch.equal(column, second[name]), message)


def check_keep_selects_rows(o: Objective) -> None:
    """keep() says yes or no to each row, and the same to all rows of a group."""
    for seed in range(4):
        batch = Example.random(o, seed).raw["batch"]
        kept_N = o.keep(batch)
        if kept_N is None:
            continue
        fits = kept_N.dtype == torch.bool and kept_N.shape == (ROWS,)
        require(fits, "keep() returns neither None nor bool [N]")
        if isinstance(batch, Rollouts):
            same_NN = batch.group_N[:, None] == batch.group_N
            split = bool((same_NN & (kept_N[:, None] != kept_N)).any())
            require(not split, "keep() splits a group: say the same of all of its rows")


def check_state_is_json(o: Objective) -> None:
    """State survives a checkpoint, and advance() leaves the old one alone."""
    metrics = Example.random(o).metrics()
    before = copy.deepcopy(o.state)
    after = o.advance(o.state, metrics)
    require(o.state == before, "advance() writes to the state it was given")
    require(json.loads(json.dumps(after)) == after, "the state does not survive JSON")
    require(isinstance(o.stop(metrics), bool), "stop() does not return a bool")


def check_pickles(o: Objective) -> None:
    """It can be sent to another process, and computes the same there."""
    try:
        sent = pickle.loads(pickle.dumps(o))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        message = f"it cannot be pickled: {error}; keep functions at the top of a module"
        raise ConformanceError(message) from error
    require(
        same(Example.random(o).gradient(), Example.random(sent).gradient()),
        "its gradient changes when it is pickled",
    )

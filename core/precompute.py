"""Reference log-probs of all rows before the first step, for a reference that knows no others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.core.batches import Batch
from trimtab.core.cached import CachedReference
from trimtab.core.caches import cache_dir
from trimtab.core.columns import annotate
from trimtab.core.errors import UserError
from trimtab.core.objective import Needs, Objective
from trimtab.core.reference import Reference
from trimtab.core.reference_cache import ReferenceCache
from trimtab.core.source import Source

if TYPE_CHECKING:
    from trimtab.core.build import Parts
    from trimtab.core.run import Run


def kept_in(reference: Reference, directory: Path) -> Path:
    """Where its log-probs are: what cannot be computed again belongs to the run."""
    return (directory if reference.fixed else cache_dir()) / "reference"


def check_fixed(reference: Reference, objective: Objective, source: Source) -> None:
    """Refuse a reference that knows fixed rows alone where others will be asked for."""
    if not reference.fixed:
        return
    if not source.fixed:
        fault = f"the source {source.name!r} gives others, which no data set has"
    elif objective.needs.before:
        names = ", ".join(sorted(objective.needs.before))
        fault = f"the objective {objective.name!r} also reads {names}, put together as it goes"
    elif objective.needs.tokenwise_reference:
        fault = f"the objective {objective.name!r} wants the reference's whole distribution"
    else:
        return
    raise UserError(
        f"reference {reference.name!r} knows the rows of the data set alone, and {fault}: name "
        "another reference, such as adapter_off or model"
    )


def precompute(run: Run, parts: Parts, begun: bool) -> None:
    """Before the first step, read what training and evaluations will ask for; then no more.

    Batches are those of the first epoch, so that each row is read in the company in which the
    policy reads it there. A signal ends this early, with what is done on the disk.
    """
    cached = parts.loop.reference
    if not isinstance(cached, CachedReference) or not cached.reference.fixed:
        return
    if not begun:
        for batch in _batches(parts):
            if run.asked():
                cached.cache.flush()
                return
            needs = Needs(reference=True, unused=parts.objective.needs.skipped)
            filled = annotate(parts.model, cached, batch, needs, run.processes)
            for sequences in filled.sequences.values():
                if sequences.maybe_reference_NT is not None:
                    cached.keep(sequences)
        cached.cache.flush()
    cached.reference.seal()


def look_up(parts: Parts, directory: Path) -> None:
    """Let a fixed reference of a run that has begun know what was computed then. It must be asked
    for before a checkpoint changes the policy."""
    reference = parts.reference
    if reference is None or not reference.fixed:
        return
    known = reference.fingerprint(parts.model)
    assert known is not None
    cache = ReferenceCache(kept_in(reference, directory), known, "evaluation")
    parts.loop.reference = CachedReference(reference, cache)
    reference.seal()


def _batches(parts: Parts) -> Iterator[Batch]:
    """The held-out rows, and those of the first epoch, or of as many steps as there are."""
    held_out = parts.source.held_out()
    if held_out is not None:
        yield held_out
    if not parts.objective.needs.reference:
        return
    position, rows = parts.source.state(), parts.loop.rows
    whole = type(parts.objective).keep is not Objective.keep
    an_epoch = parts.source.steps_per_epoch(rows) or parts.steps
    for _ in range(an_epoch if whole else min(an_epoch, parts.steps)):
        yield parts.source.collect(parts.model, rows)
    parts.source.restore(position)

"""A run's state into a checkpoint and back: weights, optimizer, positions; nothing by pickle."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trimtab.core.cached import CachedReference
from trimtab.core.checkpoint import (
    Checkpoint,
    DamagedCheckpoint,
    newest,
    rotate,
    save_checkpoint,
)
from trimtab.core.errors import RunError
from trimtab.core.files import DamagedFile, read_json, write_json
from trimtab.core.inflight import InFlight
from trimtab.core.precompute import kept_in
from trimtab.core.reference_cache import ReferenceCache
from trimtab.core.rundir import CONFIG
from trimtab.core.statedict import flatten_state, unflatten_state
from trimtab.core.watch import BEST

if TYPE_CHECKING:
    from trimtab.core.build import Parts
    from trimtab.core.run import Run

_STATE = {"step", "sources", "objective", "reference", "schedule", "in_flight"}
_STATE |= {"logs", "config", "shards"}

KEPT_BEST = 2


def save(
    run: Run,
    parts: Parts,
    cache: ReferenceCache | None,
    step: int,
    flight: InFlight | None = None,
    *,
    best: bool = False,
) -> None:
    """Write ``checkpoints/step-N``. What was cached is on the disk before it.

    ``best`` writes ``checkpoints/best/step-N``, where no other save comes near it. The best before
    it stays too: a death before the next save takes the run back to where that was the best.

    N steps are done. Where another is under way, its rows and the metrics of its updates are
    saved too, and the weights are those of between its updates.

    Raises ``RunError`` rather than save weights that are not finite.
    """
    _check_finite(parts, step)
    if cache is not None:
        cache.flush()
    run.processes.wait()
    if not run.processes.main:
        return
    run.directory.check_ours()
    optimizer, optimizer_document = flatten_state(parts.loop.optimizer.state_dict())
    roles = {
        f"roles/{role}": dict(parts.model.roles.named_parameters(role))
        for role in parts.model.roles.names
    }
    tensors: dict[str, Mapping[str, torch.Tensor]] = {**roles, "optimizer": optimizer}
    documents: dict[str, Any] = {"optimizer": optimizer_document}
    reference: dict[str, Any] = {}
    if parts.reference is not None:
        moved = dict(parts.reference.tensors(parts.model))
        reference = {"document": parts.reference.document(), "moved": bool(moved)}
        if moved:
            tensors["reference"] = moved
    if flight is not None:
        tensors["in_flight"], documents["in_flight"] = flight.save()
    state = {
        "step": step,
        "sources": {name: source.state() for name, source in parts.loop.sources.items()},
        "objective": parts.objective.state,
        "reference": reference,
        "schedule": flatten_state(parts.loop.schedule.state_dict())[1],
        "in_flight": flight is not None,
        "logs": run.directory.positions(),
        "config": run.file.model_dump(mode="json"),
        "shards": cache.visible if cache else [],
    }
    documents["run"] = state
    checkpoints, keep = run.directory.checkpoints, run.file.train.keep
    if best:
        save_checkpoint(checkpoints / BEST, step, tensors, documents, KEPT_BEST)
        return
    save_checkpoint(checkpoints, step, tensors, documents, keep)
    run.directory.set_state("running", step)


def _check_finite(parts: Parts, step: int) -> None:
    for role in parts.model.roles.names:
        for name, parameter in parts.model.roles.named_parameters(role).items():
            if not bool(parameter.isfinite().all()):
                raise RunError(
                    f"step {step} left {name} of role {role!r} with numbers that are not finite. "
                    "It is not saved: lower train.learning_rate"
                )


def restore(run: Run, parts: Parts, cache: ReferenceCache | None) -> tuple[int, InFlight | None]:
    """Put a run where its newest checkpoint that verifies was, to the bit.

    Returns how many steps are done, and the one that is under way.

    Every checkpoint passed over is noted. Without one, the run is at its start. Noted too is what
    the run file says otherwise now, and which cached log-probs are gone.
    """
    checkpoint, messages = newest(run.directory.checkpoints)
    for message in messages:
        run.note(message)
    if checkpoint is None:
        run.rewind({})
        if messages:
            run.note("no checkpoint verifies: the run starts again")
        return 0, None
    if run.processes.main:  # a death may have left more than are kept
        rotate(run.directory.checkpoints, checkpoint.step, run.file.train.keep)
    state = _state(checkpoint)
    restore_roles(parts, checkpoint)
    _restore_optimizer(parts, checkpoint, unflatten_state({}, state["schedule"]))
    for name, source in parts.loop.sources.items():
        source.restore(state["sources"][name])
    parts.objective.state = state["objective"]
    restore_reference(parts, checkpoint)
    flight = _in_flight(parts, checkpoint) if state["in_flight"] else None
    run.rewind(state["logs"])
    for message in _otherwise(run, cache, state):
        run.note(message)
    under_way = f", {len(flight.history)} updates into the next" if flight else ""
    run.note(f"resumed from step {checkpoint.step}{under_way}")
    return checkpoint.step, flight


def restore_reference(parts: Parts, checkpoint: Checkpoint) -> None:
    """Put a reference that moves where the checkpoint's was."""
    saved = _state(checkpoint)["reference"]
    if parts.reference is not None and saved:
        moved = checkpoint.tensors("reference") if saved["moved"] else {}
        parts.reference.restore(parts.model, moved, saved["document"])


def _state(checkpoint: Checkpoint) -> dict[str, Any]:
    state = checkpoint.document("run")
    there = state.keys() if isinstance(state, dict) else set()
    if lacking := sorted(_STATE - there):
        fault = f"run.json lacks {lacking[0]}: another version of trimtab has saved it"
        raise DamagedCheckpoint(checkpoint.path, fault)
    return dict(state)


def _in_flight(parts: Parts, checkpoint: Checkpoint) -> InFlight:
    kinds = {"batch": parts.objective.data, **parts.objective.streams}
    saved = checkpoint.tensors("in_flight"), checkpoint.document("in_flight")
    try:
        return InFlight.load(*saved, kinds)
    except (TypeError, KeyError) as error:
        fault = f"the rows in flight are not those that this objective reads: {error}"
        raise DamagedCheckpoint(checkpoint.path, fault) from error


def _otherwise(run: Run, cache: ReferenceCache | None, state: Any) -> Iterator[str]:
    """What is not as it was when the checkpoint was saved, though the run can go on."""
    for key, was, now in _changes(state["config"], run.file.model_dump(mode="json")):
        yield f"{CONFIG} has changed since step {state['step']}: {key} is {now!r} and was {was!r}"
    saved, here = set(state["shards"]), set(cache.visible if cache else ())
    for name in sorted(saved - here):
        yield f"the reference cache has lost {name}: its log-probs are computed again"
    for name in sorted(here - saved):
        if cache and not name.startswith(cache.run_id):
            yield f"{name} of the reference cache is read, and was not before"


def _changes(was: Any, now: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, old value, new value) wherever two run files differ."""
    if isinstance(was, dict) and isinstance(now, dict):
        for name in sorted(was.keys() | now.keys()):
            yield from _changes(was.get(name), now.get(name), f"{key}.{name}".lstrip("."))
    elif was != now:
        yield key, was, now


def _restore_optimizer(parts: Parts, checkpoint: Checkpoint, schedule_state: Any) -> None:
    """Its moments and its place in the schedule. Settings stay those of ``config.yaml``."""
    optimizer, schedule = parts.loop.optimizer, parts.loop.schedule
    saved = unflatten_state(checkpoint.tensors("optimizer"), checkpoint.document("optimizer"))
    settings = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({**saved, "param_groups": settings})
    schedule.load_state_dict({**schedule_state, "base_lrs": schedule.base_lrs})
    for group, base, scale in zip(
        optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
    ):
        group["lr"] = base * scale(schedule.last_epoch)


@torch.no_grad()
def restore_roles(parts: Parts, checkpoint: Checkpoint) -> None:
    """Put the trained weights of every role where the checkpoint's were."""
    for role in parts.model.roles.names:
        saved = checkpoint.tensors(f"roles/{role}")
        wanted = parts.model.roles.named_parameters(role)
        shapes = {name: parameter.shape for name, parameter in wanted.items()}
        if {name: tensor.shape for name, tensor in saved.items()} != shapes:
            raise DamagedCheckpoint(checkpoint.path, f"roles/{role} does not fit config.yaml")
        for name, parameter in wanted.items():
            parameter.copy_(saved[name])


def open_cache(run: Run, parts: Parts) -> ReferenceCache | None:
    """Put the reference behind a cache, where rows are fixed and the reference is known.

    Which shards of other runs it may read is settled when the run first starts: otherwise what a
    resumed run reads would depend on when the others write.
    """
    reference = parts.reference
    known = reference.fingerprint(parts.model) if reference is not None else None
    if reference is None or known is None or not parts.source.fixed:
        return None
    path = run.directory.path / f"reference_cache{run.processes.suffix}.json"
    folder = kept_in(reference, run.directory.path)
    if path.exists():
        cache = _settled(path, folder, known)
    else:
        cache = ReferenceCache(folder, known, f"{secrets.token_hex(8)}{run.processes.suffix}")
        write_json(path, {"run_id": cache.run_id, "visible": cache.visible})
    for warning in cache.warnings:
        run.note(warning)
    parts.loop.reference = CachedReference(reference, cache)
    return cache


def _settled(path: Path, folder: Path, known: str) -> ReferenceCache:
    """The cache as ``reference_cache.json`` says that this run reads it."""
    try:
        settled = read_json(path)
        if not isinstance(settled, dict) or not isinstance(settled.get("visible"), list):
            raise DamagedFile(f"{path} has no list of shards")
        if not all(isinstance(name, str) for name in (settled.get("run_id"), *settled["visible"])):
            raise DamagedFile(f"{path} has a name that is no text")
        try:
            return ReferenceCache(folder, known, settled["run_id"], settled["visible"])
        except ValueError as error:
            raise DamagedFile(f"{path} is damaged: {error}") from error
    except DamagedFile as error:
        raise RunError(
            f"{error}. Delete it, then resume: the run reads what is in the cache then"
        ) from error

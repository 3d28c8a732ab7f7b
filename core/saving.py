"""A run's state into a checkpoint and back: weights, optimizer, positions; nothing by pickle."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import torch

from trimtab.core.cached import CachedReference
from trimtab.core.caches import cache_dir
from trimtab.core.checkpoint import (
    Checkpoint,
    DamagedCheckpoint,
    newest,
    rotate,
    save_checkpoint,
)
from trimtab.core.errors import RunError
from trimtab.core.files import read_json, write_json
from trimtab.core.reference_cache import ReferenceCache
from trimtab.core.statedict import flatten_state, unflatten_state

if TYPE_CHECKING:
    from trimtab.core.build import Parts
    from trimtab.core.run import Run


def save(run: Run, parts: Parts, cache: ReferenceCache | None, step: int) -> None:
    """Write ``checkpoints/step-N``. What was cached is on the disk before it.

    Raises ``RunError`` rather than save weights that are not finite.
    """
    _check_finite(parts, step)
    if cache is not None:
        cache.flush()
    run.processes.wait()
    if not run.processes.main:
        return
    optimizer, optimizer_document = flatten_state(parts.loop.optimizer.state_dict())
    roles = {
        f"roles/{role}": dict(parts.model.roles.named_parameters(role))
        for role in parts.model.roles.names
    }
    state = {
        "step": step,
        "sources": {name: source.state() for name, source in parts.loop.sources.items()},
        "objective": parts.objective.state,
        "schedule": flatten_state(parts.loop.schedule.state_dict())[1],
        "logs": run.directory.positions(),
    }
    save_checkpoint(
        run.directory.checkpoints,
        step,
        {**roles, "optimizer": optimizer},
        {"run": state, "optimizer": optimizer_document},
        run.file.train.keep,
    )
    run.directory.set_state("running", step)


def _check_finite(parts: Parts, step: int) -> None:
    for role in parts.model.roles.names:
        for name, parameter in parts.model.roles.named_parameters(role).items():
            if not bool(parameter.isfinite().all()):
                raise RunError(
                    f"step {step} left {name} of role {role!r} with numbers that are not finite. "
                    "It is not saved: lower train.learning_rate"
                )


def restore(run: Run, parts: Parts) -> int:
    """Put a run where its newest checkpoint that verifies was, to the bit; return its step.

    Every checkpoint passed over is noted. Without one, the run is at its start.
    """
    checkpoint, messages = newest(run.directory.checkpoints)
    for message in messages:
        run.note(message)
    if checkpoint is None:
        run.rewind({})
        if messages:
            run.note("no checkpoint verifies: the run starts again")
        return 0
    if run.processes.main:  # a death may have left more than are kept
        rotate(run.directory.checkpoints, checkpoint.step, run.file.train.keep)
    state = checkpoint.document("run")
    restore_roles(parts, checkpoint)
    _restore_optimizer(parts, checkpoint, unflatten_state({}, state["schedule"]))
    for name, source in parts.loop.sources.items():
        source.restore(state["sources"][name])
    parts.objective.state = state["objective"]
    run.rewind(state["logs"])
    run.note(f"resumed from step {checkpoint.step}")
    return checkpoint.step


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
    settled: dict[str, Any] = read_json(path) if path.exists() else {}
    cache = ReferenceCache(
        cache_dir() / "reference",
        known,
        settled.get("run_id") or f"{secrets.token_hex(8)}{run.processes.suffix}",
        settled.get("visible"),
    )
    if not settled:
        write_json(path, {"run_id": cache.run_id, "visible": cache.visible})
    for warning in cache.warnings:
        run.note(warning)
    parts.loop.reference = CachedReference(reference, cache)
    return cache

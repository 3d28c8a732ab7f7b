"""Ours against TRL: the same weights, adapter, rows and dtype, one after the other.

    python -m trimtab.benchmarks.against_trl --objective kto --shape short --dtype float32
    python -m trimtab.benchmarks.against_trl --objective rloo     # .against_trl_online has options

Both are measured at their defaults and at their best: their fastest and their smallest micro-batch
and checkpointing, found by trying them. Every measurement is a process of its own.
"""

from __future__ import annotations

from typing import Annotated

import typer

from trimtab.benchmarks import against_trl_online, compare, options, report
from trimtab.benchmarks.job import REFERRING, Job, Result, in_own_process
from trimtab.benchmarks.machine import machine
from trimtab.benchmarks.online import TRL as ONLINE
from trimtab.core.embedded import NAME

FASTEST, SMALLEST = "fastest", "smallest"
TOKENS = (128, 256, 512, 1024)
"""Of a forward of ours: the sizes that are tried."""


def ours(job: Job) -> list[Job]:
    """Trimtab without a cache of the reference, and with one that is empty or full."""
    plain = job.model_copy(update={"arm": "Trimtab", "system": "trimtab"})
    if job.objective not in REFERRING:
        return [plain]
    return [
        plain,
        plain.model_copy(update={"arm": "Trimtab, cold cache", "reference": "cold"}),
        plain.model_copy(update={"arm": "Trimtab, warm cache", "reference": "warm"}),
    ]


def candidates(job: Job) -> list[Job]:
    """TRL with every micro-batch that divides a step's rows, checkpointing on and off.

    It refuses KTO with one row at a time, which has no other row to estimate z0 from.
    """
    least = 2 if job.objective == "kto" else 1
    sizes = [size for size in (1, 2, 4, 8, 16, 32, 64) if size >= least and job.rows % size == 0]
    return [
        job.model_copy(
            update={
                "arm": f"TRL, micro-batch {size}{', checkpointing' if checkpointing else ''}",
                "micro_rows": size,
                "checkpointing": checkpointing,
                "steps": 1,
                "warmup": 1,
            }
        )
        for size in sizes
        for checkpointing in (False, True)
    ]


def own_candidates(job: Job) -> list[Job]:
    """Ours with several sizes of a forward, checkpointing off, and the least with it on."""
    settings = [(TOKENS[0], True), *((tokens, False) for tokens in TOKENS)]
    return [
        job.model_copy(
            update={
                "arm": f"Trimtab, {tokens} tokens{', checkpointing' if checkpointing else ''}",
                "system": "trimtab",
                "micro_tokens": tokens,
                "checkpointing": checkpointing,
                "steps": 1,
                "warmup": 1,
            }
        )
        for tokens, checkpointing in settings
    ]


def best(job: Job, tried: list[Result]) -> list[Job]:
    """A system's fastest and its smallest; TRL's fastest with precomputed log-probs, too."""
    fastest = min(tried, key=lambda one: min(one.seconds)).job
    smallest = min(tried, key=lambda one: one.peak).job
    chosen = [_like(fastest, job, FASTEST), _like(smallest, job, SMALLEST)]
    if fastest.system == "trl" and job.objective in REFERRING:
        known = _like(fastest, job, f"{FASTEST}, precomputed reference")
        chosen.append(known.model_copy(update={"reference": "warm"}))
    return chosen


def _like(found: Job, job: Job, what: str) -> Job:
    """What was found, measured as long as the others."""
    theirs = found.system == "trl"
    size = f"micro-batch {found.micro_rows}" if theirs else f"{found.micro_tokens} tokens"
    how = f"{size}, checkpointing {'on' if found.checkpointing else 'off'}"
    arm = f"{'TRL' if theirs else 'Trimtab'}, {what} ({how})"
    return found.model_copy(update={"arm": arm, "steps": job.steps, "warmup": job.warmup})


def measured(job: Job) -> Result:
    """One measurement, told on the terminal."""
    result = in_own_process(job)
    spread = compare.Spread.of(result.seconds).show()
    typer.echo(f"{job.arm}: {spread} s a step, peak {result.peak / report.MEGA:.0f} MB")
    return result


def main(
    objective: options.Objective = "dpo",
    dtype: options.Dtype = "float32",
    shape: options.Shape = "short",
    model: options.Model = NAME,
    rows: options.Rows = 8,
    steps: options.Steps = 5,
    warmup: Annotated[int, typer.Option(help="steps before them")] = 1,
    rounds: options.Rounds = 3,
    micro_tokens: options.MicroTokens = 512,
    search: Annotated[bool, typer.Option(help="look for the best settings too")] = True,
    out: options.Out = None,
) -> None:
    """Measure, compare, write; fail where the two did not compute the same thing."""
    if objective in ONLINE:
        against_trl_online.main(objective, dtype, model, rounds=rounds, search=search, out=out)
        return
    job = options.defaults(
        objective=objective,
        dtype=dtype,
        shape=shape,
        model=model,
        rows=rows,
        steps=steps,
        warmup=warmup,
        micro_tokens=micro_tokens,
    )
    where = machine()
    jobs = [*ours(job), job]
    for tried in (own_candidates(job), candidates(job)) if search else ():
        jobs += best(job, [measured(one) for one in tried])
    taken = [{one.arm: measured(one) for one in jobs} for _ in range(rounds)]
    path = options.results(out, f"{objective}-{dtype}-{shape}")
    report.write(path, where, taken, report.against(where, taken))
    for fault in compare.faults(taken):
        typer.echo(fault, err=True)
    if compare.faults(taken):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)

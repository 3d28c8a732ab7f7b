"""DPO and SFT against TRL: the same weights, adapter, rows and dtype, one after the other.

    python -m trimtab.benchmarks.against_trl --objective dpo --shape short --dtype float32

TRL is measured at its defaults and at its best: its fastest and its smallest micro-batch and
checkpointing, found by trying all of them. Every measurement is a process of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.benchmarks import compare, report
from trimtab.benchmarks.job import Job, Result, in_own_process
from trimtab.benchmarks.machine import machine
from trimtab.benchmarks.shapes import SHAPES

DEFAULTS, FASTEST, SMALLEST = "TRL, defaults", "TRL, fastest", "TRL, smallest"


def ours(job: Job) -> list[Job]:
    """Trimtab without a cache of the reference, and with one that is empty or full."""
    plain = job.model_copy(update={"arm": "Trimtab", "system": "trimtab"})
    if job.objective == "sft":
        return [plain]
    return [
        plain,
        plain.model_copy(update={"arm": "Trimtab, cold cache", "reference": "cold"}),
        plain.model_copy(update={"arm": "Trimtab, warm cache", "reference": "warm"}),
    ]


def candidates(job: Job) -> list[Job]:
    """TRL with every micro-batch that divides a step's rows, checkpointing on and off."""
    sizes = [size for size in (1, 2, 4, 8, 16, 32, 64) if job.rows % size == 0]
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


def best(job: Job, tried: list[Result]) -> list[Job]:
    """TRL's fastest and its smallest, and for DPO its fastest with precomputed log-probs."""
    fastest = min(tried, key=lambda one: min(one.seconds)).job
    smallest = min(tried, key=lambda one: one.peak).job
    chosen = [_like(fastest, job, FASTEST), _like(smallest, job, SMALLEST)]
    if job.objective == "dpo":
        known = _like(fastest, job, f"{FASTEST}, precomputed reference")
        chosen.append(known.model_copy(update={"reference": "warm"}))
    return chosen


def _like(found: Job, job: Job, name: str) -> Job:
    how = f"micro-batch {found.micro_rows}, checkpointing {'on' if found.checkpointing else 'off'}"
    return job.model_copy(
        update={
            "arm": f"{name} ({how})",
            "micro_rows": found.micro_rows,
            "checkpointing": found.checkpointing,
        }
    )


def measured(job: Job) -> Result:
    """One measurement, told on the terminal."""
    result = in_own_process(job)
    spread = compare.Spread.of(result.seconds).show()
    typer.echo(f"{job.arm}: {spread} s a step, peak {result.peak / report.MEGA:.0f} MB")
    return result


def main(
    objective: Annotated[str, typer.Option(help="dpo or sft")] = "dpo",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or nf4")] = "float32",
    shape: Annotated[str, typer.Option(help=", ".join(SHAPES))] = "short",
    rows: Annotated[int, typer.Option(help="of a step")] = 8,
    steps: Annotated[int, typer.Option(help="measured, of each process")] = 5,
    warmup: Annotated[int, typer.Option(help="steps before them")] = 1,
    rounds: Annotated[int, typer.Option(help="measurements of each arm")] = 3,
    micro_tokens: Annotated[int, typer.Option(help="ours: tokens in a forward")] = 512,
    search: Annotated[bool, typer.Option(help="look for TRL's best settings too")] = True,
    out: Annotated[Path | None, typer.Option(help="JSON; Markdown goes beside it")] = None,
) -> None:
    """Measure, compare, write; fail where the two did not compute the same thing."""
    job = Job.model_validate(
        {
            "arm": DEFAULTS,
            "system": "trl",
            "objective": objective,
            "dtype": dtype,
            "shape": shape,
            "rows": rows,
            "steps": steps,
            "warmup": warmup,
            "micro_tokens": micro_tokens,
        }
    )
    path = out or Path("benchmarks", "results", f"{objective}-{dtype}-{shape}.json")
    where = machine()
    tried = [measured(one) for one in candidates(job)] if search else []
    jobs = [*ours(job), job, *(best(job, tried) if search else [])]
    taken = [{one.arm: measured(one) for one in jobs} for _ in range(rounds)]
    report.write(path, where, taken, report.against(where, taken))
    typer.echo(path.with_suffix(".md").read_text(encoding="utf-8"))
    for fault in compare.faults(taken):
        typer.echo(fault, err=True)
    if compare.faults(taken):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)

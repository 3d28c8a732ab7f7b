"""Ours against TRL where completions are sampled: one model, one reward, the same prompts.

    python -m trimtab.benchmarks.against_trl_online --objective rloo

A step samples 16 completions of at most 48 tokens, scores them and learns from them. Completions
differ, for the samplers do, and so losses cannot be compared. Unless ``--free``, no completion
ends before the limit, so both systems generate and learn from the same number of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from trimtab.benchmarks import compare, options, report
from trimtab.benchmarks.compare import Spread
from trimtab.benchmarks.machine import machine
from trimtab.benchmarks.online import BETA, PARTS, TRL, OnlineJob, OnlineResult, in_own_process
from trimtab.core.embedded import NAME
from trimtab.core.errors import RunError

Round = dict[str, OnlineResult]
TOKENS = (256, 512, 1024)
"""Of a forward of ours: the sizes that are tried."""

MEANING = (
    "Seconds of a step: all of it, then its parts. `reference` is every pass without gradient "
    "over what was sampled; TRL's has the preparation of the batch in it. Ours by TRL's: steps in "
    "the same time, and memory."
)


def main(
    objective: Annotated[str, typer.Option(help=", ".join(TRL))] = "grpo",
    dtype: options.Dtype = "float32",
    model: options.Model = NAME,
    rows: Annotated[int, typer.Option(help="completions of a step")] = 16,
    group: Annotated[int, typer.Option(help="completions of a prompt")] = 8,
    limit: Annotated[int, typer.Option(help="the most tokens of a completion")] = 48,
    beta: Annotated[float | None, typer.Option(help="weight of the KL; TRL's by default")] = None,
    free: Annotated[bool, typer.Option(help="let completions end by themselves")] = False,
    steps: options.Steps = 4,
    warmup: Annotated[int, typer.Option(help="steps before them")] = 2,
    rounds: options.Rounds = 3,
    micro_tokens: options.MicroTokens = 512,
    search: Annotated[bool, typer.Option(help="look for the best settings too")] = True,
    out: options.Out = None,
) -> None:
    """Measure, compare, write; fail where the two did not do the same work."""
    if objective not in TRL:
        raise typer.BadParameter(f"{objective!r} is none of {', '.join(TRL)}")
    kl = BETA[objective] if beta is None else beta
    job = OnlineJob.model_validate(
        {
            "arm": options.DEFAULTS,
            "system": "trl",
            "objective": objective,
            "dtype": dtype,
            "model": model,
            "rows": rows,
            "group": group,
            "limit": limit,
            "beta": kl,
            "forced": not free,
            "steps": steps,
            "warmup": warmup,
            "micro_tokens": micro_tokens,
        }
    )
    where = machine()
    jobs = [_changed(job, "Trimtab", system="trimtab"), job]
    refused: list[str] = []
    for tried in (own_candidates(job), candidates(job)) if search else ():
        found = [result for one in tried if (result := _tried(one, refused))]
        jobs += best(job, found)
    taken = [{one.arm: measured(one) for one in jobs} for _ in range(rounds)]
    name = f"{objective}-{dtype}-group-{group}{'-kl' if beta else ''}{'-free' if free else ''}"
    record = {
        "machine": where,
        "rounds": [{arm: one.model_dump() for arm, one in each.items()} for each in taken],
        "refused": refused,
        "faults": faults(taken),
    }
    report.publish(options.results(out, name), record, text(where, taken, refused))
    if faults(taken):
        raise typer.Exit(1)


def candidates(job: OnlineJob) -> list[OnlineJob]:
    """TRL with every micro-batch from 2 on, checkpointing on and off, with its own continuous
    batching, and sampling for two steps at once."""
    sizes = [size for size in (2, 4, 8, 16) if job.rows % size == 0]
    settings: list[dict[str, Any]] = [
        {"micro_rows": size, "checkpointing": checkpointing}
        for size in sizes
        for checkpointing in (False, True)
    ]
    settings.append({"micro_rows": sizes[-1], "checkpointing": False, "ahead": 2})
    settings.append({"micro_rows": sizes[-1], "checkpointing": False, "continuous": True})
    return [
        _changed(
            job,
            f"TRL, {_how(each)}",
            steps=each.get("ahead", 1),
            warmup=each.get("ahead", 1),
            **each,
        )
        for each in settings
    ]


def own_candidates(job: OnlineJob) -> list[OnlineJob]:
    """Ours with several sizes of a forward, and the least with checkpointing."""
    settings = [(TOKENS[0], True), *((tokens, False) for tokens in TOKENS)]
    return [
        _changed(
            job,
            f"Trimtab, {tokens} tokens{', checkpointing' if checkpointing else ''}",
            system="trimtab",
            micro_tokens=tokens,
            checkpointing=checkpointing,
            steps=1,
            warmup=1,
        )
        for tokens, checkpointing in settings
    ]


def best(job: OnlineJob, tried: Sequence[OnlineResult]) -> list[OnlineJob]:
    """A system's fastest, and its smallest."""
    fastest = min(tried, key=lambda one: min(one.seconds)).job
    smallest = min(tried, key=lambda one: one.peak).job
    return [
        _changed(
            found,
            f"{found.arm.partition(',')[0]}, {what} ({found.arm.partition(', ')[2]})",
            steps=job.steps,
            warmup=job.warmup,
        )
        for what, found in (("fastest", fastest), ("smallest", smallest))
    ]


def measured(job: OnlineJob) -> OnlineResult:
    """One measurement, told on the terminal."""
    result = in_own_process(job)
    spread = Spread.of(result.seconds).show()
    typer.echo(f"{job.arm}: {spread} s a step, peak {result.peak / report.MEGA:.0f} MB")
    return result


def faults(rounds: Sequence[Round]) -> list[str]:
    """Which arms did not generate what the others did."""
    asked = next(iter(rounds[0].values())).job
    wanted = asked.rows * asked.limit
    return [
        f"{arm!r} generated {tokens} tokens in a step, not {wanted}"
        for each in rounds
        for arm, result in each.items()
        for tokens in sorted(set(result.tokens))
        if asked.forced and tokens != wanted
    ]


def text(where: Mapping[str, Any], rounds: Sequence[Round], refused: Sequence[str]) -> str:
    """Markdown."""
    job = next(iter(rounds[0].values())).job
    ends = "none ends before the limit" if job.forced else "they end by themselves"
    return report.page(
        f"# {job.objective.upper()}, {job.dtype}, groups of {job.group}: Trimtab and TRL",
        f"{Path(job.model).name}, LoRA of rank 16 on all linear layers, AdamW; {job.rows} "
        f"completions a step of at most {job.limit} tokens ({ends}), beta {job.beta:g}, "
        f"temperature 1. {len(rounds)} rounds of {job.steps} steps after {job.warmup} of warm-up; "
        "the arms alternate, each measurement in a process of its own. Values are medians "
        "[least, greatest].",
        report.surroundings(where),
        MEANING,
        _measured(rounds),
        _compared(rounds),
        *(f"**Not comparable**: {fault}." for fault in faults(rounds)),
        *(f"Refused: {why}" for why in refused),
        *(
            f"{arm}: prefix sharing {result.sharing}."
            for arm, result in rounds[0].items()
            if result.sharing
        ),
    )


def _measured(rounds: Sequence[Round]) -> str:
    head = ["arm", "a step", *PARTS, "tokens a step", "tokens/s", "peak MB", "beyond the model"]
    lines = []
    for arm in rounds[0]:
        results = [each[arm] for each in rounds]
        parts = [Spread.of([s for one in results for s in one.parts[name]]) for name in PARTS]
        drawn = Spread.of([tokens for one in results for tokens in one.tokens])
        speed = Spread.of(
            [
                tokens / seconds
                for one in results
                for tokens, seconds in zip(one.tokens, one.parts["rollout"], strict=True)
            ]
        )
        lines.append(
            [
                arm,
                Spread.of([s for one in results for s in one.seconds]).show(),
                *(f"{part.middle:.2f}" for part in parts),
                f"{drawn.middle:.0f}",
                f"{speed.middle:.0f}",
                report.mega(Spread.of([one.peak for one in results])),
                report.mega(Spread.of([one.peak - one.loaded for one in results])),
            ]
        )
    return report.table(head, lines)


def _compared(rounds: Sequence[Round]) -> str:
    plain: list[compare.Round] = [dict(each) for each in rounds]
    lines = [
        [
            mine,
            theirs,
            compare.speedup(plain, mine, theirs).show(),
            compare.ratio(plain, compare.peak, mine, theirs).show(),
            compare.ratio(plain, compare.above, mine, theirs).show(),
        ]
        for mine in compare.arms(plain, "trimtab")
        for theirs in compare.arms(plain, "trl")
    ]
    return report.table(["ours", "TRL's", "times as fast", "peak", "beyond loading"], lines)


def _tried(job: OnlineJob, refused: list[str]) -> OnlineResult | None:
    """What a setting gives; None, with the reason, where the system cannot run it."""
    try:
        return measured(job)
    except RunError as error:
        why = str(error).strip().splitlines()[-1]
        typer.echo(f"{job.arm}: {why}")
        refused.append(f"{job.arm}: {why}")
        return None


def _changed(job: OnlineJob, arm: str, **changes: Any) -> OnlineJob:
    return job.model_copy(update={"arm": arm, **changes})


def _how(settings: Mapping[str, Any]) -> str:
    return (
        f"micro-batch {settings['micro_rows']}"
        f"{', checkpointing' if settings['checkpointing'] else ''}"
        f"{', two steps at once' if settings.get('ahead') else ''}"
        f"{', continuous batching' if settings.get('continuous') else ''}"
    )


if __name__ == "__main__":
    typer.run(main)

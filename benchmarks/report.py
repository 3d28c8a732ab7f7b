"""Measurements as files: JSON with every number, Markdown to read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from trimtab.benchmarks import compare
from trimtab.benchmarks.compare import Round
from trimtab.benchmarks.job import TRL, Job, Result

MEGA = 1e6

MEANING = (
    "Ours by TRL's: steps in the same time, and memory. The last two columns are relative "
    "differences of the losses: of the first step, where both have one start and one batch, and "
    "over all steps, which each took by itself."
)


KTO = (
    "TRL estimates KTO's reference point from each micro-batch: where that is not the whole step, "
    "its loss is another one, and is not checked."
)


def publish(out: Path, record: Mapping[str, Any], text: str) -> None:
    """``out`` as JSON, beside it the Markdown, and that on the terminal."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(text, encoding="utf-8")
    typer.echo(text)


def write(out: Path, machine: Mapping[str, Any], rounds: Sequence[Round], text: str) -> None:
    """Every number of rounds of training, and what they say."""
    record = {
        "machine": machine,
        "rounds": [{arm: one.model_dump() for arm, one in round.items()} for round in rounds],
        "faults": compare.faults(rounds),
    }
    publish(out, record, text)


def read(path: Path) -> tuple[dict[str, Any], list[Round]]:
    """The machine and the rounds of a file that ``write`` made."""
    record = json.loads(path.read_text(encoding="utf-8"))
    rounds = [
        {arm: Result.model_validate(one) for arm, one in round.items()}
        for round in record["rounds"]
    ]
    return record["machine"], rounds


def page(*parts: str) -> str:
    """Paragraphs and tables in Markdown."""
    return "\n\n".join(parts) + "\n"


def against(machine: Mapping[str, Any], rounds: Sequence[Round]) -> str:
    """Ours against TRL on one shape."""
    return page(
        _title(rounds, "Trimtab and TRL"),
        _conditions(machine, rounds),
        _measured(rounds),
        MEANING,
        *([KTO] if _first(rounds).objective == "kto" else []),
        _compared(rounds),
        *(f"**Not comparable**: {fault}." for fault in compare.faults(rounds)),
        *_notes(rounds),
    )


def growing(machine: Mapping[str, Any], rounds: Sequence[Round]) -> str:
    """Time and memory by the number of rows in a step."""
    return page(
        _title(rounds, "growth with the rows of a step"),
        _conditions(machine, rounds),
        _measured(rounds),
    )


def _first(rounds: Sequence[Round]) -> Job:
    return next(iter(rounds[0].values())).job


def _title(rounds: Sequence[Round], what: str) -> str:
    job = _first(rounds)
    return f"# {TRL[job.objective]}, {job.dtype}, {job.shape}: {what}"


def _conditions(machine: Mapping[str, Any], rounds: Sequence[Round]) -> str:
    job = _first(rounds)
    return (
        f"{Path(job.model).name}, LoRA of rank 16 on all linear layers, AdamW. {len(rounds)} "
        f"rounds of {job.steps} steps after {job.warmup} of warm-up; the arms alternate, each "
        f"measurement in a process of its own. Values are medians [least, greatest].\n\n"
        f"{surroundings(machine)}"
    )


def surroundings(machine: Mapping[str, Any]) -> str:
    """The machine, how busy it was, and the versions."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    where = ", ".join(machine["gpus"]) or f"{machine['cpu']}, {machine['threads']} threads"
    return (
        f"{where}, {machine['memory'] / 1e9:.0f} GB, load {machine['load_average']} at the start. "
        f"Python {machine['python']}; {versions}."
    )


def _measured(rounds: Sequence[Round]) -> str:
    rows = [
        [
            arm,
            str(result.job.rows),
            compare.seconds(rounds, arm).show(),
            mega(compare.peak(rounds, arm)),
            mega(compare.above(rounds, arm)),
        ]
        for arm, result in rounds[0].items()
    ]
    head = ["arm", "rows a step", "seconds a step", "peak MB", "of it beyond the loaded model"]
    return table(head, rows)


def _compared(rounds: Sequence[Round]) -> str:
    rows = [
        [
            mine,
            theirs,
            compare.speedup(rounds, mine, theirs).show(),
            compare.ratio(rounds, compare.peak, mine, theirs).show(),
            compare.ratio(rounds, compare.above, mine, theirs).show(),
            f"{compare.disagreement(rounds, mine, theirs):.1e}",
            f"{compare.later_disagreement(rounds, mine, theirs):.1e}",
        ]
        for mine in compare.arms(rounds, "trimtab")
        for theirs in compare.arms(rounds, "trl")
    ]
    head = ["ours", "TRL's", "times as fast", "peak", "beyond loading", "first loss", "all losses"]
    return table(head, rows)


def _notes(rounds: Sequence[Round]) -> list[str]:
    """What the arms add that no table shows."""
    notes = []
    for arm, result in rounds[0].items():
        if result.preparation:
            notes.append(
                f"{arm}: {result.preparation:.1f} s beforehand for the reference's log-probs."
            )
        if result.sharing:
            notes.append(f"{arm}: prefix sharing {result.sharing}.")
    return notes


def mega(spread: compare.Spread) -> str:
    """Bytes as megabytes."""
    scaled = [value / MEGA for value in (spread.middle, spread.least, spread.greatest)]
    return compare.Spread(*scaled).show(0)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

"""What each stage of a pipeline took and changed, from its ``summary.json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from trimtab.core.stages import STAGES
from trimtab.core.watch import watched

Changes = Mapping[str, Mapping[str, Any]]
"""By measure ``before`` and ``after``: the first evaluation's and the last one's."""

NAMES = {"kl_sequence": "KL"}
"""What a measure is called here, where it is not its own name."""

HEAD = ("stage", "what", "steps", "time", "memory", "result")


def told(found: Changes, *, intervals: bool = True) -> list[str]:
    """Each measure that a stage is judged by: ``gold 0.31 [0.1, 0.5] -> 0.52 [0.4, 0.7]``.

    These are its rewards and KL, or its accuracy; of a stage without them, its loss. A KL starts
    at 0, so its end is all that is said of it.
    """
    lines = []
    for name in _counting(found):
        before, after = found[name].get("before"), found[name]["after"]
        said = _said(after, intervals)
        if before is not None and before != after and name not in NAMES:
            said = f"{_said(before, intervals)} -> {said}"
        lines.append(f"{NAMES.get(name, name.removeprefix('reward/'))} {said}")
    return lines


def table(summary: Mapping[str, Any]) -> Table:
    """All stages, for a terminal."""
    made = Table(*HEAD)
    for row in _rows(summary):
        made.add_row(*(Text("\n".join(cell)) for cell in row))
    return made


def plain(summary: Mapping[str, Any]) -> list[str]:
    """The same in aligned lines."""
    rows = [[[name] for name in HEAD], *_rows(summary)]
    widths = [max(len(line) for row in rows for line in row[n]) for n in range(len(HEAD))]
    return [
        "   ".join(
            (cell[n] if n < len(cell) else "").ljust(width)
            for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
        for n in range(max(map(len, row)))
    ]


def notes(home: Path, summary: Mapping[str, Any]) -> list[str]:
    """Where the results are, and what became of each reward that was watched."""
    results = [stage["result"] for stage in summary["stages"] if stage.get("result")]
    lines = [f"made in {home}: {', '.join(map(str, results))}"] if results else []
    for stage in summary["stages"]:
        if said := said_of_watch(home / STAGES / stage["name"]):
            lines.append(f"{stage['name']}: {said}")
    return lines


def said_of_watch(run: Path) -> str | None:
    """What ``watch.json`` says in a word; None where nothing was watched.

    ``best by gold: step 12, the result; stopped at 18: since step 12 the trained reward moved...``
    """
    found = watched(run)
    if found is None:
        return None
    best, result, stopped = found["best"], found["adapter"], found["stopped"]
    said = f"best by {found['reward']}: step {best}"
    if result is not None:
        said += ", the result" if result == best else f"; the result is of step {result}"
    return said if stopped is None else f"{said}; stopped at {stopped}: {found['why']}"


def clock(seconds: float) -> str:
    """``1:02:03``, or ``2:03`` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _rows(summary: Mapping[str, Any]) -> Iterator[list[list[str]]]:
    """The cells of each stage; a cell is its lines."""
    for stage in summary["stages"]:
        state = "kept" if stage.get("kept") else stage["state"]
        what = stage["what"] if state == "finished" else f"{stage['what']}, {state}"
        seconds = stage.get("seconds")
        cells = (
            stage["name"],
            what,
            str(stage["steps"] or ""),
            "" if seconds is None else clock(seconds),
            _size(stage.get("peak_memory_mb")),
        )
        made = [] if stage.get("rows") is None else [f"{stage['rows']} rows"]
        asked = _asked(stage.get("judge") or {})
        result = [*made, *asked, *told(stage.get("measures") or {})] or [""]
        yield [*([cell] for cell in cells), result]


def _asked(judge: Mapping[str, int]) -> list[str]:
    """``judge: 96 requests and 32 from the cache, 12,288 tokens``; nothing without a judge."""
    if not judge:
        return []
    cached = f" and {judge['cached']:,} from the cache" if judge.get("cached") else ""
    tokens = judge.get("prompt_tokens", 0) + judge.get("completion_tokens", 0)
    spent = f", {tokens:,} tokens" if tokens else ""
    return [f"judge: {judge.get('requests', 0):,} requests{cached}{spent}"]


def _counting(found: Changes) -> Iterator[str]:
    """The sum of several rewards is named beside them, unless it is one of them, or all of them
    are only watched."""
    parts = [name for name in found if name.startswith("reward/")]
    counts = any(one and one["value"] != 0 for one in found.get("reward", {}).values())
    if counts and all(found["reward"] != found[name] for name in parts):
        yield "reward"
    yield from parts
    judged = [name for name in ("kl_sequence", "accuracy") if name in found]
    yield from judged
    if "loss" in found and not parts and not judged:
        yield "loss"


def _said(measure: Mapping[str, Any], intervals: bool) -> str:
    value, low, high = (
        "not finite" if measure[key] is None else f"{measure[key]:.3g}"
        for key in ("value", "low", "high")
    )
    return f"{value} [{low}, {high}]" if intervals else value


def _size(megabytes: float | None) -> str:
    if megabytes is None:
        return ""
    return f"{megabytes:.0f} MB" if megabytes < 1000 else f"{megabytes / 1000:.1f} GB"

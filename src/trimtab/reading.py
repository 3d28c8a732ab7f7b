"""What the stages of a run said, read from their logs for people: also from one that is dead."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trimtab.core.errors import UserError, suggestion
from trimtab.core.files import DamagedFile, read_json
from trimtab.core.rundir import RunDirectory
from trimtab.directories import stages_of

Kind = Literal["chain", "judgement", "sample"]
Record = Mapping[str, Any]

CHAINS, SAMPLES = "constitution.jsonl", "samples.jsonl"

ELSEWHERE = {
    "metrics.jsonl": "trimtab plot draws it",
    "evals.jsonl": "trimtab plot draws it",
    "data": "trimtab data check reads it",
    "adapter": "trimtab generate samples from it",
    "model": "trimtab generate samples from it",
}
"""What else a run may hold, and who shows it."""


@dataclass(frozen=True)
class Said:
    """The records of one stage."""

    stage: str
    """ "" where the run has none."""

    path: Path
    records: Sequence[Record]
    lost: int = 0
    """Lines that are no JSON object, such as the half line that a death leaves."""


def kind_of(record: Record) -> Kind:
    """A chain has a draft; a judgement two completions."""
    if "draft" in record:
        return "chain"
    return "judgement" if "a" in record and "b" in record else "sample"


def said_in(run: Path, stage: str | None) -> list[Said]:
    """Of each stage that has something, in their order; ``UserError`` where none has."""
    home = RunDirectory.open(run).path
    found = [_said(name, path) for name, path in wanted(home, stage)]
    if full := [each for each in found if each.records]:
        return full
    raise UserError(f"nothing was sampled or judged in {run} so far. {_instead(found)}")


def wanted(home: Path, stage: str | None) -> list[tuple[str, Path]]:
    """The stages of a run, or the one that is named."""
    there = list(stages_of(home))
    if stage is None:
        return there
    names = [name for name, _ in there if name]
    if stage not in names:
        which = f"the stages are {', '.join(names)}" if names else "the run has no stages"
        raise UserError(f"no stage {stage!r} in {home}.{suggestion(stage, names)} {which}")
    return [each for each in there if each[0] == stage]


def principles_in(run: Path, stage: str | None) -> list[tuple[str, list[Record]]]:
    """A record a principle, of each stage whose ``data.json`` has them."""
    home = RunDirectory.open(run).path
    found = [(name, _principles(path)) for name, path in wanted(home, stage)]
    if full := [each for each in found if each[1]]:
        return full
    raise UserError(
        f"no stage of {run} has finished a data set by principles: data.json has them then"
    )


def _said(stage: str, path: Path) -> Said:
    """Chains, where there are any: what was sampled for them is in them."""
    for log in (CHAINS, SAMPLES):
        records, lost = _records(path / log)
        if records:
            return Said(stage, path, records, lost)
    return Said(stage, path, ())


def _records(file: Path) -> tuple[list[Record], int]:
    """The objects of a log, and how many lines are none."""
    found: list[Record] = []
    lost = 0
    for line in file.read_bytes().split(b"\n") if file.is_file() else ():
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            found.append(record)
        else:
            lost += 1
    return found, lost


def _principles(path: Path) -> list[Record]:
    """One record a principle: of a constitution that revised, or by which a judge compared."""
    account: Any = None
    with suppress(DamagedFile, OSError):
        account = read_json(path / "data.json")
    for holder in (account, _mapping(account).get("judge")):
        if table := _mapping(holder).get("principles"):
            return [
                {"principle": name, **_mapping(each)} for name, each in _mapping(table).items()
            ]
    return []


def _mapping(value: Any) -> Record:
    return value if isinstance(value, Mapping) else {}


def _instead(found: Sequence[Said]) -> str:
    """What there is in place of samples."""
    there = list(_others(found))
    return f"There is: {'; '.join(there)}" if there else "It has no logs yet"


def _others(found: Sequence[Said]) -> Iterator[str]:
    for each in found:
        for name, who in ELSEWHERE.items():
            if (each.path / name).exists():
                yield f"{each.stage}/{name} ({who})" if each.stage else f"{name} ({who})"

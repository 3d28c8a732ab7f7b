"""What a process that measures the preparation of data is asked, and what it answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal

from trimtab.core.options import Config, PositiveInt
from trimtab.plugins.sources.rows import Row
from trimtab.plugins.sources.tables import open_table

Form = Literal["plain", "turns"]


class ToPrepare(Config):
    """A JSONL file of pairs, to be made token ids by one system."""

    arm: str
    system: Literal["trimtab", "trl"]
    file: str
    processes: PositiveInt | None = None
    """TRL's ``dataset_num_proc``."""


class Prepared(Config):
    """What was made, in which time and memory."""

    arm: str
    rows: int
    tokens: int
    """Of prompts, chosen and rejected completions, the prompt counted once."""

    seconds: float
    """From the file to the token ids."""

    reading: float = 0.0
    """Of them, TRL's to read the file; ours reads as it goes."""

    loaded: int
    """Bytes that the process held before."""

    peak: int
    """Bytes: the most that it held."""

    helper: int = 0
    """Bytes: the most that the largest of its helper processes held."""


def write_pairs(path: Path, form: Form, rows: int) -> None:
    """Pairs of rotten-tomatoes, again and again, each prompt numbered: no two rows are alike."""
    with open(path, "w", encoding="utf-8") as file:
        for number, pair in enumerate(islice(cycle(_pairs()), rows), 1):
            file.write(json.dumps(_columns(pair, form, number)) + "\n")


def _pairs() -> Iterator[tuple[str, str, str]]:
    """Prompt, chosen and rejected of the training part."""
    for row in open_table("rotten-tomatoes/pairs").train:
        if isinstance(row, Row):
            columns = row.columns
            yield (
                columns["prompt"][-1]["content"],
                columns["chosen"][-1]["content"],
                columns["rejected"][-1]["content"],
            )


def _columns(pair: tuple[str, str, str], form: Form, number: int) -> dict[str, Any]:
    prompt, chosen, rejected = pair
    asked = f"{prompt} ({number})"
    if form == "plain":
        return {"prompt": asked, "chosen": f" {chosen}", "rejected": f" {rejected}"}
    return {
        "prompt": [{"role": "user", "content": asked}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }

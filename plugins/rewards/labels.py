"""Labelled texts for classifiers: two halves to fit on, and texts that neither was fitted on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from trimtab.core.errors import UserError
from trimtab.plugins.sources import rotten_tomatoes
from trimtab.plugins.sources.files import read_file
from trimtab.plugins.sources.labels import labelled
from trimtab.plugins.sources.messages import ASSISTANT
from trimtab.plugins.sources.rows import BadRow, Row
from trimtab.plugins.sources.said import Label

OURS = f"{rotten_tomatoes.NAME}/labels"
HELD_OUT = 0.2
"""Share of a file's prompts that no classifier is fitted on."""


class Text(NamedTuple):
    """A completion, what it answers, and whether people liked it."""

    prompt: str
    text: str
    good: bool


@dataclass(frozen=True)
class Labels:
    """What a classifier is fitted on, and what it is measured on."""

    fit: list[Text]
    held_out: list[Text]
    dropped: dict[int, str]
    """Rows that cannot be used, by number, with the reason."""


def labels(data: str, half: str) -> Labels:
    """One half of the training prompts (movies), and all held-out ones.

    Prompts are divided by hashes of their own, so the halves share none, whatever the order of
    the rows; a prompt that is held out in ``rotten-tomatoes`` is in neither half.
    """
    dropped: dict[int, str] = {}
    if data in (rotten_tomatoes.NAME, OURS):
        texts = [Text(s.movie, s.text, s.fresh) for s in rotten_tomatoes.snippets()]
        held_out = [text for text in texts if rotten_tomatoes.is_held_out(text.prompt)]
    else:
        texts = list(_of_file(Path(data).expanduser(), dropped))
        held_out = [text for text in texts if _number("held out", text.prompt) < HELD_OUT]
    apart = {text.prompt for text in held_out}
    own = [text for text in texts if text.prompt not in apart and half_of(text.prompt) == half]
    _check(data, half, own)
    return Labels(own, held_out, dropped)


def half_of(prompt: str) -> str:
    """Which half a prompt belongs to."""
    return "first" if _number("half", prompt) < 0.5 else "second"


def _number(purpose: str, prompt: str) -> float:
    """In [0, 1): the same one for the same prompt."""
    digest = hashlib.sha256(f"{purpose}: {prompt}".encode()).hexdigest()
    return int(digest[:8], 16) / 2**32


def _of_file(path: Path, dropped: dict[int, str]) -> Iterator[Text]:
    if not path.is_file():
        raise UserError(f"classifier.data: no file {path}; or give {OURS}")
    for row in read_file(path):
        if not isinstance(row, Row):
            dropped[row.row] = row.reason
            continue
        try:
            yield _text(row.columns)
        except BadRow as error:
            dropped[row.number] = str(error)


def _text(columns: Mapping[str, Any]) -> Text:
    example = labelled(columns)
    (completion,) = example.completions
    assert isinstance(example.said, Label)
    prompt = json.dumps(example.prompt, sort_keys=True, ensure_ascii=False)
    return Text(prompt, _plain(completion), example.said.desirable)


def _plain(side: Any) -> str:
    """What the assistant says, without its turns' names."""
    if isinstance(side, str):
        return side
    return "\n".join(str(turn["content"]) for turn in side if turn["role"] == ASSISTANT)


def _check(data: str, half: str, own: Iterable[Text]) -> None:
    counts = {good: sum(text.good is good for text in own) for good in (True, False)}
    if not all(counts.values()):
        raise UserError(
            f"classifier.data: the {half} half of {data} has {counts[True]} good and "
            f"{counts[False]} bad completions: a classifier needs both"
        )

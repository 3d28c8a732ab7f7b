"""From a table of rows to token ids, with an account of every row."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from trimtab.core.config import DataConfig
from trimtab.plugins.sources.formats import Example, renamed
from trimtab.plugins.sources.kinds import Kind
from trimtab.plugins.sources.report import Report
from trimtab.plugins.sources.rows import BadRow, Dropped, Row, Rows
from trimtab.plugins.sources.tokens import Encoded, Encoder

T = TypeVar("T")
_AT_A_TIME = 2048


class Kept(NamedTuple):
    """A row that can be trained on."""

    row: int
    """Its number as the user counts."""

    tokens: Encoded
    prompt: bytes
    """A digest of what no split may divide: the prompt, or all of it where there is none."""

    content: bytes
    """A digest of the whole row."""


@dataclass(frozen=True)
class Loaded:
    """The usable rows of a table, in its order, and the account of all."""

    rows: Sequence[Kept]
    report: Report


def load(name: str, rows: Rows, kind: Kind, encoder: Encoder, data: DataConfig) -> Loaded:
    """Read, check and tokenize every row."""
    kind.check_mapping(data.columns)
    kept: list[Kept] = []
    dropped: list[Dropped] = []
    columns: Sequence[str] = ()
    plain = 0
    for chunk in _chunks(rows):
        readable = [row for row in chunk if isinstance(row, Row)]
        columns = columns or list(readable[0].columns if readable else ())
        examples = [_example(row.columns, kind, data.columns) for row in readable]
        good = [example for example in examples if isinstance(example, Example)]
        plain += sum(isinstance(example.prompt, str) for example in good)
        encoded = iter(encoder.encode(good))
        faults = {row.row: row for row in chunk if isinstance(row, Dropped)}
        for row, example in zip(readable, examples, strict=True):
            result = next(encoded) if isinstance(example, Example) else example
            if isinstance(result, BadRow):
                faults[row.number] = Dropped(row.number, str(result), row.place)
            else:
                kept.append(_kept(row.number, result))
        dropped += [faults[number] for number in sorted(faults)]
    kept = _all_soft(kept)
    warnings = list(_warnings(kept, plain, encoder))
    return Loaded(
        kept, Report(name, kind, len(kept) + len(dropped), len(kept), dropped, warnings, columns)
    )


def _all_soft(kept: list[Kept]) -> list[Kept]:
    """Where some rows have soft labels, the hard ones of the others are certain."""
    if all(row.tokens.preference is None for row in kept):
        return kept
    return [
        row._replace(tokens=replace(row.tokens, preference=1.0))
        if row.tokens.preference is None
        else row
        for row in kept
    ]


def _example(columns: Mapping[str, Any], kind: Kind, names: Mapping[str, str]) -> Example | BadRow:
    try:
        return kind.example(renamed(columns, names))
    except BadRow as fault:
        return fault


def _kept(number: int, tokens: Encoded) -> Kept:
    prompt = hashlib.blake2b(tokens.prompt.tobytes(), digest_size=16)
    content = prompt.copy()
    for completion in tokens.completions:
        content.update(b"|" + completion.ids.tobytes() + repr(completion.spans).encode())
    content.update(repr(tokens.preference).encode())
    undivided = prompt if tokens.prompted else content
    return Kept(number, tokens, undivided.digest(), content.digest())


def _warnings(kept: Sequence[Kept], plain: int, encoder: Encoder) -> Iterator[str]:
    """What was done to rows, and what is odd about them."""
    for note, count in Counter(note for row in kept for note in row.tokens.notes).items():
        yield f"{note}: {count}"
    repeated = len(kept) - len({row.content for row in kept})
    if repeated:
        yield f"rows that repeat an earlier one, and are kept: {repeated}"
    contradictions = _contradictions(kept)
    if contradictions:
        yield f"pairs that say the opposite of another pair: {contradictions}"
    if plain and encoder.tokenizer.chat_template:
        yield (
            "rows of plain text, to which the model's chat template is not applied "
            f"(it is to turns with role and content): {plain}"
        )


def _contradictions(kept: Sequence[Kept]) -> int:
    """Pairs with hard labels whose reverse is there too."""
    hard = {
        (row.prompt, *(hash(one.ids.tobytes()) for one in row.tokens.completions))
        for row in kept
        if len(row.tokens.completions) == 2 and row.tokens.preference in (None, 1.0)
    }
    return sum((prompt, rejected, chosen) in hard for prompt, chosen, rejected in hard)


def _chunks(rows: Iterable[T]) -> Iterator[list[T]]:
    remaining = iter(rows)
    while chunk := list(islice(remaining, _AT_A_TIME)):
        yield chunk

"""From a table of rows to token ids, with an account of every row."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

from trimtab.core.config import DataConfig
from trimtab.plugins.sources.convert import conversion_for
from trimtab.plugins.sources.formats import Example, Side, renamed
from trimtab.plugins.sources.kinds import Kind
from trimtab.plugins.sources.making import Account
from trimtab.plugins.sources.report import Report
from trimtab.plugins.sources.rows import BadRow, Dropped, Row, Rows
from trimtab.plugins.sources.said import Label, Preference, Ranking, digested
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
    """A digest of the whole row, but for who judged it."""

    annotator: str | None = None
    """Who judged it, where the row says so."""

    columns: Mapping[str, Any] | None = None
    """Its other columns, for kinds that keep them."""

    example: Example | None = None
    """What the row says, for the same kinds."""

    @property
    def asked(self) -> Side | None:
        """The prompt as the row has it, where that is kept."""
        return self.example.prompt if self.example else None


@dataclass(frozen=True)
class Loaded:
    """The usable rows of a table, in its order, and the account of all."""

    rows: Sequence[Kept]
    report: Report
    last: int
    """The number of the last row, be it usable or not."""


def load(
    name: str, rows: Rows, kind: Kind, encoder: Encoder, data: DataConfig, after: int = 0
) -> Loaded:
    """Read, convert where ``data.convert`` says so, check and tokenize every row.

    Rows are numbered on from ``after``, the last number of the table before.
    """
    conversion = conversion_for(kind, data.convert)
    account: Account | None = None
    names: Mapping[str, str] = data.columns
    if conversion is None:
        kind.check_mapping(names)
    else:
        account = Account(conversion.name)
        rows, names = conversion.made(rows, names, account), {}
    kept: list[Kept] = []
    dropped: list[Dropped] = []
    columns: Sequence[str] = ()
    plain, last = 0, after
    for chunk in _chunks(numbered_on(row, after) for row in rows):
        last = chunk[-1].number if isinstance(chunk[-1], Row) else chunk[-1].row
        readable = [row for row in chunk if isinstance(row, Row)]
        columns = columns or list(readable[0].columns if readable else ())
        examples = [_example(row.columns, kind, names) for row in readable]
        good = [example for example in examples if isinstance(example, Example)]
        plain += sum(isinstance(example.prompt, str) for example in good)
        encoded = iter(encoder.encode(good))
        faults = {row.row: row for row in chunk if isinstance(row, Dropped)}
        for row, example in zip(readable, examples, strict=True):
            result = next(encoded) if isinstance(example, Example) else example
            if isinstance(result, BadRow):
                faults[row.number] = Dropped(row.number, str(result), row.place)
            else:
                said = renamed(row.columns, names)
                known = example if isinstance(example, Example) else None
                kept.append(_kept(row.number, result, kind, said, known))
        dropped += [faults[number] for number in sorted(faults)]
    kept = all_soft(kept)
    return Loaded(
        kept,
        Report(
            name=name,
            kind=kind,
            read=len(kept) + len(dropped),
            kept=len(kept),
            dropped=dropped,
            warnings=[*(account.warnings() if account else ()), *_warnings(kept, plain, encoder)],
            columns=columns,
            conversion=account,
        ),
        last,
    )


def numbered_on(row: Row | Dropped, after: int) -> Row | Dropped:
    """The row, of a table that follows a row of that number."""
    if not after:
        return row
    if isinstance(row, Row):
        return replace(row, number=row.number + after)
    return replace(row, row=row.row + after)


def all_soft(kept: list[Kept]) -> list[Kept]:
    """Where some pairs have soft labels, the hard ones of the others are certain."""
    if not any(isinstance(row.tokens.said, Preference) for row in kept):
        return kept
    return [
        row._replace(tokens=replace(row.tokens, said=Preference(1.0)))
        if row.tokens.said is None
        else row
        for row in kept
    ]


def _example(columns: Mapping[str, Any], kind: Kind, names: Mapping[str, str]) -> Example | BadRow:
    try:
        return kind.example(renamed(columns, names))
    except BadRow as fault:
        return fault


def _kept(
    number: int,
    tokens: Encoded,
    kind: Kind,
    columns: Mapping[str, Any],
    example: Example | None,
) -> Kept:
    prompt = hashlib.blake2b(tokens.prompt.tobytes(), digest_size=16)
    content = prompt.copy()
    for completion in tokens.completions:
        content.update(b"|" + completion.ids.tobytes() + repr(completion.spans).encode())
    content.update(digested(tokens.said))
    others = None
    if kind.keeps_columns:
        others = {key: value for key, value in columns.items() if key not in kind.columns}
        content.update(repr(sorted(others.items(), key=itemgetter(0))).encode(errors="replace"))
    annotator = columns.get("annotator")
    return Kept(
        number,
        tokens,
        (prompt if tokens.prompted else content).digest(),
        content.digest(),
        None if annotator is None else str(annotator),
        others,
        example if kind.keeps_columns else None,
    )


def _warnings(kept: Sequence[Kept], plain: int, encoder: Encoder) -> Iterator[str]:
    """What was done to rows, and what is odd about them."""
    for note, count in Counter(note for row in kept for note in row.tokens.notes).items():
        yield f"{note}: {count}"
    repeated = len(kept) - len({(row.content, row.annotator) for row in kept})
    if repeated:
        yield f"rows that repeat an earlier one, and are kept: {repeated}"
    against = _contradictions(kept)
    if against:
        several = any(row.annotator is not None for row in kept)
        remedy = " (data.convert: votes-to-pairs makes one pair of all votes)" if several else ""
        yield f"pairs that say the opposite of another pair{remedy}: {against}"
    both = _labelled_both_ways(kept)
    if both:
        yield f"completions that are labelled both ways: {both}"
    if plain and encoder.tokenizer.chat_template:
        yield (
            "rows of plain text, to which the model's chat template is not applied "
            f"(it is to turns with role and content): {plain}"
        )


def _contradictions(kept: Sequence[Kept]) -> int:
    """Pairs with hard labels whose reverse is there too."""
    hard = {(row.prompt, *_texts(row)) for row in kept if _is_hard_pair(row.tokens)}
    return sum((prompt, *texts[::-1]) in hard for prompt, *texts in hard)


def _is_hard_pair(row: Encoded) -> bool:
    if isinstance(row.said, Ranking):
        return len(row.completions) == 2 and row.said.better[0][1] == 1.0
    return len(row.completions) == 2 and row.said in (None, Preference(1.0))


def _labelled_both_ways(kept: Sequence[Kept]) -> int:
    up, down = (
        {(row.prompt, *_texts(row)) for row in kept if row.tokens.said == Label(desirable)}
        for desirable in (True, False)
    )
    return len(up & down)


def _texts(row: Kept) -> list[int]:
    return [hash(one.ids.tobytes()) for one in row.tokens.completions]


def _chunks(rows: Iterable[T]) -> Iterator[list[T]]:
    remaining = iter(rows)
    while chunk := list(islice(remaining, _AT_A_TIME)):
        yield chunk

"""Rows of one kind of feedback from rows of another, where that is honest, with its own account.

Each row that is read is used or dropped with a reason, whatever is made of it. A row that was
made says in ``place`` which rows it is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from operator import attrgetter

from trimtab.core.errors import UserError
from trimtab.plugins.sources.annotators import ratings_to_pairs, votes_to_pairs
from trimtab.plugins.sources.formats import Columns, check_names, preference, renamed
from trimtab.plugins.sources.kinds import Kind
from trimtab.plugins.sources.making import Account, Made, others, pair_of
from trimtab.plugins.sources.rankings import ranking
from trimtab.plugins.sources.rows import BadRow, Dropped, Row, Rows
from trimtab.plugins.sources.said import Preference, Ranking


def pairs_to_labels(rows: Iterator[Row], account: Account) -> Iterator[Made]:
    """What was chosen is desirable, and what was rejected is not: two rows of each pair."""
    for row, pair in account.read_as(preference, rows):
        if isinstance(pair.said, Preference) and pair.said.probability < 1:
            account.drop(row, "an uncertain pair has no honest binary label")
            continue
        for completion, label in zip(pair.completions, (True, False), strict=True):
            columns = {"prompt": pair.prompt, "completion": completion, "label": label}
            yield [row], {**columns, **others(row)}


def rankings_to_pairs(rows: Iterator[Row], account: Account) -> Iterator[Made]:
    """Every comparison in a ranking that is no tie."""
    for row, example in account.read_as(ranking, rows):
        assert isinstance(example.said, Ranking)
        better, margin = example.said.better, example.said.margin
        found: list[Columns] = []
        for i, j in combinations(range(len(better)), 2):
            probability = better[i][j]
            if probability == 0.5:
                account.ties += 1
            elif probability is not None:
                first, second = example.completions[i], example.completions[j]
                pair = pair_of(example.prompt, first, second, probability)
                found.append(pair if margin is None else {**pair, "margin": margin})
        if not found:
            account.drop(row, "nothing in it was preferred to anything")
        for columns in found:
            yield [row], {**columns, **others(row)}


@dataclass(frozen=True)
class Conversion:
    """What ``data.convert`` names."""

    name: str
    reads: str
    """The kind of its rows."""

    makes: tuple[str, ...]
    """Kinds that can read what it makes."""

    columns: tuple[str, ...]
    """The names of columns that it reads."""

    convert: Callable[[Iterator[Row], Account], Iterator[Made]]

    def made(self, rows: Rows, names: Mapping[str, str], account: Account) -> Iterator[Row]:
        """The rows made of these, numbered from 1, under our names; ``account`` is filled."""
        check_names(names, self.columns, f"rows for {self.name}")
        made = self.convert(_readable(rows, names, account), account)
        for number, (sources, columns) in enumerate(made, 1):
            account.made = number
            yield Row(number, columns, _place(sources))
        account.dropped.sort(key=attrgetter("row"))


def _readable(rows: Rows, names: Mapping[str, str], account: Account) -> Iterator[Row]:
    """Rows that could be read, under our names."""
    for row in rows:
        account.read += 1
        if isinstance(row, Dropped):
            account.dropped.append(row)
            continue
        try:
            columns = renamed(row.columns, names)
        except BadRow as fault:
            account.drop(row, str(fault))
        else:
            yield Row(row.number, columns, row.place)


def _place(rows: Sequence[Row]) -> str:
    """``row 3``, ``rows 3, 5`` or ``a.jsonl:3, b.jsonl:5``."""
    found = {row.number: row.place or str(row.number) for row in rows}
    listed = ", ".join(found[number] for number in sorted(found))
    if rows[0].place:
        return listed
    return f"rows {listed}" if len(found) > 1 else f"row {listed}"


_ALWAYS = ("annotator", "tools", "chat_template_kwargs")
_PAIR = ("prompt", "chosen", "rejected", "preference", *_ALWAYS)
_PAIRED = ("pairs", "rankings")

CONVERSIONS = {
    conversion.name: conversion
    for conversion in (
        Conversion("pairs-to-labels", "pairs", ("labels",), _PAIR, pairs_to_labels),
        Conversion(
            "rankings-to-pairs",
            "rankings",
            _PAIRED,
            ("responses", "ranks", "scores", "better", "margin", *_PAIR),
            rankings_to_pairs,
        ),
        Conversion(
            "ratings-to-pairs",
            "demonstrations",
            _PAIRED,
            ("prompt", "completion", "rating", "ratings", *_ALWAYS),
            ratings_to_pairs,
        ),
        Conversion("votes-to-pairs", "pairs", _PAIRED, _PAIR, votes_to_pairs),
    )
}


def conversion_for(kind: Kind, name: str | None) -> Conversion | None:
    """The conversion of that name, if what it makes can be read as this kind."""
    if name is None:
        return None
    conversion = CONVERSIONS[name]
    if kind.name not in conversion.makes:
        raise UserError(
            f"data.convert: {name} makes {' or '.join(conversion.makes)}, and the rows are to be "
            f"read as {kind.name}: leave it out, or choose another objective"
        )
    return conversion

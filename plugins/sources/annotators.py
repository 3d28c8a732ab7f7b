"""Pairs from what several annotators said: ratings of single completions, or votes on pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import combinations, product
from typing import Any

from trimtab.plugins.sources.formats import (
    Columns,
    Example,
    Side,
    demonstration,
    number_in,
    preference,
)
from trimtab.plugins.sources.making import Account, Made, key, others, pair_of
from trimtab.plugins.sources.rows import BadRow, Row, called
from trimtab.plugins.sources.said import Preference

Rating = tuple[Any, float]
"""Who said it, None where nobody knows, and what."""


@dataclass
class _Rated:
    """One completion of a prompt, and all that was said of it."""

    prompt: Side
    completion: Side
    rows: list[Row] = field(default_factory=list)
    ratings: list[Rating] = field(default_factory=list)


def ratings_to_pairs(rows: Iterator[Row], account: Account) -> Iterator[Made]:
    """For any two completions of a prompt, P(one is better) by those who rated them."""
    prompts: dict[str, dict[str, _Rated]] = {}
    for row, example in account.read_as(_rated, rows):
        completions = prompts.setdefault(key([example.prompt, example.template]), {})
        completion = example.completions[0]
        one = completions.setdefault(key(completion), _Rated(example.prompt, completion))
        given = _ratings(row.columns)
        if {who for who, _ in given if who is not None} & {who for who, _ in one.ratings}:
            account.drop(row, "its annotator has rated this completion before")
            continue
        one.rows.append(row)
        one.ratings += given
    for completions in prompts.values():
        if len(completions) == 1:
            for row in next(iter(completions.values())).rows:
                account.drop(row, "the only completion of its prompt")
        for one, other in combinations(completions.values(), 2):
            probability = preferred(one.ratings, other.ratings)
            if probability == Fraction(1, 2):
                account.ties += 1
                continue
            pair = pair_of(one.prompt, one.completion, other.completion, probability)
            yield [*one.rows, *other.rows], {**pair, **_template(one.rows[0])}


def preferred(one: Sequence[Rating], other: Sequence[Rating]) -> Fraction:
    """P(a rating of ``one`` is higher than one of ``other``), ties counted half.

    Over the annotators who rated both; where there are none, over all pairs of ratings, which is
    the common-language effect size (McGraw & Wong 1992), U / (n m) of Mann and Whitney.

    >>> preferred([("ann", 3), ("bob", 2)], [("ann", 1), ("bob", 2), ("cem", 9)])
    Fraction(3, 4)
    >>> preferred([(None, 3), (None, 2)], [(None, 2), (None, 1)])
    Fraction(7, 8)
    """
    ours, theirs = ({who: n for who, n in side if who is not None} for side in (one, other))
    both = ours.keys() & theirs.keys()
    compared = [(ours[who], theirs[who]) for who in both] or [
        (x, y) for (_, x), (_, y) in product(one, other)
    ]
    return Fraction(sum(2 * (x > y) + (x == y) for x, y in compared), 2 * len(compared))


def _rated(columns: Columns) -> Example:
    """``prompt`` and ``completion``, with ``rating`` or ``ratings``."""
    if "completion" not in columns:
        raise BadRow("no column 'completion'")
    _ratings(columns)
    return demonstration(columns)


def _ratings(columns: Columns) -> list[Rating]:
    """One rating by ``annotator``; or a list of them, whose annotators are their positions."""
    rating, ratings = columns.get("rating"), columns.get("ratings")
    if rating is not None and ratings is not None:
        raise BadRow("both rating and ratings: one of them has to go")
    if rating is None and ratings is None:
        raise BadRow("no rating" if {"rating", "ratings"} & set(columns) else "no column 'rating'")
    if ratings is None:
        return [(_annotator(columns), _number(rating, "rating"))]
    if not isinstance(ratings, list):
        raise BadRow(f"ratings is {called(ratings)}, not a list")
    given = [(f"#{k}", _number(n, "ratings")) for k, n in enumerate(ratings) if n is not None]
    if not given:
        raise BadRow("no rating")
    return list(given)


def _number(value: Any, name: str) -> float:
    number = number_in(value)
    if not math.isfinite(number):
        raise BadRow(f"{name} is not a number" if name == "rating" else f"{name} holds no numbers")
    return number


def _annotator(columns: Columns) -> str | None:
    value = columns.get("annotator")
    return None if value is None else str(value)


@dataclass
class _Judged:
    """Two completions of a prompt, and the votes for the first of them."""

    example: Example
    rows: list[Row] = field(default_factory=list)
    votes: list[float] = field(default_factory=list)
    annotators: set[str] = field(default_factory=set)


def votes_to_pairs(rows: Iterator[Row], account: Account) -> Iterator[Made]:
    """One pair of all rows that judge the same two completions, in either order.

    ``preference`` is the share of the votes for the winner, and ``votes`` how many there are. A
    row's own preference is a vote divided between the two. Without a winner there is no pair.
    """
    judged: dict[tuple[str, frozenset[str]], _Judged] = {}
    for row, example in account.read_as(preference, rows):
        first, second = map(key, example.completions)
        asked = key([example.prompt, example.template])
        pair = judged.setdefault((asked, frozenset((first, second))), _Judged(example))
        who = _annotator(row.columns)
        if who in pair.annotators:
            account.drop(row, "its annotator has judged this pair before")
            continue
        vote = example.said.probability if isinstance(example.said, Preference) else 1.0
        same_order = first == key(pair.example.completions[0])
        pair.votes.append(vote if same_order else 1 - vote)
        pair.rows.append(row)
        if who is not None:
            pair.annotators.add(who)
    for pair in judged.values():
        share = math.fsum(pair.votes) / len(pair.votes)
        if math.isclose(share, 0.5):
            account.ties += 1
            continue
        winner, loser = pair.example.completions
        columns = pair_of(pair.example.prompt, winner, loser, share)
        made = {"preference": 1.0, **columns, "votes": len(pair.votes)}
        yield pair.rows, {**made, **_template(pair.rows[0])}


def _template(row: Row) -> Columns:
    """What a row tells the chat template; who judged it is no longer one person."""
    return {name: value for name, value in others(row).items() if name != "annotator"}

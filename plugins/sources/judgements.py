"""Who judged what, and how: the rows of annotators, as units, values and numbers.

A unit is what several annotators can judge alike: a completion of a prompt, or two of them.
Shape suffix: J = judgements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

from trimtab.core.errors import UserError, suggestion
from trimtab.plugins.sources import kinds
from trimtab.plugins.sources.alpha import Floats, Ints, Level
from trimtab.plugins.sources.formats import (
    Columns,
    Example,
    Side,
    check_names,
    full,
    number_in,
    preference,
    present,
    renamed,
    side,
    sides,
)
from trimtab.plugins.sources.labels import labelled
from trimtab.plugins.sources.making import key
from trimtab.plugins.sources.rankings import ranking
from trimtab.plugins.sources.rows import BadRow, Dropped, Row, Rows, called
from trimtab.plugins.sources.said import Label, Preference, Ranking

ANNOTATOR = "annotator"
AGAIN = "the annotator judged the same before, alike"
OTHERWISE = "the annotator judged the same before, with another value"
FIRST, TIE, SECOND = 0.0, 0.5, 1.0


class Unit(NamedTuple):
    """What is judged. Turns are written as JSON."""

    prompt: str
    """Empty where there is none."""

    texts: tuple[str, ...]
    """The completion; or two of them, sorted, so that their order in a row is of no weight."""


@dataclass(frozen=True)
class Feedback:
    """One kind of feedback: which columns it has, and what a row of it judges."""

    name: str
    level: Level
    columns: tuple[str, ...]
    judged: Callable[[Columns], list[tuple[Unit, float]]]
    called: Mapping[float, str]
    """What values are called; a rating is called by its number."""


@dataclass(frozen=True)
class Judgements:
    """All usable judgements of a table, and the account of its rows."""

    feedback: Feedback
    units: Sequence[Unit]
    annotators: Sequence[str]
    unit_J: Ints
    annotator_J: Ints
    value_J: Floats
    row_J: Ints
    read: int
    used: int
    dropped: Sequence[Dropped]


def judgements(
    name: str, rows: Rows, feedback: Feedback, columns: Mapping[str, str]
) -> Judgements:
    """Read every row. ``columns`` maps our names to the table's."""
    check_names(columns, (*feedback.columns, ANNOTATOR), feedback.name)
    given: dict[tuple[Unit, str], tuple[float, int]] = {}
    dropped: list[Dropped] = []
    seen: dict[str, None] = {}
    read = 0
    for row in rows:
        read += 1
        if isinstance(row, Dropped):
            dropped.append(row)
            continue
        seen |= dict.fromkeys(row.columns)
        try:
            named_columns = renamed(row.columns, columns)
            who = _annotator(named_columns)
            found = {(unit, who): value for unit, value in feedback.judged(named_columns)}
            given |= {key: (value, row.number) for key, value in _new(found, given).items()}
        except BadRow as fault:
            dropped.append(Dropped(row.number, str(fault), row.place))
    if not given:
        raise UserError(_unusable(name, feedback, read, dropped, seen, columns))
    units = {unit: index for index, unit in enumerate(dict.fromkeys(unit for unit, _ in given))}
    annotators = {who: index for index, who in enumerate(_in_order(who for _, who in given))}
    return Judgements(
        feedback,
        list(units),
        list(annotators),
        np.array([units[unit] for unit, _ in given]),
        np.array([annotators[who] for _, who in given]),
        np.array([value for value, _ in given.values()]),
        np.array([number for _, number in given.values()]),
        read,
        read - len(dropped),
        dropped,
    )


def _in_order(annotators: Iterable[str]) -> list[str]:
    """Numbers by size, then names."""
    return sorted(
        set(annotators), key=lambda who: (int(who) if who.isdecimal() else math.inf, who)
    )


def _new(
    found: Mapping[tuple[Unit, str], float], given: Mapping[tuple[Unit, str], tuple[float, int]]
) -> dict[tuple[Unit, str], float]:
    """The row's judgements that this annotator has not given before."""
    earlier = [key for key in found if key in given]
    if any(given[key][0] != found[key] for key in earlier):
        raise BadRow(OTHERWISE)
    if len(earlier) == len(found):
        raise BadRow(AGAIN)
    return {key: value for key, value in found.items() if key not in given}


def _unusable(
    name: str,
    feedback: Feedback,
    read: int,
    dropped: Sequence[Dropped],
    seen: Iterable[str],
    columns: Mapping[str, str],
) -> str:
    if not read:
        return f"{name} holds no rows"
    theirs = list(seen)
    if ANNOTATOR not in theirs and ANNOTATOR not in columns and theirs:
        return (
            f"{name}: no row has a column {ANNOTATOR!r}, so nobody can tell who said what. "
            f"Its columns are {', '.join(theirs)}: --column {ANNOTATOR}=THEIRS "
            f"(data.columns in a run file) names the one that tells annotators apart."
            f"{suggestion(ANNOTATOR, theirs)}"
        )
    reasons = "".join(f"\n  {reason}" for reason in dict.fromkeys(row.reason for row in dropped))
    return f"{name}: none of its {read} rows can be used as {feedback.name}:{reasons}"


def _annotator(columns: Columns) -> str:
    value = present(columns, ANNOTATOR)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadRow(f"{ANNOTATOR} is {called(value)}, neither text nor a number")
    if value != value or not str(value).strip():
        raise BadRow(f"{ANNOTATOR} is empty")
    return str(value)


def _rating(columns: Columns) -> list[tuple[Unit, float]]:
    rating = number_in(present(columns, "rating"))
    if not math.isfinite(rating):
        raise BadRow("rating is not a number")
    completion = side(columns, "completion")
    prompt: Side = ""
    if "prompt" in columns:
        prompt, completion = sides(side(columns, "prompt"), completion)
    return [(Unit(_key(prompt), (_key(full(completion, "completion")),)), rating)]


def _label(columns: Columns) -> list[tuple[Unit, float]]:
    example = labelled(columns)
    assert isinstance(example.said, Label)
    unit = Unit(_key(example.prompt), (_key(example.completions[0]),))
    return [(unit, SECOND if example.said.desirable else FIRST)]


def _pair(columns: Columns) -> list[tuple[Unit, float]]:
    example = preference(columns)
    sure = example.said.probability if isinstance(example.said, Preference) else 1.0
    return [_compared(example, 0, 1, sure)]


def _ranking(columns: Columns) -> list[tuple[Unit, float]]:
    example = ranking(columns)
    assert isinstance(example.said, Ranking)
    return [
        _compared(example, i, j, probability)
        for i, j in combinations(range(len(example.completions)), 2)
        if (probability := example.said.better[i][j]) is not None
    ]


def _compared(example: Example, i: int, j: int, probability: float) -> tuple[Unit, float]:
    """The unit of two completions, and which of them was better."""
    one, other = _key(example.completions[i]), _key(example.completions[j])
    first, second = sorted((one, other))
    better = one if probability > 0.5 else other
    value = TIE if probability == 0.5 else {first: FIRST, second: SECOND}[better]
    return Unit(_key(example.prompt), (first, second)), value


def _key(said: Side) -> str:
    """Text as it is, turns as JSON."""
    return said if isinstance(said, str) else key(said)


_PREFERRED = {FIRST: "A", TIE: "tie", SECOND: "B"}
RATINGS = Feedback("ratings", "interval", ("prompt", "completion", "rating"), _rating, {})
LABELS = Feedback(
    "labels", "nominal", kinds.LABELS.columns, _label, {FIRST: "false", SECOND: "true"}
)
PAIRS = Feedback("pairs", "nominal", kinds.PAIRS.columns, _pair, _PREFERRED)
RANKINGS = Feedback("rankings", "nominal", kinds.RANKINGS.columns, _ranking, _PREFERRED)
FEEDBACK = (RATINGS, LABELS, PAIRS, RANKINGS)


def named(name: str) -> Feedback:
    """A kind of feedback by its name."""
    known = {feedback.name: feedback for feedback in FEEDBACK}
    if name not in known:
        raise UserError(
            f"no feedback {name!r}.{suggestion(name, known)} Known: {', '.join(known)}"
        )
    return known[name]


def feedback_in(name: str, rows: Iterable[Row | Dropped], columns: Iterable[str]) -> Feedback:
    """The kind that these rows look like, under our names of their columns."""
    theirs = {column for row in rows if isinstance(row, Row) for column in row.columns}
    marks = {"rating": RATINGS, "responses": RANKINGS, "chosen": PAIRS, "label": LABELS}
    for mark, feedback in marks.items():
        if mark in {*theirs, *columns}:
            return feedback
    if not theirs:
        raise UserError(f"{name} holds no readable rows")
    raise UserError(
        f"{name}: its columns {', '.join(sorted(theirs))} hold no judgement "
        f"({', '.join(marks)}): --column maps our names to yours"
    )

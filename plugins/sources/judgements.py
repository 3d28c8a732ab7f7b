"""Who judged what, and how: the rows of annotators, as units, values and numbers.

A unit is what several annotators can judge alike: a completion of a prompt, or two of them.
Shape suffix: J = judgements.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from trimtab.core.errors import UserError, suggestion
from trimtab.plugins.sources.alpha import Floats, Ints, Level
from trimtab.plugins.sources.formats import renamed
from trimtab.plugins.sources.rows import BadRow, Dropped, Row, Rows, called

Columns = Mapping[str, Any]
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
    known = (ANNOTATOR, *feedback.columns)
    for ours in columns:
        if ours not in known:
            raise UserError(
                f"{feedback.name} have no column {ours!r}.{suggestion(ours, known)} "
                f"Known: {', '.join(known)}"
            )
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
    annotators = {who: index for index, who in enumerate(sorted({who for _, who in given}))}
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
    value = _present(columns, ANNOTATOR)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadRow(f"{ANNOTATOR} is {called(value)}, neither text nor a number")
    if value != value or not str(value).strip():
        raise BadRow(f"{ANNOTATOR} is empty")
    return str(value)


def _rating(columns: Columns) -> list[tuple[Unit, float]]:
    return [(_completion(columns), _number(_present(columns, "rating"), "rating"))]


def _label(columns: Columns) -> list[tuple[Unit, float]]:
    value = _present(columns, "label")
    said = {"true": SECOND, "1": SECOND, "false": FIRST, "0": FIRST}.get(str(value).lower())
    if said is None:
        raise BadRow("label is neither true nor false")
    return [(_completion(columns), said)]


def _pair(columns: Columns) -> list[tuple[Unit, float]]:
    chosen, rejected = (_text(columns, name) for name in ("chosen", "rejected"))
    sure = columns.get("preference")
    preferred = SECOND if sure is None else _number(sure, "preference")
    if not 0 <= preferred <= 1:
        raise BadRow("preference is not a probability")
    return [_compared(_prompt(columns), chosen, rejected, 0.5 - preferred)]


def _ranking(columns: Columns) -> list[tuple[Unit, float]]:
    responses = _listed(columns, "responses")
    if ("ranks" in columns) == ("scores" in columns):
        raise BadRow("neither ranks nor scores, or both of them")
    name, sign = ("ranks", 1) if "ranks" in columns else ("scores", -1)
    ranks = [sign * _number(rank, name) for rank in _listed(columns, name)]
    if len(ranks) != len(responses):
        raise BadRow(f"{name} are not as many as responses")
    texts = [_text({"responses": response}, "responses") for response in responses]
    if len(texts) < 2:
        raise BadRow("fewer than two responses")
    prompt = _prompt(columns)
    return [
        _compared(prompt, texts[i], texts[j], ranks[i] - ranks[j])
        for i, j in combinations(range(len(texts)), 2)
    ]


def _compared(prompt: str, one: str, other: str, worse: float) -> tuple[Unit, float]:
    """The unit of two texts, and which of them was better: ``one`` where ``worse`` < 0."""
    if one == other:
        raise BadRow("two completions that are compared are the same")
    first, second = sorted((one, other))
    better = one if worse < 0 else other
    value = TIE if worse == 0 else {first: FIRST, second: SECOND}[better]
    return Unit(prompt, (first, second)), value


def _completion(columns: Columns) -> Unit:
    return Unit(_prompt(columns), (_text(columns, "completion"),))


def _prompt(columns: Columns) -> str:
    return _text(columns, "prompt", empty=True) if "prompt" in columns else ""


def _text(columns: Columns, name: str, *, empty: bool = False) -> str:
    """Text as it is, turns as JSON."""
    value = _present(columns, name)
    if not isinstance(value, str | list):
        raise BadRow(f"{name} is {called(value)}, neither text nor turns")
    if not value and not empty:
        raise BadRow(f"{name} is empty")
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def _listed(columns: Columns, name: str) -> list[Any]:
    value = _present(columns, name)
    if not isinstance(value, list):
        raise BadRow(f"{name} is {called(value)}, not a list")
    return value


def _number(value: Any, name: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) or value is None else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise BadRow(f"{name} is not a number")
    return number


def _present(columns: Columns, name: str) -> Any:
    if name not in columns:
        raise BadRow(f"no column {name!r}")
    if columns[name] is None:
        raise BadRow(f"{name} is null")
    return columns[name]


_PREFERRED = {FIRST: "A", TIE: "tie", SECOND: "B"}
RATINGS = Feedback("ratings", "interval", ("prompt", "completion", "rating"), _rating, {})
LABELS = Feedback(
    "labels",
    "nominal",
    ("prompt", "completion", "label"),
    _label,
    {FIRST: "false", SECOND: "true"},
)
PAIRS = Feedback(
    "pairs", "nominal", ("prompt", "chosen", "rejected", "preference"), _pair, _PREFERRED
)
RANKINGS = Feedback(
    "rankings", "nominal", ("prompt", "responses", "ranks", "scores"), _ranking, _PREFERRED
)
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

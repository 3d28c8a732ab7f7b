"""One prompt, several responses, and which of them are better; a pair is a ranking of two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from trimtab.plugins.sources.formats import (
    EXCHANGED,
    Columns,
    Example,
    full,
    number_in,
    preference,
    present,
    side,
    sides,
    template_options,
)
from trimtab.plugins.sources.rows import BadRow, called
from trimtab.plugins.sources.said import Preference, Ranking

Better = tuple[tuple[float | None, ...], ...]
_ORDERS = {"ranks": 1.0, "scores": -1.0}
"""Columns that order the responses, with the sign that puts a best one first."""


def ranking(columns: Columns) -> Example:
    """``prompt`` and ``responses`` with ``ranks`` or ``scores``; else a pair, as ``preference()``.

    ``ranks`` are 1 for a best response, ``scores`` are higher for a better one, and equal ones are
    ties. ``better``, K lists of K numbers, says instead P(response i is better than j), with null
    where the two were not compared. The responses are put in order, a best one first.
    """
    if "responses" not in columns:
        return _of_pair(columns)
    prompt = side(columns, "prompt")
    responses = present(columns, "responses")
    if not isinstance(responses, list):
        raise BadRow(f"responses is {called(responses)}, not a list")
    if len(responses) < 2:
        raise BadRow("responses holds fewer than two")
    answers = []
    for response in responses:
        asked, answer = sides(prompt, side({"a response": response}, "a response"))
        answers.append((asked, full(answer, "a response")))
    if any(asked != answers[0][0] for asked, _ in answers):
        raise BadRow("one response is text and another is turns")
    if any(one == other for one, other in combinations(answers, 2)):
        raise BadRow("two responses are the same")
    values = _values(columns, len(responses))
    better = _given(columns, len(responses)) if columns.get("better") else _compared(values)
    order = sorted(range(len(values)), key=lambda index: values[index])
    return Example(
        answers[0][0],
        tuple(answers[index][1] for index in order),
        Ranking(tuple(tuple(better[i][j] for j in order) for i in order)),
        template_options(columns),
    )


def _of_pair(columns: Columns) -> Example:
    """``margin``, at least 0, is by how much chosen is better than rejected."""
    if "chosen" not in columns and "rejected" not in columns:
        if "completion" not in columns and "prompt" in columns:
            raise BadRow("prompt only: there are no responses")
        if "completion" not in columns:
            raise BadRow("no column 'responses', nor 'chosen' and 'rejected'")
    pair = preference(columns)
    probability = pair.said.probability if isinstance(pair.said, Preference) else 1.0
    margin = _margin(columns)
    if margin and EXCHANGED in pair.notes:
        raise BadRow("margin says that chosen is better, and preference that it is not")
    better = ((None, probability), (1 - probability, None))
    return Example(
        pair.prompt, pair.completions, Ranking(better, margin), pair.template, pair.notes
    )


def _margin(columns: Columns) -> float | None:
    if columns.get("margin") is None:
        return None
    margin = number_in(columns["margin"])
    if not 0 <= margin < math.inf:
        raise BadRow("margin is not a number of at least 0")
    return margin


def _values(columns: Columns, count: int) -> list[float]:
    """What orders the responses, lower for a better one."""
    given = [name for name in _ORDERS if columns.get(name) is not None]
    if len(given) > 1:
        raise BadRow("both ranks and scores: one of them has to go")
    if not given:
        raise BadRow("no ranks and no scores")
    name = given[0]
    numbers = _numbers(columns[name], name, count)
    if None in numbers:
        raise BadRow(f"{name} holds null")
    return [_ORDERS[name] * number for number in numbers if number is not None]


def _numbers(values: Any, name: str, count: int) -> list[float | None]:
    if not isinstance(values, list):
        raise BadRow(f"{name} is {called(values)}, not a list")
    if len(values) != count:
        raise BadRow(f"{name} holds {len(values)} entries for {count} responses")
    numbers = [None if value is None else number_in(value) for value in values]
    if any(number is not None and not math.isfinite(number) for number in numbers):
        raise BadRow(f"{name} holds what is not a number")
    return numbers


def _compared(values: Sequence[float]) -> Better:
    """1 where i comes before j, 0 where it comes after, 1/2 for ties."""
    return tuple(
        tuple(
            None if i == j else 0.5 if one == other else float(one < other)
            for j, other in enumerate(values)
        )
        for i, one in enumerate(values)
    )


def _given(columns: Columns, count: int) -> Better:
    """``better`` as it stands; what is given for (i, j) alone is said of (j, i) too."""
    lists = present(columns, "better")
    if not isinstance(lists, list) or len(lists) != count:
        raise BadRow(f"better is not {count} lists for {count} responses")
    rows = [_numbers(row, "better", count) for row in lists]
    for i, j in combinations(range(count), 2):
        one, other = rows[i][j], rows[j][i]
        if any(p is not None and not 0 <= p <= 1 for p in (one, other)):
            raise BadRow("better holds what is not a probability")
        if one is not None and other is not None and abs(one + other - 1) > 1e-6:
            raise BadRow("better says one thing of two responses and another of the same reversed")
        if one is None and other is not None:
            rows[i][j] = 1 - other
        elif one is not None:
            rows[j][i] = 1 - one
    for i in range(count):
        rows[i][i] = None
    if all(p is None for row in rows for p in row):
        raise BadRow("better compares no two responses")
    return tuple(map(tuple, rows))

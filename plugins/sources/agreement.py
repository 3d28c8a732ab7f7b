"""How far annotators agree: as a whole, two by two, each with the others, and over which units.

Shape suffixes: J = judgements, U = units, C = comparisons (two annotators' judgements of a unit).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata

from trimtab.plugins.sources.alpha import Alpha, Floats, Ints, Level, alpha, disagreement
from trimtab.plugins.sources.judgements import Judgements

DISAGREEMENTS = 100
"""At most so many units are listed, those with most disagreement."""
ENOUGH = 5
"""Two annotators with fewer units in common are listed last: they agree or not by chance."""
_SHORT = 72


@dataclass(frozen=True)
class Agreement:
    """What ``trimtab data agreement`` says."""

    name: str
    judgements: Judgements
    level: Level
    alpha: Alpha
    several: int
    """Units that two annotators or more judged."""

    deviation: float | None
    """Mean over those units of the standard deviation (with n - 1) of a unit's values."""

    annotators: Sequence[Mapping[str, Any]]
    pairs: Sequence[Mapping[str, Any]]
    disagreements: Sequence[Mapping[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """Under the names that other programs read."""
        values, counts = np.unique(self.judgements.value_J, return_counts=True)
        return {
            "name": self.name,
            "read": self.judgements.read,
            "used": self.judgements.used,
            "dropped": [row.as_json() for row in self.judgements.dropped],
            "kind": self.judgements.feedback.name,
            "level": self.level,
            "alpha": self.alpha.as_json(),
            "units": len(self.judgements.units),
            "units_with_several": self.several,
            "judgements": len(self.judgements.unit_J),
            "deviation": self.deviation,
            "values": [
                {"value": self._said(value), "count": int(count)}
                for value, count in zip(values, counts, strict=True)
            ],
            "annotators": list(self.annotators),
            "pairs": list(self.pairs),
            "disagreements": list(self.disagreements),
        }

    def _said(self, value: float) -> Any:
        return said(self.judgements, value)


@dataclass(frozen=True)
class _Compared:
    """Each two judgements of one unit, the annotator who comes first in order on the left."""

    left_C: Ints
    right_C: Ints
    """Places in the arrays of judgements."""


def agreement(name: str, found: Judgements, level: Level | None = None) -> Agreement:
    """Everything at once. ``level`` is the feedback's own where it is None."""
    level = level or found.feedback.level
    judged_U = np.bincount(found.unit_J)
    numbers = level != "nominal"
    compared = _compared(found)
    return Agreement(
        name,
        found,
        level,
        alpha(found.unit_J, found.value_J, level),
        int((judged_U >= 2).sum()),
        _deviation(found, judged_U) if numbers else None,
        list(_annotators(found, compared, numbers)),
        list(_pairs(found, compared, numbers)),
        list(_disagreements(found, judged_U, level)),
    )


def said(found: Judgements, value: float) -> Any:
    """A value as it is shown: a name, or a number without needless decimals."""
    number = float(value)
    return found.feedback.called.get(number, int(number) if number.is_integer() else number)


def _compared(found: Judgements) -> _Compared:
    order = np.lexsort((found.annotator_J, found.unit_J))
    _, begin_U, size_U = np.unique(found.unit_J[order], return_index=True, return_counts=True)
    lefts, rights = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for size in np.unique(size_U[size_U >= 2]):
        place_UM = begin_U[size_U == size][:, None] + np.arange(size)
        left, right = np.triu_indices(size, 1)
        lefts.append(order[place_UM[:, left]].ravel())
        rights.append(order[place_UM[:, right]].ravel())
    return _Compared(np.concatenate(lefts), np.concatenate(rights))


def _deviation(found: Judgements, judged_U: Ints) -> float | None:
    several_U = judged_U >= 2
    if not several_U.any():
        return None
    mean_U = np.bincount(found.unit_J, found.value_J) / judged_U
    squares_U = np.bincount(found.unit_J, (found.value_J - mean_U[found.unit_J]) ** 2)
    return float(np.sqrt(squares_U[several_U] / (judged_U[several_U] - 1)).mean())


def _pairs(found: Judgements, compared: _Compared, numbers: bool) -> Iterator[dict[str, Any]]:
    """Of each two annotators who judged a unit both, the worst first."""
    x_C, y_C = found.value_J[compared.left_C], found.value_J[compared.right_C]
    who = len(found.annotators)
    key_C = found.annotator_J[compared.left_C] * who + found.annotator_J[compared.right_C]
    keys, which_C, units = np.unique(key_C, return_inverse=True, return_counts=True)
    same = np.bincount(which_C, x_C == y_C, len(keys)) / units
    apart = np.bincount(which_C, np.abs(x_C - y_C), len(keys)) / units
    together = np.split(np.argsort(which_C, kind="stable"), np.cumsum(units)[:-1])
    for index in np.lexsort((-units, -apart if numbers else same, units < ENOUGH)):
        one, other = divmod(int(keys[index]), who)
        yield {
            "annotators": [found.annotators[one], found.annotators[other]],
            "units": int(units[index]),
            "agreement": float(same[index]),
            **(
                {
                    "difference": float(apart[index]),
                    **_correlations(x_C[together[index]], y_C[together[index]]),
                }
                if numbers
                else {}
            ),
        }


def _correlations(x_C: Floats, y_C: Floats) -> dict[str, float | None]:
    """None for fewer than three units, or where one annotator always said the same."""
    if len(x_C) < 3 or np.ptp(x_C) == 0 or np.ptp(y_C) == 0:
        return {"pearson": None, "spearman": None}
    return {
        "pearson": float(np.corrcoef(x_C, y_C)[0, 1]),
        "spearman": float(np.corrcoef(rankdata(x_C), rankdata(y_C))[0, 1]),
    }


def _annotators(found: Judgements, compared: _Compared, numbers: bool) -> Iterator[dict[str, Any]]:
    """Each annotator against every other judgement of the same units, the worst first."""
    places_C = np.concatenate([compared.left_C, compared.right_C])
    others_C = np.concatenate([compared.right_C, compared.left_C])
    who_C, many = found.annotator_J[places_C], len(found.annotators)
    more_C = found.value_J[places_C] - found.value_J[others_C]
    judged = np.bincount(found.annotator_J, minlength=many)
    met = np.bincount(who_C, minlength=many)
    shared = np.maximum(met, 1)
    same = np.bincount(who_C, more_C == 0, many) / shared
    apart = np.bincount(who_C, np.abs(more_C), many) / shared
    bias = np.bincount(who_C, more_C, many) / shared
    for index in np.lexsort((-apart if numbers else same, met == 0)):
        alone = met[index] == 0
        yield {
            "annotator": found.annotators[index],
            "judged": int(judged[index]),
            "comparisons": int(met[index]),
            "agreement": None if alone else float(same[index]),
            **(
                {
                    "difference": None if alone else float(apart[index]),
                    "bias": None if alone else float(bias[index]),
                }
                if numbers
                else {}
            ),
        }


def _disagreements(found: Judgements, judged_U: Ints, level: Level) -> Iterator[dict[str, Any]]:
    """The units whose judgements are furthest apart in the mean, those with more of them first."""
    apart_U = disagreement(found.unit_J, found.value_J, level)
    worst = np.lexsort((-judged_U, -apart_U))[:DISAGREEMENTS]
    places: dict[int, list[int]] = {int(unit): [] for unit in worst if apart_U[unit] > 0}
    for place in np.flatnonzero(np.isin(found.unit_J, list(places))):
        places[int(found.unit_J[place])].append(int(place))
    for index, judged in places.items():
        unit = found.units[index]
        yield {
            "rows": sorted({int(found.row_J[place]) for place in judged}),
            "prompt": shortened(unit.prompt),
            "texts": [shortened(text) for text in unit.texts],
            "values": {
                found.annotators[found.annotator_J[place]]: said(found, found.value_J[place])
                for place in judged
            },
            "disagreement": float(apart_U[index]),
        }


def shortened(text: str) -> str:
    """The start of a text, or of what turns say, on one line."""
    line = " ".join(_spoken(text).split())
    return line if len(line) <= _SHORT else f"{line[: _SHORT - 3]}..."


def _spoken(text: str) -> str:
    """The contents of turns written as JSON; any other text as it is."""
    try:
        return " / ".join(str(turn["content"]) for turn in json.loads(text))
    except (ValueError, TypeError, KeyError):
        return text

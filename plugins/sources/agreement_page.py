"""An account of agreement as text for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from trimtab.plugins.sources.agreement import Agreement, said

_PAIRS, _UNITS, _ANNOTATORS = 20, 10, 20


def page(found: Agreement) -> str:
    """Everything that a reader needs; what is cut short says so."""
    return "\n".join(
        [*_rows(found), *_whole(found), *_by_annotator(found), *_by_pair(found), *_units(found)]
    )


def _rows(found: Agreement) -> Iterator[str]:
    judged = found.judgements
    yield (
        f"{found.name}: {judged.feedback.name}, {judged.read} rows read, {judged.used} used, "
        f"{len(judged.dropped)} dropped"
    )
    first: dict[str, str] = {}
    for row in judged.dropped:
        first.setdefault(row.reason, row.place or str(row.row))
    for reason, count in Counter(row.reason for row in judged.dropped).most_common():
        yield f"  {count:>6}  {reason} (first: row {first[reason]})"


def _whole(found: Agreement) -> Iterator[str]:
    judged = found.judgements
    yield (
        f"{len(judged.unit_J)} judgements of {len(judged.units)} units by "
        f"{len(judged.annotators)} annotators; {found.several} units have two or more"
    )
    counts = Counter(judged.value_J.tolist())
    values = [f"{said(judged, value)}: {count}" for value, count in sorted(counts.items())]
    shown = f"{', '.join(values[:12])}{', ...' if len(values) > 12 else ''}"
    yield f"values: {shown}"
    a = found.alpha
    if a.value is None or a.low is None or a.high is None:
        why = "all judgements are the same" if found.several else "no unit has two judgements"
        yield f"Krippendorff's alpha ({found.level}): none, for {why}"
    else:
        yield (
            f"Krippendorff's alpha ({found.level}): {a.value:.3f} [{a.low:.3f}, {a.high:.3f}], "
            "95% by bootstrap over units"
        )
    if found.deviation is not None:
        yield f"standard deviation within a unit, in the mean: {found.deviation:.3f}"


def _by_annotator(found: Agreement) -> Iterator[str]:
    yield from _headed("annotators against the others, the worst first", found.annotators)
    for one in found.annotators[:_ANNOTATORS]:
        yield f"  {one['annotator']}: {_measures(one)}, judged {one['judged']}"


def _by_pair(found: Agreement) -> Iterator[str]:
    yield from _headed("pairs of annotators, the worst first", found.pairs, _PAIRS)
    for one in found.pairs[:_PAIRS]:
        left, right = one["annotators"]
        yield f"  {left} and {right}: {_measures(one)}, units {one['units']}"


def _units(found: Agreement) -> Iterator[str]:
    yield from _headed("units with most disagreement", found.disagreements, _UNITS)
    for one in found.disagreements[:_UNITS]:
        rows = ", ".join(map(str, one["rows"][:6])) + (", ..." if len(one["rows"]) > 6 else "")
        values = ", ".join(f"{who}: {value}" for who, value in one["values"].items())
        yield f"  row {rows}"
        if one["prompt"]:
            yield f"    {one['prompt']}"
        letters = ("A: ", "B: ") if len(one["texts"]) == 2 else ("",)
        yield from (f"    {a}{text}" for a, text in zip(letters, one["texts"], strict=True))
        yield f"    {values}"


def _headed(title: str, listed: Any, most: int = _ANNOTATORS) -> Iterator[str]:
    if listed:
        yield f"{title}{f' ({most} of {len(listed)})' if len(listed) > most else ''}:"


def _measures(one: Mapping[str, Any]) -> str:
    names = ("agreement", "difference", "bias", "pearson", "spearman")
    return ", ".join(
        f"{name} {'none' if one[name] is None else format(one[name], '.3f')}"
        for name in names
        if name in one
    )

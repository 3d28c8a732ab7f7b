"""Rows whose completions are to be scored: of any kind, and in the order of the file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from trimtab.core.batches import Batch, Ranked
from trimtab.plugins.sources import stacking
from trimtab.plugins.sources.formats import EXCHANGED, Columns, Example, demonstration, preference
from trimtab.plugins.sources.kinds import Kind
from trimtab.plugins.sources.rankings import ranking
from trimtab.plugins.sources.said import Preference, Ranking
from trimtab.plugins.sources.tokens import Encoded

JUDGEMENTS = ("ranks", "scores", "better")
"""Columns that say which of the responses are better."""


def candidates(columns: Columns) -> Example:
    """``prompt`` with ``responses``, with ``chosen`` and ``rejected``, or with a ``completion``.

    What the row says of several of them is kept, as a ranking; it need not say anything.
    """
    if "responses" in columns:
        return _responses(columns)
    if "chosen" in columns or "rejected" in columns:
        return _pair(columns)
    return replace(demonstration(columns), said=Ranking(((None,),)))


def _pair(columns: Columns) -> Example:
    """Chosen first, even where its preference is below 1/2."""
    pair = preference(columns)
    first = pair.said.probability if isinstance(pair.said, Preference) else 1.0
    completions = pair.completions
    if EXCHANGED in pair.notes:
        first, completions = 1 - first, completions[::-1]
    better = ((None, first), (1 - first, None))
    return replace(pair, completions=completions, said=Ranking(better), notes=())


def _responses(columns: Columns) -> Example:
    """The responses as the row lists them; without a judgement they are all equal."""
    others = {name: value for name, value in columns.items() if name not in JUDGEMENTS}
    responses = columns["responses"]
    count = len(responses) if isinstance(responses, list) else 0
    listed = ranking({**others, "ranks": [1] * count})
    if all(columns.get(name) is None for name in JUDGEMENTS):
        return listed
    judged = ranking(columns)
    assert isinstance(judged.said, Ranking)
    places = [judged.completions.index(completion) for completion in listed.completions]
    better = tuple(tuple(judged.said.better[i][j] for j in places) for i in places)
    return replace(listed, said=Ranking(better))


def _stack(rows: Sequence[Encoded], others: Iterable[Encoded] = ()) -> Batch:
    if all(len(row.completions) == 1 for row in rows):
        return stacking.demonstrations(rows)
    return stacking.ranked(rows)


CANDIDATES = Kind(
    "rows to score",
    (
        *("prompt", "completion", "messages", "text", "chosen", "rejected", "preference"),
        *("responses", *JUDGEMENTS, "tools", "chat_template_kwargs"),
    ),
    candidates,
    Ranked,
    _stack,
)
"""Not among the kinds that objectives learn from."""

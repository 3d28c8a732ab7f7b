"""The kinds of feedback that a data set can hold: how a row is read, and how rows are stacked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trimtab.core.batches import Batch, Demonstrations, Labelled, Pairs, Ranked
from trimtab.core.errors import UserError, suggestion
from trimtab.plugins.sources import stacking
from trimtab.plugins.sources.formats import Example, check_names, demonstration, preference
from trimtab.plugins.sources.labels import labelled
from trimtab.plugins.sources.prompts import prompted
from trimtab.plugins.sources.rankings import ranking
from trimtab.plugins.sources.stacking import Stack, unstackable


@dataclass(frozen=True)
class Kind:
    """One kind of feedback."""

    name: str
    columns: tuple[str, ...]
    """The names of columns that it reads."""

    example: Callable[[Mapping[str, Any]], Example]
    """A row's columns, under our names, as an example; ``BadRow`` where they make none."""

    batch: type[Batch] | None = None
    """What rows of it are stacked to; None where they are only prompts."""

    stack: Stack = unstackable
    keeps_columns: bool = False
    """Are the row's other columns kept, for those who judge its answers?"""

    def check_mapping(self, columns: Mapping[str, str]) -> None:
        """``data.columns`` may only name columns that this kind reads."""
        check_names(columns, self.columns, self.name)


_ALWAYS = ("tools", "chat_template_kwargs", "annotator")

DEMONSTRATIONS = Kind(
    "demonstrations",
    ("prompt", "completion", "messages", "text", *_ALWAYS),
    demonstration,
    Demonstrations,
    stacking.demonstrations,
)
PAIRS = Kind(
    "pairs",
    ("prompt", "chosen", "rejected", "preference", *_ALWAYS),
    preference,
    Pairs,
    stacking.pairs,
)
LABELS = Kind(
    "labels",
    ("prompt", "completion", "messages", "label", *_ALWAYS),
    labelled,
    Labelled,
    stacking.labelled,
)
RANKINGS = Kind(
    "rankings",
    (
        *("prompt", "responses", "ranks", "scores", "better"),
        *("chosen", "rejected", "preference", "margin", *_ALWAYS),
    ),
    ranking,
    Ranked,
    stacking.ranked,
)
PROMPTS = Kind(
    "prompts", ("prompt", "messages", "completion", *_ALWAYS), prompted, keeps_columns=True
)
KINDS = (DEMONSTRATIONS, PAIRS, LABELS, RANKINGS, PROMPTS)


def kind_of(batch: type[Batch]) -> Kind | None:
    """The kind that makes such batches."""
    return next((kind for kind in KINDS if kind.batch is batch), None)


def named(name: str) -> Kind:
    """A kind by its name."""
    known = {kind.name: kind for kind in KINDS}
    if name not in known:
        raise UserError(
            f"no kind of data {name!r}.{suggestion(name, known)} Known: {', '.join(known)}"
        )
    return known[name]


def guessed(columns: Iterable[str]) -> Kind:
    """The kind that these columns look like.

    >>> guessed(["chosen", "rejected"]).name, guessed(["text"]).name
    ('pairs', 'demonstrations')
    >>> guessed(["messages", "label"]).name, guessed(["responses", "ranks"]).name
    ('labels', 'rankings')
    """
    there = set(columns)
    if "responses" in there:
        return RANKINGS
    if {"chosen", "rejected"} & there:
        return PAIRS
    if "label" in there and {"completion", "messages"} & there:
        return LABELS
    if "prompt" in there and not {"completion", "messages", "text"} & there:
        return PROMPTS
    return DEMONSTRATIONS

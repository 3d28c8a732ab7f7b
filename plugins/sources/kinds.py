"""The kinds of feedback that a data set can hold: how a row is read, and how rows are stacked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from trimtab.core.batches import Batch, Demonstrations, Pairs, Sequences, sequences
from trimtab.core.errors import UserError, suggestion
from trimtab.plugins.sources.formats import Example, demonstration, preference
from trimtab.plugins.sources.tokens import Encoded


@dataclass(frozen=True)
class Kind:
    """One kind of feedback."""

    name: str
    batch: type[Batch]
    columns: tuple[str, ...]
    """The names of columns that it reads."""

    example: Callable[[Mapping[str, Any]], Example]
    """A row's columns, under our names, as an example; ``BadRow`` where they make none."""

    stack: Callable[[Sequence[Encoded]], Batch]
    """Rows as a batch, without ``row_N``."""

    def check_mapping(self, columns: Mapping[str, str]) -> None:
        """``data.columns`` may only name columns that this kind reads."""
        for ours in columns:
            if ours not in self.columns:
                raise UserError(
                    f"data.columns: {self.name} have no column {ours!r}."
                    f"{suggestion(ours, self.columns)} Known: {', '.join(self.columns)}"
                )


def _demonstrations(rows: Sequence[Encoded]) -> Demonstrations:
    return Demonstrations(_sequences(rows, 0))


def _pairs(rows: Sequence[Encoded]) -> Pairs:
    soft = [row.preference for row in rows if row.preference is not None]
    preference_N = torch.tensor(soft) if soft else None
    return Pairs(_sequences(rows, 0), _sequences(rows, 1), preference_N)


def _sequences(rows: Sequence[Encoded], which: int) -> Sequences:
    completions = [row.completions[which] for row in rows]
    made = sequences([row.prompt for row in rows], [one.ids for one in completions])
    if all(len(one.spans) == 1 for one in completions):
        return made
    mask_NT = torch.zeros_like(made.mask_NT)
    for row, one in enumerate(completions):
        for begin, end in one.spans:
            mask_NT[row, begin:end] = True
    return replace(made, mask_NT=mask_NT)


_TEMPLATE = ("tools", "chat_template_kwargs")

DEMONSTRATIONS = Kind(
    "demonstrations",
    Demonstrations,
    ("prompt", "completion", "messages", "text", *_TEMPLATE),
    demonstration,
    _demonstrations,
)
PAIRS = Kind(
    "pairs",
    Pairs,
    ("prompt", "chosen", "rejected", "preference", *_TEMPLATE),
    preference,
    _pairs,
)
KINDS = (DEMONSTRATIONS, PAIRS)


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
    """
    return PAIRS if {"chosen", "rejected"} & set(columns) else DEMONSTRATIONS

"""Rows as batches, without ``row_N``: one function for each kind of batch.

``others`` are rows outside the batch, in an order that its caller chooses. Only what a batch
cannot find in itself is looked for there.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

import torch

from trimtab.core.batches import Batch, Demonstrations, Labelled, Pairs, Ranked, Sequences
from trimtab.core.batches import sequences as padded
from trimtab.plugins.sources.said import Label, Preference, Ranking
from trimtab.plugins.sources.tokens import Completion, Encoded

_NOTHING = Completion(array("i"), ())
"""Where a row has fewer responses than another one of its batch."""


class Stack(Protocol):
    """Makes a batch of rows."""

    def __call__(self, rows: Sequence[Encoded], others: Iterable[Encoded] = ()) -> Batch: ...


def unstackable(rows: Sequence[Encoded], others: Iterable[Encoded] = ()) -> Batch:
    """Prompts alone are answered first, by a source that does so."""
    raise ValueError("no batch is made of prompts without completions")


def demonstrations(rows: Sequence[Encoded], others: Iterable[Encoded] = ()) -> Demonstrations:
    """What is imitated."""
    return Demonstrations(_sequences(rows))


def pairs(rows: Sequence[Encoded], others: Iterable[Encoded] = ()) -> Pairs:
    """Chosen and rejected. Beside soft labels, hard ones are certain."""
    given = [row.said.probability if isinstance(row.said, Preference) else None for row in rows]
    if all(probability is None for probability in given):
        return Pairs(_sequences(rows), _sequences(rows, 1))
    preference_N = torch.tensor([1.0 if one is None else one for one in given])
    return Pairs(_sequences(rows), _sequences(rows, 1), preference_N)


def ranked(rows: Sequence[Encoded], others: Iterable[Encoded] = ()) -> Ranked:
    """As many responses as the row with the most has; no margin is 0 where another row has one."""
    most = max(len(row.completions) for row in rows)
    better_NKK = torch.full((len(rows), most, most), math.nan)
    margin_NKK = torch.zeros(len(rows), most, most)
    rankings = [row.said for row in rows if isinstance(row.said, Ranking)]
    for row, said in enumerate(rankings):
        count = len(said.better)
        better_NKK[row, :count, :count] = torch.tensor(
            [[math.nan if p is None else p for p in line] for line in said.better]
        )
        margin_NKK[row, 0, 1] = said.margin or 0.0
        margin_NKK[row, 1, 0] = -(said.margin or 0.0)
    margins = any(said.margin is not None for said in rankings)
    responses = tuple(_sequences(rows, which) for which in range(most))
    return Ranked(responses, better_NKK, margin_NKK if margins else None)


def labelled(rows: Sequence[Encoded], others: Iterable[Encoded] = ()) -> Labelled:
    """Each completion with its label, and each prompt with the completion of another prompt."""
    desirable = [row.said.desirable for row in rows if isinstance(row.said, Label)]
    partners = mismatched(rows, others)
    swapped = [
        replace(row, completions=partner.completions)
        for row, partner in zip(rows, partners, strict=True)
    ]
    return Labelled(_sequences(rows), torch.tensor(desirable), _sequences(swapped))


def mismatched(rows: Sequence[Encoded], others: Iterable[Encoded]) -> list[Encoded]:
    """For each row, the next one with another prompt, in the batch and from its start again.

    Where all of the batch has one prompt: the first of ``others`` with another one.
    """
    following = _next_other(rows)
    if following is not None:
        return [rows[index] for index in following]
    partner = next((other for other in others if other.prompt != rows[0].prompt), None)
    if partner is None:
        raise ValueError("no row has another prompt, so no completion can be mismatched")
    return [partner] * len(rows)


def _next_other(rows: Sequence[Encoded]) -> list[int] | None:
    """The index of the next row with another prompt, cyclically; None where there is none.

    Going backwards twice: the next other row of a row is the row after it, or that one's own.
    """
    count = len(rows)
    if all(row.prompt == rows[0].prompt for row in rows):
        return None
    found = [-1] * count
    for step in reversed(range(2 * count)):
        index, after = step % count, (step + 1) % count
        found[index] = after if rows[after].prompt != rows[index].prompt else found[after]
    return found


def _sequences(rows: Sequence[Encoded], which: int = 0) -> Sequences:
    completions = [
        row.completions[which] if which < len(row.completions) else _NOTHING for row in rows
    ]
    made = padded([row.prompt for row in rows], [one.ids for one in completions])
    if all(len(one.spans) == 1 for one in completions):
        return made
    mask_NT = torch.zeros_like(made.mask_NT)
    for row, one in enumerate(completions):
        for begin, end in one.spans:
            mask_NT[row, begin:end] = True
    return replace(made, mask_NT=mask_NT)

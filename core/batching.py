"""Rows into micro-batches, by the tokens that a forward reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trimtab.core.batches import Batch
from trimtab.core.layout import Row, best_lines, rows_of, size

Part = tuple[Row, ...]
"""All sequences of one row of the batch."""


def micro_batches(
    batch: Batch, micro_tokens: int, *, share: bool, skip: frozenset[str] = frozenset()
) -> list[Tensor]:
    """Row numbers of each micro-batch: rows of like length together, the longest first.

    With ``share``, rows of one prompt come together, and in as few parts as there must be. A
    micro-batch reads at most ``micro_tokens`` tokens, padding included, unless a single row is
    longer. The cut changes memory and speed, never the gradient.
    """
    fields = {name: s for name, s in batch.sequences.items() if name not in skip}
    columns = [rows_of({name: sequences}) for name, sequences in fields.items()]
    parts: list[Part] = list(zip(*columns, strict=True))
    cuts: list[list[int]] = []
    taken: list[Row] = []
    for piece in _pieces(parts, micro_tokens, share):
        rows = [row for i in piece for row in parts[i]]
        if not cuts or tokens([*taken, *rows], share=share) > micro_tokens:
            cuts.append([])
            taken = []
        cuts[-1] += piece
        taken += rows
    return [torch.tensor(cut) for cut in cuts]


def tokens(rows: Sequence[Row], *, share: bool) -> int:
    """What a forward of these rows reads, padding included."""
    return size(best_lines(rows, share=share))


def _pieces(parts: Sequence[Part], micro_tokens: int, share: bool) -> list[list[int]]:
    """What is not cut further: single rows, or with ``share`` as much of a group as fits."""
    order = sorted(range(len(parts)), key=lambda i: (-_length(parts[i]), parts[i][0].prompt))
    if not share:
        return [[i] for i in order]
    groups: dict[tuple[int, ...], list[int]] = {}
    for i in order:
        groups.setdefault(parts[i][0].prompt, []).append(i)
    return [piece for group in groups.values() for piece in _even(parts, group, micro_tokens)]


def _even(parts: Sequence[Part], group: list[int], micro_tokens: int) -> list[list[int]]:
    """A group in the fewest pieces, of nearly equal numbers of rows, that each fit."""
    for count in range(1, len(group) + 1):
        cuts = [
            group[len(group) * k // count : len(group) * (k + 1) // count] for k in range(count)
        ]
        rows = [[row for i in cut for row in parts[i]] for cut in cuts]
        if all(tokens(some, share=True) <= micro_tokens for some in rows):
            break
    return cuts


def _length(part: Part) -> int:
    return max(len(row.prompt) + len(row.completion) for row in part)

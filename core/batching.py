"""Rows into micro-batches, by the tokens that a forward reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trimtab.core.batches import Batch
from trimtab.core.layout import Row, padded_lines, rows_of, shared_lines, size


def micro_batches(
    batch: Batch, micro_tokens: int, *, share: bool, skip: frozenset[str] = frozenset()
) -> list[Tensor]:
    """Row numbers of each micro-batch: rows of like length together, the longest first.

    A micro-batch reads at most ``micro_tokens`` tokens, padding included, unless a single row is
    longer. The cut changes memory and speed, never the gradient.
    """
    fields = {name: s for name, s in batch.sequences.items() if name not in skip}
    columns = [rows_of({name: sequences}) for name, sequences in fields.items()]
    parts = list(zip(*columns, strict=True))
    order = sorted(range(len(parts)), key=lambda i: (-_length(parts[i]), parts[i][0].prompt))
    cuts: list[list[int]] = []
    taken: list[Row] = []
    for i in order:
        if not cuts or tokens([*taken, *parts[i]], share=share) > micro_tokens:
            cuts.append([])
            taken = []
        cuts[-1].append(i)
        taken += parts[i]
    return [torch.tensor(cut) for cut in cuts]


def tokens(rows: Sequence[Row], *, share: bool) -> int:
    """What a forward of these rows reads, padding included."""
    padded = size(padded_lines(rows))
    return min(padded, size(shared_lines(rows))) if share else padded


def _length(part: Sequence[Row]) -> int:
    return max(len(row.prompt) + len(row.completion) for row in part)

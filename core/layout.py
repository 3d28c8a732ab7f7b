"""How sequences lie in the tensors that a model reads.

Padded: one sequence a line. Shared: one prompt a line, followed by several of its completions,
each of which sees the prompt and itself, at the positions that it would have alone.

B lines · S tokens of a line · M trained tokens of all sequences.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trimtab.core.batches import Sequences

SQUARE = 2300
"""The length of a line whose attention costs as much as its matrix products.

Measured, forward and backward of SmolLM2-135M in float32 on a CPU, 8 completions of 64 tokens in
1, 2, 4 and 8 lines. It grows with the model's width; it is a matter of speed alone.
"""


class Row(NamedTuple):
    """One prompt with one completion, as lists."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    trained: tuple[bool, ...]


class Line(NamedTuple):
    """One prompt with the completions that follow it, by their numbers among all rows."""

    prompt: tuple[int, ...]
    rows: tuple[int, ...]
    length: int


@dataclass(frozen=True)
class Layout:
    """What the model reads, and where the trained tokens are in it."""

    input_BS: Tensor
    position_BS: Tensor
    segment_BS: Tensor
    """0 is the prompt, k > 0 the k-th completion of the line, -1 padding."""

    shared: bool
    predict_M: Tensor
    """Flat index, into B * S, of the state that predicts each trained token."""

    target_M: Tensor
    row_M: Tensor
    """The trained token's row among all rows, those of each sequences field in turn."""

    token_M: Tensor
    """Its place T in the completion."""

    end_E: Tensor
    """Flat index of the state that a scalar role scores each of the E completions by."""

    scored_E: Tensor
    """The completion's row among all rows; empty ones have none."""

    def to(self, device: torch.device) -> Layout:
        """The same layout on a device."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in values.items():
            if isinstance(value, Tensor):
                values[name] = value.to(device)
        return Layout(**values)

    def attention(self, window: int | None = None) -> Tensor:
        """Who sees whom: bool [B, S] where padded, bool [B, 1, S, S] where shared.

        ``window`` is a sliding window, counted in positions, not in places on the line.
        """
        if not self.shared:
            return self.segment_BS >= 0
        query_BS1, key_B1S = self.segment_BS[:, :, None], self.segment_BS[:, None, :]
        places_S = torch.arange(self.input_BS.shape[1], device=self.input_BS.device)
        behind_SS = places_S[:, None] >= places_S
        seen_BSS = behind_SS & ((key_B1S == query_BS1) | ((key_B1S == 0) & (query_BS1 > 0)))
        if window is not None:
            distance_BSS = self.position_BS[:, :, None] - self.position_BS[:, None, :]
            seen_BSS = seen_BSS & (distance_BSS < window)
        return seen_BSS[:, None]


def rows_of(sequences: Mapping[str, Sequences]) -> list[Row]:
    """Every prompt and completion without padding, those of each field in turn."""
    return [row for field in sequences.values() for row in _rows(field)]


def _rows(field: Sequences) -> list[Row]:
    prompts, completions, masks = (
        tensor.tolist() for tensor in (field.prompt_NP, field.tokens_NT, field.mask_NT)
    )
    lengths = zip(field.prompt_length_N.tolist(), field.length_N.tolist(), strict=True)
    return [
        Row(tuple(prompts[i][:p]), tuple(completions[i][:t]), tuple(masks[i][:t]))
        for i, (p, t) in enumerate(lengths)
    ]


def padded_lines(rows: Sequence[Row]) -> list[Line]:
    """A line for each row. Of an empty completion there is nothing to read."""
    return [
        Line(row.prompt, (number,), len(row.prompt) + len(row.completion))
        for number, row in enumerate(rows)
        if row.completion
    ]


def shared_lines(rows: Sequence[Row], parts: int = 1) -> list[Line]:
    """Up to ``parts`` lines of like lengths a prompt; prompts in the order of their first rows."""
    numbers: dict[tuple[int, ...], list[int]] = {}
    for number, row in enumerate(rows):
        if row.completion:
            numbers.setdefault(row.prompt, []).append(number)
    lines: list[Line] = []
    for prompt, mine in numbers.items():
        dealt: list[list[int]] = [[] for _ in range(min(parts, len(mine)))]
        lengths = [len(prompt)] * len(dealt)
        for number in sorted(mine, key=lambda i: -len(rows[i].completion)):
            least = lengths.index(min(lengths))
            dealt[least].append(number)
            lengths[least] += len(rows[number].completion)
        lines += [
            Line(prompt, tuple(sorted(some)), length)
            for some, length in zip(dealt, lengths, strict=True)
        ]
    return lines


def best_lines(rows: Sequence[Row], *, share: bool) -> list[Line]:
    """The cheapest lines to read these rows in: with ``share``, some may hold several of them."""
    best = padded_lines(rows)
    if not share:
        return best
    together = Counter(row.prompt for row in rows if row.completion)
    parts = 1
    while parts < max(together.values(), default=0):
        lines = shared_lines(rows, parts)
        best = min(best, lines, key=_cost)
        parts *= 2
    return best


def size(lines: Sequence[Line]) -> int:
    """Tokens that the model reads, padding included."""
    return len(lines) * _width(lines)


def _width(lines: Sequence[Line]) -> int:
    return max((line.length for line in lines), default=0)


def _cost(lines: Sequence[Line]) -> int:
    """Of matrix products, which grow with the tokens, and attention, with each line's square."""
    return size(lines) * (SQUARE + _width(lines))


def lay_out(rows: Sequence[Row], *, share: bool, pad: int | None = None) -> Layout:
    """The cheapest layout; the padded one where ``share`` is false.

    ``pad`` is the token that the model pads with. Completions are scored at the last token that is
    another one: where transformers reads the score, so that a result means the same there.

    Raises:
        ValueError: a prompt is empty, so nothing predicts its completion's first token.
    """
    if any(not row.prompt for row in rows):
        raise ValueError("a prompt is empty: its completion's first token has no predecessor")
    lines = best_lines(rows, share=share)
    shared = any(len(line.rows) > 1 for line in lines)
    return _layout(rows, lines or [Line(rows[0].prompt, (), 0)], pad, shared=shared)


def _layout(
    rows: Sequence[Row], lines: Sequence[Line], pad: int | None, *, shared: bool
) -> Layout:
    width = max(max(line.length, len(line.prompt)) for line in lines)
    inputs, positions, segments = [], [], []
    found: list[tuple[int, int, int, int]] = []
    ends: list[tuple[int, int]] = []
    for number, line in enumerate(lines):
        ids, places, parts = (
            list(line.prompt),
            list(range(len(line.prompt))),
            [0] * len(line.prompt),
        )
        for part, row in enumerate(line.rows, start=1):
            completion, trained = rows[row].completion, rows[row].trained
            begin = len(ids)
            last = _scored([*line.prompt, *completion], pad)
            gap = begin - len(line.prompt) if last >= len(line.prompt) else 0
            ends.append((number * width + last + gap, row))
            for t, (token, counts) in enumerate(zip(completion, trained, strict=True)):
                before = begin + t - 1 if t else len(line.prompt) - 1
                if counts:
                    found.append((number * width + before, token, row, t))
            ids += completion
            places += range(len(line.prompt), len(line.prompt) + len(completion))
            parts += [part] * len(completion)
        gap = width - len(ids)
        inputs.append(ids + [0] * gap)
        positions.append(places + [0] * gap)
        segments.append(parts + [-1] * gap)
    predict_M, target_M, row_M, token_M = torch.tensor(found, dtype=torch.long).view(-1, 4).T
    end_E, scored_E = torch.tensor(ends, dtype=torch.long).view(-1, 2).T
    return Layout(
        input_BS=torch.tensor(inputs),
        position_BS=torch.tensor(positions),
        segment_BS=torch.tensor(segments),
        shared=shared,
        predict_M=predict_M,
        target_M=target_M,
        row_M=row_M,
        token_M=token_M,
        end_E=end_E,
        scored_E=scored_E,
    )


def _scored(ids: Sequence[int], pad: int | None) -> int:
    """The place of the last token that is not ``pad``; 0 where all are."""
    return max((place for place, token in enumerate(ids) if token != pad), default=0)

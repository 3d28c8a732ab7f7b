"""Rows with several responses to one prompt: what makers that choose and label have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from trimtab.core.config import DataConfig
from trimtab.core.engine import Completion
from trimtab.core.reward import Group
from trimtab.core.source import Setting
from trimtab.plugins.sources.candidates import CANDIDATES, JUDGEMENTS, candidates
from trimtab.plugins.sources.corpus import read_corpus
from trimtab.plugins.sources.formats import Columns, Example, Side
from trimtab.plugins.sources.kinds import Kind
from trimtab.plugins.sources.load import Kept
from trimtab.plugins.sources.said import Ranking


def _answered(columns: Columns) -> Example:
    """The responses in the row's order, and what it says of them, which may be nothing."""
    example = candidates(columns)
    if "responses" in columns and all(columns.get(name) is None for name in JUDGEMENTS):
        nothing = (None,) * len(example.completions)
        return replace(example, said=Ranking((nothing,) * len(nothing)))
    return example


ANSWERED = Kind(
    "rows with responses",
    CANDIDATES.columns,
    _answered,
    CANDIDATES.batch,
    CANDIDATES.stack,
    keeps_columns=True,
)
"""``prompt`` with ``responses``, or with ``chosen`` and ``rejected``; what they say of which is
better is used by no label, and only compared with it."""


class AnsweredRows:
    """All usable rows of ``data.train``, in its order; none is held out.

    Rows are read as rankings are, so what is scored are the tokens that would be trained on.
    """

    def __init__(self, setting: Setting) -> None:
        none_held_out = {"eval": None, "holdout": 0.0, "convert": None}
        data: DataConfig = setting.data.model_copy(update=none_held_out)
        self.setting = setting
        self.corpus = read_corpus(data, ANSWERED, setting.tokenizer)
        self.corpus.check()
        self.rows = sorted(self.corpus.train, key=lambda row: row.row)
        self._stops = set(setting.tokenizer.all_special_ids)

    def of_step(self, step: int, rows: int) -> list[Kept]:
        """The rows of a step."""
        return self.rows[step * rows : (step + 1) * rows]

    def groups(self, rows: Sequence[Kept]) -> list[Group]:
        """As rewards and judges are shown them."""
        return [self._group(row) for row in rows]

    def _group(self, row: Kept) -> Group:
        decode = self.setting.tokenizer.decode
        prompt = tuple(row.tokens.prompt)
        sampled = [
            Completion(prompt, tuple(one.ids), truncated=one.ids[-1] not in self._stops)
            for one in row.tokens.completions
        ]
        return Group(
            prompt=decode(prompt, skip_special_tokens=True),
            completions=[decode(one.tokens, skip_special_tokens=True) for one in sampled],
            columns=row.columns or {},
            content=row.asked,
            sampled=sampled,
        )


def responses(row: Kept) -> tuple[Side, ...]:
    """As the row has them, in the order in which they are scored."""
    assert row.example is not None
    return row.example.completions


def pairs(row: Kept) -> list[tuple[int, int]]:
    """All pairs of the row's responses, by their places."""
    return list(combinations(range(len(row.tokens.completions)), 2))


def given(row: Kept, a: int, b: int) -> float | None:
    """P(response a is better than b) as the row itself says it; None where it does not."""
    assert row.example is not None and isinstance(row.example.said, Ranking)
    return row.example.said.better[a][b]


def account(rows: AnsweredRows) -> dict[str, Any]:
    """What was read, as JSON."""
    found = rows.corpus.account()
    return {name: each for name, each in found.items() if name not in ("held_out_rows", "eval")}

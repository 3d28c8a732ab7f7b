"""The source of offline objectives: the rows of a data set, each once an epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from trimtab.core.batches import Batch
from trimtab.core.errors import UserError
from trimtab.core.hookspecs import hookimpl
from trimtab.core.options import Config
from trimtab.core.policy import Policy
from trimtab.core.source import Prompt, Setting, Source
from trimtab.plugins.sources.asked import asked_apart
from trimtab.plugins.sources.corpus import Corpus, read_corpus
from trimtab.plugins.sources.kinds import LABELS, kind_of
from trimtab.plugins.sources.load import Kept
from trimtab.plugins.sources.said import Label
from trimtab.plugins.sources.split import fingerprint, order, spread


class DatasetConfig(Config):
    """No options of its own: the ``data`` section says what is read."""


class DatasetSource(Source[DatasetConfig]):
    """Rows from a file, a folder, a datasets id or embedded data, in a new order each epoch.

    The order follows from the seed and the epoch. A batch never holds rows of two epochs, so the
    last one of an epoch may be smaller. Labels are spread evenly over an epoch, so each batch has
    the data's share of either. Which rows are held out, and which ones ``data.limit``
    leaves, does not depend on the seed: runs that differ in it alone have the same rows.
    """

    name = "dataset"
    options = DatasetConfig
    fixed = True

    corpus: Corpus

    @classmethod
    def serves(cls, batch: type[Batch]) -> bool:
        return kind_of(batch) is not None

    def open(self, setting: Setting) -> None:
        kind = kind_of(setting.batch)
        if kind is None:
            raise UserError(f"the source 'dataset' makes no {setting.batch.__name__}")
        name = f"{self.name} {kind.name} {setting.data.model_dump_json()}"
        if name not in setting.shared:
            setting.shared[name] = read_corpus(setting.data, kind, setting.tokenizer)
        self.corpus = setting.shared[name]
        self.corpus.check()
        self._eval_prompts = asked_apart(setting)
        self._seed = setting.seed
        self._fingerprint = fingerprint(self.corpus.train)
        self._go_to(epoch=0, index=0)

    def collect(self, policy: Policy, rows: int) -> Batch:
        if self._index == len(self._order):
            self._go_to(self._epoch + 1, 0)
        chosen = self._order[self._index : self._index + rows]
        self._index += len(chosen)
        return self._batch([self.corpus.train[index] for index in chosen], self._following())

    def held_out(self) -> Batch | None:
        rows = self.corpus.held_out
        return self._batch(rows, self.corpus.train) if rows else None

    def prompts(self) -> Sequence[Prompt]:
        return self._eval_prompts

    def steps_per_epoch(self, rows: int) -> int:
        return -(-len(self.corpus.train) // rows)

    def longest(self) -> Batch | None:
        rows = self.corpus.train
        longest = sorted(rows, key=_tokens, reverse=True)
        return self._batch(longest[:1], longest) if rows else None

    def describe(self) -> Mapping[str, Any]:
        return {
            **self.corpus.account(),
            "fingerprint": self._fingerprint,
            **({"labels": self._labels()} if self.corpus.kind is LABELS else {}),
        }

    def state(self) -> dict[str, Any]:
        return {"epoch": self._epoch, "index": self._index, "fingerprint": self._fingerprint}

    def restore(self, state: Mapping[str, Any]) -> None:
        if state["fingerprint"] != self._fingerprint:
            raise UserError(
                "the data is not what this run was trained on so far: its training rows have "
                f"the fingerprint {self._fingerprint}, not {state['fingerprint']}"
            )
        self._go_to(state["epoch"], state["index"])

    def _go_to(self, epoch: int, index: int) -> None:
        self._epoch = epoch
        self._index = index
        labels = desirable(self.corpus.train)
        if labels is None:
            self._order = order(len(self.corpus.train), self._seed, epoch)
        else:
            self._order = spread(labels, self._seed, epoch)

    def _following(self) -> Iterator[Kept]:
        """All rows in the epoch's order, from the position on and then from its start."""
        for index in (*self._order[self._index :], *self._order[: self._index]):
            yield self.corpus.train[index]

    def _batch(self, rows: Sequence[Kept], others: Iterable[Kept]) -> Batch:
        batch = self.corpus.kind.stack(
            [row.tokens for row in rows], (row.tokens for row in others)
        )
        return replace(batch, row_N=torch.tensor([row.row for row in rows]))

    def _labels(self) -> dict[str, int]:
        labels = desirable(self.corpus.train) or []
        return {"desirable": sum(labels), "undesirable": len(labels) - sum(labels)}


def desirable(rows: Sequence[Kept]) -> list[bool] | None:
    """The labels of the rows; None where they have none."""
    labels = [row.tokens.said.desirable for row in rows if isinstance(row.tokens.said, Label)]
    return labels or None


def _tokens(row: Kept) -> int:
    return len(row.tokens.prompt) + sum(len(one.ids) for one in row.tokens.completions)


@hookimpl
def provide_sources() -> Sequence[type[DatasetSource]]:
    return [DatasetSource]

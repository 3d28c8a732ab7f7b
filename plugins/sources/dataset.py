"""The source of offline objectives: the rows of a data set, each once an epoch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from trimtab.core.batches import Batch
from trimtab.core.errors import UserError
from trimtab.core.hookspecs import hookimpl
from trimtab.core.options import Config
from trimtab.core.policy import Policy
from trimtab.core.source import Setting, Source
from trimtab.plugins.sources.corpus import Corpus, read_corpus
from trimtab.plugins.sources.kinds import kind_of
from trimtab.plugins.sources.load import Kept
from trimtab.plugins.sources.report import lengths
from trimtab.plugins.sources.split import fingerprint, order


class DatasetConfig(Config):
    """No options of its own: the ``data`` section says what is read."""


class DatasetSource(Source[DatasetConfig]):
    """Rows from a file, a folder, a datasets id or embedded data, in a new order each epoch.

    The order follows from the seed and the epoch. A batch never holds rows of two epochs, so the
    last one of an epoch may be smaller. Which rows are held out, and which ones ``data.limit``
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
        self.corpus = read_corpus(setting.data, kind, setting.tokenizer)
        self.corpus.check()
        self._seed = setting.seed
        self._fingerprint = fingerprint(self.corpus.train)
        self._go_to(epoch=0, index=0)

    def collect(self, policy: Policy, rows: int) -> Batch:
        if self._index == len(self._order):
            self._go_to(self._epoch + 1, 0)
        chosen = self._order[self._index : self._index + rows]
        self._index += len(chosen)
        return self._batch(self.corpus.train[index] for index in chosen)

    def held_out(self) -> Batch | None:
        return self._batch(self.corpus.held_out) if self.corpus.held_out else None

    def steps_per_epoch(self, rows: int) -> int:
        return -(-len(self.corpus.train) // rows)

    def longest(self) -> Batch | None:
        rows = self.corpus.train
        return self._batch([max(rows, key=_tokens)]) if rows else None

    def describe(self) -> Mapping[str, Any]:
        train, *others = [report.as_json() for report in self.corpus.reports]
        return {
            **train,
            "warnings": list(self.corpus.warnings()),
            "train_rows": len(self.corpus.train),
            "held_out_rows": len(self.corpus.held_out),
            "tokens": lengths([row.tokens for row in self.corpus.train]),
            "fingerprint": self._fingerprint,
            **({"eval": others[0]} if others else {}),
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
        self._order = order(len(self.corpus.train), self._seed, epoch)

    def _batch(self, rows: Iterable[Kept]) -> Batch:
        kept = list(rows)
        batch = self.corpus.kind.stack([row.tokens for row in kept])
        return replace(batch, row_N=torch.tensor([row.row for row in kept]))


def _tokens(row: Kept) -> int:
    return len(row.tokens.prompt) + sum(len(one.ids) for one in row.tokens.completions)


@hookimpl
def provide_sources() -> Sequence[type[DatasetSource]]:
    return [DatasetSource]

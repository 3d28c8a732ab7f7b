"""The source for data that does not fit into memory: rows are read as they are used."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from pydantic import PositiveInt

from trimtab.core.batches import Batch
from trimtab.core.errors import UserError
from trimtab.core.hookspecs import hookimpl
from trimtab.core.options import Config
from trimtab.core.policy import Policy
from trimtab.core.source import Prompt, Setting, Source
from trimtab.plugins.sources.asked import asked_apart
from trimtab.plugins.sources.kinds import Kind, kind_of
from trimtab.plugins.sources.load import Kept, Loaded, load, numbered_on
from trimtab.plugins.sources.rows import Dropped, Row
from trimtab.plugins.sources.split import fingerprint, limited
from trimtab.plugins.sources.tables import open_table, placed
from trimtab.plugins.sources.tally import Tally
from trimtab.plugins.sources.tokens import Encoder

CHUNK = 1024
"""Rows that are read and tokenized at a time."""


class StreamConfig(Config):
    """How much of the data is in memory."""

    buffer: PositiveInt = 10_000
    """Rows are drawn at random from so many; of data in a particular order, it should be many."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A row in the buffer, and where it is in the table."""

    chunk: int
    index: int
    """Among the usable rows of the chunk."""

    row: Kept


class StreamSource(Source[StreamConfig]):
    """Rows of JSONL or Parquet files, or of a datasets id, that are never in memory all at once.

    At most ``buffer`` rows and one chunk are held. Each row comes once an epoch; the order follows
    from the seed, the epoch and the buffer. Several tables are read one after the other. Rows that
    cannot be used are counted as they come, and the run stops when they are more than
    ``data.max_dropped`` of all that were read, as soon as those are 1,000. Held out is what
    ``data.eval`` names, and nothing without it. ``data.limit`` takes the first rows. CSV files and
    JSON arrays are read whole, by any source. The longest row is not known: prefix sharing is off
    unless ``model.prefix_sharing`` is true.
    """

    name = "stream"
    options = StreamConfig
    fixed = True

    _buffer: list[_Waiting]
    _tally: Tally
    _read: str

    @classmethod
    def serves(cls, batch: type[Batch]) -> bool:
        return kind_of(batch) is not None

    def open(self, setting: Setting) -> None:
        kind = kind_of(setting.batch)
        if kind is None:
            raise UserError(f"the source 'stream' makes no {setting.batch.__name__}")
        if setting.data.convert:
            raise UserError(
                "data.convert needs all rows at once: name the source 'dataset', not 'stream'"
            )
        self._kind: Kind = kind
        self._data = setting.data
        self._seed = setting.seed
        self._encoder = Encoder(setting.tokenizer, setting.data)
        self._evaluation = self._read_evaluation()
        self._eval_prompts = asked_apart(setting)
        self._fingerprint = ""
        self._spare: list[Kept] = []
        self._account: Tally | None = None
        self._begin(0)
        while not self._buffer and not self._tally.complete:
            self._extend()

    def collect(self, policy: Policy, rows: int) -> Batch:
        chosen = self._drawn_rows(rows)
        if not chosen:
            self._begin(self._epoch + 1)
            chosen = self._drawn_rows(rows)
        return self._batch(chosen)

    def held_out(self) -> Batch | None:
        if self._evaluation is None:
            return None
        rows = limited(self._evaluation.rows, self._data.eval_limit)
        return self._batch(rows) if rows else None

    def prompts(self) -> Sequence[Prompt]:
        return self._eval_prompts

    def describe(self) -> Mapping[str, Any]:
        account = (self._account or self._tally).as_json()
        told = [
            f"{self._data.named}: {text}: {count} (counted in chunks of {CHUNK} rows)"
            for text, count in account["warnings"].items()
        ]
        held_out = self._evaluation
        if held_out is None:
            told.append("no rows are held out, so nothing is evaluated: a stream needs data.eval")
        return {
            "name": self._data.named,
            "kind": self._kind.name,
            **account,
            "warnings": told,
            "held_out_rows": len(held_out.rows) if held_out else 0,
            "fingerprint": self._fingerprint,
            **({"eval": held_out.report.as_json()} if held_out else {}),
        }

    def state(self) -> dict[str, Any]:
        return {
            "epoch": self._epoch,
            "drawn": self._drawn,
            "chunks": self._chunks,
            "taken": self._taken,
            "buffer": [[one.chunk, one.index] for one in self._buffer],
            "read": self._read,
            "fingerprint": self._fingerprint,
            "tally": self._tally.as_json(),
            "account": self._account.as_json() if self._account else None,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        if state["fingerprint"] != self._fingerprint:
            raise UserError(self._changed())
        self._begin(state["epoch"])
        self._drawn, self._taken = state["drawn"], state["taken"]
        self._buffer = self._again(state["chunks"], state["buffer"])
        if self._read != state["read"]:
            raise UserError(self._changed())
        self._tally = Tally(state["tally"])
        self._account = Tally(state["account"]) if state["account"] else None

    def _begin(self, epoch: int) -> None:
        """Go to the start of the table."""
        if epoch and self._account is None:
            self._account = self._tally
        self._epoch = epoch
        self._drawn = self._taken = self._chunks = 0
        self._buffer = []
        self._read = ""
        self._tally = Tally()
        self._rows = self._all_rows()

    def _all_rows(self) -> Iterator[Row | Dropped]:
        """Those of every table; of several they are numbered on."""
        names, last = self._data.tables, 0
        for name in names:
            table = open_table(name, self._kind, streaming=True)
            after = last
            for row in table.train if len(names) == 1 else placed(name, table.train):
                moved = numbered_on(row, after)
                last = moved.number if isinstance(moved, Row) else moved.row
                yield moved

    def _drawn_rows(self, count: int) -> list[Kept]:
        """The next rows of the epoch; fewer at its end, none after it."""
        chosen: list[Kept] = []
        while len(chosen) < count:
            while len(self._buffer) < self.config.buffer and not self._tally.complete:
                self._extend()
            if not self._buffer:
                break
            random = np.random.default_rng((self._seed, self._epoch, self._drawn))
            place = int(random.integers(len(self._buffer)))
            self._buffer[place], self._buffer[-1] = self._buffer[-1], self._buffer[place]
            chosen.append(self._buffer.pop().row)
            self._drawn += 1
        return chosen

    def _extend(self) -> None:
        """Put the next chunk into the buffer."""
        rows = self._next_rows()
        loaded = self._load(rows)
        if self._chunks == 0:
            self._look_at(loaded.rows)
        limit = self._data.limit
        wanted = loaded.rows if limit is None else loaded.rows[: limit - self._taken]
        self._buffer += [_Waiting(self._chunks, index, row) for index, row in enumerate(wanted)]
        self._taken += len(wanted)
        self._chunks += 1
        self._tally.add(loaded.report)
        self._tally.complete = len(rows) < CHUNK or self._taken == limit
        fault = self._tally.fault(self._data.named, self._kind.name, self._data.max_dropped)
        if fault:
            raise UserError(fault)

    def _look_at(self, rows: Sequence[Kept]) -> None:
        """Tell this table from others by its first rows, and keep rows of two prompts."""
        found = fingerprint(rows)
        if self._fingerprint not in ("", found):
            raise UserError(self._changed())
        self._fingerprint = found
        others = (row for row in rows if row.tokens.prompt != rows[0].tokens.prompt)
        self._spare = [*rows[:1], *islice(others, 1)]

    def _again(self, chunks: int, places: Iterable[Sequence[int]]) -> list[_Waiting]:
        """Read so many chunks, and tokenize those that rows in these places come from."""
        wanted = [(chunk, index) for chunk, index in places]
        remaining = set(wanted)
        needed = {chunk for chunk, _ in wanted}
        found: dict[tuple[int, int], Kept] = {}
        for chunk in range(chunks):
            rows = self._next_rows()
            if chunk in needed:
                usable = enumerate(self._load(rows).rows)
                found |= {
                    (chunk, index): row for index, row in usable if (chunk, index) in remaining
                }
        self._chunks = chunks
        if found.keys() != remaining:
            raise UserError(self._changed())
        return [_Waiting(chunk, index, found[chunk, index]) for chunk, index in wanted]

    def _next_rows(self) -> list[Row | Dropped]:
        """The next chunk as it is in the table; ``_read`` is a digest of all chunks so far."""
        rows = list(islice(self._rows, CHUNK))
        content = (self._read + repr(rows)).encode(errors="surrogatepass")
        self._read = hashlib.blake2b(content, digest_size=16).hexdigest()
        return rows

    def _load(self, rows: Sequence[Row | Dropped]) -> Loaded:
        return load(self._data.named, rows, self._kind, self._encoder, self._data)

    def _read_evaluation(self) -> Loaded | None:
        name = self._data.eval
        if name is None:
            return None
        table = open_table(name, self._kind)
        rows = table.train if table.held_out is None else table.held_out
        loaded = load(name, rows, self._kind, self._encoder, self._data)
        fault = loaded.report.fault(self._data.max_dropped)
        if fault:
            raise UserError(fault)
        return loaded

    def _changed(self) -> str:
        return f"{self._data.named}: the data is not what this run was trained on so far"

    def _batch(self, rows: Sequence[Kept]) -> Batch:
        others = chain((one.row for one in self._buffer), self._spare)
        try:
            batch = self._kind.stack([row.tokens for row in rows], (row.tokens for row in others))
        except ValueError as error:
            raise UserError(f"{self._data.named}: {error}: add rows with other prompts") from error
        return replace(batch, row_N=torch.tensor([row.row for row in rows]))


@hookimpl
def provide_sources() -> Sequence[type[StreamSource]]:
    return [StreamSource]

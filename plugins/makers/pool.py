"""The prompts of ``data.train`` that a maker answers, in the order of the run's seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge, Gt

from trimtab.core.options import Config
from trimtab.core.source import Setting
from trimtab.plugins.sources.corpus import read_corpus
from trimtab.plugins.sources.kinds import PROMPTS
from trimtab.plugins.sources.load import Kept
from trimtab.plugins.sources.split import fingerprint, order


class PoolConfig(Config):
    """Which prompts are answered."""

    prompts: Annotated[int, Gt(0)] | None = None
    """So many prompts, those after ``skip``; null is all, each once."""

    skip: Annotated[int, Ge(0)] = 0
    """Prompts that are passed over, in the order that ``train.seed`` shuffles them to.

    After the last comes the first again, so that round after round can take the next ones.
    """


@dataclass(frozen=True)
class Portion:
    """The prompts of one step."""

    epoch: int
    before: int
    """How many prompts come before them, those of earlier epochs too."""

    places: Sequence[int]
    """Of each prompt in the order. With the epoch it tells its random streams apart."""

    rows: Sequence[Kept]


class Pool:
    """The prompts, cut into steps. Nothing about a prompt depends on how they are cut."""

    def __init__(self, setting: Setting, config: PoolConfig) -> None:
        self.config = config
        self.corpus = read_corpus(setting.data, PROMPTS, setting.tokenizer)
        self.corpus.check()
        rows = self.corpus.train
        ordered = order(len(rows), setting.seed, 0)
        self.count = config.prompts or len(rows)
        self._places = range(config.skip, config.skip + self.count)
        self._rows = [rows[ordered[place % len(rows)]] for place in self._places]

    def steps(self, rows: int) -> int:
        """How many steps of so many prompts go through all of them."""
        return -(-self.count // rows)

    def of_step(self, step: int, rows: int) -> Portion:
        """The next prompts; after the last of them the first again, in another epoch."""
        epoch, index = divmod(step, self.steps(rows))
        those = slice(index * rows, (index + 1) * rows)
        before = epoch * self.count + index * rows
        return Portion(epoch, before, self._places[those], self._rows[those])

    def describe(self) -> dict[str, Any]:
        """The prompts that were read, and which of them are answered, as JSON."""
        return {
            **self.corpus.account(),
            "fingerprint": fingerprint(self.corpus.train),
            "prompts": self.count,
            "skip": self.config.skip,
        }

"""The contract of what makes a data set: the source of a stage that has no objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic

from typing_extensions import TypeVar

from trimtab.core.batches import Batch
from trimtab.core.options import Config
from trimtab.core.policy import Policy
from trimtab.core.source import Setting

C = TypeVar("C", bound=Config, default=Any)


@dataclass(frozen=True)
class Made:
    """What one step made. All of it is JSON."""

    rows: Sequence[Mapping[str, Any]]
    """In a standard format: ``prompt`` with ``completion``; ``chosen`` and ``rejected``;
    ``responses`` and ``scores``; and any other columns."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    samples: Sequence[Mapping[str, Any]] = ()
    """What was sampled and judged, for ``samples.jsonl``."""

    chains: Sequence[Mapping[str, Any]] = ()
    """How each row came about, for ``constitution.jsonl``: draft, critiques, revisions."""

    notes: Sequence[str] = ()
    """What the user should know."""

    read: int = 0
    """Rows of the data that the step went through: those of which something was made, and
    ``dropped``."""

    dropped: Sequence[Mapping[str, Any]] = ()
    """Each row of which nothing was made: ``row``, its number as the user counts, and
    ``reason``."""

    counts: Mapping[str, int] = field(default_factory=dict)
    """Of whatever else is counted, such as completions left out by reason; added up over the
    steps."""


class Maker(ABC, Generic[C]):
    """Makes a data set in steps. Selected by ``source: {name: ...}``, like sources.

    A step's rows depend on its number, on the run file and on the policy, and on nothing that an
    earlier step left behind: the rows of finished steps are on the disk, and a run that was killed
    goes on with the next. Every process of a run calls ``make`` alike and gets the same rows;
    ``finish`` is called in the main process, and sees all of them.
    """

    name: ClassVar[str]
    options: ClassVar[type[Config]]

    samples: ClassVar[bool] = False
    """Does it sample from the policy? Otherwise no model is loaded, unless a reward wants one."""

    renewed: ClassVar[bool] = False
    """Does going through the data once more make other rows? Otherwise once is all there is."""

    group: ClassVar[int] = 1
    """Completions of each prompt, where ``rollout.group`` does not say."""

    def __init__(self, config: C) -> None:
        self.config = config

    @classmethod
    def serves(cls, batch: type[Batch]) -> bool:
        """It makes no batches."""
        return False

    @property
    def scores(self) -> bool:
        """Does it ask the run's rewards, with these options? Otherwise none is opened."""
        return True

    @property
    def judges(self) -> bool:
        """Does it ask the run's judge, with these options? Otherwise none is opened."""
        return False

    @abstractmethod
    def open(self, setting: Setting) -> None:
        """Read what there is to read. Raises ``UserError`` with every fault of it."""

    @abstractmethod
    def steps(self, rows: int) -> int:
        """How many steps it takes, so many rows at a time, to go through the data once."""

    @abstractmethod
    def make(self, policy: Policy | None, step: int, rows: int) -> Made:
        """What step number ``step`` makes, counted from 0."""

    def finish(self, rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """The data set, given the rows of all steps in their order: a choice among them, say."""
        return rows

    def figures(self, counts: Mapping[str, int]) -> Mapping[str, Any]:
        """What follows from the counts of all steps, added up, as JSON for ``data.json``."""
        return {}

    def effects(self, chains: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
        """What follows from the chains of all steps, in their order, as JSON for ``data.json``."""
        return {}

    def describe(self) -> Mapping[str, Any]:
        """What was read and what is made of it, as JSON for the run directory.

        It is asked again after ``finish``, and must not depend on which steps this process made.
        """
        return {}

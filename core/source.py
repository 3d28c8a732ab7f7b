"""Where rows come from: the only difference between offline and online objectives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic

from typing_extensions import TypeVar

from trimtab.core.batches import Batch
from trimtab.core.config import DataConfig, RolloutConfig
from trimtab.core.options import Config
from trimtab.core.processes import Processes

if TYPE_CHECKING:
    from trimtab.core.engine import Engine
    from trimtab.core.judge import Judge
    from trimtab.core.policy import Policy
    from trimtab.core.rewards import Rewards

C = TypeVar("C", bound=Config, default=Any)


@dataclass(frozen=True)
class Setting:
    """What a source is told of the run it serves."""

    batch: type[Batch]
    """The kind of rows that the objective learns from."""

    data: DataConfig
    tokenizer: Any
    """A transformers tokenizer, with its chat template."""

    seed: int
    rollout: RolloutConfig
    rows: int = 1
    """How many are collected at a time; ``collect`` may ask for fewer."""

    group: int = 1
    """Completions of each prompt, where they are sampled."""

    engine: Engine | None = None
    """Generates; it is opened after the source, and before the first ``collect``."""

    rewards: Rewards | None = None
    """Score what was generated; opened as the engine is. None where the run file has none."""

    judge: Judge | None = None
    """Compares or scores what was generated; None where the run file has none."""

    directory: Path | None = None
    """Of the run, for what the user is to see and to fill in; None where there is none."""

    processes: Processes = field(default_factory=Processes)
    shared: dict[str, Any] = field(default_factory=dict)
    """What the sources of one run may leave for each other: a data set is read once."""


@dataclass(frozen=True)
class Prompt:
    """Something to answer."""

    row: int
    """Its number in the data, as the user counts."""

    ids: tuple[int, ...]
    content: Any
    """As the data has it: text, or turns with role and content."""

    columns: Mapping[str, Any] = field(default_factory=dict)
    """The row's other columns, for those who judge the answer."""


class Source(ABC, Generic[C]):
    """Gives the loop its rows: the next ones of a data set, or generated and scored ones.

    Every process of a run calls ``collect`` alike and gets the same whole batch.
    """

    name: ClassVar[str]
    options: ClassVar[type[Config]]

    judges: bool = False
    """It asks the run's judge; otherwise none is opened for it."""

    fixed: ClassVar[bool] = False
    """Rows come from a data set, so what is computed of them may be cached on disk."""

    unit: int = 1
    """Rows that belong together: the loop asks for whole units only, so never for more than it
    wants. It may be set by ``open``."""

    def __init__(self, config: C) -> None:
        self.config = config

    @classmethod
    @abstractmethod
    def serves(cls, batch: type[Batch]) -> bool:
        """Can it make batches of this kind?"""

    @abstractmethod
    def open(self, setting: Setting) -> None:
        """Read what there is to read. Raises ``UserError`` with every fault of the data."""

    @abstractmethod
    def collect(self, policy: Policy, rows: int) -> Batch:
        """The next rows, without computed columns; fewer than asked for at an epoch's end."""

    @abstractmethod
    def held_out(self) -> Batch | None:
        """The rows kept aside for evaluation, or None where there are none."""

    def prompts(self) -> Sequence[Prompt]:
        """Held-out prompts to answer in an evaluation, beside those of ``held_out``."""
        return ()

    def metrics(self) -> Mapping[str, float]:
        """Of what ``collect`` gave since the last call: rewards, lengths. The log has them."""
        return {}

    def samples(self, batch: Batch | None) -> Sequence[Mapping[str, Any]]:
        """What was collected since the last call, as JSON for ``samples.jsonl``; may be none.

        First what is in the batch that is trained on, if there is one, then what is not in it. Of
        ``Rollouts`` each row is one of them, in the order of the rows.
        """
        return ()

    def notes(self) -> Sequence[str]:
        """What the user should know of what was collected since the last call."""
        return ()

    def steps_per_epoch(self, rows: int) -> int | None:
        """How many batches one pass over the data makes; None where there is no such thing."""
        return None

    def longest(self) -> Batch | None:
        """The row that needs the most tokens, to measure with; None where nobody knows it."""
        return None

    def describe(self) -> Mapping[str, Any]:
        """What was read, kept and dropped, as JSON for the run directory."""
        return {}

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """The position, as JSON for a checkpoint."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a position that ``state()`` gave."""

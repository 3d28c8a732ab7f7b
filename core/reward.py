"""One interface for every reward: functions, models, judges and verifiers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic

from typing_extensions import TypeVar

from trimtab.core.engine import Completion
from trimtab.core.options import Config

if TYPE_CHECKING:
    from trimtab.core.config import ModelConfig
    from trimtab.core.judge import Judge
    from trimtab.core.lm import LanguageModel

C = TypeVar("C", bound=Config, default=Any)


@dataclass(frozen=True)
class Score:
    """What a reward says of one completion."""

    value: float | None
    """None is "cannot judge": the completion leaves its group's statistics."""

    parts: Mapping[str, float | None] = field(default_factory=dict)
    """Named summands, for the log."""

    why: str | None = None
    """Why it cannot judge."""

    said: Mapping[str, Any] = field(default_factory=dict)
    """What was said of it, as JSON for ``samples.jsonl``: a judge's words."""


@dataclass(frozen=True)
class Group:
    """One prompt and its completions, which are scored together so that ranks and pairs fit."""

    prompt: str
    """As text, without special tokens."""

    completions: Sequence[str]
    """As text, without special tokens."""

    columns: Mapping[str, Any] = field(default_factory=dict)
    """The row's other columns, such as a reference answer."""

    content: Any = None
    """The prompt as the data has it: text, or turns with role and content."""

    sampled: Sequence[Completion] = ()
    """The completions as token ids; each knows the prompt's ids, and whether it is truncated."""


class WrongCount(ValueError):
    """A reward's code did not answer with one score for each completion."""


@dataclass(frozen=True)
class RewardSetting:
    """What a reward is told of the run it serves."""

    model: ModelConfig
    policy: LanguageModel
    tokenizer: Any
    seed: int
    judge: Judge | None = None
    """The run's, opened, for a reward that ``judges``; None where the run file has none."""

    group: int | None = None
    """Completions of each prompt, where the run file says how many."""


class Reward(ABC, Generic[C]):
    """Scores groups of completions."""

    name: ClassVar[str]
    options: ClassVar[type[Config]]

    interruptible: bool = True
    """``score`` may be left behind on a thread of its own when it takes too long.

    False runs it to its end, however long, in the main thread: for what uses the run's own model,
    or signals.
    """

    independent: bool = False
    """No completion's score depends on another completion.

    When a call raises, such a reward is asked again completion by completion; others are asked
    again group by group.
    """

    judges: bool = False
    """It asks the run's judge."""

    def __init__(self, config: C) -> None:
        self.config = config

    def adapters(self, model: ModelConfig) -> Mapping[str, Path]:
        """Trained adapters that it wants, frozen, as roles on the run's own base; by role."""
        return {}

    def open(self, setting: RewardSetting) -> None:
        """Load what is needed. Raises ``UserError`` when it cannot serve this run."""

    @abstractmethod
    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        """One score a completion, in the order of the groups and of their completions."""

    def counts(self) -> dict[str, int]:
        """What it cost or met since the last call; whatever adds up over calls and processes."""
        return {}

    def figures(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Measures that follow from such counts, added up over a step, for the log."""
        return {}

    def describe(self) -> Mapping[str, Any]:
        """What it is, as JSON for the run directory: how well a classifier was fitted, say."""
        return {}

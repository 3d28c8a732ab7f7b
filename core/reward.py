"""One interface for every reward: functions, models, judges and verifiers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic

from typing_extensions import TypeVar

from trimtab.core.options import Config

C = TypeVar("C", bound=Config, default=Any)


@dataclass(frozen=True)
class Score:
    """What a reward says of one completion."""

    value: float | None
    """None is "cannot judge": the completion leaves its group's statistics."""

    parts: Mapping[str, float] = field(default_factory=dict)
    """Named summands, for the log."""


@dataclass(frozen=True)
class Group:
    """One prompt and its completions, which are scored together so that ranks and pairs fit."""

    prompt: str
    completions: Sequence[str]
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The row's other columns, such as a reference answer."""


class Reward(ABC, Generic[C]):
    """Scores groups of completions."""

    name: ClassVar[str]
    options: ClassVar[type[Config]]

    def __init__(self, config: C) -> None:
        self.config = config

    @abstractmethod
    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        """One score a completion, in the order of the groups and of their completions."""

"""One interface for AI feedback: compare two completions, or score one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic

from typing_extensions import TypeVar

from trimtab.core.options import Config

C = TypeVar("C", bound=Config, default=Any)


@dataclass(frozen=True)
class Comparison:
    """What a judge is asked: which of two completions is better."""

    prompt: str
    first: str
    second: str


@dataclass(frozen=True)
class Verdict:
    """What a judge answered."""

    value: float | None
    """P(first is better) of a comparison, or the score; None is an abstention, never a default."""

    said: Sequence[str]
    """All that it said, in the order in which it was asked."""


class Judge(ABC, Generic[C]):
    """Compares in both orders, or scores against a rubric."""

    name: ClassVar[str]
    options: ClassVar[type[Config]]

    def __init__(self, config: C) -> None:
        self.config = config

    @abstractmethod
    def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """One verdict a pair, asked in both orders."""

    @abstractmethod
    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[Verdict]:
        """One verdict a completion."""

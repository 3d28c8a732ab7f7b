"""What judges that are chat models have in common: prompts, both orders, parsing, expectation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge, Gt
from typing_extensions import TypeVar

from trimtab.core.judge import Comparison, Judge, Mode, Rating, Verdict
from trimtab.core.options import Config, LocalPath
from trimtab.plugins.judges.question import Answer, Question


class ChatConfig(Config):
    """What a chat model is asked as a judge, and what its answers count for."""

    mode: Mode = "compare"
    """What it is asked where either would do: which of two completions is better, or how good one
    is from 1 to 10."""

    reason: bool = False
    """Let it think first, in writing; what counts is asked for after that."""

    reason_tokens: Annotated[int, Gt(0)] = 256
    """Tokens of its reasoning, at most."""

    temperature: Annotated[float, Ge(0)] = 0.0
    """Of what it writes: reasoning, critiques; 0 takes the likeliest token each time. Verdicts
    are never drawn."""

    disagreement: Literal["tie", "average"] = "tie"
    """Where the two orders of a pair name different winners: a tie, P = 1/2; or the mean of the
    two probabilities, as Lee et al. 2023 have it. They differ for soft labels only."""

    question: str | None = None
    """What is asked of two completions; null is which one is better."""

    rubric: str | None = None
    """What one completion is held against; null is how helpful and correct it is."""

    template: Annotated[str | None, LocalPath()] = None
    """A file of prompts in place of those that come with trimtab."""


C = TypeVar("C", bound=ChatConfig, default=ChatConfig)


class ChatJudge(Judge[C]):
    """Asks a chat model in words. Those who derive from it say how the model is reached."""

    @abstractmethod
    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """One answer a question, in their order. A question with options is answered by their
        log-probs where the model says them all, else by a short text."""

    def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        raise NotImplementedError

    def score(self, ratings: Sequence[Rating]) -> list[Verdict]:
        raise NotImplementedError

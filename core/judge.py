"""One interface for AI feedback: compare two completions, rate one, or write a text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal

from typing_extensions import TypeVar

from trimtab.core.errors import UserError
from trimtab.core.options import Config

if TYPE_CHECKING:
    from trimtab.core.config import ModelConfig
    from trimtab.core.lm import LanguageModel

C = TypeVar("C", bound=Config, default=Any)

Mode = Literal["compare", "score"]


@dataclass(frozen=True)
class Comparison:
    """Which of two completions is better?"""

    prompt: str
    first: str
    second: str
    question: str | None = None
    """What is asked of the two, such as a principle's ``compare``; None is the judge's own."""


@dataclass(frozen=True)
class Rating:
    """How good is a completion?"""

    prompt: str
    completion: str
    question: str | None = None
    """What it is held against, such as a written specification; None is the judge's own."""


@dataclass(frozen=True)
class Verdict:
    """What a judge answered."""

    value: float | None
    """P(first is better) of a comparison, or the score; None is an abstention, never a default."""

    said: Sequence[str] = ()
    """All that it said, in the order in which it was asked."""

    orders: Sequence[float | None] = ()
    """Of a comparison: P(first is better) as it is when shown first, and when shown second."""

    why: str | None = None
    """Why it abstained."""


@dataclass(frozen=True)
class JudgeSetting:
    """What a judge is told of the run it serves."""

    model: ModelConfig
    tokenizer: Any
    seed: int
    policy: LanguageModel | None = None
    """The run's own model; only ``shares_base`` makes sure that there is one."""

    directory: Path | None = None
    """Of the run, for what the judge keeps there; None where there is none."""


class Judge(ABC, Generic[C]):
    """Compares completions, rates them, and may write.

    A plugin derives from it, in a file that the run file names under ``plugins``, or installed:

        from trimtab import Config, Judge, Verdict, hookimpl


        class Shorter(Judge[Config]):
            name = "acme.shorter"
            options = Config

            def compare(self, comparisons):
                return [self._verdict(one) for one in comparisons]

            def score(self, ratings):
                return [Verdict(10 / (1 + len(one.completion))) for one in ratings]

            def _verdict(self, pair):
                gap = len(pair.second) - len(pair.first)
                return Verdict(0.5 if gap == 0 else float(gap > 0), said=[f"by {gap}"])


        @hookimpl
        def provide_judges():
            return [Shorter]

    and is asked with ``judge: {name: acme.shorter}``. ``trimtab.testing.check_judge`` tells what
    it does wrong. One that asks a chat model derives from ``ChatJudge`` of
    ``trimtab.plugins.judges.chat``, and writes ``ask`` alone.

    Several processes of a run have a judge each, and share what is asked. A judge that cannot be
    reached raises ``RunError``: what it said so far must be kept, so that a resumed run does not
    ask it again.
    """

    name: ClassVar[str]
    options: ClassVar[type[Config]]

    shares_base: bool = False
    """Does it read the run's own model, which must be loaded then?"""

    mode: Mode = "compare"
    """What it is asked where either would do."""

    def __init__(self, config: C) -> None:
        self.config = config

    def check(self) -> None:
        """Raise ``UserError`` for what is known to be missing before a run begins, such as a key.

        Nothing is loaded, and nobody is asked: ``open`` may come hours later.
        """

    def open(self, setting: JudgeSetting) -> None:
        """Prepare to serve a run. Raises ``UserError`` when it cannot."""
        self.setting = setting

    @abstractmethod
    def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """One verdict a pair, asked in both orders."""

    @abstractmethod
    def score(self, ratings: Sequence[Rating]) -> list[Verdict]:
        """One verdict a completion."""

    def write(self, conversations: Sequence[Sequence[Mapping[str, str]]]) -> list[str | None]:
        """The next turn of each conversation of ``role`` and ``content``; None where it has none.

        For judges that criticize and revise. Not every one can.
        """
        raise UserError(f"the judge {self.name!r} compares and rates, and does not write")

    def counts(self) -> dict[str, int]:
        """What was asked since the last call: ``requests``, ``cached``, ``prompt_tokens``,
        ``completion_tokens``; whatever adds up."""
        return {}

    def describe(self) -> Mapping[str, Any]:
        """What it is, as JSON for the run directory: model, templates with their hashes."""
        return {"name": self.name}

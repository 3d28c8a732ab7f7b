"""How one answer came about: a draft, and in rounds a principle, a critique and a revision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trimtab.core.engine import Completion
from trimtab.core.reward import Group, Score
from trimtab.plugins.makers.columns import told
from trimtab.plugins.sources.load import Kept


@dataclass
class Round:
    """One principle, and what was written for it."""

    principle: str
    critique: str | None = None
    revision: str | None = None
    why: str | None = None
    """Why the answer stays as it was; None where the revision took its place."""

    score: Score | None = None
    """Of the answer after it."""

    def as_json(self, counting: bool) -> dict[str, Any]:
        """For ``constitution.jsonl``."""
        return {
            "principle": self.principle,
            "critique": self.critique,
            "revision": self.revision,
            "kept": self.why is None,
            "why": self.why,
            **_scored("", self.score, counting),
        }


@dataclass
class Chain:
    """The answers to one prompt, from the draft on."""

    row: Kept
    place: int
    """Of the prompt in the order; its random streams follow from it."""

    draft: Completion
    answers: list[str]
    """The draft, and each revision that took the place of the answer before it."""

    sampled: list[Completion]
    """The same, as tokens after the prompt: those of the draft as they were drawn."""

    rounds: list[Round] = field(default_factory=list)
    lost: str | None = None
    """Why nothing is made of it."""

    scores: list[Score] = field(default_factory=list)
    """Of ``answers``, where the run has rewards."""

    @property
    def final(self) -> str:
        """The answer as it is now."""
        return self.answers[-1]

    @property
    def changed(self) -> bool:
        """Is it another than the draft?"""
        return self.final.strip() != self.answers[0].strip()

    def lose(self, why: str) -> None:
        """Nothing is made of it."""
        self.lost = why
        if self.rounds:
            self.rounds[-1].why = why

    def group(self, prompt: str) -> Group:
        """The answers as rewards are shown them, all at once."""
        columns = self.row.columns or {}
        return Group(prompt, self.answers, columns, self.row.asked, self.sampled)

    def scored(self, scores: list[Score]) -> None:
        """Note the rewards of its answers, and each round's."""
        self.scores, now = scores, 0
        for each in self.rounds:
            now += each.why is None
            each.score = scores[now]

    def as_json(self, counting: bool) -> Mapping[str, Any]:
        """For ``constitution.jsonl``. ``counting`` says that the sum of the rewards is one."""
        assert self.row.asked is not None
        found: dict[str, Any] = {
            "row": self.row.row,
            "prompt": told(self.row.asked),
            "draft": self.answers[0],
            "rounds": [each.as_json(counting) for each in self.rounds],
            "final": self.final,
        }
        scores: list[Score | None] = [*self.scores] or [None]
        found |= _scored("draft_", scores[0], counting)
        found |= _scored("final_", scores[-1], counting)
        return {**found, "dropped": self.lost} if self.lost else found


def _scored(before: str, score: Score | None, counting: bool) -> dict[str, Any]:
    """What the rewards say of an answer: ``reward``, their sum, and ``parts``, each by itself."""
    total = {f"{before}reward": None if score is None else score.value} if counting else {}
    parts = {f"{before}parts": dict(score.parts)} if score is not None else {}
    return {**total, **parts}

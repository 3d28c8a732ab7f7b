"""Rewards that can be checked: an exact answer, a format, mathematics, tasks, instructions."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from trimtab.core.errors import suggestion
from trimtab.core.guard import raised
from trimtab.core.hookspecs import hookimpl
from trimtab.core.options import Config
from trimtab.core.reward import Group, Reward, RewardSetting, Score
from trimtab.plugins.rewards.answers import PATTERNS, SECONDS, Extract, compiled, plain
from trimtab.plugins.rewards.checkers import Instructions, Mathematics, ReasoningGym, entry_of

KIND = Literal["exact", "regex", "math_verify", "reasoning_gym", "if_verifiable"]

OPTIONS: dict[str, tuple[str, ...]] = {
    "exact": ("column", "extract", "ignore"),
    "regex": ("pattern", "match"),
    "math_verify": ("column", "extract"),
    "reasoning_gym": ("column", "extract", "task"),
    "if_verifiable": ("measure",),
}
"""Which options belong to which kind."""


class VerifierConfig(Config):
    """What is checked."""

    kind: KIND
    """exact: equal to a column. regex: of a format. math_verify: equal expressions.
    reasoning_gym: as a task of that package scores it. if_verifiable: IFEval's instructions, in
    the columns instruction_id_list and kwargs.
    """

    column: str = ""
    """Holds the expected answer, or a list of good ones; for reasoning_gym the whole entry.

    Empty is ``answer``, for reasoning_gym ``entry``.
    """

    extract: str = "whole"
    """Where the answer is: whole, last_line, tag (``<answer>...</answer>``), boxed, or a regular
    expression, whose last match and first group count.
    """

    ignore: list[Literal["case", "space", "punctuation"]] = Field(default_factory=list)
    """What exact does not compare."""

    pattern: str | None = None
    """The regular expression of regex."""

    match: Literal["full", "search"] = "full"
    """Must the whole completion match, or some of it?"""

    task: str | None = None
    """Of reasoning_gym; null is what the entry's metadata says."""

    measure: Literal["partial_strict", "partial_loose", "binary_strict", "binary_loose"] = (
        "partial_strict"
    )
    """Of if_verifiable: the share of instructions followed, or 1 where all are; loose forgives
    first and last lines and asterisks.
    """

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        known = OPTIONS[self.kind]
        for name, field in type(self).model_fields.items():
            default = field.get_default(call_default_factory=True)
            if name not in ("kind", *known) and getattr(self, name) != default:
                has = ", ".join(known)
                raise ValueError(f"{name!r} is no option of {self.kind}, which has {has}")
        if (self.pattern is None) == (self.kind == "regex"):
            raise ValueError("kind regex needs 'pattern'")
        if self.pattern is not None:
            compiled(self.pattern)
        Extract(self.extract)
        if self.extract.isidentifier() and self.extract not in ("whole", "last_line", *PATTERNS):
            near = suggestion(self.extract, ["whole", "last_line", *PATTERNS])
            raise ValueError(f"'extract' knows no {self.extract!r}.{near}")
        return self


class VerifierReward(Reward[VerifierConfig]):
    """1 where the check passes, else 0; reasoning_gym and if_verifiable also give parts of 1.

    A completion without an answer is wrong: 0, and 0 in the part ``answered``. A row without what
    it takes to check gives no score. Each pattern has 2 s a completion, and math-verify 5 s.
    """

    name = "verifier"
    options = VerifierConfig
    independent = True

    def __init__(self, config: VerifierConfig) -> None:
        super().__init__(config)
        main = threading.current_thread() is threading.main_thread()
        self.interruptible = not (config.kind == "math_verify" and main)
        self._extract = Extract(config.extract)

    def open(self, setting: RewardSetting) -> None:
        kind, config = self.config.kind, self.config
        self._mathematics = Mathematics() if kind == "math_verify" else None
        self._gym = ReasoningGym(config.task) if kind == "reasoning_gym" else None
        self._instructions = Instructions(config.measure) if kind == "if_verifiable" else None
        self._pattern = compiled(config.pattern) if config.pattern is not None else None

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        return [[self._guarded(text, group) for text in group.completions] for group in groups]

    def describe(self) -> Mapping[str, Any]:
        return self.config.model_dump(include={"kind", *OPTIONS[self.config.kind]})

    def _guarded(self, text: str, group: Group) -> Score:
        try:
            return self._score(text, group)
        except Exception as error:  # of a checker, on this row
            return Score(None, why=raised(error))

    def _score(self, text: str, group: Group) -> Score:
        if self._pattern is not None:
            full = self.config.match == "full"
            search = self._pattern.fullmatch if full else self._pattern.search
            found = search(text, timeout=SECONDS)
            return Score(float(found is not None))
        if self._instructions is not None:
            return self._instructions(text, group.columns, group.prompt)
        if self._gym is not None:
            expected: Any = entry_of(group.columns, self.config.column or "entry")
        else:
            expected = self._expected(group)
        answer = self._extract(text)
        if answer is None:
            return Score(0.0, {"answered": 0.0})
        score = self._checked(answer, expected)
        return Score(score.value, {**score.parts, "answered": 1.0}, score.why)

    def _checked(self, answer: str, expected: Any) -> Score:
        if self._gym is not None:
            return self._gym(answer, expected)
        if self._mathematics is not None:
            return self._mathematics(answer, expected)
        ignore = set(self.config.ignore)
        good = expected if isinstance(expected, list | tuple) else [expected]
        return Score(float(plain(answer, ignore) in {plain(str(one), ignore) for one in good}))

    def _expected(self, group: Group) -> Any:
        column = self.config.column or "answer"
        if group.columns.get(column) is None:
            columns = ", ".join(group.columns) or "none"
            near = suggestion(column, group.columns)
            raise ValueError(f"the row has nothing in {column!r}.{near} Its columns: {columns}")
        return group.columns[column]


@hookimpl
def provide_rewards() -> list[type]:
    """Register verifier."""
    return [VerifierReward]

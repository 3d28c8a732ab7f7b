"""How long a completion is, as a reward: a target, a limit, or DAPO's soft overlong punishment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import model_validator

from trimtab.core.hookspecs import hookimpl
from trimtab.core.options import Config, PositiveInt
from trimtab.core.reward import Group, Reward, Score


class LengthConfig(Config):
    """What length is asked for: give ``target``, or ``limit`` with or without ``buffer``."""

    target: PositiveInt | None = None
    """The closer to it the better."""

    limit: PositiveInt | None = None
    """Up to it is free."""

    buffer: PositiveInt | None = None
    """With it ``limit`` is DAPO's soft overlong punishment, which grows over so many before it."""

    unit: Literal["tokens", "characters", "words"] = "tokens"
    """What is counted. An end-of-turn action counts as a token."""

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.target is None) == (self.limit is None):
            raise ValueError("give either 'target' or 'limit'")
        if self.buffer is not None and (self.limit is None or self.buffer >= self.limit):
            raise ValueError("'buffer' belongs to a 'limit' that is larger")
        return self


class LengthReward(Reward[LengthConfig]):
    """A reward of at most 0 for n tokens, characters or words.

        target T:           -|n - T| / T
        limit L:            -max(0, n - L) / L
        limit L, buffer B:  0 up to L - B, then (L - B - n) / B, and -1 above L

    The last is equation 13 of Yu et al. 2025, "DAPO", arXiv:2503.14476.
    """

    name = "length"
    options = LengthConfig
    independent = True

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        return [
            [Score(self._reward(self._length(group, i))) for i in range(len(group.completions))]
            for group in groups
        ]

    def describe(self) -> Mapping[str, Any]:
        return self.config.model_dump(exclude_none=True)

    def _length(self, group: Group, index: int) -> int:
        if self.config.unit == "tokens":
            return len(group.sampled[index].tokens)
        text = group.completions[index]
        return len(text) if self.config.unit == "characters" else len(text.split())

    def _reward(self, length: int) -> float:
        target, limit, buffer = self.config.target, self.config.limit, self.config.buffer
        if target is not None:
            return -abs(length - target) / target
        assert limit is not None  # as the options are checked
        if buffer is None:
            return -max(0, length - limit) / limit
        return max(-1.0, min(0, limit - buffer - length) / buffer)


@hookimpl
def provide_rewards() -> list[type]:
    """Register length."""
    return [LengthReward]

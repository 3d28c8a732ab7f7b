"""What a row says of its completions, beyond their texts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Preference:
    """The first of two completions is probably better."""

    probability: float
    """P(the first completion is better), in [0.5, 1]."""


@dataclass(frozen=True, slots=True)
class Label:
    """Thumbs up or down for one completion."""

    desirable: bool


@dataclass(frozen=True, slots=True)
class Ranking:
    """Which of any two completions is better; a best one is the first."""

    better: tuple[tuple[float | None, ...], ...]
    """P(completion i is better than j); None where the two were not compared, and for i = j."""

    margin: float | None = None
    """By how much the first of two is better than the second, in the raters' units."""


Said = Preference | Label | Ranking | None
"""None: the order of the completions says it all."""


def digested(said: Said) -> bytes:
    """What tells it from all others, for the digest of a row.

    A preference is digested as its number, as rows were before there were other kinds: a run that
    began then goes on with the same rows.
    """
    return repr(said.probability if isinstance(said, Preference) else said).encode()

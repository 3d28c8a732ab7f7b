"""What an endpoint's most likely tokens say of each option: all of them exactly, or nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NEGLIGIBLE = 1e-4
"""A mass that two options share without a known border; smaller than this, it does not count."""

SURE = math.log(0.99)
"""A blank token that is written with at least this log-prob comes before the answer itself."""

_BLANKS = " \t\r\n▁Ġ"
"""What may precede a word within its token; the last two as some tokenizers write a space."""


@dataclass(frozen=True)
class Position:
    """One token of a text, and the most likely ones in its place."""

    token: str
    logp: float
    top: Sequence[tuple[str, float]]
    """(token, log-prob) of each."""


def positions_of(logprobs: object) -> list[Position]:
    """What the API calls ``logprobs``; as far as it can be read."""
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    found = []
    for entry in content if isinstance(content, list) else ():
        one = _listed(entry)
        if one is None:
            break
        top = entry.get("top_logprobs")
        listed = [_listed(each) for each in top] if isinstance(top, list) else []
        found.append(Position(*one, [each for each in listed if each is not None]))
    return found


def option_logps(positions: Sequence[Position], options: Sequence[str]) -> dict[str, float] | None:
    """log P(the answer is o) of every option o, in nats; None where one of them is not known.

    P(o) sums over the listed tokens that are o but for blanks before it. Where the token of an
    option begins a longer option too (a tokenizer that splits digits writes 10 as 1, 0), its mass
    is split by the next position's list, which only says that after the token that was written:
    P(10) = P(1) P(0 | 1), P(1) = P(1) (1 - sum over digits d of P(d | 1)). Else it is not known,
    unless all of it is less than ``NEGLIGIBLE``: then each of the two gets half of it.
    """
    before = 0.0
    while positions and not positions[0].token.strip(_BLANKS) and positions[0].logp >= SURE:
        before += positions[0].logp
        positions = positions[1:]
    if not positions:
        return None
    listed: dict[str, float] = {}
    for token, logp in positions[0].top:
        _add(listed, token.lstrip(_BLANKS), before + logp)
    found: dict[str, float] = {option: listed[option] for option in options if option in listed}
    for option in options:
        longer = [each for each in options if each != option and each.startswith(option)]
        unlisted = [each for each in longer if each not in listed]
        if not unlisted or option not in listed:
            continue
        split = _split(positions, option, unlisted, listed[option])
        if split is None:
            return None
        found |= split
    return {o: found[o] for o in options} if all(o in found for o in options) else None


def _split(
    positions: Sequence[Position], option: str, longer: Sequence[str], whole: float
) -> dict[str, float] | None:
    """The mass of a token shared out to the option that it is and the one that it begins."""
    if len(longer) > 1:
        return None
    if math.exp(whole) < NEGLIGIBLE:
        return {option: whole - math.log(2), longer[0]: whole - math.log(2)}
    if positions[0].token.lstrip(_BLANKS) != option or len(positions) < 2:
        return None
    rest = longer[0].removeprefix(option)
    after = [(token, logp) for token, logp in positions[1].top if token[:1].isdigit()]
    goes_on = [logp for token, logp in after if token == rest]
    stays = 1 - math.fsum(math.exp(logp) for _, logp in after)
    if not goes_on or stays <= 0:
        return None
    return {option: whole + math.log(stays), longer[0]: whole + goes_on[0]}


def _listed(entry: object) -> tuple[str, float] | None:
    """The token and its log-prob, where both are sound."""
    if not isinstance(entry, Mapping):
        return None
    token, logp = entry.get("token"), entry.get("logprob")
    if not isinstance(token, str) or not isinstance(logp, int | float):
        return None
    if not math.isfinite(logp) or logp > 1e-3:
        return None
    return token, min(float(logp), 0.0)


def _add(masses: dict[str, float], token: str, logp: float) -> None:
    """log(exp(a) + exp(b)), for the same token with and without a blank."""
    if token in masses:
        high, low = max(masses[token], logp), min(masses[token], logp)
        logp = min(high + math.log1p(math.exp(low - high)), 0.0)
    masses[token] = logp

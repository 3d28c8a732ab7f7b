"""From what a model answered to probabilities of the options; or why that cannot be done."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from trimtab.plugins.judges.question import Answer

BEFORE = " \t\r\n\v\f\x1c\x1d\x1e\x85\xa0\u2028\u2029\"'`*_~#>([{:=\u2018\u201c\u00ab"
"""White space, quotes, markup and brackets that may stand before an option."""

AFTER = " \t\r\n\v\f\x1c\x1d\x1e\x85\xa0\u2028\u2029\"'`*_~)]}.,:;!\u2019\u201d\u00bb"
"""The like that may stand after it, and what ends a sentence."""

PREFIX = re.compile(
    r"(?:final\x20)?(?:answer|response|option|choice|verdict|rating|score)(?![^\W_])", re.I
)
"""A word that may stand before an option, or two of them: ``Answer: Response 1``."""

PAIRS = (("1", "2"), ("A", "B"), ("X", "Y"), ("P", "Q"))
"""The two answers of a comparison, those that are asked for first where they are free."""

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Reading:
    """An answer as it is understood."""

    shares: Mapping[str, float] | None
    """The probability of each option; None where the answer says none."""

    said: str
    """In words, for people."""

    why: str | None = None
    """Why there are none."""

    parsed: str | None = None
    """The option that was written, where that is what counts."""


def parse(text: str, options: Sequence[str]) -> str | None:
    """The option that the whole text is, but for white space, quotes, markup, a full stop and
    such a word as "Answer:" before it; nothing is looked for within other words.

    >>> options = ("1", "2")
    >>> parse("**2**.", options), parse("Answer: Response 1", options), parse("1 or 2", options)
    ('2', '1', None)
    """
    rest = text.rstrip(AFTER).lstrip(BEFORE)
    for _ in range(2):
        if rest not in options and (prefix := PREFIX.match(rest)):
            rest = rest[prefix.end() :].lstrip(BEFORE)
    return rest if rest in options else None


def read(answer: Answer, options: Sequence[str]) -> Reading:
    """By the log-probs of the options, normalized, where the model says them all; else by its
    text, which gives one option all."""
    if answer.logps is not None and all(option in answer.logps for option in options):
        return _by_logps([answer.logps[option] for option in options], options)
    if answer.text is None or not answer.text.strip():
        return Reading(None, answer.text or "", answer.why or "it said nothing")
    option = parse(answer.text, options)
    if option is None:
        named = {word for word in words(answer.text) if word in options}
        why = f"it names {len(named)} options" if len(named) > 1 else "it is none of the options"
        return Reading(None, answer.text, f"{_short(answer.text)}: {why}")
    return Reading({each: float(each == option) for each in options}, answer.text, parsed=option)


def pair_for(texts: Sequence[str], question: str, seed: int) -> tuple[str, str]:
    """Two answers to ask for that no text holds as a word, and no line of the question is.

    A judge that repeats the texts, a line or a word of them, then says neither; and what a text
    tells it to answer is not the answer that counts.

    >>> pair_for(["I am number 1.", "Two"], "Which?", 0)
    ('A', 'B')
    """
    taken = {word for text in texts for word in words(text)}
    asked = set(lines(question))
    return next(
        pair
        for pair in _pairs(seed, texts)
        if taken.isdisjoint(pair) and not any(parse(line, pair) for line in asked)
    )


def words(text: str) -> Iterator[str]:
    """All runs of letters and digits."""
    return (found[0] for found in _WORD.finditer(text))


def lines(*texts: str) -> Iterator[str]:
    """Each text, each line of it, and its lines where only ``\\n`` ends one."""
    for text in texts:
        yield text
        yield from text.splitlines()
        yield from text.split("\n")


def repeats(option: str, texts: Iterable[str]) -> bool:
    """Does a line of the texts say this option?"""
    return any(parse(line, (option,)) for line in lines(*texts))


def _by_logps(logps: Sequence[float], options: Sequence[str]) -> Reading:
    most = max(logps)
    if any(math.isnan(each) for each in logps) or math.isinf(most):
        return Reading(None, "", "its log-probs are not numbers, or all -inf")
    weights = [math.exp(each - most) for each in logps]
    shares = {o: w / math.fsum(weights) for o, w in zip(options, weights, strict=True)}
    if len(shares) == 2:  # so that they add up to 1 exactly
        small, large = sorted(options, key=lambda option: shares[option])
        shares[large] = 1 - shares[small]
    said = ", ".join(f"P({option}) = {share:.4f}" for option, share in shares.items())
    together = math.fsum(map(math.exp, logps))
    return Reading(shares, f"{said}; together {together:.3g} of its probability")


def _pairs(seed: int, texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The usual ones, then such as nobody can foresee, ever longer."""
    yield from PAIRS
    content = json.dumps([seed, *sorted(texts)])
    for attempt in count():
        digest = hashlib.sha256(f"{attempt} {content}".encode()).digest()
        letters = "".join(chr(ord("A") + byte % 26) for byte in digest)
        length = min(1 + attempt // 64, len(letters) // 2)
        one, two = letters[:length], letters[length : 2 * length]
        if one != two:
            yield one, two


def _short(text: str) -> str:
    said = " ".join(text.split())
    return repr(said if len(said) <= 60 else f"{said[:57]}...")

"""Finding the answer in a completion, and comparing texts."""

from __future__ import annotations

from collections.abc import Collection

import regex

SECONDS = 2.0
"""A pattern may search one completion for so long."""

WHOLE, LAST_LINE, TAG, BOXED = "whole", "last_line", "tag", "boxed"

PATTERNS = {
    TAG: r"(?s)<answer>(.*?)</answer>",
    BOXED: r"\\boxed\{((?:[^{}]|\{(?1)\})*)\}",
}


class Extract:
    """The answer in a completion: all of it, its last line, or a pattern's last match.

    A pattern's answer is what its first group holds, or the whole match where it has no group.
    """

    def __init__(self, how: str) -> None:
        self.how = how
        self.pattern = None if how in (WHOLE, LAST_LINE) else compiled(PATTERNS.get(how, how))

    def __call__(self, text: str) -> str | None:
        """Stripped; None where there is none."""
        if self.pattern is None:
            lines = text.strip().splitlines() if self.how == LAST_LINE else [text]
            return lines[-1].strip() if lines and lines[-1].strip() else None
        found = None
        for match in self.pattern.finditer(text, timeout=SECONDS):
            found = match[1] if self.pattern.groups else match[0]
        return None if found is None else found.strip()


def compiled(pattern: str) -> regex.Pattern[str]:
    """Raises ``ValueError`` that says what is wrong with the pattern."""
    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error


def plain(text: str, ignore: Collection[str]) -> str:
    """Without what is not compared: ``case``, ``space`` and ``punctuation``."""
    if "case" in ignore:
        text = text.casefold()
    if "punctuation" in ignore:
        text = regex.sub(r"[\p{P}\p{S}]", "", text)
    if "space" in ignore:
        text = " ".join(text.split())
    return text.strip()

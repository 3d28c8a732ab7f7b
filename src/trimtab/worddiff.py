"""What a revision changed, word by word."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

from rich.text import Text

LEAST_ALIKE = 0.3
"""Share of words in common below which a text is another one, and is not marked word by word."""

STYLES = {"same": "", "gone": "red strike", "new": "green"}
MARKS = {"same": ("", ""), "gone": ("[-", "-]"), "new": ("{+", "+}")}
"""Where there are no colours; as wdiff has them."""


class Piece(NamedTuple):
    """Words that stand side by side, and what became of them."""

    fate: Literal["same", "gone", "new"]
    text: str


def pieces(before: str, after: str) -> Iterator[Piece]:
    """All words of both texts in their order, each with the white space that follows it.

    >>> [*pieces("a bad film", "a good film")]  # doctest: +NORMALIZE_WHITESPACE
    [Piece(fate='same', text='a '), Piece(fate='gone', text='bad '),
     Piece(fate='new', text='good '), Piece(fate='same', text='film')]
    """
    old, new = ([*re.findall(r"\S+\s*", text)] for text in (before, after))
    matcher = SequenceMatcher(None, _bare(old), _bare(new), autojunk=False)
    if matcher.ratio() < LEAST_ALIKE:
        yield Piece("new", after)
        return
    for tag, old_from, old_to, new_from, new_to in matcher.get_opcodes():
        if tag == "equal":
            yield Piece("same", "".join(new[new_from:new_to]))
            continue
        if old_to > old_from:
            yield Piece("gone", "".join(old[old_from:old_to]))
        if new_to > new_from:
            yield Piece("new", "".join(new[new_from:new_to]))


def marked(before: str, after: str, *, colours: bool) -> Text:
    """The later text, with what is gone and what is new in colours, or between marks; a text that
    is new as a whole has no marks."""
    found = Text()
    changes = list(pieces(before, after))
    if len(changes) == 1 and not colours:
        return Text(after)
    for fate, text in changes:
        if found and not found.plain[-1].isspace():
            found.append(" ")  # between the last word of one text and that of the other
        if colours:
            found.append(text, STYLES[fate])
        elif text.strip():
            opening, closing = MARKS[fate]
            words = text.rstrip()
            found.append(f"{opening}{words}{closing}{text[len(words) :]}")
    return found


def _bare(words: list[str]) -> list[str]:
    return [word.rstrip() for word in words]

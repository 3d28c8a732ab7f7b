"""Text that spells tokens of a model, and stays text."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from trimtab.core.config import DataConfig
from trimtab.plugins.sources.tokens import Encoder, Ids


class Spelled:
    """Some of a tokenizer's added tokens, such as ``<|im_end|>``, where a text spells them."""

    def __init__(self, tokenizer: Any, numbers: Collection[int]) -> None:
        self.tokenizer = tokenizer
        self.numbers = frozenset(numbers)
        named = [one.content for n, one in tokenizer.added_tokens_decoder.items() if n in numbers]
        longest_first = sorted(filter(str.strip, named), key=len, reverse=True)
        either = "|".join(map(re.escape, longest_first)) or "(?!)"
        self.pattern = re.compile(either, re.IGNORECASE)

    def ids(self, text: str) -> Ids:
        """Tokens of a text, none of which is one of these unless a character is."""
        ids = encoded(self.tokenizer, text)
        if len(text) < 2 or self.numbers.isdisjoint(ids):
            return ids
        return encoded(self.tokenizer, text[0]) + self.ids(text[1:])


class WrittenEncoder(Encoder):
    """An encoder of conversations that hold what a model wrote: this spells no control token.

    A model that writes ``<|im_end|>`` letter by letter has not ended its turn. Where that is read
    to it again it is those letters, and never the token; what people wrote is as in any data set.
    """

    def __init__(self, tokenizer: Any, data: DataConfig) -> None:
        super().__init__(tokenizer, data)
        self._spelled = Spelled(tokenizer, self.specials)
        self._kept: list[str] = []
        self._key = secrets.token_hex(8)
        """It is in no token: marks are taken out again before anything is encoded."""

    def written(self, text: str) -> str:
        """What a model wrote, to be put into an example; with marks where it spells such tokens,
        so that no template and no tokenizer sees them."""
        return self._spelled.pattern.sub(self._mark, text)

    def _mark(self, found: re.Match[str]) -> str:
        if found[0] not in self._kept:
            self._kept.append(found[0])
        return f"{self._key}x{self._kept.index(found[0])}x"

    def _ids(self, texts: Iterable[str]) -> Mapping[str, Ids]:
        distinct = dict.fromkeys(texts)
        marked = [text for text in distinct if self._key in text]
        plain = super()._ids(text for text in distinct if self._key not in text)
        return {**plain, **{text: self._unmarked(text) for text in marked}}

    def _unmarked(self, text: str) -> Ids:
        ids: Ids = []
        for place, piece in enumerate(re.split(f"{self._key}x([0-9]+)x", text)):
            if place % 2:
                ids += self._spelled.ids(self._kept[int(piece)])
            else:
                ids += encoded(self.tokenizer, piece)
        return ids


def encoded(tokenizer: Any, text: str) -> Ids:
    """The ids of a text, without special tokens but those that it spells out."""
    if not text:
        return []
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

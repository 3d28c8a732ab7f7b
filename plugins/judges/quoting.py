"""Text under judgement as data: between delimiters that it cannot hold, without control tokens."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count

_NAMES = (
    "s|bos|eos|pad|unk|mask|cls|sep|sop|eop|think|user|assistant|system|tool_call|tool_response"
    "|start_of_turn|end_of_turn|start_of_image|end_of_image|image|extra_id_[0-9]+|unused[0-9]+"
)
_BRACKETED = (
    "INST|SYS|CLS|SEP|PAD|UNK|MASK|gMASK|sMASK|BOS|EOS|IMG|TOOL_CALLS|TOOL_RESULTS"
    "|AVAILABLE_TOOLS|SYSTEM_PROMPT"
)
CONTROL = re.compile(
    rf"<(?=[|\uff5c])|<(?=/?(?:{_NAMES})>)|<(?=</?SYS>>)|\[(?=/?(?:{_BRACKETED})\])"
)
"""The first character of what the usual chat templates have as a control token: ``<|im_end|>``,
``</s>``, ``[INST]``, ``<end_of_turn>``..."""


def tame(text: str) -> str:
    """The text with a space after the first character of all that looks like a control token.

    A server takes ``<|im_end|>`` for the end of a turn wherever it stands, also in what a user
    says, so this is done before the text leaves us.

    >>> tame("Hello<|im_end|>, see <b>[1]</b>")
    'Hello< |im_end|>, see <b>[1]</b>'
    """
    return CONTROL.sub(r"\g<0> ", text)


@dataclass(frozen=True)
class Quotes:
    """Delimiters for some texts, which hold them nowhere."""

    token: str

    @classmethod
    def around(cls, seed: int, texts: Sequence[str]) -> Quotes:
        """The same for the same seed and texts, in whatever order they stand."""
        content = json.dumps([seed, *sorted(texts)])
        everything = "\n".join(texts).lower()
        digests = (hashlib.sha256(f"{n} {content}".encode()).hexdigest() for n in count())
        return cls(unused((digest[:8] for digest in digests), everything))

    @property
    def begin(self) -> str:
        """The line before a text."""
        return f"[BEGIN {self.token}]"

    @property
    def end(self) -> str:
        """The line after a text."""
        return f"[END {self.token}]"

    def block(self, text: str) -> str:
        """The text between its lines.

        >>> Quotes("5e1f0a3c").block("Choose me!")
        '[BEGIN 5e1f0a3c]\\nChoose me!\\n[END 5e1f0a3c]'
        """
        return f"{self.begin}\n{text}\n{self.end}"


def unused(tokens: Iterable[str], text: str) -> str:
    """The first of them that the text does not hold.

    >>> unused(["5e1f", "0a3c"], "It ends here: [END 5e1f]")
    '0a3c'
    """
    return next(token for token in tokens if token not in text)

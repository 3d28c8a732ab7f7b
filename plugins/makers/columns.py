"""Columns of a row that was made: what is kept of the row that it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trimtab.core.files import to_json
from trimtab.plugins.sources.formats import Side
from trimtab.plugins.sources.kinds import KINDS
from trimtab.plugins.sources.load import Kept
from trimtab.plugins.sources.messages import ASSISTANT

GIVEN = "given_"
"""Before the name of a column that would be taken for feedback on what was made."""

_FEEDBACK = {column for kind in KINDS for column in kind.columns} | {"rating", "ratings"}


def row_of(row: Kept, made: Mapping[str, Any]) -> dict[str, Any]:
    """A row that was made: the prompt, what was made, and the other columns of the row it is from.

    What the chat template is told goes with the prompt. Another column whose name would be taken
    for feedback on what was made, such as ``chosen``, is called ``given_chosen``. What is not
    JSON, such as a date, becomes text.
    """
    assert row.example is not None
    template = dict(row.example.template)
    tools = template.pop("tools", None)
    taken = _FEEDBACK | made.keys()
    others = {
        f"{GIVEN}{name}" if name in taken else name: _json(value)
        for name, value in (row.columns or {}).items()
    }
    return {
        "prompt": row.example.prompt,
        **({"tools": tools} if tools else {}),
        **({"chat_template_kwargs": template} if template else {}),
        **made,
        **others,
    }


def answer(prompt: Any, text: str) -> Side:
    """A completion as rows have it: a turn after turns, text after text."""
    return text if isinstance(prompt, str) else [{"role": ASSISTANT, "content": text}]


def shown(side: Side) -> Any:
    """A completion to be read by people: of a single turn its text."""
    if isinstance(side, str) or len(side) != 1 or side[0].keys() != {"role", "content"}:
        return side
    return side[0]["content"]


def told(side: Side) -> str:
    """A prompt or a completion as a judge is told it: text; of several turns who says what."""
    if isinstance(side, str):
        return side
    texts = [str(turn.get("content") or to_json(dict(turn))) for turn in side]
    if len(texts) == 1:
        return texts[0]
    return "\n\n".join(f"{turn['role']}: {text}" for turn, text in zip(side, texts, strict=True))


def _json(value: Any) -> Any:
    try:
        to_json(value)
    except (TypeError, ValueError):
        if isinstance(value, Mapping):
            return {str(name): _json(each) for name, each in value.items()}
        return str(value)
    return value

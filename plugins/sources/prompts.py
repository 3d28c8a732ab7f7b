"""Prompts to be answered, with nothing to learn from yet."""

from __future__ import annotations

from trimtab.plugins.sources.formats import Columns, Example, Side, side, template_options
from trimtab.plugins.sources.messages import ASSISTANT
from trimtab.plugins.sources.rows import BadRow

IGNORED = "completions ignored, for only the prompts are read"


def prompted(columns: Columns) -> Example:
    """``prompt``, or ``messages`` up to what is to be answered."""
    notes = (IGNORED,) if columns.get("completion") is not None else ()
    return Example(_prompt(columns), (), template=template_options(columns), notes=notes)


def _prompt(columns: Columns) -> Side:
    if "prompt" not in columns and "messages" not in columns:
        if "completion" in columns or "text" in columns:
            raise BadRow("a completion without a prompt: there is nothing to answer")
        raise BadRow("no column 'prompt' or 'messages'")
    name = "prompt" if "prompt" in columns else "messages"
    prompt = side(columns, name)
    if isinstance(prompt, str):
        if name == "messages":
            raise BadRow("messages is text, not turns")
        if not prompt.strip():
            raise BadRow("prompt is empty")
    elif prompt[-1]["role"] == ASSISTANT:
        raise BadRow(f"{name} ends with a turn of the assistant: nothing is left to answer")
    return prompt

"""Unpaired binary feedback: one completion, thumbs up or down (TRL's unpaired preference)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from trimtab.plugins.sources.formats import Columns, Example, demonstration, present
from trimtab.plugins.sources.rows import BadRow
from trimtab.plugins.sources.said import Label

_SPELLED = {"true": True, "1": True, "false": False, "0": False}


def labelled(columns: Columns) -> Example:
    """``prompt`` and ``completion``, or ``messages``; and ``label``, true where desirable."""
    if "completion" not in columns and "messages" not in columns:
        _no_completion(columns)
    return replace(demonstration(columns), said=Label(_label(present(columns, "label"))))


def _no_completion(columns: Columns) -> None:
    if "chosen" in columns or "rejected" in columns:
        raise BadRow("a pair, not a label: data.convert: pairs-to-labels makes two labels of it")
    if "prompt" in columns:
        raise BadRow("prompt only: there is no completion")
    raise BadRow("no column 'completion' or 'messages'")


def _label(value: Any) -> bool:
    """True or false, 1 or 0, or the same spelled out, as in CSV files."""
    if isinstance(value, str) and value.casefold() in _SPELLED:
        return _SPELLED[value.casefold()]
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    raise BadRow("label is neither true nor false")

"""Options that recipes of feedback share: who labels, and how a reward model is fitted."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from trimtab import Config
from trimtab.core.config import Selected
from trimtab.core.options import OfKind
from trimtab.core.training import TrainConfig


class Labelling(Selected):
    """The source that labels, with its options; ``name`` may be left out."""

    name: str = "labels"
    """Which one."""


class Fitting(Config):
    """How a reward model is fitted to labels."""

    objective: Annotated[Selected | None, OfKind("objective")] = None
    """What it learns with, any objective that learns from rankings; null is the built-in one."""

    train: TrainConfig | None = None
    """What is given here, over the file's ``train``; one epoch unless it says how long."""

    model: dict[str, Any] = Field(default_factory=dict)
    """What is given here, over the file's ``model``."""

    reward: dict[str, Any] = Field(default_factory=dict)
    """Options of the reward that reads it, such as ``combine: lower`` of an ensemble."""


def option_of(chosen: Selected | None, option: str, default: Any) -> Any:
    """An option of a source; None where it is another source than ours, or there is none."""
    if chosen is None or not is_ours(chosen):
        return None
    return chosen.options.get(option, default)


def is_ours(chosen: Selected) -> bool:
    """Is it the source that a section takes where it gives no name?"""
    return bool(chosen.name == type(chosen).model_fields["name"].default)

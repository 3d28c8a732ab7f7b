"""A constitution as it is read from its file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from annotated_types import Gt, MinLen

from trimtab.core.errors import UserError
from trimtab.core.options import Config

OURS = Path(__file__).with_name("trimtab.yaml")
"""The one that comes with trimtab, in our own words."""


class Principle(Config):
    """One principle, in the words that a model is asked with."""

    id: str
    """Short, unique in the file."""

    critique: str
    """The critique request: what to look for in an answer."""

    revise: str
    """The revision request."""

    compare: str
    """The question that a judge is asked of two answers."""

    weight: Annotated[float, Gt(0)] = 1.0
    """How often it is drawn, and how much it counts: votes, say."""

    source: str | None = None
    """Where it is from."""


class Constitution(Config):
    """A named list of principles."""

    name: str
    principles: Annotated[list[Principle], MinLen(1)]


def load_constitution(named: str | None) -> Constitution:
    """The constitution of a file; None is ours. ``UserError`` lists every fault with its line."""
    path = OURS if named is None else Path(named)
    try:
        return Constitution.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as a constitution: {error}") from error

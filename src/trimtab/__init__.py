"""Alignment objectives as plugins over one training loop.

Names are loaded when they are first used, so that ``import trimtab`` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.api import load_run_file, resume, train
    from trimtab.core.batches import (
        Batch,
        Demonstrations,
        Labelled,
        Pairs,
        Ranked,
        Rollouts,
        Sequences,
    )
    from trimtab.core.engine import Completion, Engine
    from trimtab.core.hookspecs import hookimpl
    from trimtab.core.judge import Comparison, Judge, Rating, Verdict
    from trimtab.core.maker import Made, Maker
    from trimtab.core.objective import Loss, Needs, Objective, Term, Updates
    from trimtab.core.options import Config
    from trimtab.core.recipe import Around, Part, Recipe
    from trimtab.core.reference import Reference
    from trimtab.core.reward import Group, Reward, Score
    from trimtab.core.source import Source

_HOMES = {
    "batches": ("Batch", "Demonstrations", "Labelled", "Pairs", "Ranked", "Rollouts", "Sequences"),
    "engine": ("Completion", "Engine"),
    "hookspecs": ("hookimpl",),
    "judge": ("Comparison", "Judge", "Rating", "Verdict"),
    "maker": ("Made", "Maker"),
    "objective": ("Loss", "Needs", "Objective", "Term", "Updates"),
    "options": ("Config",),
    "recipe": ("Around", "Part", "Recipe"),
    "reference": ("Reference",),
    "reward": ("Group", "Reward", "Score"),
    "source": ("Source",),
}
_HOME = {name: f"trimtab.core.{home}" for home, names in _HOMES.items() for name in names}
_HOME |= dict.fromkeys(("load_run_file", "resume", "train"), "trimtab.api")

__all__ = [
    "Around",
    "Batch",
    "Comparison",
    "Completion",
    "Config",
    "Demonstrations",
    "Engine",
    "Group",
    "Judge",
    "Labelled",
    "Loss",
    "Made",
    "Maker",
    "Needs",
    "Objective",
    "Pairs",
    "Part",
    "Ranked",
    "Rating",
    "Recipe",
    "Reference",
    "Reward",
    "Rollouts",
    "Score",
    "Sequences",
    "Source",
    "Term",
    "Updates",
    "Verdict",
    "hookimpl",
    "load_run_file",
    "resume",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'trimtab' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__

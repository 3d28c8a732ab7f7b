"""A plain Python function as a reward, with the signature that TRL gives its reward functions."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from trimtab.core.errors import UserError
from trimtab.core.hookspecs import hookimpl
from trimtab.core.options import Config
from trimtab.core.reward import Group, Reward, RewardSetting, Score


class FunctionConfig(Config):
    """Which function."""

    function: str
    """``module:callable``; the module may be a file in the working directory."""


class FunctionReward(Reward[FunctionConfig]):
    """Calls ``f(prompts, completions, **columns) -> list[float | None]``."""

    name = "function"
    options = FunctionConfig

    def open(self, setting: RewardSetting) -> None:
        self._function = imported(self.config.function)

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        values = iter(
            self._function(
                prompts=[group.prompt for group in groups for _ in group.completions],
                completions=[text for group in groups for text in group.completions],
                **{
                    name: [group.columns.get(name) for group in groups for _ in group.completions]
                    for name in sorted({key for group in groups for key in group.columns})
                },
            )
        )
        return [[Score(next(values)) for _ in group.completions] for group in groups]


def imported(path: str) -> Callable[..., Any]:
    """The callable at ``module:callable``."""
    module, _, name = path.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"reward.function: {path!r} cannot be imported: {error}") from error
    if not callable(found):
        raise UserError(f"reward.function: {path!r} is no function")
    function: Callable[..., Any] = found
    return function


@hookimpl
def provide_rewards() -> list[type]:
    """Register function."""
    return [FunctionReward]

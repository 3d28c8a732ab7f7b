"""Every hook of the framework. Hooks select and observe; protocols compute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pluggy

hookspec = pluggy.HookspecMarker("trimtab")
hookimpl = pluggy.HookimplMarker("trimtab")


@hookspec
def provide_objectives() -> Iterable[type]:
    """Return the Objective classes (and recipes) of this plugin."""


@hookspec
def provide_rewards() -> Iterable[type]:
    """Return the Reward classes of this plugin."""


@hookspec
def provide_references() -> Iterable[type]:
    """Return the Reference classes of this plugin."""


@hookspec
def provide_sources() -> Iterable[type]:
    """Return the Source classes of this plugin."""


@hookspec
def provide_judges() -> Iterable[type]:
    """Return the Judge classes of this plugin."""


@hookspec
def provide_engines() -> Iterable[type]:
    """Return the generation engines of this plugin."""


@hookspec
def provide_trackers() -> Iterable[type]:
    """Return the trackers of this plugin."""


@hookspec(firstresult=True)
def execute_run(run: Any) -> Any:
    """Carry out a run and return its result. The first result wins, and ours comes last.

    Wrap it (``hookimpl(wrapper=True)``) to profile; answer it to launch the run elsewhere.
    """


@hookspec
def step_ended(run: Any, step: int, metrics: Mapping[str, float]) -> None:
    """Observe one finished step. Return nothing."""


@hookspec
def run_ended(run: Any, state: str) -> None:
    """Observe a run's end: ``state`` is finished, stopped or failed. Return nothing."""

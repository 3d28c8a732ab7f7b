"""Every hook of the framework. Hooks select and observe; protocols compute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from trimtab.core.runfile import Plan

hookspec = pluggy.HookspecMarker("trimtab")
hookimpl = pluggy.HookimplMarker("trimtab")


@hookspec
def provide_objectives() -> Iterable[type]:  # type: ignore[empty-body]
    """Return the Objective classes (and recipes) of this plugin."""


@hookspec
def provide_rewards() -> Iterable[type]:  # type: ignore[empty-body]
    """Return the Reward classes of this plugin."""


@hookspec
def provide_references() -> Iterable[type]:  # type: ignore[empty-body]
    """Return the Reference classes of this plugin."""


@hookspec
def provide_sources() -> Iterable[type]:  # type: ignore[empty-body]
    """Return the Source classes of this plugin."""


@hookspec
def provide_judges() -> Iterable[type]:  # type: ignore[empty-body]
    """Return the Judge classes of this plugin."""


@hookspec
def provide_engines() -> Iterable[type]:  # type: ignore[empty-body]
    """Return the generation engines of this plugin."""


@hookspec
def provide_trackers() -> Iterable[type]:  # type: ignore[empty-body]
    """Return the trackers of this plugin."""


@hookspec(firstresult=True)
def execute_run(run: Any) -> Any:
    """Carry out a run and return its result. The first result wins, and ours comes last.

    Wrap it (``hookimpl(wrapper=True)``) to profile; answer it to launch the run elsewhere.
    """


@hookspec
def pipeline_started(home: Path, plan: Plan, kept: Sequence[str]) -> None:
    """Observe a file of several stages that is about to run, and which of them are kept as they
    are. Return nothing."""


@hookspec
def pipeline_ended(home: Path, summary: Mapping[str, Any]) -> None:
    """Observe the end of a file of several stages, however it ended: what ``summary.json`` in the
    home holds. Return nothing."""


@hookspec
def run_started(run: Any, step: int, steps: int) -> None:
    """Observe a run that is about to train, from this step on. Return nothing."""


@hookspec
def evaluation_ended(run: Any, step: int, evaluation: Any) -> None:
    """Observe what an evaluation found: its measures and samples. Return nothing."""


@hookspec
def noted(run: Any, text: str) -> None:
    """Observe something that the user should know of a run. Return nothing."""


@hookspec
def sampled(run: Any, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
    """Observe what the policy sampled for a step, with its rewards. Return nothing."""


@hookspec
def step_ended(run: Any, step: int, metrics: Mapping[str, float]) -> None:
    """Observe one finished step. Return nothing."""


@hookspec
def run_ended(run: Any, state: str) -> None:
    """Observe a run's end: ``state`` is finished, stopped or failed. Return nothing."""

"""A plain Python function as a reward, with the signature that TRL gives its reward functions."""

from __future__ import annotations

import asyncio
import inspect
import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any

from trimtab.core.errors import UserError, suggestion
from trimtab.core.hookspecs import hookimpl
from trimtab.core.options import Config, LocalPath
from trimtab.core.reward import Group, Reward, RewardSetting, Score, WrongCount
from trimtab.plugins.rewards.modules import imported

OURS = ("prompts", "completions", "completion_ids", "log_extra", "log_metric")
"""What a function is given beside the columns of the data."""

NOT_COLUMNS = ("prompt", "completion", *OURS)


class FunctionConfig(Config):
    """Which function."""

    function: str
    """``module:callable``; the module may be a file in ``folder``."""

    folder: Annotated[str, LocalPath(modules_of="function")] = "."
    """Where modules are looked for first; a run keeps it absolute."""

    args: dict[str, Any] | None = None
    """The callable makes the function: it is called once, with these arguments."""

    whole_groups: bool = False
    """It compares the completions of a prompt: where it raises, whole groups are asked again."""

    main_thread: bool = False
    """Call it in the main thread, where no ``rollout.reward_timeout`` can stop it.

    For functions that use signals, as those do that limit their own time.
    """


class FunctionReward(Reward[FunctionConfig]):
    """Calls ``f(prompts, completions, **columns) -> list[float | None]``, as TRL does.

    All are lists with one entry a completion. ``completion_ids`` and the row's columns come as
    keyword arguments, without those that the function does not take. Where the prompt is turns, so
    is each completion: ``[{"role": "assistant", "content": text}]``. An ``async`` function is
    waited for. What is given to ``log_metric``, and the numbers given to ``log_extra``, become
    parts of the scores. There is no ``trainer_state``, for there is no trainer.
    """

    name = "function"
    options = FunctionConfig

    def __init__(self, config: FunctionConfig) -> None:
        super().__init__(config)
        self.independent = not config.whole_groups
        self.interruptible = not config.main_thread

    def open(self, setting: RewardSetting) -> None:
        function = imported(self.config.function, Path(self.config.folder).expanduser().resolve())
        if self.config.args is not None:
            function = self._made(function)
        self._function = function
        self._takes = inspect.signature(function).parameters.values()
        self._runner = asyncio.Runner()  # one loop for all calls: clients are bound to theirs
        weakref.finalize(self, _close, self._runner)

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        log = _Log()
        given = _arguments(groups, log)
        count = len(given["completions"])
        answer = self._function(**self._accepted(given))
        if inspect.isawaitable(answer):
            answer = self._runner.run(_result(answer))
        values = iter(_listed(answer, count))
        parts = iter(log.parts(count))
        return [[Score(next(values), next(parts)) for _ in group.completions] for group in groups]

    def describe(self) -> Mapping[str, Any]:
        return {"function": self.config.function}

    def _made(self, factory: Any) -> Any:
        try:
            function = factory(**(self.config.args or {}))
        except Exception as error:
            raise UserError(
                f"reward.args: {self.config.function} raised {type(error).__name__}: {error}"
            ) from error
        if not callable(function):
            raise UserError(
                f"reward.args: {self.config.function} made {type(function).__name__}, not a "
                "function: leave args out where the callable is the function itself"
            )
        return function

    def _accepted(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """All of it, or what has a name in the function's signature."""
        if missing := [
            each.name
            for each in self._takes
            if each.default is each.empty
            and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
            and each.name not in given
        ]:
            columns = [name for name in given if name not in OURS]
            raise TypeError(
                f"{self.config.function} takes {missing[0]!r}, which is no column of the data."
                f"{suggestion(missing[0], columns)} Columns: {', '.join(columns) or 'none'}"
            )
        if any(each.kind is each.VAR_KEYWORD for each in self._takes):
            return given
        return {each.name: given[each.name] for each in self._takes if each.name in given}


class _Log:
    """What a function logs, as parts of the scores."""

    def __init__(self) -> None:
        self.metrics: dict[str, Any] = {}
        self.extra: dict[str, list[Any]] = {}

    def metric(self, name: str, value: float) -> None:
        """A number for all completions of the call."""
        self.metrics[name] = value

    def columns(self, name: str, values: Sequence[Any]) -> None:
        """One entry a completion."""
        self.extra[name] = list(values)

    def parts(self, count: int) -> list[dict[str, Any]]:
        """Of each completion: numbers only."""
        numbers = {
            name: values
            for name, values in self.extra.items()
            if len(values) == count and not any(isinstance(value, str) for value in values)
        }
        return [
            self.metrics | {name: values[i] for name, values in numbers.items()}
            for i in range(count)
        ]


def _arguments(groups: Sequence[Group], log: _Log) -> dict[str, Any]:
    """Copies: a function may write into what it is given."""
    each = [(group, i) for group in groups for i in range(len(group.completions))]
    columns = sorted({name for group in groups for name in group.columns} - {*NOT_COLUMNS})
    given: dict[str, Any] = {
        "prompts": [deepcopy(g.prompt if g.content is None else g.content) for g, _ in each],
        "completions": [_completion(g, i) for g, i in each],
        **{name: [deepcopy(group.columns.get(name)) for group, _ in each] for name in columns},
        "log_extra": log.columns,
        "log_metric": log.metric,
    }
    if all(group.sampled for group in groups):
        given["completion_ids"] = [list(g.sampled[i].tokens) for g, i in each]
    return given


def _completion(group: Group, index: int) -> str | list[dict[str, str]]:
    """As text, or as a turn where the prompt is turns."""
    text = group.completions[index]
    if group.content is None or isinstance(group.content, str):
        return text
    return [{"role": "assistant", "content": text}]


def _listed(answer: Any, count: int) -> list[Any]:
    """One entry a completion."""
    if isinstance(answer, str | bytes | Mapping | set) or not isinstance(answer, Iterable):
        raise WrongCount(f"it returned {type(answer).__name__}, not a list of {count} scores")
    found = list(answer)
    if len(found) != count:
        raise WrongCount(f"it returned {len(found)} scores for {count} completions")
    return found


async def _result(answer: Any) -> Any:
    return await answer


def _close(runner: asyncio.Runner) -> None:
    with suppress(RuntimeError):  # a call that hangs still runs in it
        runner.close()


@hookimpl
def provide_rewards() -> list[type]:
    """Register function."""
    return [FunctionReward]

"""One reward's answer, or what went wrong with it: never a wrong number, never a default."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from trimtab.core.errors import RunError, UserError
from trimtab.core.reward import Group, Reward, Score, WrongCount

LARGEST = torch.finfo(torch.float32).max
"""Scores become float32 in a batch; what is larger in size would be infinite there."""

NO_ANSWER = "it could not judge"


class Guard:
    """Asks one reward for scores, whatever it does.

    A call that raises is repeated group by group, and then completion by completion where the
    reward says that each stands alone (``Reward.independent``): one bad completion does not lose
    the others. A call with the wrong count of answers is not repeated, and scores nothing, for
    nothing else of it can be trusted. The call and its repetitions have ``timeout`` seconds
    together, on a thread of their own. When they are over, what was scored counts, the rest has
    no score, and the thread is left behind; while it still runs, the reward is not asked again.
    A reward that is not ``interruptible`` is run to its end where the caller is. Compiled code
    that never lets go of the interpreter cannot be left behind.
    """

    def __init__(self, reward: Reward, timeout: float) -> None:
        self.reward = reward
        self.timeout = timeout
        self._thread: threading.Thread | None = None

    def score(self, groups: Sequence[Group]) -> tuple[list[list[Score]], str | None]:
        """A sound score for every completion; and a fault that in the end cost no score."""
        if self._thread is not None and self._thread.is_alive():
            return _filled(groups, {}, "it still hangs in an earlier call"), None
        work = _Work(self.reward, groups)
        if not self.reward.interruptible:
            work.run()
            return _filled(groups, work.found, NO_ANSWER), work.recovered
        self._thread = threading.Thread(target=work.run, name=self.reward.name, daemon=True)
        self._thread.start()
        self._thread.join(min(self.timeout, threading.TIMEOUT_MAX))
        work.given_up.set()
        late = f"it took longer than {self.timeout:g} s (rollout.reward_timeout)"
        return _filled(groups, dict(work.found), late), work.recovered


@dataclass(frozen=True)
class _Asked:
    """A group, or a part of it, and where its completions belong."""

    group: Group
    places: tuple[tuple[int, int], ...]

    def alone(self) -> list[_Asked]:
        """Each completion by itself."""
        return [
            _Asked(
                replace(
                    self.group,
                    completions=[self.group.completions[i]],
                    sampled=self.group.sampled[i : i + 1],
                ),
                (place,),
            )
            for i, place in enumerate(self.places)
        ]


class _Work:
    """What is asked of a reward in one step, with the scores found so far."""

    def __init__(self, reward: Reward, groups: Sequence[Group]) -> None:
        self.reward = reward
        self.asked = [
            _Asked(group, tuple((g, c) for c in range(len(group.completions))))
            for g, group in enumerate(groups)
        ]
        self.found: dict[tuple[int, int], Score] = {}
        self.recovered: str | None = None
        self.given_up = threading.Event()

    @torch.no_grad()  # each thread has its own
    def run(self) -> None:
        """Ask, and ask again in smaller parts."""
        self._ask(self.asked)

    def _ask(self, asked: Sequence[_Asked]) -> None:
        if self.given_up.is_set():
            return
        groups = [each.group for each in asked]
        try:
            answers = _checked(self.reward.score(groups), groups)
        except WrongCount as error:
            self._none(asked, str(error))
            return
        except BaseException as error:  # of a stranger's code, which may call sys.exit()
            if isinstance(error, KeyboardInterrupt) and _in_main_thread():
                raise
            if self.reward.judges and isinstance(error, UserError | RunError):
                raise  # its judge was not reached, or is not paid: asking again would not help
            self._ask_in_parts(asked, raised(error))
            return
        for each, scores in zip(asked, answers, strict=True):
            self.found |= zip(each.places, scores, strict=True)

    def _ask_in_parts(self, asked: Sequence[_Asked], why: str) -> None:
        parts = list(asked)
        if len(parts) == 1 and self.reward.independent:
            parts = parts[0].alone()
        if len(parts) == 1 and len(parts[0].places) == len(asked[0].places):
            self._none(parts, why)
            return
        for part in parts:
            self._ask([part])
        places = [place for part in parts for place in part.places]
        if all(p in self.found and self.found[p].value is not None for p in places):
            self.recovered = f"{why}; asked again in parts, it answered"

    def _none(self, asked: Sequence[_Asked], why: str) -> None:
        self.found |= {place: Score(None, why=why) for each in asked for place in each.places}


def number(value: Any) -> float:
    """An int, float, NumPy scalar or 0-d tensor as a float; ``ValueError`` says why it is none."""
    if isinstance(value, torch.Tensor | np.ndarray | np.generic) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"it answered {_short(repr(value))}, {_called(value)} and no number")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
        value = "a huge int"
    if math.isnan(found):
        raise ValueError("it answered nan")
    if abs(found) > LARGEST:
        raise ValueError(f"it answered {value}, which is no finite float32")
    return found


def raised(error: BaseException) -> str:
    """What an exception says, on one line."""
    said = " ".join(str(error).split())
    kind = type(error).__name__
    return _short(f"it raised {kind}: {said}" if said else f"it raised {kind}", 300)


def _checked(answer: Any, groups: Sequence[Group]) -> list[list[Score]]:
    """Every score made sound. Raises where the shape is not that of the groups."""
    for_groups = _listed(answer, len(groups), "groups")
    return [
        [_sound(score) for score in _listed(scores, len(group.completions), "completions")]
        for scores, group in zip(for_groups, groups, strict=True)
    ]


def _listed(answer: Any, count: int, what: str) -> list[Any]:
    if not isinstance(answer, list | tuple):
        raise WrongCount(f"its answer for {count} {what} is {_called(answer)}, not a list")
    if len(answer) != count:
        raise WrongCount(f"its answer for {count} {what} has {len(answer)} entries")
    return list(answer)


def _sound(score: Any) -> Score:
    """The same with plain finite numbers, or without a value and with the reason."""
    if not isinstance(score, Score):
        return Score(None, why=f"it answered {_short(repr(score))}, {_called(score)} and no Score")
    parts = {str(name): _number_or_none(value) for name, value in score.parts.items()}
    if score.value is None:
        return Score(None, parts, _short(score.why or NO_ANSWER, 300), score.said)
    try:
        return Score(number(score.value), parts, said=score.said)
    except ValueError as error:
        return Score(None, parts, str(error), score.said)


def _number_or_none(value: Any) -> float | None:
    try:
        return number(value)
    except ValueError:
        return None


def _filled(
    groups: Sequence[Group], found: dict[tuple[int, int], Score], why: str
) -> list[list[Score]]:
    missing = Score(None, why=why)
    return [
        [found.get((g, c), missing) for c in range(len(group.completions))]
        for g, group in enumerate(groups)
    ]


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _called(value: Any) -> str:
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."

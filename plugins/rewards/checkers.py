"""Checkers of other packages: of mathematics, of reasoning-gym's tasks, of instructions."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from trimtab.core.errors import UserError, suggestion
from trimtab.core.reward import Score

SECONDS = 5
"""math-verify may parse, and compare, for so long each."""

_PACKAGES = {
    "math_verify": "math-verify",
    "reasoning_gym": "reasoning-gym",
    "if_verifiable": "if-verifiable",
}


def package(module: str) -> ModuleType:
    """An optional package, or ``UserError`` with what installs it."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        name = _PACKAGES[module]
        raise UserError(
            f"reward.kind: {module} needs the package {name!r}, and {error.name!r} is not here: "
            f"pip install {name}, or all of them: pip install 'trimtab[verifiers]'"
        ) from error


class Mathematics:
    """Are two expressions equal, written in LaTeX or plainly?"""

    def __init__(self) -> None:
        self._package = package("math_verify")
        self._late = import_module("math_verify.errors").TimeoutException
        for name in ("parser", "grader"):  # they warn of what is meant here
            logging.getLogger(f"math_verify.{name}").setLevel(logging.ERROR)

    def __call__(self, answer: str, expected: Any) -> Score:
        """1 or 0; no value where the expected answer cannot be read, or time runs out."""
        main = threading.current_thread() is threading.main_thread()
        seconds = SECONDS if main else None  # its own limit is a signal
        parse, verify = self._package.parse, self._package.verify
        try:
            gold = parse(str(expected), parsing_timeout=seconds)
            if not gold:
                return Score(None, why=f"the expected answer {expected!r} cannot be read")
            found = parse(answer, parsing_timeout=seconds, raise_on_error=True)
        except self._late:
            return Score(None, why=f"reading took longer than {SECONDS} s")
        except Exception:  # of sympy, on what is no mathematics
            found = []
        return self._compared(verify, gold, found, seconds)

    def _compared(
        self, verify: Callable[..., bool], gold: Any, found: Any, seconds: int | None
    ) -> Score:
        try:
            equal = verify(gold, found, timeout_seconds=seconds, raise_on_error=True)
        except self._late:
            return Score(None, why=f"comparing took longer than {SECONDS} s")
        except Exception:  # of sympy, on what cannot be compared
            equal = False
        return Score(float(equal))


class ReasoningGym:
    """Scores of reasoning-gym's tasks, which give some answers a part of 1."""

    def __init__(self, task: str | None) -> None:
        package("reasoning_gym")
        self._factory = import_module("reasoning_gym.factory")
        self._known = sorted(self._factory.DATASETS)
        self._scorers: dict[str, Callable[[str, Mapping[str, Any]], float]] = {}
        self.task = task
        if task is not None:
            self._scorer(task)

    def __call__(self, answer: str, entry: Mapping[str, Any]) -> Score:
        """As the task says; the part ``solved`` is 1 where it is 1."""
        task = self.task or _task_of(entry)
        value = float(self._scorer(task)(answer, entry))
        return Score(value, {"solved": float(value >= 1.0)})

    def _scorer(self, task: str) -> Callable[[str, Mapping[str, Any]], float]:
        if task not in self._scorers:
            if task not in self._known:
                raise UserError(f"no reasoning-gym task {task!r}.{suggestion(task, self._known)}")
            self._scorers[task] = self._factory.get_score_answer_fn(task)
        return self._scorers[task]


def entry_of(columns: Mapping[str, Any], column: str) -> Mapping[str, Any]:
    """A reasoning-gym entry: a column that holds it, or columns ``answer`` and ``metadata``."""
    entry = columns.get(column, columns)
    entry = json.loads(entry) if isinstance(entry, str) else entry
    if not isinstance(entry, Mapping) or "answer" not in entry:
        raise ValueError(f"no reasoning-gym entry with an answer in the column {column!r}")
    metadata = entry.get("metadata") or {}
    return {**entry, "metadata": json.loads(metadata) if isinstance(metadata, str) else metadata}


def _task_of(entry: Mapping[str, Any]) -> str:
    task = entry["metadata"].get("source_dataset")
    if task is None:
        raise ValueError("the entry's metadata names no source_dataset: give the option task")
    return str(task)


class Instructions:
    """IFEval's checks of instructions: Zhou et al. 2023, arXiv:2311.07911."""

    MEASURES = ("partial_strict", "partial_loose", "binary_strict", "binary_loose")

    def __init__(self, measure: str) -> None:
        package("if_verifiable")
        common = import_module("if_verifiable.common")
        self._registry = import_module(
            "if_verifiable.ifeval.instructions_registry"
        ).INSTRUCTION_DICT
        self._evaluate = common.evaluate_instructions
        import_module("langdetect").DetectorFactory.seed = 0  # or languages are guessed by chance
        self.measure = measure

    def __call__(self, text: str, columns: Mapping[str, Any], prompt: str) -> Score:
        """The share of instructions that are followed, or whether all are."""
        names, settings = _decoded(columns, "instruction_id_list"), _decoded(columns, "kwargs")
        if not names or len(names) != len(settings):
            raise ValueError(f"{len(names)} instruction ids and {len(settings)} kwargs")
        given = [{k: v for k, v in (each or {}).items() if v is not None} for each in settings]
        for name, own in zip(names, given, strict=True):
            self._check(name, own)
        _, scores = self._evaluate(text, names, given, prompt, self._registry)
        values = {name: float(getattr(scores, name)) for name in self.MEASURES}
        return Score(values[self.measure], values)

    def _check(self, name: str, given: Mapping[str, Any]) -> None:
        """The package passes over unknown ids, and draws what is not given."""
        if name not in self._registry:
            raise ValueError(f"no instruction {name!r}.{suggestion(name, self._registry)}")
        wanted = self._registry[name](name).get_instruction_args_keys()
        if missing := [key for key in wanted if key not in given]:
            raise ValueError(f"the kwargs of {name} lack {missing[0]!r}")


def _decoded(columns: Mapping[str, Any], name: str) -> list[Any]:
    """A list, or the JSON of one."""
    if name not in columns:
        raise ValueError(f"no column {name!r}.{suggestion(name, columns)}")
    value = columns[name]
    return list(json.loads(value) if isinstance(value, str) else value)

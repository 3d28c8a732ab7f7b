"""The options of a run that name files here, wherever in its sections they stand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trimtab.core.config import DataConfig, ModelConfig, RunFile, Selected
from trimtab.core.options import Config, Incidental, LocalPath
from trimtab.core.registry import Registry
from trimtab.core.runfile import KINDS
from trimtab.core.stages import HANDOVER, STAGES

Place = tuple[str | int, ...]
"""Keys and numbers, from the whole file inwards."""


def marked(file: RunFile, registry: Registry) -> Iterator[tuple[Place, LocalPath]]:
    """Where each option stands that is marked as a ``LocalPath``; of a list, each value."""
    plain = file.model_dump(mode="json")
    for place, options in _sections(file, registry):
        section = at(plain, place)
        for name, field in options.model_fields.items():
            key = field.alias or name
            for mark in (each for each in field.metadata if isinstance(each, LocalPath)):
                if isinstance(section.get(key), list):
                    yield from (((*place, key, n), mark) for n in range(len(section[key])))
                elif section.get(key):
                    yield (*place, key), mark


def incidental(file: RunFile, registry: Registry) -> Iterator[Place]:
    """Where each option stands that no result depends on."""
    for place, options in _sections(file, registry):
        for name, field in options.model_fields.items():
            if any(isinstance(mark, Incidental) for mark in field.metadata):
                yield *place, field.alias or name


def _sections(file: RunFile, registry: Registry) -> Iterator[tuple[Place, type[Config]]]:
    """Where the options of each class stand."""
    yield ("model",), ModelConfig
    yield ("data",), DataConfig
    yield ("rollout", "engine"), registry.find("engine", file.rollout.engine.name).options
    for name, stream in file.streams.items():
        yield ("streams", name, "data"), DataConfig
        if stream.source is not None:
            source = registry.find("source", stream.source.name)
            yield ("streams", name, "source"), source.options
    for section, kind in KINDS.items():
        selected = getattr(file, section)
        if isinstance(selected, Selected):
            yield (section,), registry.find(kind, selected.name).options
        for n, one in enumerate(selected if isinstance(selected, list) else ()):
            yield (section, n), registry.find(kind, one.name).options


def at(plain: Any, place: Place) -> Any:
    """What stands there; None where nothing does."""
    for key in place:
        try:
            plain = plain[key]
        except (KeyError, IndexError, TypeError):
            return None
    return plain


def put(plain: Any, place: Place, value: Any) -> None:
    """Set what stands there."""
    *outer, last = place
    at(plain, tuple(outer))[last] = value


def checked(plain: Any) -> RunFile:
    """The run file that these plain sections are."""
    return RunFile.model_validate_json(json.dumps(plain))


def absolute(file: RunFile, registry: Registry) -> RunFile:
    """The paths that exist, or are awaited, made absolute: a run can be resumed from anywhere."""
    plain = file.model_dump(mode="json")
    for place, mark in marked(file, registry):
        there = Path(at(plain, place)).expanduser()
        if mark.awaited or there.exists():
            put(plain, place, str(there.resolve()))
    return checked(plain)


def handed_over(settled: RunFile, asked: RunFile, home: Path) -> RunFile:
    """A stage's file; each ``stages.NAME`` that was asked for is that directory, as it is now."""

    def directory(name: str, _: Any) -> str:
        return str((home / STAGES / name).resolve())

    plain = settled.model_dump(mode="json")
    return checked(with_stages(plain, asked.model_dump(mode="json"), directory))


def with_stages(plain: Any, asked: Any, instead: Callable[[str, Any], Any]) -> Any:
    """The plain sections; wherever ``stages.NAME`` was asked for is ``instead(NAME, value)``."""
    if isinstance(asked, dict) and isinstance(plain, dict):
        return {key: with_stages(each, asked.get(key), instead) for key, each in plain.items()}
    if isinstance(asked, list) and isinstance(plain, list) and len(asked) == len(plain):
        return [with_stages(*pair, instead) for pair in zip(plain, asked, strict=True)]
    if isinstance(asked, str) and (match := HANDOVER.fullmatch(asked)):
        return instead(match[1], plain)
    return plain

"""What determines the result of a stage, as a key: a stage with an equal one is not run again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from trimtab.core.config import RunFile
from trimtab.core.errors import UserError
from trimtab.core.files import DamagedFile, read_json, sha256_of, to_json
from trimtab.core.options import LocalPath
from trimtab.core.paths import Place, at, checked, incidental, marked, put, with_stages
from trimtab.core.registry import Registry
from trimtab.core.rundir import CONFIG, STAGE
from trimtab.core.stages import STAGES

OBSERVING = {"trackers", "plugins", "run"}
"""Sections that no result depends on; of the plugins their content counts."""

SAVING = {"checkpoint_every", "keep"}
"""Options of ``train`` that no result depends on."""

MAKING = {"model", "data", "source", "judge", "reward", "rollout", "train"}
"""The sections that a stage without an objective reads, and of ``train``:"""

MAKING_TRAIN = {"steps", "epochs", "rows", "micro_tokens", "seed"}

RESULTS = ("adapter", "model", "roles", "data")
"""The folders of a run directory that hold what it made."""

UNREAD = ("__pycache__",)
"""Folders that nothing is read from; nor is it from those whose names begin with a dot."""


@dataclass(frozen=True)
class Key:
    """A stage's key and what it is made of."""

    key: str
    """SHA-256 of ``inputs`` as JSON."""

    inputs: Mapping[str, Any]
    """The sections that count, without what is null, so that an option which is new and not given
    changes nothing. In place of a path there is the hash of what is there, in place of
    ``stages.NAME`` that stage's key."""

    @classmethod
    def of(cls, file: RunFile, registry: Registry, earlier: Mapping[str, Key]) -> Key:
        """The key of a stage, given those of the earlier ones by their names.

        The paths must be absolute. Where the pipeline's own directory is, does not count.
        """
        inputs = _given(_inputs(file, registry, earlier))
        text = json.dumps(inputs, sort_keys=True)
        return cls(hashlib.sha256(text.encode()).hexdigest(), json.loads(text))

    @classmethod
    def stored(cls, stage: Path) -> Key | None:
        """What the directory of a stage has as its key; None where that is lost."""
        try:
            found = read_json(stage / STAGE)
            return cls(found["key"], _given(found["inputs"]))
        except (DamagedFile, KeyError, TypeError):
            return None

    def document(self) -> dict[str, Any]:
        """What ``stage.json`` holds."""
        return {"key": self.key, "inputs": self.inputs}

    def fits(self, stored: Key) -> bool:
        """Is it that one, as far as can be known? What is not there any more may be unchanged."""
        return self.key == stored.key or _fits(self.inputs, stored.inputs)

    def changes(self, stored: Key) -> list[str]:
        """What is not as it was, such as ``objective.beta: 0.1 -> 0.2``."""
        return list(_changes(stored.inputs, self.inputs))


def keys_of(
    stages: Mapping[str, RunFile], registry: Registry, directories: Path
) -> dict[str, Key]:
    """The key of each stage; where its directory has one that fits, that one."""
    keys: dict[str, Key] = {}
    for name, file in stages.items():
        wanted, stored = Key.of(file, registry, keys), Key.stored(directories / name)
        keys[name] = stored if stored is not None and wanted.fits(stored) else wanted
    return keys


def refreshed(settled: RunFile, asked: RunFile, registry: Registry) -> RunFile:
    """The file that a stage with this key has settled on, with what may be asked otherwise now:
    where its inputs lie, and what the key does not count."""
    plain, given = settled.model_dump(mode="json"), asked.model_dump(mode="json")
    for place in incidental(asked, registry):
        if _stands(plain, place):
            put(plain, place, at(given, place))
    places = [("train", name) for name in SAVING] + [(name,) for name in OBSERVING]
    for place in (*places, *(place for place, _ in marked(asked, registry))):
        if len(place) == 1 or at(plain, place) is not None:
            put(plain, place, at(given, place))
    return checked(plain)


def _given(plain: Any) -> Any:
    """Plain sections without what is null; of a file, null is the hash of what is gone."""
    if isinstance(plain, dict) and "sha256" in plain:
        return plain
    if isinstance(plain, dict):
        return {key: _given(each) for key, each in plain.items() if each is not None}
    return [_given(each) for each in plain] if isinstance(plain, list) else plain


def _inputs(file: RunFile, registry: Registry, earlier: Mapping[str, Key]) -> Any:
    asked = file.model_dump(mode="json", exclude=OBSERVING)
    inputs = with_stages(asked, asked, lambda name, _: {"stage": earlier[name].key})
    if file.objective is None:
        inputs = {key: inputs[key] for key in MAKING}
        inputs["train"] = {key: inputs["train"][key] for key in MAKING_TRAIN}
    else:
        for name in SAVING:
            del inputs["train"][name]
    for place in incidental(file, registry):
        if _stands(inputs, place):
            del at(inputs, place[:-1])[place[-1]]
    if not judged(file, registry):
        inputs["judge"] = None
    for place, mark in marked(file, registry):
        value = at(inputs, place)
        if isinstance(value, str) and Path(value).is_absolute():
            put(inputs, place, _content(Path(value), mark, at(inputs, place[:-1])))
    inputs["plugins"] = [_file(Path(plugin)) for plugin in file.plugins]
    return inputs


def _stands(plain: Any, place: Place) -> bool:
    """Is there such an option, be it null?"""
    section = at(plain, place[:-1])
    return isinstance(section, dict) and place[-1] in section


def judged(file: RunFile, registry: Registry) -> bool:
    """Does any part of this stage ask the judge?"""
    sources = [file.source, *(stream.source for stream in file.streams.values())]
    return any(
        registry.make("source", source.name, source.options).judges
        for source in sources
        if source is not None
    ) or any(registry.find("reward", reward.name).judges for reward in file.reward)


def _content(path: Path, mark: LocalPath, beside: Mapping[str, Any]) -> dict[str, Any]:
    if mark.modules_of is not None:
        return _module(path, str(beside.get(mark.modules_of)))
    if path.is_dir():
        return _folder(path)
    return _file(path)


def _file(path: Path) -> dict[str, Any]:
    """A file's hash, and how its name ends, which tells its format; no hash where it is gone."""
    return {"sha256": _sha256(path) if path.is_file() else None, "suffix": path.suffix}


def _folder(path: Path) -> dict[str, Any]:
    """The hash of a folder's files with their names; of a run's directory, of what it made."""
    made = [path]
    if (path / CONFIG).is_file():
        homes = [path, *sorted((path / STAGES).glob("*"))]
        made = [home / name for home in homes for name in RESULTS]
    return {"sha256": _all(path, (file for each in made for file in _files(each)))}


def _module(folder: Path, named: str) -> dict[str, Any]:
    """The hash of a module, or of the whole package that it is of, where the folder has it."""
    top = named.partition(":")[0].partition(".")[0]
    inside = [folder / f"{top}.py", *_files(folder / top)]
    there = [file for file in inside if file.suffix == ".py" and file.is_file()]
    return {"sha256": _all(folder, there) if there else None, "suffix": ".py"}


def _all(folder: Path, files: Any) -> str:
    hashes = sorted((file.relative_to(folder).as_posix(), _sha256(file)) for file in files)
    return hashlib.sha256(to_json(hashes).encode()).hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in UNREAD and name[0] != "."]
        yield from (Path(parent, name) for name in names if name[0] != ".")


def _sha256(path: Path) -> str:
    try:
        status = path.stat()
        return _hashed(path, status.st_size, status.st_mtime_ns, status.st_ino)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


@cache
def _hashed(path: Path, *status: int) -> str:
    """Of each state of a file once in a process."""
    return sha256_of(path)


def _fits(wanted: Any, stored: Any) -> bool:
    """Are they equal, but for the hash of what is gone?"""
    if not isinstance(wanted, dict) or not isinstance(stored, dict):
        if isinstance(wanted, list) and isinstance(stored, list) and len(wanted) == len(stored):
            return all(map(_fits, wanted, stored))
        return bool(wanted == stored)
    if "sha256" in wanted and wanted["sha256"] is None and "sha256" in stored:
        return True
    return wanted.keys() == stored.keys() and all(_fits(wanted[k], stored[k]) for k in wanted)


def _changes(was: Any, now: Any, key: str = "") -> Iterator[str]:
    """Where two inputs differ, by dotted key."""
    if was == now:
        return
    sides = [each if isinstance(each, dict) else {} for each in (was, now)]
    if all("sha256" in side for side in sides):
        yield f"what {key} names has another content"
    elif all("stage" in side for side in sides):
        yield f"the stage that {key} names is another one"
    elif all(sides) and not any("sha256" in side or "stage" in side for side in sides):
        for name in sorted(sides[0].keys() | sides[1].keys()):
            yield from _changes(
                sides[0].get(name), sides[1].get(name), f"{key}.{name}".lstrip(".")
            )
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for n, pair in enumerate(zip(was, now, strict=True)):
            yield from _changes(*pair, f"{key}.{n}")
    else:
        yield f"{key}: {_short(was)} -> {_short(now)}"


def _short(value: Any) -> str:
    """A value as a message shows it."""
    if isinstance(value, dict) and "stage" in value:
        return "a stage"
    if isinstance(value, dict) and "sha256" in value:
        return "a path"
    said = json.dumps(value)
    return said if len(said) < 60 else f"{said[:57]}..."

"""A run directory: what a run was given, what it has done, and who is at work on it."""

from __future__ import annotations

import datetime
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from trimtab.core.errors import RunError, UserError
from trimtab.core.files import (
    REMOVING,
    STAGING,
    DamagedFile,
    fsync_directory,
    fsync_file,
    leftovers,
    read_json,
    remove_leftovers,
    to_json,
    write_atomically,
    write_json,
)
from trimtab.core.locking import holder, in_use, is_replaced, locked, me
from trimtab.core.stages import STAGES

Log = Literal["metrics", "evals", "samples", "constitution"]
LOGS: tuple[Log, ...] = get_args(Log)

State = Literal["running", "finished", "failed", "stopped"]

CONFIG = "config.yaml"
SOURCE = "config.source.yaml"
STAGE = "stage.json"
"""In the directory of a stage: its key, and what that is made of."""

ROLES = "roles"
"""The folder of the roles that a run trained beside the first."""

_LOCK = "run.lock"
_MADE_BEFORE_CONFIG = {_LOCK, "checkpoints", SOURCE, STAGE, "env.json", "run.json"}


@dataclass(frozen=True)
class RunState:
    """What ``run.json`` holds."""

    state: State
    step: int
    error: str | None = None


@dataclass(frozen=True)
class RunDirectory:
    """One run on disk. Only the process that holds its lock writes to it."""

    path: Path

    @classmethod
    def create(
        cls,
        path: Path,
        config_text: str,
        source_text: str,
        env: Mapping[str, Any],
        stage: Mapping[str, Any] | None = None,
    ) -> RunDirectory:
        """Make the directory with what the run was given. ``config.yaml`` is written last.

        ``stage`` is what ``stage.json`` holds, in the directory of a stage.
        A directory that a dead process left before that is taken over.
        Raises ``UserError`` for any other directory that is not empty.
        """
        run = cls(path)
        try:
            if path.exists():
                run._refuse_unless_free()
            path.mkdir(parents=True, exist_ok=True)
            with run.lock():
                run._refuse_unless_free()
                run.checkpoints.mkdir(exist_ok=True)
                write_atomically(path / SOURCE, source_text)
                write_json(path / "env.json", dict(env))
                if stage is not None:
                    write_json(path / STAGE, dict(stage))
                run.set_state("running", 0)
                write_atomically(path / CONFIG, config_text)
        except OSError as error:
            raise UserError(
                f"cannot make the run directory {path}: {error.strerror}. "
                "Choose another place with --run DIR"
            ) from error
        return run

    def _refuse_unless_free(self) -> None:
        if not self.path.is_dir():
            raise UserError(f"{self.path} is a file: choose another place with --run DIR")
        present = {entry.name for entry in self.path.iterdir()}
        if CONFIG in present:
            if (by := holder(self.path / _LOCK)) and by != me():
                raise in_use(self.path, by)
            way = f"go on with it by `trimtab resume {self.path}`"
            stood = self.state()
            if stood.state == "failed" and stood.step == 0:
                way = "it failed before its first step: delete it"
            raise UserError(
                f"{self.path} holds a run already: {way}, or choose another directory with "
                "--run DIR"
            )
        foreign = {name for name in present if not name.startswith((STAGING, REMOVING))}
        if _LOCK in present and not any(self.checkpoints.glob("*")):
            foreign -= _MADE_BEFORE_CONFIG
        if foreign:
            raise UserError(
                f"{self.path} is not empty (it holds {min(foreign)}), and is not a run to resume: "
                "choose another directory with --run DIR"
            )

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """A run directory that is there. Raises ``UserError`` that says what is there instead."""
        if not path.exists():
            raise UserError(f"there is no run directory {path}{_runs_in(path.parent)}")
        if not path.is_dir():
            raise UserError(f"{path} is a file, not a run directory{_runs_in(path.parent)}")
        if not (path / CONFIG).is_file():
            hint = _runs_in(path) or _runs_in(path / STAGES)
            if (path / _LOCK).exists():
                hint = f". It died while it was made: `trimtab train FILE --run {path}` makes it"
            raise UserError(f"{path} is not a run directory: it has no {CONFIG}{hint}")
        return cls(path)

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def config(self) -> str:
        """The text of the resolved run file."""
        return (self.path / CONFIG).read_text(encoding="utf-8")

    @property
    def source(self) -> str:
        """The text of the run file as it was given; nothing where it is lost."""
        file = self.path / SOURCE
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

    @property
    def staged(self) -> bool:
        """Does it hold the stages of a run file?"""
        try:
            return bool(re.search(rb"(?m)^stages:", (self.path / CONFIG).read_bytes()))
        except OSError:
            return False

    def adopt(self, config_text: str, source_text: str) -> None:
        """Give it another run file, to go on by. Only for the holder of its lock."""
        self.set_state("running", self.state().step)
        write_atomically(self.path / SOURCE, source_text)
        self.rewrite_config(config_text)

    def rewrite_config(self, text: str) -> None:
        """Replace the resolved run file, when a choice made at start becomes part of it."""
        write_atomically(self.path / CONFIG, text)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep every other process out. The lock of a process that died is free.

        On entry, what a dead process left half done is deleted.
        Raises ``UserError`` that names the process that holds the lock.
        """
        with locked(self.path / _LOCK):
            for folder in (self.path, self.path / ROLES, self.checkpoints):
                if folder.is_dir():
                    remove_leftovers(folder)
            yield

    def tidy(self) -> None:
        """Delete what a death left in a run that nobody goes on with, where that can be done."""
        if leftovers(self.path):
            with suppress(OSError, UserError), self.lock():
                pass

    def set_state(self, state: State, step: int, error: str | None = None) -> None:
        """Say in ``run.json`` how the run stands, after so many steps."""
        self.check_ours()
        write_json(self.path / "run.json", asdict(RunState(state, step, error)))

    def state(self) -> RunState:
        """How the run stood when it last said so. Without ``run.json`` it stands at its start."""
        file = self.path / "run.json"
        if not file.exists():
            return RunState("running", 0)
        try:
            return _checked(RunState(**read_json(file)))
        except (DamagedFile, TypeError, ValueError) as error:
            raise RunError(
                f"{file} does not say how the run stands ({error}): delete it, then resume"
            ) from error

    def check_ours(self) -> None:
        """Raise ``RunError`` where the directory was deleted, or made anew, under a process that
        runs in it: what it writes would be taken for the other run's."""
        if is_replaced(self.path / _LOCK):
            raise RunError(
                f"{self.path} is not the directory any more that this run was started in: it was "
                "deleted or replaced meanwhile. Nothing more is written to it"
            )

    def log(self, name: Log, record: Mapping[str, Any]) -> None:
        """Append one line of JSON. A number that is NaN or infinite is written as null."""
        line = to_json(_finite(record)) + "\n"
        file = self._log_file(name)
        self.check_ours()
        try:
            with open(file, "ab") as stream:
                stream.write(line.encode())
        except OSError as error:
            raise RunError(
                f"cannot write {file}: {error.strerror}. See to the disk, then resume the run"
            ) from error

    def records(self, name: Log) -> list[Any]:
        """What a log holds, in order."""
        file = self._log_file(name)
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        return [json.loads(line) for line in lines]

    def positions(self) -> dict[str, int]:
        """The length of each log in bytes, for a checkpoint; so much is safe on the disk."""
        lengths: dict[str, int] = {}
        for name in LOGS:
            file = self._log_file(name)
            if file.exists():
                fsync_file(file)
                lengths[name] = file.stat().st_size
        fsync_directory(self.path)
        return lengths

    def rewind(self, positions: Mapping[str, int]) -> list[str]:
        """Cut each log back to its position, so that a resumed run repeats and loses no line.

        A log without a position is emptied, and a line that is not JSON is deleted. Returns a
        message for each log that does not have whole lines up to its position.
        """
        faults = []
        for name in LOGS:
            file, position = self._log_file(name), positions.get(name, 0)
            content = file.read_bytes()[:position] if file.exists() else b""
            lines = [line + b"\n" for line in content.split(b"\n")[:-1] if _is_json(line)]
            whole = sum(map(len, lines))
            if whole != position:
                faults.append(
                    f"{file} should have {position} bytes of whole lines and has {whole}: "
                    "lines from before the checkpoint are lost"
                )
            if content.startswith(b"".join(lines)):
                if file.exists():
                    os.truncate(file, whole)
            else:
                write_atomically(file, b"".join(lines))
        return faults

    def _log_file(self, name: Log) -> Path:
        return self.path / f"{name}.jsonl"


def _checked(state: RunState) -> RunState:
    if state.state not in get_args(State) or type(state.step) is not int:
        raise ValueError(f"{state.state!r} at step {state.step!r}")
    return state


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _runs_in(folder: Path) -> str:
    """A hint that names the newest of the runs in a folder, or nothing."""
    if not folder.is_dir():
        return ""
    runs = [entry for entry in folder.iterdir() if (entry / CONFIG).is_file()]
    if not runs:
        return ""
    latest = max(runs, key=lambda run: (run / CONFIG).stat().st_mtime)
    return f". The newest of the runs in {folder} is {latest}"


def _finite(value: Any) -> Any:
    """JSON without NaN and infinity, which no reader but Python's would take."""
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return value


def new_run_path(base: Path, name: str) -> Path:
    """``base/name-date-n``, with n one more than the last one of that day."""
    stem = f"{name}-{datetime.date.today().isoformat()}"
    entries = base.iterdir() if base.is_dir() else ()
    matches = [re.fullmatch(re.escape(stem) + r"-([1-9][0-9]*)", entry.name) for entry in entries]
    return base / f"{stem}-{max((int(match[1]) for match in matches if match), default=0) + 1}"

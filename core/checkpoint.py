"""Checkpoints: whole or absent, verified by hash, and nothing in them can run code.

A checkpoint is a folder ``step-N`` of safetensors and JSON files with a ``MANIFEST.json``::

    {"step": 50, "files": {"roles/policy.safetensors": {"sha256": "...", "bytes": 1234}, ...}}

It is staged under another name, synced, and renamed. A checkpoint that it replaces keeps the
name ``.replaced-step-N-...``, and counts, until the new one has its own.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from trimtab.core.errors import RunError
from trimtab.core.files import (
    STAGING,
    DamagedFile,
    fsync_directory,
    fsync_file,
    read_json,
    remove,
    remove_leftovers,
    sha256_of,
    to_json,
    unique_beside,
    write_synced,
)

MANIFEST = "MANIFEST.json"
_REPLACED = ".replaced-"
_FOLDER = re.compile(r"step-(0|[1-9][0-9]*)|\.replaced-step-(0|[1-9][0-9]*)-[0-9a-f]+")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")


class DamagedCheckpoint(RunError):
    """A checkpoint is not what was saved. The message names the file and what is wrong."""

    def __init__(self, path: Path, fault: str) -> None:
        super().__init__(f"checkpoint {path} is damaged: {fault}")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk, read piece by piece."""

    step: int
    path: Path

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors that were saved under this name, on the CPU."""
        file = self.path / f"{name}.safetensors"
        try:
            return load_file(file)
        except FileNotFoundError:
            raise DamagedCheckpoint(self.path, f"{name}.safetensors is missing") from None
        except (OSError, SafetensorError) as error:
            fault = f"{name}.safetensors cannot be read: {error}"
            raise DamagedCheckpoint(self.path, fault) from error

    def document(self, name: str) -> Any:
        """The JSON value that was saved under this name."""
        try:
            return read_json(self.path / f"{name}.json")
        except DamagedFile as error:
            raise DamagedCheckpoint(self.path, str(error)) from error


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    documents: Mapping[str, Any],
    keep: int,
) -> Path:
    """Save ``step-N`` into ``folder``, then keep the newest ``keep`` checkpoints.

    Names may contain ``/``, which makes sub-folders. Checkpoints of later steps are deleted:
    a run that saves step N again has left them behind. Only one process may save at a time.
    Whatever fails, the checkpoints that were there stay, and the error is a ``RunError``.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, not {keep}: the last checkpoint always stays")
    final = folder / f"step-{step}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        staging = unique_beside(final, STAGING)
        try:
            _stage(staging, step, tensors, documents)
            _commit(staging, final)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        rotate(folder, step, keep)
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"step {step} could not be saved in {folder}: {error}. Checkpoints that were there "
            "are untouched: see to the disk, then resume the run"
        ) from error
    return final


def _stage(
    staging: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    documents: Mapping[str, Any],
) -> None:
    staging.mkdir()
    for name, group in tensors.items():
        file = _place(staging, name, ".safetensors")
        save_file(_separate(group), file)
        fsync_file(file)
    for name, document in documents.items():
        try:
            text = to_json(document, indent=1)
        except (TypeError, ValueError) as error:
            raise RunError(
                f"{name!r} of the checkpoint of step {step} is not JSON: {error}"
            ) from error
        write_synced(_place(staging, name, ".json"), text)
    files = {
        file.relative_to(staging).as_posix(): {
            "sha256": sha256_of(file),
            "bytes": file.stat().st_size,
        }
        for file in _files(staging)
    }
    write_synced(staging / MANIFEST, to_json({"step": step, "files": files}, indent=1))
    for directory in (staging, *(path for path in staging.rglob("*") if path.is_dir())):
        fsync_directory(directory)


def _place(staging: Path, name: str, suffix: str) -> Path:
    if not _NAME.fullmatch(name) or name + suffix == MANIFEST:
        raise ValueError(
            f"{name!r} cannot name a part of a checkpoint: use letters, digits and _ - . "
            "in parts separated by /"
        )
    file = staging / f"{name}{suffix}"
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same values contiguous on the CPU, no two of them in one storage."""
    separate: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        alone = tensor.detach().cpu().contiguous()
        if alone.untyped_storage().data_ptr() in storages:
            alone = alone.clone()
        storages.add(alone.untyped_storage().data_ptr())
        separate[name] = alone
    return separate


def _commit(staging: Path, final: Path) -> None:
    """Give the staged checkpoint its name. One that has it already stays valid meanwhile."""
    if final.exists():
        os.rename(final, unique_beside(final, _REPLACED))
    os.rename(staging, final)
    fsync_directory(final.parent)


def rotate(folder: Path, step: int, keep: int) -> None:
    """Keep ``step`` and the ones before it, ``keep`` in all; delete the others."""
    found = _found(folder)
    steps = sorted({at for at, _ in found if at <= step}, reverse=True)[:keep]
    for at, path in found:
        if at not in steps or (at == step and path.name.startswith(_REPLACED)):
            remove(path)


def _found(folder: Path) -> list[tuple[int, Path]]:
    """Everything named as a checkpoint, newest first; what was replaced after what replaced it."""
    entries = folder.iterdir() if folder.is_dir() else ()
    found = [(at, path) for path in entries if (at := _step_of(path)) is not None]
    return sorted(found, key=lambda pair: (-pair[0], pair[1].name.startswith(_REPLACED), pair[1]))


def _step_of(path: Path) -> int | None:
    match = _FOLDER.fullmatch(path.name)
    return int(match[1] or match[2]) if match else None


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that verifies, and a message about each newer one that does not."""
    passed_over: list[str] = []
    for step, path in _found(folder):
        try:
            verify(path)
        except DamagedCheckpoint as damage:
            passed_over.append(str(damage))
        else:
            return Checkpoint(step, path), passed_over
    return None, passed_over


def verify(path: Path) -> None:
    """Raise ``DamagedCheckpoint`` unless every file is there, exactly as it was saved."""
    try:
        files = _manifest(path)
        present = {file.relative_to(path).as_posix(): file for file in _files(path)}
        del present[MANIFEST]
        for name in sorted(files.keys() - present.keys()):
            raise DamagedCheckpoint(path, f"{name} is missing")
        for name in sorted(present.keys() - files.keys()):
            raise DamagedCheckpoint(path, f"{name} is not in its {MANIFEST}")
        for name, file in sorted(present.items()):
            _verify_file(path, name, file, files[name])
    except OSError as error:
        raise DamagedCheckpoint(path, f"it cannot be read: {error}") from error


def _verify_file(path: Path, name: str, file: Path, expected: Mapping[str, Any]) -> None:
    if file.is_symlink() or not file.is_file():
        raise DamagedCheckpoint(path, f"{name} is not a plain file")
    size = file.stat().st_size
    if size == 0:
        raise DamagedCheckpoint(path, f"{name} is empty")
    if size != expected["bytes"]:
        raise DamagedCheckpoint(path, f"{name} has {size} bytes, not {expected['bytes']}")
    if sha256_of(file) != expected["sha256"]:
        raise DamagedCheckpoint(path, f"{name} has changed: its hash is not the saved one")


def _manifest(path: Path) -> dict[str, dict[str, Any]]:
    """What the manifest says of each file, once its form and its step are right."""
    step = _step_of(path)
    if step is None or not path.is_dir():
        raise DamagedCheckpoint(path, "a checkpoint is a folder named step-N")
    try:
        manifest = read_json(path / MANIFEST)
    except DamagedFile as error:
        raise DamagedCheckpoint(path, str(error)) from error
    if not isinstance(manifest, dict) or manifest.keys() != {"step", "files"}:
        raise DamagedCheckpoint(path, f"{MANIFEST} does not have the keys step and files alone")
    if type(manifest["step"]) is not int or manifest["step"] != step:
        raise DamagedCheckpoint(path, f"{MANIFEST} is of step {manifest['step']}")
    files = manifest["files"]
    if not isinstance(files, dict) or not all(
        isinstance(entry, dict) and entry.keys() == {"sha256", "bytes"} for entry in files.values()
    ):
        raise DamagedCheckpoint(path, f"{MANIFEST} lacks the sha256 or bytes of a file")
    return files


def _files(path: Path) -> Iterator[Path]:
    """All that is in a checkpoint but its folders; a link to a folder counts as a file."""
    return (file for file in sorted(path.rglob("*")) if file.is_symlink() or not file.is_dir())

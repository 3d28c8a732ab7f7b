"""Answers of endpoints on the disk, found by what was asked: for any run, and for any process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trimtab.core.caches import cache_dir
from trimtab.core.files import DamagedFile, read_json, to_json, write_atomically
from trimtab.plugins.judges.replies import Reply

FORMAT = 1
"""Raise it when an old answer would be read otherwise now."""


def key_of(request: Mapping[str, Any]) -> str:
    """SHA-256 of all that determines an answer, and of nothing else."""
    text = json.dumps({"format": FORMAT, **request}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Answers:
    """A file an answer, whole or absent; several processes may share the folder.

    A file that is damaged is none: its question is asked again, and it is written anew.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder or cache_dir() / "judges"
        self.damaged: list[str] = []
        """What was wrong with files that were found."""

    def find(self, key: str) -> Reply | None:
        """The answer to that question; None where there is none that is sound."""
        file = self._file(key)
        if not file.exists():
            return None
        try:
            found = read_json(file)
            reply = Reply.of(found["answer"])
            if found["sha256"] != _digest(key, reply):
                raise ValueError("its SHA-256 differs")
        except (DamagedFile, KeyError, TypeError, ValueError) as error:
            self.damaged.append(f"{file} is damaged, and its question is asked again ({error})")
            return None
        return reply

    def keep(self, key: str, reply: Reply) -> None:
        """Write an answer down."""
        file = self._file(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {"answer": asdict(reply), "sha256": _digest(key, reply)}
        write_atomically(file, to_json(content) + "\n")

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def _digest(key: str, reply: Reply) -> str:
    """Of what a file says, and of the question that it is for."""
    return hashlib.sha256(f"{key} {to_json(asdict(reply))}".encode()).hexdigest()

"""What a run has paid for: each answer of the endpoint, kept once it came; and the cap on it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trimtab.core.errors import RunError
from trimtab.core.files import to_json
from trimtab.plugins.judges.replies import Reply

LEDGER = "judge_requests.jsonl"


class Spent(Exception):
    """The next request would go over the cap."""

    def __init__(self, unit: str) -> None:
        super().__init__(unit)
        self.unit = unit


class Ledger:
    """``judge_requests.jsonl`` of a run: a line for each answer that came, of all its lives.

    What counts against the cap is each response of status 200 that was read to its end, whether
    or not an answer could be read from it; a refusal, a time-out or a cut connection does not
    count. Tokens are those that the endpoint says; where it says none, as many as there can have
    been: ``bound``. The file only grows: a resumed run reads it, and asks nothing in it again.
    Another process of the run may append too. Its lines count here once they are there, so that
    the requests that it has under way may go over the cap.
    """

    def __init__(self, folder: Path | None, requests: int | None, tokens: int | None) -> None:
        self.file = None if folder is None else folder / LEDGER
        self.caps = {"requests": requests, "tokens": tokens}
        self.paid = {"requests": 0, "tokens": 0}
        self._flying = {"requests": 0, "tokens": 0}
        self._replies: dict[str, Reply] = {}
        self._position = 0
        self._changed = threading.Condition()
        with self._changed:
            self._mend()
            self._read()

    def find(self, key: str) -> Reply | None:
        """What this run was answered to that question, in this life or an earlier one."""
        with self._changed:
            return self._replies.get(key)

    @contextmanager
    def room(self, bound: int) -> Iterator[None]:
        """Room for one request of at most so many tokens, while the block runs.

        Waits while requests under way may leave room. Raises ``Spent`` when there is none.
        """
        want = {"requests": 1, "tokens": bound}
        with self._changed:
            while (short := self._short(want)) is not None:
                if not self._flying["requests"]:
                    raise Spent(short)
                self._changed.wait()
            self._fly(want, 1)
        try:
            yield
        finally:
            with self._changed:
                self._fly(want, -1)
                self._changed.notify_all()

    def pay(self, key: str, bound: int, seconds: float, reply: Reply | str) -> None:
        """Keep an answer; or, as a text, what is wrong with a response that cannot be read."""
        line: dict[str, Any] = {"key": key, "seconds": round(seconds, 3)}
        if isinstance(reply, str):
            line |= {"tokens": bound, "fault": reply}
        else:
            said = (reply.prompt_tokens, reply.completion_tokens)
            tokens = bound if None in said else sum(each for each in said if each is not None)
            line |= {"tokens": tokens, "answer": asdict(reply)}
        with self._changed:
            if self.file is None:
                self._count(line)
            else:
                self._append(to_json(line) + "\n")
                self._read()
            self._changed.notify_all()

    def _short(self, want: dict[str, int]) -> str | None:
        """What there is not enough of."""
        self._read()
        for unit, cap in self.caps.items():
            if cap is not None and self.paid[unit] + self._flying[unit] + want[unit] > cap:
                return unit
        return None

    def _fly(self, want: dict[str, int], sign: int) -> None:
        for unit, much in want.items():
            self._flying[unit] += sign * much

    def _count(self, line: dict[str, Any]) -> None:
        self.paid["requests"] += 1
        self.paid["tokens"] += line["tokens"]
        if "answer" in line:
            self._replies.setdefault(line["key"], Reply.of(line["answer"]))

    def _append(self, line: str) -> None:
        """In one write, so that a killed process leaves all of it or nothing; then synced."""
        assert self.file is not None
        try:
            descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                written = os.write(descriptor, line.encode())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise RunError(
                f"cannot write {self.file}: {error.strerror}. See to the disk, then resume the run"
            ) from error
        if written < len(line):
            raise RunError(f"cannot write {self.file}. See to the disk, then resume the run")

    def _read(self) -> None:
        """What was appended since the last call, by whichever process."""
        if self.file is None or not self.file.exists():
            return
        with open(self.file, "rb") as stream:
            stream.seek(self._position)
            new = stream.read()
        whole = new[: new.rfind(b"\n") + 1]
        for number, text in enumerate(whole.splitlines(), start=1):
            if not text.strip():
                continue
            try:
                self._count(json.loads(text))
            except (ValueError, KeyError, TypeError):
                raise RunError(
                    f"{self.file} is damaged, {number} lines after byte {self._position}: it says "
                    "what this run has paid for. Delete the line to ask that question again"
                ) from None
        self._position += len(whole)

    def _mend(self) -> None:
        """Cut off the end of a file that a full disk or a loss of power left in half a line."""
        if self.file is None or not self.file.exists():
            return
        content = self.file.read_bytes()
        if content and not content.endswith(b"\n"):
            with open(self.file, "r+b") as stream:
                stream.truncate(content.rfind(b"\n") + 1)

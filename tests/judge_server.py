"""An endpoint of chat completions on loopback that fails as it is told to, over real sockets."""

from __future__ import annotations

import email.utils
import hashlib
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FIRST, SECOND = "1AXP", "2BYQ"
"""What stands for the first of two completions, and for the second, in whichever pair."""

MODEL = "small"

Logps = Mapping[str, float]
Answer = Callable[[str], tuple[str, Logps]]
"""From all messages as one text to what is written, and the log-probs of its first token."""


def drawn(text: str) -> tuple[str, Logps]:
    """P(first) follows from the text alone; so do the ratings."""
    digest = hashlib.sha256(text.encode()).digest()
    first = (1 + digest[0]) / 300
    return _pair(first) if digest[0] % 2 else _pair(1 - first)


def always_first(text: str) -> tuple[str, Logps]:
    """It reads nothing."""
    return _pair(0.9)


def echo(text: str) -> tuple[str, Logps]:
    """It says what it was shown."""
    return text, {}


def silent(text: str) -> tuple[str, Logps]:
    """It writes nothing."""
    return "", {}


def ratings(text: str) -> tuple[str, Logps]:
    """As a model rates whose tokenizer has a token for each number to 10."""
    return "7", {str(n): math.log(n / 55) for n in range(1, 11)}


def _pair(first: float) -> tuple[str, Logps]:
    of_first = dict.fromkeys(FIRST, math.log(first / 4))
    of_second = dict.fromkeys(SECOND, math.log((1 - first) / 4))
    return ("1" if first > 0.5 else "2"), {**of_first, **of_second}


class JudgeServer:
    """What it is asked, what it has answered, and how it fails.

    ``faults(n, body)`` names the fault of the n-th request, counted from 1; None for none: "429",
    "429:SECONDS", "429:date", "500", "slow", "drop", "cut", "malformed", "wrapped", "empty",
    "quota", "too_long", or another status, such as "404". ``logprobs``: "all"; "none", which
    ignores that they are asked for; "refused"; "five", which refuses more; "lacking", without
    the last one.
    """

    def __init__(self, answer: Answer = drawn) -> None:
        self.answer = answer
        self.faults: Callable[[int, Mapping[str, Any]], str | None] = lambda n, body: None
        self.logprobs = "all"
        self.usage = True
        self.models = [MODEL, "large"]
        self.delay = 0.0
        self.asked: list[Mapping[str, Any]] = []
        """The body of each request, in the order in which they came."""

        self.answered: Counter[str] = Counter()
        """How often each list of messages was answered."""

        self.keys: set[str | None] = set()
        """The ``Authorization`` headers that came."""

        self.under_way = self.most = 0
        """Requests at this moment, and the most that there were at one."""

        self.url = ""
        self._lock = threading.Lock()

    def fails_first(self, *faults: str | None) -> None:
        """The first requests fail so."""
        self.faults = lambda n, body: faults[n - 1] if n <= len(faults) else None

    @contextmanager
    def serving(self):
        """Serve while the block runs."""

        class Handler(_Handler):
            server_of_judge = self

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
            http.daemon_threads = True
            self.url = f"http://127.0.0.1:{http.server_port}/v1"
            thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
            thread.start()
            try:
                yield self
            finally:
                http.shutdown()
                thread.join()

    def come(self, body: Mapping[str, Any], key: str | None) -> int:
        """Note a request; its number."""
        with self._lock:
            self.asked.append(body)
            self.keys.add(key)
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            return len(self.asked)

    def gone(self) -> None:
        """It is over, however it ended."""
        with self._lock:
            self.under_way -= 1

    def note_answer(self, body: Mapping[str, Any]) -> None:
        """It was sent whole."""
        with self._lock:
            self.answered[content(body)] += 1


class _Handler(BaseHTTPRequestHandler):
    server_of_judge: JudgeServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def handle_one_request(self) -> None:
        """A client that is killed cuts the connection."""
        try:
            super().handle_one_request()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def do_GET(self) -> None:
        models = [{"id": name, "object": "model"} for name in self.server_of_judge.models]
        self._send(200, {"object": "list", "data": models})

    def do_POST(self) -> None:
        judge = self.server_of_judge
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        number = judge.come(body, self.headers.get("Authorization"))
        try:
            self._answer(judge, body, judge.faults(number, body))
        finally:
            judge.gone()

    def _answer(self, judge: JudgeServer, body: Mapping[str, Any], fault: str | None) -> None:
        if judge.delay:
            time.sleep(judge.delay)
        if fault == "drop":
            self.close_connection = True
            return None
        top = body.get("top_logprobs")
        if fault is None and top and judge.logprobs == "refused":
            return self._fails(400, "logprobs are not supported by this model")
        if fault is None and top and top > 5 and judge.logprobs == "five":
            return self._fails(400, "top_logprobs must be at most 5")
        kind, _, much = (fault or "").partition(":")
        if kind == "slow":
            time.sleep(float(much or 1))
        elif kind == "429":
            date = email.utils.formatdate(time.time() + 1, usegmt=True)
            return self._fails(429, "slow down", after=date if much == "date" else much)
        elif kind == "quota":
            return self._fails(429, "you exceeded your quota", "insufficient_quota")
        elif kind == "too_long":
            return self._fails(400, "This model's maximum context length is 8 tokens")
        elif kind == "malformed":
            return self._send_text(200, '{"choices": [{"message": {"content": "1"')
        elif kind == "wrapped":
            return self._send(200, {"error": {"message": "overloaded"}})
        elif kind.isdigit():
            return self._fails(
                int(kind), f"this is status {kind}: {self.headers['Authorization']}"
            )
        whole = json.dumps(self._completion(judge, body, kind == "empty"))
        if kind == "cut":
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(whole)))
            self.end_headers()
            self.wfile.write(whole[: len(whole) // 2].encode())
            self.close_connection = True
            return None
        self._send_text(200, whole)
        judge.note_answer(body)
        return None

    def _completion(self, judge: JudgeServer, body: Mapping[str, Any], empty: bool) -> Any:
        shown = content(body)
        text, logps = ("", {}) if empty else judge.answer(shown)
        listed = None
        if body.get("logprobs") and judge.logprobs != "none" and text:
            first = sorted(logps.items(), key=lambda each: -each[1])[: body["top_logprobs"]]
            kept = first[:-1] if judge.logprobs == "lacking" else first
            top = [{"token": token, "logprob": logp} for token, logp in kept]
            own = {"token": text, "logprob": logps.get(text, 0.0), "top_logprobs": top}
            listed = {"content": [own]}
        choice = {"index": 0, "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": len(shown.split()), "completion_tokens": len(text.split())}
        return {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{**choice, "logprobs": listed, "finish_reason": "stop"}],
            **({"usage": usage} if judge.usage else {}),
        }

    def _fails(self, status: int, message: str, code: str | None = None, after: str = "") -> None:
        headers = {"Retry-After": after} if after else {}
        self._send(status, {"error": {"message": message, "code": code}}, headers)

    def _send(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
        self._send_text(status, json.dumps(value), headers)

    def _send_text(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text.encode())))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())


def content(body: Mapping[str, Any]) -> str:
    """All messages as one text."""
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in body["messages"])

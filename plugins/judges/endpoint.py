"""One request to an OpenAI-compatible endpoint, however often it takes; and what went wrong."""

from __future__ import annotations

import email.utils
import ipaddress
import json
import math
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from trimtab.core.errors import RunError, UserError, suggestion
from trimtab.plugins.judges.replies import Unreadable

INSTALL = "pip install 'trimtab[judges]'"
LONGEST_WAIT = 120.0
"""Seconds; an endpoint that asks to wait longer is not waited for."""

_TRANSIENT = (408, 409, 429)
_OF_THE_CONTENT = ("context_length_exceeded", "content_filter", "content_policy_violation")
_NOT_OVER = "insufficient_quota"


class Refused(Exception):
    """The endpoint does not take the request as it is."""

    def __init__(self, status: int, said: str, code: str | None) -> None:
        super().__init__(said)
        self.status, self.said, self.code = status, said, code

    @property
    def of_the_content(self) -> bool:
        """Is it the text that is refused, and not the way in which it is asked?"""
        return self.code in _OF_THE_CONTENT or "maximum context length" in self.said


class Halted(Exception):
    """Another request failed for good, and this one is not sent any more."""


@dataclass(frozen=True)
class Address:
    """Where the endpoint is, and how its key is found."""

    base_url: str
    key_variable: str
    timeout: float
    retries: int

    @property
    def loopback(self) -> bool:
        """Is it on this machine?"""
        host = urlsplit(self.base_url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost" or host.endswith(".localhost")


class Endpoint:
    """Sends requests by the official client, whose own retries are off: each attempt is ours to
    count. The key is in the client alone, and is taken out of whatever the endpoint says."""

    def __init__(self, address: Address) -> None:
        self.address = address
        try:
            import openai
        except ImportError:
            raise UserError(
                f"the judge 'openai' wants the package openai, which is not here: {INSTALL}"
            ) from None
        self._openai = openai
        self._key = os.environ.get(address.key_variable, "").strip()
        if not self._key and not address.loopback:
            raise UserError(
                f"the environment variable {address.key_variable} is not set: it holds the key "
                f"of {address.base_url} (judge.api_key_env names another variable)"
            )
        self._client = openai.OpenAI(
            api_key=self._key or "none",
            base_url=address.base_url,
            timeout=address.timeout,
            max_retries=0,
            http_client=_without_proxies(openai) if address.loopback else None,
        )
        weakref.finalize(self, self._client.close)
        self._jitter = random.Random()
        self.halt = threading.Event()
        """Set when no further attempt should be made."""

    def send(self, body: Mapping[str, Any], attempt: Callable[[Callable[[], Any]], Any]) -> Any:
        """The JSON of a response that could be read, after as many attempts as it takes.

        ``attempt`` is given what sends the request once, and calls it where it may; what it makes
        of the response is returned, and where it raises ``Unreadable`` the request is sent again.
        Between attempts it waits as long as the endpoint asks, else 0.5 s, 1 s, 2 s, ... 8 s, of
        which up to half is left out at random. Raises ``Refused``, ``Halted``, ``RunError``.
        """
        failures = 0
        while not self.halt.is_set():
            try:
                return attempt(lambda: self._once(body))
            except Unreadable as error:
                said, asked = str(error), None
            except self._openai.APIStatusError as error:
                said, asked = self._transient(error), _retry_after(error.response.headers)
            except self._openai.APIConnectionError as error:
                said, asked = self._unreached(error), None
            failures += 1
            if failures > self.address.retries or (asked or 0) > LONGEST_WAIT:
                raise RunError(self._given_up(said, failures, asked))
            wait = min(0.5 * 2 ** (failures - 1), 8.0) * self._jitter.uniform(0.5, 1.0)
            self.halt.wait(wait if asked is None else asked)
        raise Halted

    def models(self) -> list[str]:
        """The names of the endpoint's models, where it says them."""
        try:
            raw = self._client.with_options(timeout=10).models.with_raw_response.list()
            return sorted(str(each["id"]) for each in json.loads(raw.content)["data"])
        except (self._openai.OpenAIError, ValueError, KeyError, TypeError):
            return []

    def refused(self, error: Refused, model: str) -> UserError:
        """What to tell the user."""
        at, said = self.address.base_url, f"status {error.status}: {error.said}"
        if error.status in (401, 403):
            return UserError(
                f"{at} does not accept the key in {self.address.key_variable} ({said}): set that "
                "environment variable, or name another one in judge.api_key_env"
            )
        known = self.models()
        if error.status == 404 or (known and model not in known):
            models = f"{suggestion(model, known)} It has: {', '.join(known[:10])}" if known else ""
            return UserError(
                f"{at} has no model {model!r} (judge.model), or is no such endpoint "
                f"(judge.base_url): {said}.{models}"
            )
        return UserError(f"{at} refuses what the judge asks of {model!r} ({said})")

    def _once(self, body: Mapping[str, Any]) -> Any:
        raw = self._client.chat.completions.with_raw_response.create(**body)
        try:
            return json.loads(raw.content)
        except ValueError:
            raise Unreadable("a response that is not JSON") from None

    def _transient(self, error: Any) -> str:
        """What a status says that may pass. Raises ``Refused`` for one that does not."""
        status, said = error.status_code, self._scrubbed(error)
        own = error.response.headers.get("x-should-retry")
        passes = (status in _TRANSIENT or status >= 500) and own != "false"
        unwilling = status >= 500 and "logprobs" in said
        if error.code == _NOT_OVER:
            raise RunError(
                f"{self.address.base_url} says that its own quota is spent ({said}). What was "
                "answered is kept: trimtab resume goes on with it"
            ) from None
        if unwilling or not passes:
            raise Refused(status, said, error.code) from None
        return f"status {status}: {said}"

    def _unreached(self, error: Any) -> str:
        if isinstance(error, self._openai.APITimeoutError):
            return f"no answer in {self.address.timeout:g} s (judge.timeout)"
        return f"no connection, or one that was cut: {self._without_key(str(error.__cause__))}"

    def _given_up(self, said: str, failures: int, asked: float | None) -> str:
        times = "once" if failures == 1 else f"{failures} times"
        wait = f", and asks to wait {asked:.0f} s" if (asked or 0) > LONGEST_WAIT else ""
        return (
            f"{self.address.base_url} was asked {times} in vain{wait}. The last time: {said}. "
            "What was answered before is kept: trimtab resume goes on with it"
        )

    def _scrubbed(self, error: Any) -> str:
        """What the endpoint says of an error, on a line of at most 300 characters."""
        body = error.body if isinstance(error.body, Mapping) else {}
        text = str(body.get("message") or (error.body or error.message))
        said = " ".join(self._without_key(text).split())
        return said if len(said) <= 300 else f"{said[:297]}..."

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "[the key]") if self._key else text


def _without_proxies(openai: Any) -> Any:
    """A client for this machine's loopback, which no proxy knows."""
    return openai.DefaultHttpxClient(trust_env=False)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the endpoint asks to wait, as a number or as a date; None where it does not."""
    for name, divisor in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            asked = float(headers[name]) / divisor
        except (KeyError, ValueError):
            continue
        return None if math.isnan(asked) else max(asked, 0.0)
    try:
        date = email.utils.parsedate_to_datetime(headers["retry-after"])
    except (KeyError, ValueError):
        return None
    return max(date.timestamp() - time.time(), 0.0)

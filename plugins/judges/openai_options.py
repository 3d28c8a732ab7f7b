"""Options of the judge ``openai``. They import no client."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from annotated_types import Ge
from pydantic import field_validator

from trimtab.core.options import Config, Incidental, PositiveFloat, PositiveInt
from trimtab.plugins.judges.chat import ChatConfig

OFFICIAL = "https://api.openai.com/v1"

SECRET = re.compile(r"(api[-_]?key|authorization|access[-_]?token|secret|password)", re.IGNORECASE)
"""In names of what may not stand in a run file, which every run directory keeps."""


class Budget(Config):
    """What a run may pay for, at most: all its stages and all its lives together."""

    requests: PositiveInt | None = None
    """Responses of status 200 that were read to their end. Refusals and retries of what failed
    otherwise do not count; null is no cap."""

    tokens: PositiveInt | None = None
    """Of prompts and completions, as the endpoint counts them. Before a request it is reckoned
    with a token for each byte, so that the cap is never exceeded; null is no cap."""


class OpenAIConfig(ChatConfig):
    """Which endpoint and model, how it is reached, and what may be spent."""

    model: str
    """The endpoint's name of it."""

    base_url: str | None = None
    """Of the endpoint, such as http://localhost:8000/v1; null is OpenAI's own."""

    api_key_env: Annotated[str, Incidental()] = "OPENAI_API_KEY"
    """The environment variable that holds the key. An endpoint on this machine needs none."""

    concurrency: Annotated[PositiveInt, Incidental()] = 8
    """Requests under way at a time."""

    timeout: Annotated[PositiveFloat, Incidental()] = 60.0
    """Seconds that a request may take."""

    retries: Annotated[int, Ge(0), Incidental()] = 5
    """How often a request is sent again: after 408, 409, 429 or a status from 500, after a
    time-out, a lost or cut connection, and a response that cannot be read."""

    budget: Annotated[Budget, Incidental()] = Budget()
    """What the run may pay for."""

    logprobs: Literal["auto", "off"] = "auto"
    """Of the options of a verdict: asked for where the endpoint gives them; or its text counts."""

    top_logprobs: PositiveInt = 20
    """How many likely tokens are asked for. A verdict by log-probs wants all of its options among
    them. 20 is the most of OpenAI's own; llama.cpp, say, lists as many as it is asked for."""

    cache: Annotated[str | Literal[False] | None, Incidental()] = None
    """A folder of answers, absolute or from ~, that other runs may share; null is ``judges`` in
    trimtab's cache; false is none. A run asks nothing again that it was answered itself."""

    extra: dict[str, Any] = {}
    """More of the body of each request, such as {"seed": 1}; what an endpoint has of its own."""

    @field_validator("base_url")
    @classmethod
    def _is_plain(cls, value: str | None) -> str | None:
        parts = urlsplit(value or OFFICIAL)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("wants an address that begins with http:// or https://")
        if parts.username is not None or parts.password is not None:
            raise ValueError(
                "has a name or a password in it, which every run directory would keep: leave it "
                "out, and name the environment variable that holds the key in api_key_env"
            )
        _check_holds_no_key(name for name, _ in parse_qsl(parts.query, keep_blank_values=True))
        return value

    @field_validator("extra")
    @classmethod
    def _holds_no_key(cls, value: dict[str, Any]) -> dict[str, Any]:
        _check_holds_no_key(value)
        return value

    @field_validator("api_key_env")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
            raise ValueError("is the name of an environment variable, and not the key itself")
        return value

    @field_validator("cache")
    @classmethod
    def _is_absolute(cls, value: str | Literal[False] | None) -> str | Literal[False] | None:
        if value and not Path(value).expanduser().is_absolute():
            raise ValueError("wants an absolute path, or one from ~")
        return value


def _check_holds_no_key(names: Iterable[str]) -> None:
    for name in names:
        if SECRET.search(name):
            raise ValueError(
                f"has {name!r} in it, which every run directory would keep: leave it out, and "
                "name the environment variable that holds the key in api_key_env"
            )

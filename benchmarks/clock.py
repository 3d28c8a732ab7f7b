"""The time that parts of a program take, measured where they are called."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import Any


def timed(where: Any, name: str, seconds: list[float]) -> None:
    """Record how long each call of a function takes from now on; ``where`` is what holds it."""
    function: Callable[..., Any] = getattr(where, name)

    @wraps(function)
    def measured(*arguments: Any, **more: Any) -> Any:
        began = time.monotonic()
        result = function(*arguments, **more)
        seconds.append(time.monotonic() - began)
        return result

    setattr(where, name, measured)

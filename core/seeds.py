"""Seeds of random streams that must not be the same."""

from __future__ import annotations

import hashlib


def mixed(*numbers: int | str) -> int:
    """A seed in which every number and name matters."""
    digest = hashlib.sha256(" ".join(map(str, numbers)).encode()).digest()
    return int.from_bytes(digest[:7], "big")

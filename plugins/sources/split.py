"""Which rows are held out, which are used, and in what order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from trimtab.plugins.sources.load import Kept


def by_prompt(rows: Sequence[Kept], share: float) -> tuple[list[Kept], list[Kept]]:
    """Rows to train on, and rows to hold out: this share of the prompts, each with all its rows.

    Prompts are taken in the order of their digests, so the split does not depend on the order of
    the rows or on a seed. A share above 0 holds out one prompt at least, and never all of them.
    """
    prompts = sorted({row.prompt for row in rows})
    wanted = round(share * len(prompts)) or (share > 0)
    held_out = set(prompts[: min(wanted, len(prompts) - 1)])
    return (
        [row for row in rows if row.prompt not in held_out],
        [row for row in rows if row.prompt in held_out],
    )


def limited(rows: Sequence[Kept], limit: int | None) -> list[Kept]:
    """At most so many rows, spread over the data: the same ones whatever the seed."""
    spread = sorted(rows, key=lambda row: hashlib.sha256(row.content).digest())
    return spread[:limit]


def order(rows: int, seed: int, epoch: int) -> list[int]:
    """A permutation of the rows for one epoch."""
    shuffled: list[int] = np.random.default_rng((seed, epoch)).permutation(rows).tolist()
    return shuffled


def spread(labels: Sequence[bool], seed: int, epoch: int) -> list[int]:
    """A permutation for one epoch in which any stretch of rows has the data's share of each label,
    to within one row.

    Each label's rows are shuffled, and stand at equal distances from a random start.
    """
    random = np.random.default_rng((seed, epoch))
    shuffled = random.permutation(len(labels))
    desirable = np.asarray(labels, dtype=bool)[shuffled]
    place = np.empty(len(labels))
    for label in (True, False):
        count = int((desirable == label).sum())
        place[desirable == label] = (np.arange(count) + random.random()) / max(count, 1)
    ordered: list[int] = shuffled[np.argsort(place, kind="stable")].tolist()
    return ordered


def fingerprint(rows: Sequence[Kept]) -> str:
    """What tells these rows, in this order, from all others."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row.content)
    return digest.hexdigest()[:16]

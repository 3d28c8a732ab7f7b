"""What can go wrong, said so that the reader knows what, where from and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TrimtabError(Exception):
    """Every error of ours that a user may see."""


class UserError(TrimtabError, ValueError):
    """Something the user gave is wrong: a run file, a data file, a name. Exit status 2."""


class Waits(UserError):
    """A run needs something of people first, and goes on when it is there: it has not failed."""


class PluginError(UserError):
    """A plugin is wrong; the message says which, where from and what to do."""


class RunError(TrimtabError, RuntimeError):
    """A run cannot go on, though what it was given looked right. Exit status 1."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """`` Did you mean 'train'?``, or nothing when no known name is near.

    >>> suggestion("trian", ["model", "train"])
    " Did you mean 'train'?"
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""

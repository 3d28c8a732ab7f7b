"""Where what can be computed again is kept: converted models and reference log-probs."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "TRIMTAB_CACHE"


def cache_dir() -> Path:
    """The folder that ``TRIMTAB_CACHE`` names, else ``~/.cache/trimtab``. It need not exist."""
    return Path(os.environ.get(VARIABLE) or Path.home() / ".cache" / "trimtab").expanduser()

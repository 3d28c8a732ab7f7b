"""The base that a process has in memory, lent to one run after another."""

from __future__ import annotations

from typing import Any

import torch

from trimtab.core.config import ModelConfig
from trimtab.core.model import load_base


class Bases:
    """Lends a bare base: frozen, in train mode, without adapter or head."""

    def lend(self, config: ModelConfig, place: torch.device) -> Any:
        """The base that this section names."""
        return load_base(config, place)

"""Files that make a marker when something runs what is in them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch


class _Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


@dataclass(frozen=True)
class Bomb:
    """What would make ``marker``, in each form in which it can lie about."""

    marker: Path

    @property
    def went_off(self) -> bool:
        return self.marker.exists()

    def pickled(self, file: Path) -> None:
        """As pickle writes it."""
        file.write_bytes(pickle.dumps(_Bomb(self.marker)))

    def saved_by_torch(self, file: Path) -> None:
        """As torch does, in a zip."""
        torch.save({"weight": _Bomb(self.marker)}, file)

    def in_yaml(self, tag: str = "!!python/object/apply:os.mkdir") -> str:
        """A line of YAML."""
        return f'bomb: {tag} ["{self.marker}"]\n'

    def in_python(self) -> str:
        """A module."""
        return f"import os\nos.mkdir({str(self.marker)!r})\n"


FORMS: tuple[Callable[[Bomb, Path], None], ...] = (Bomb.pickled, Bomb.saved_by_torch)

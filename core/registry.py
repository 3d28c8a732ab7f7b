"""What the core asks of whoever knows the plugins: it finds them by kind and name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol


class Registry(Protocol):
    """Finds plugins by kind and name, and calls their hooks."""

    @property
    def hook(self) -> Any:
        """Calls a hook of every plugin."""

    def names(self, kind: str) -> list[str]:
        """Every name of this kind that can be used."""

    def find(self, kind: str, name: str) -> type[Any]:
        """The class; ``PluginError`` when there is none that can be used."""

    def make(self, kind: str, name: str, options: dict[str, Any]) -> Any:
        """An instance of it."""

    def add_file(self, path: Path) -> None:
        """Load a plugin from a Python file; ``PluginError`` when it cannot be used."""

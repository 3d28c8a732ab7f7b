"""What the processes that measure saves and resumes are asked, and what they answer."""

from __future__ import annotations

from pathlib import Path

from trimtab.core.options import Config, PositiveInt


class Enough(BaseException):
    """All is measured. It ends a run as a kill does, so that it can be resumed."""


class ToSave(Config):
    """Train a run file in a new directory, and save at every step."""

    file: str
    run: str
    saves: PositiveInt
    """Measured ones. One more comes before them: it also pays for what happens once."""


class Saved(Config):
    """Seconds of each save, and of doing less with the same bytes right after it."""

    seconds: list[float]
    plain: list[float]
    """To write them into one file and wait for the disk."""

    hashing: list[float]
    """Their SHA-256, from memory."""

    bytes: int
    files: int


class ToResume(Config):
    """Go on with a run until its first step is done."""

    run: str
    began: float
    """When the process was asked for, by the system's monotonic clock."""


class Resumed(Config):
    """Seconds, in the order in which they pass."""

    parts: dict[str, float]
    """From the start of the process to the first step, which is not among them."""

    step: float
    """The first step."""

    @property
    def total(self) -> float:
        """Until the first step begins."""
        return sum(self.parts.values())


def content(checkpoint: Path) -> list[bytes]:
    """Every file of a checkpoint."""
    return [file.read_bytes() for file in sorted(checkpoint.rglob("*")) if file.is_file()]

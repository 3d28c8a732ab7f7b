"""A maker that needs no model."""

from __future__ import annotations

from pathlib import Path

from trimtab import Config, hookimpl
from trimtab.core.maker import Made, Maker


class NumbersConfig(Config):
    """Of ten numbers."""

    fails_at: int | None = None
    until: str = "never"
    about: str | None = None
    drops: bool = False


class Numbers(Maker[NumbersConfig]):
    """A row for each number. It fails at a step until a file is there."""

    name = "toys.numbers"
    options = NumbersConfig

    def open(self, setting):
        pass

    def steps(self, rows):
        return -(-10 // rows)

    def make(self, policy, step, rows):
        if step == self.config.fails_at and not Path(self.config.until).exists():
            raise ValueError("out of luck")
        numbers = range(step * rows, min(step * rows + rows, 10))
        if self.config.drops:
            dropped = [{"row": n + 1, "reason": "not wanted"} for n in numbers]
            return Made([], read=len(numbers), dropped=dropped)
        return Made([_row(n) for n in numbers], read=len(numbers))

    def describe(self):
        return {"about": Path(self.config.about).read_text() if self.config.about else ""}


def _row(number):
    return {"prompt": f"say {number}:", "completion": f"it is {number}"}


@hookimpl
def provide_sources():
    return [Numbers]

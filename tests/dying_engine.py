"""An engine that kills its process when it is asked for the n-th time, unless a file is there."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from trimtab import hookimpl
from trimtab.plugins.engines.transformers import TransformersConfig, TransformersEngine


class DyingConfig(TransformersConfig):
    """Where it is written when to die."""

    at: str = "never"
    """A file with a number. A process that dies deletes it first."""


class Dying(TransformersEngine):
    """The default engine, but for its death."""

    name = "toys.dying"
    options = DyingConfig
    asked = 0

    def sample(self, prompts, uniform_NT, *, temperature):
        self.asked += 1
        file = Path(self.config.at)
        if file.exists() and self.asked == int(file.read_text()):
            file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().sample(prompts, uniform_NT, temperature=temperature)


@hookimpl
def provide_engines():
    return [Dying]

"""The default engine: our own loop over a transformers model, with the policy's own weights."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from trimtab.core.engine import Completion, Engine
from trimtab.core.hookspecs import hookimpl
from trimtab.core.memory import within_memory
from trimtab.core.options import Config
from trimtab.core.policy import POLICY
from trimtab.core.sampling import sample


class TransformersConfig(Config):
    """How it computes."""


class TransformersEngine(Engine[TransformersConfig]):
    """Samples with the base and the adapter as they are trained."""

    name = "transformers"
    options = TransformersConfig

    def sample(
        self, prompts: Sequence[Sequence[int]], uniform_NT: Tensor, *, temperature: float
    ) -> list[Completion]:
        model, stops = self.setting.policy, self.setting.stops
        with model.role(POLICY):
            return within_memory(
                model,
                lambda: sample(model, prompts, uniform_NT, stops=stops, temperature=temperature),
            )


@hookimpl
def provide_engines() -> list[type]:
    """Register transformers."""
    return [TransformersEngine]

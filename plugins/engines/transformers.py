"""The default engine: our own loop over a transformers model, with the policy's own weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from trimtab.core.engine import Completion, Engine, EngineSetting
from trimtab.core.hookspecs import hookimpl
from trimtab.core.lm import LanguageModel
from trimtab.core.memory import within_memory
from trimtab.core.options import Config
from trimtab.core.policy import POLICY
from trimtab.core.roles import Roles
from trimtab.core.sampling import sample
from trimtab.core.scratch import plain_copy


class TransformersConfig(Config):
    """With which numbers it computes."""

    precision: Literal["exact", "bfloat16"] = "exact"
    """exact samples with the weights that are trained. bfloat16 samples with a copy of the base,
    dequantized, the adapter added to it: about twice as fast on a CPU, at 2 bytes a parameter.

    The copy is another policy by 0.077 nat a token in the mean (measured, SmolLM2-135M): what it
    samples is off-policy. Give objective.importance_cap, such as 2.0, to weigh each token by it.
    """

    keep_copy: bool = True
    """Hold bfloat16's copy between rollouts; false frees its memory while the policy trains, and
    builds it anew each time."""


class TransformersEngine(Engine[TransformersConfig]):
    """Samples by transformers' own modules, token by token."""

    name = "transformers"
    options = TransformersConfig

    def open(self, setting: EngineSetting) -> None:
        super().open(setting)
        self._copy: LanguageModel | None = None
        self._copied: str | None = None

    def sample(
        self, prompts: Sequence[Sequence[int]], uniform_NT: Tensor, *, temperature: float
    ) -> list[Completion]:
        model = self._model()
        try:
            with model.role(POLICY):
                return within_memory(
                    model,
                    lambda: sample(
                        model,
                        prompts,
                        uniform_NT,
                        stops=self.setting.stops,
                        temperature=temperature,
                        record=True,
                    ),
                )
        finally:
            if not self.config.keep_copy:
                self._copy = None

    def _model(self) -> LanguageModel:
        """The policy, or a copy of it as it is now."""
        policy = self.setting.policy
        if self.config.precision == "exact":
            return policy
        now = policy.roles.adapter_hash(POLICY)
        if self._copy is None or now is None or now != self._copied:
            self._copy = None  # before the next one: there is never room for two
            base = plain_copy(policy.base, policy.roles.adapters(POLICY), torch.bfloat16)
            self._copy = LanguageModel(
                Roles(base, None, frozen=True),
                dtype=torch.bfloat16,
                micro_tokens=policy.micro_tokens,
            )
            self._copied = now
        return self._copy


@hookimpl
def provide_engines() -> list[type]:
    """Register transformers."""
    return [TransformersEngine]

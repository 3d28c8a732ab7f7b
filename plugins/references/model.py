"""A reference that is a model of its own, for a policy that has no adapter to turn off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from torch import Tensor

from trimtab.core.batches import Sequences
from trimtab.core.config import ModelConfig
from trimtab.core.errors import UserError
from trimtab.core.hookspecs import hookimpl
from trimtab.core.lm import LanguageModel
from trimtab.core.model import load_base, load_tokenizer
from trimtab.core.objective import Needs
from trimtab.core.options import Config, LocalPath
from trimtab.core.policy import POLICY, Policy
from trimtab.core.reference import Reference
from trimtab.core.roles import Roles


class ModelReferenceConfig(Config):
    """Which model."""

    model: Annotated[str | None, LocalPath()] = None
    """A hub id, a folder, or the embedded model; null is the one that the run starts from."""


class ModelReference(Reference[ModelReferenceConfig]):
    """A frozen model of its own, held and quantized as the policy's base is."""

    name = "model"
    options = ModelReferenceConfig

    def open(self, model: ModelConfig, policy: Policy) -> None:
        """Load it. Its vocabulary must be the policy's."""
        if not isinstance(policy, LanguageModel):
            raise UserError("reference 'model' serves language models only")
        name = self.config.model or model.name
        if load_tokenizer(name).get_vocab() != load_tokenizer(model.name).get_vocab():
            raise UserError(
                f"reference.model: {name!r} has another vocabulary than {model.name!r}"
            )
        config = model.model_copy(update={"name": name, "gradient_checkpointing": False})
        self.copy = LanguageModel(
            Roles(load_base(config, policy.device), None, frozen=True),
            dtype=policy.dtype,
            micro_tokens=policy.micro_tokens,
        )
        self.policy = policy

    @torch.no_grad()
    def logps(self, policy: Policy, sequences: Mapping[str, Sequences]) -> dict[str, Tensor]:
        """log pi_ref [N, T] of each of the named sequences, in the policy's layout."""
        copy = self._as_the_policy()
        with copy.role(POLICY):
            filled = copy.forward(sequences, Needs())
        return {name: s.policy_NT for name, s in filled.items()}

    def fingerprint(self, policy: Policy) -> str | None:
        """That of the copy."""
        return self._as_the_policy().fingerprint(POLICY)

    def _as_the_policy(self) -> LanguageModel:
        """The copy, with the layout that the policy has now."""
        self.copy.share = self.policy.share
        return self.copy


@hookimpl
def provide_references() -> list[type]:
    """Register model."""
    return [ModelReference]

"""A reference that follows the policy: TR-DPO, Gorbatovski et al. 2024, arXiv:2404.09656."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

import torch
from annotated_types import Gt, Le
from pydantic import model_validator
from torch import Tensor

from trimtab.core.batches import Sequences
from trimtab.core.config import ModelConfig
from trimtab.core.errors import UserError
from trimtab.core.hookspecs import hookimpl
from trimtab.core.lm import LanguageModel
from trimtab.core.objective import Needs
from trimtab.core.options import Config, PositiveInt
from trimtab.core.policy import POLICY, REFERENCE, Policy
from trimtab.core.reference import Reference


class MovingConfig(Config):
    """How it follows: one of the two."""

    every: PositiveInt | None = None
    """It becomes the policy after each so many batches (the paper's hard update, tau)."""

    ema: Annotated[float, Gt(0), Le(1)] | None = None
    """After each batch it takes over this share of the policy (the soft update, alpha).

    The share is of each factor of the adapter: A and B are averaged, and not their product.
    """

    @model_validator(mode="after")
    def _one_way_to_move(self) -> Self:
        if (self.every is None) == (self.ema is None):
            raise ValueError("give every (hard updates) or ema (soft), one of the two")
        return self


class Moving(Reference[MovingConfig]):
    """A frozen copy of the policy's adapter, which moves to the policy after batches.

        hard, each ``every`` batches:  theta_ref <- theta
        soft, each batch:              theta_ref <- ema theta + (1 - ema) theta_ref

    It begins as the policy does: as the base, or as ``model.start``. Every KL and log-ratio that
    the run reports is to the reference as it is at that step, not to where it began.
    """

    name = "moving"
    options = MovingConfig

    def __init__(self, config: MovingConfig) -> None:
        super().__init__(config)
        self._batches = 0

    def open(self, model: ModelConfig, policy: Policy) -> None:
        """Make the copy. It moves weights of an adapter, so there has to be one."""
        if not isinstance(policy, LanguageModel):
            raise UserError("reference 'moving' serves language models only")
        if model.adapter is None or POLICY not in policy.roles.names:
            raise UserError(
                "reference 'moving' is a copy of the policy's adapter, and model.adapter is null: "
                "give an adapter, or name another reference"
            )
        policy.roles.freeze_start()
        self._roles = policy.roles

    def advance(self, policy: Policy) -> None:
        """Move, after a batch and its updates."""
        self._batches += 1
        if self.config.ema is not None:
            self._roles.move_start(self.config.ema)
        elif self.config.every is not None and self._batches % self.config.every == 0:
            self._roles.move_start(1.0)

    def tensors(self, policy: Policy) -> Mapping[str, Tensor]:
        """The copy."""
        return self._roles.start()

    def document(self) -> dict[str, Any]:
        """How many batches it has seen."""
        return {"batches": self._batches}

    @torch.no_grad()
    def restore(
        self, policy: Policy, tensors: Mapping[str, Tensor], document: Mapping[str, Any]
    ) -> None:
        """Be what was saved, to the bit."""
        for name, parameter in self._roles.start().items():
            parameter.copy_(tensors[name])
        self._batches = int(document["batches"])

    @torch.no_grad()
    def logps(self, policy: Policy, sequences: Mapping[str, Sequences]) -> dict[str, Tensor]:
        """log pi_ref [N, T] of each of the named sequences, as the reference is now."""
        with policy.role(REFERENCE):
            filled = policy.forward(sequences, Needs())
        return {name: s.policy_NT for name, s in filled.items()}

    def fingerprint(self, policy: Policy) -> str | None:
        """None: what it says of a row changes, so nothing may be cached."""
        return None


@hookimpl
def provide_references() -> list[type]:
    """Register moving."""
    return [Moving]

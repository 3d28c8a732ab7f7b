"""The default reference: the policy's own base, with its adapter off."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trimtab.core.batches import Sequences
from trimtab.core.hookspecs import hookimpl
from trimtab.core.objective import Needs
from trimtab.core.options import Config
from trimtab.core.policy import REFERENCE, Policy
from trimtab.core.reference import Reference


class AdapterOffConfig(Config):
    """It has no options."""


class AdapterOff(Reference[AdapterOffConfig]):
    """No second copy of the model: the base as it was before training.

    Where a run starts from an adapter (``model.start``), the reference is the base with a frozen
    copy of that one.
    """

    name = "adapter_off"
    options = AdapterOffConfig

    @torch.no_grad()
    def logps(self, policy: Policy, sequences: Mapping[str, Sequences]) -> dict[str, Tensor]:
        """log pi_ref [N, T] of each of the named sequences."""
        with policy.role(REFERENCE):
            filled = policy.forward(sequences, Needs())
        return {name: s.policy_NT for name, s in filled.items()}

    def fingerprint(self, policy: Policy) -> str | None:
        """That of the policy's base and start."""
        return policy.fingerprint(REFERENCE)


@hookimpl
def provide_references() -> list[type]:
    """Register adapter_off."""
    return [AdapterOff]

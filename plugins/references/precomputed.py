"""A reference that reads every row once, before training, with the policy as it starts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trimtab.core.batches import Sequences
from trimtab.core.errors import RunError
from trimtab.core.hookspecs import hookimpl
from trimtab.core.objective import Needs
from trimtab.core.options import Config
from trimtab.core.policy import POLICY, Policy
from trimtab.core.reference import Reference


class PrecomputedConfig(Config):
    """It has no options."""


class Precomputed(Reference[PrecomputedConfig]):
    """log pi_ref of every training and held-out row, computed once by the policy as it starts.

    No second model, no pass of the reference in a step, and no adapter to turn off: it also
    serves a policy whose own weights are trained (``model.adapter: null``). The log-probs are kept
    in the run directory (``reference/``), for nothing could compute them again after the first
    step. It knows those rows alone: objectives that sample, or that make up completions as they
    go, need another reference, and evaluations tell no KL of sampled completions.
    """

    name = "precomputed"
    options = PrecomputedConfig
    fixed = True

    def __init__(self, config: PrecomputedConfig) -> None:
        super().__init__(config)
        self.complete = False

    @torch.no_grad()
    def logps(self, policy: Policy, sequences: Mapping[str, Sequences]) -> dict[str, Tensor]:
        """log pi_ref [N, T] of each of the named sequences, until the policy moves."""
        if self.complete:
            raise RunError(
                "a row's reference log-probs are not among those that were computed before the "
                "first step, and reference 'precomputed' cannot compute them now: the run "
                "directory's folder reference/ or the data has changed, or this is another "
                "machine. Train again, or name another reference"
            )
        with policy.role(POLICY):
            filled = policy.forward(sequences, Needs())
        return {name: s.policy_NT for name, s in filled.items()}

    def seal(self) -> None:
        self.complete = True

    def fingerprint(self, policy: Policy) -> str | None:
        """That of the policy as it starts; asked for before any step or checkpoint changes it."""
        return policy.fingerprint(POLICY)


@hookimpl
def provide_references() -> list[type]:
    """Register precomputed."""
    return [Precomputed]

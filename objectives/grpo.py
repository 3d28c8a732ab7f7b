"""Group Relative Policy Optimization."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Lt
from torch import Tensor

from trimtab import Config, Loss, Needs, Objective, Rollouts, Term, hookimpl


class GRPOConfig(Config):
    """Options of GRPO."""

    clip: Annotated[float, Gt(0), Lt(1)] = 0.2
    """The ratio stays within [1 - clip, 1 + clip]."""

    kl: Annotated[float, Ge(0)] = 0.0
    """Weight of the KL to the reference; 0 needs no reference."""


class GRPO(Objective[Rollouts, GRPOConfig]):
    """Policy gradient with the group's mean as the baseline, clipped.

    Shao et al. 2024, arXiv:2402.03300, eq. 3.
    """

    name = "grpo"
    group = 8
    needs = Needs(behaviour=True)
    terms = (Term("loss", weight="tokens"),)

    def prepare(self, batch: Rollouts) -> dict[str, Tensor]:
        """The advantage of each response in its group."""
        same_NN = (batch.group_N[:, None] == batch.group_N).to(batch.reward_N)
        mean_N = (same_NN @ batch.reward_N) / same_NN.sum(-1)
        return {"advantage_N": batch.reward_N - mean_N}

    def loss(self, batch: Rollouts) -> Loss:
        """One value a token."""
        s = batch.responses
        ratio_NT = (s.policy_NT - s.behaviour_NT).exp()
        return Loss(-ratio_NT * batch.columns["advantage_N"][:, None])


@hookimpl
def provide_objectives() -> list[type]:
    """Register GRPO."""
    return [GRPO]

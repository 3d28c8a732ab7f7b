"""REINFORCE with the other completions of a prompt as the baseline."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Lt
from pydantic import PositiveInt
from torch import Tensor

from trimtab import Config, Loss, Needs, Objective, Rollouts, Term, Updates, hookimpl
from trimtab.objectives import functional as f

EPSILON = 1e-4
"""Added to the standard deviation of advantages, as TRL does."""


class RLOOConfig(Config):
    """Options of RLOO."""

    beta: Annotated[float, Ge(0)] = 0.05
    """Reward a nat of KL to the reference; 0 needs no reference."""

    clip: Annotated[float, Gt(0), Lt(1)] = 0.2
    """Epsilon: a completion's ratio gains nothing below 1 - clip, nor above 1 + clip where no
    clip_high is. With one update a batch every ratio is 1."""

    clip_high: Annotated[float, Gt(0)] | None = None
    """Epsilon above 1; null is the same as clip."""

    normalise: bool = False
    """Give the advantages mean 0 and standard deviation 1 over the completions of the batch."""

    epochs: PositiveInt = 1
    """How often a batch is used."""

    minibatches: PositiveInt = 1
    """How many updates an epoch makes."""

    importance_cap: Annotated[float, Gt(0)] | None = None
    """Weigh completions by min(pi_old / pi_sampler, cap), for a sampler that computes otherwise
    than training does; null weighs all alike."""

    mask_truncated: bool = False
    """Leave completions that did not end by themselves out of the loss."""

    @property
    def high(self) -> float:
        """Epsilon above 1."""
        return self.clip if self.clip_high is None else self.clip_high


class RLOO(Objective[Rollouts, RLOOConfig]):
    """A whole completion is one action, and the prompt's other completions are its baseline.

        R_i  = reward_i - beta sum_t log(pi_old / pi_ref)_t
        A_i  = R_i - mean of R_j over the other completions j of the prompt
        rho  = pi(y) / pi_old(y), the product over the completion's tokens
        loss = -min(rho A, clip(rho, 1 - clip, 1 + clip_high) A), the mean over completions

    Ahmadian et al. 2024, arXiv:2402.14740, eq. 7, after Kool et al. 2019, "Buy 4 REINFORCE
    Samples, Get a Baseline for Free!". With one update a batch the gradient is that paper's, of
    log pi(y) A; the clip, for several updates, is of Schulman et al. 2017, arXiv:1707.06347, eq.
    7, and TRL's. The KL is of the policy that sampled, and without gradient. ``importance_cap``:
    Yao et al. 2025, https://fengyao.notion.site/off-policy-rl, of whole completions.

    A completion whose prompt has no other one that was scored has no baseline: it is in no mean
    and no divisor. Truncated completions that ``mask_truncated`` leaves out still count in the
    others' baselines, and in no divisor.
    """

    name = "rloo"
    group = 4
    least_group = 2
    terms = (Term("loss", weight="weight_N"),)

    def __init__(self, config: RLOOConfig) -> None:
        super().__init__(config)
        self.updates = Updates(epochs=config.epochs, minibatches=config.minibatches)
        self._moves = config.epochs * config.minibatches > 1
        self._penalises = config.beta > 0
        self.needs = Needs(reference=self._penalises, behaviour=self._moves or self._penalises)

    def prepare(self, batch: Rollouts) -> dict[str, Tensor]:
        """Advantages, and which completions have one."""
        reward_N, group_N = batch.reward_N, batch.group_N
        compared_N = f.group_size(group_N) > 1
        columns: dict[str, Tensor] = {}
        if self._penalises:
            s = batch.responses
            kl_N = f.sum_of(f.k1(s.behaviour_NT - s.reference_NT), s.mask_NT)
            reward_N = reward_N - self.config.beta * kl_N
            columns["kl_sequence_N"] = kl_N
        advantage_N = f.leave_one_out(reward_N, group_N)
        if self.config.normalise:
            advantage_N = f.standardised(advantage_N, compared_N, EPSILON)
        trained_N = compared_N
        if self.config.mask_truncated:
            trained_N = trained_N & f.untruncated(batch.truncated_N, "objective.mask_truncated")
        return columns | {
            "advantage_N": advantage_N,
            "weight_N": trained_N.to(reward_N),
            "all_equal_N": (~f.group_varies(batch.reward_N, group_N)).to(reward_N),
            "group_share_N": 1 / f.group_size(group_N).to(reward_N),
        }

    def loss(self, batch: Rollouts) -> Loss:
        """One value a completion."""
        s, columns, config = batch.responses, batch.columns, self.config
        advantage_N = columns["advantage_N"]
        old_NT = s.behaviour_NT if self._moves else s.policy_NT.detach()
        moved_NT = (s.policy_NT - old_NT).masked_fill(~s.mask_NT, 0.0)
        ratio_N = f.completion_ratio(moved_NT, s.mask_NT)
        loss_N = f.clipped_surrogate(ratio_N, advantage_N, config.clip, config.high)
        if config.importance_cap is not None:
            sampled_N = f.sum_of(s.sampled_NT, s.mask_NT)
            old_N = f.sum_of(old_NT, s.mask_NT)
            loss_N = loss_N * f.importance_weight(old_N, sampled_N, config.importance_cap)
        metrics: dict[str, Tensor | tuple[Tensor, Tensor]] = {
            "all_equal": (columns["all_equal_N"], columns["group_share_N"]),
            "advantage_size": advantage_N.abs(),
        }
        if self._penalises:
            metrics["kl_sequence"] = columns["kl_sequence_N"]
            kl_NT = f.k3((old_NT - s.reference_NT).masked_fill(~s.mask_NT, 0.0))
            metrics["kl_token"] = _of_tokens(kl_NT, s.mask_NT)
        if self._moves:
            low_N = f.clipped_low(ratio_N, advantage_N, config.clip)
            high_N = f.clipped_high(ratio_N, advantage_N, config.high)
            metrics["ratio"] = ratio_N
            metrics["clipped"] = (low_N | high_N).to(ratio_N)
            metrics["kl_moved"] = _of_tokens(f.k3(-moved_NT), s.mask_NT)
        return Loss(loss_N, metrics)


def _of_tokens(value_NT: Tensor, mask_NT: Tensor) -> tuple[Tensor, Tensor]:
    """The means of completions, and the counts of tokens that make the mean of all from them."""
    return f.mean_of(value_NT, mask_NT), mask_NT.sum(-1).to(value_NT)


@hookimpl
def provide_objectives() -> list[type]:
    """Register RLOO."""
    return [RLOO]

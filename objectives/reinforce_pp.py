"""REINFORCE++: PPO's clip and token-wise KL without a critic, normalised over the whole batch."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Lt
from pydantic import PositiveInt
from torch import Tensor

from trimtab import Config, Loss, Needs, Objective, Rollouts, Term, Updates, hookimpl
from trimtab.objectives import functional as f

EPSILON = 1e-8
"""Added to the standard deviation of advantages."""


class ReinforcePPConfig(Config):
    """Options of REINFORCE++."""

    baseline: Literal["none", "group"] = "none"
    """``none``: the KL is in the reward, and one completion a prompt is enough. ``group``
    (REINFORCE++-Baseline): the mean of the prompt's completions is taken from each, and the KL is
    in the loss."""

    beta: Annotated[float, Ge(0)] = 0.01
    """Weight of the KL to the reference; 0 needs no reference. Under ``baseline: none`` rewards a
    nat; under ``group`` it is weighed against advantages of standard deviation 1, however small
    the rewards' own has become: below about 1 nothing but the end of training keeps the policy
    from one completion a prompt."""

    clip: Annotated[float, Gt(0), Lt(1)] = 0.2
    """Epsilon: a token's ratio gains nothing below 1 - clip, nor above 1 + clip where no clip_high
    is."""

    clip_high: Annotated[float, Gt(0)] | None = None
    """Epsilon above 1; null is the same as clip."""

    epochs: PositiveInt = 1
    """How often a batch is used."""

    minibatches: PositiveInt = 1
    """How many updates an epoch makes."""

    importance_cap: Annotated[float, Gt(0)] | None = None
    """Weigh tokens by min(pi_old / pi_sampler, cap), for a sampler that computes otherwise than
    training does; null weighs all alike."""

    mask_truncated: bool = False
    """Leave completions that did not end by themselves out of the loss."""

    @property
    def high(self) -> float:
        """Epsilon above 1."""
        return self.clip if self.clip_high is None else self.clip_high


class ReinforcePP(Objective[Rollouts, ReinforcePPConfig]):
    """Policy gradient, clipped, with advantages normalised over all tokens of the batch.

        none:  A_t = reward - beta sum over i >= t of log(pi_old / pi_ref)_i
        group: A_t = reward - mean of the prompt's rewards
        A_t <- (A_t - mean of A) / (std of A + 1e-8), over all tokens of the batch
        loss = -min(rho_t A_t, clip(rho_t, 1 - clip, 1 + clip_high) A_t),  rho_t = pi / pi_old
        group: loss + beta k2_t,  k2 = 1/2 log(pi / pi_ref)^2

    each the mean over the batch's tokens, as in the authors' code; the paper writes the mean over
    completions of their tokens' means. Hu et al. 2025, arXiv:2501.03262 (version 9), where
    ``group`` is called REINFORCE++ with baseline; the clip is of Schulman et al. 2017,
    arXiv:1707.06347, eq. 7. k2 with gradient has that of KL(pi || pi_ref) a token (Tang and Munos
    2025, arXiv:2506.09477). ``importance_cap``: Yao et al. 2025,
    https://fengyao.notion.site/off-policy-rl.

    Under ``group`` a completion whose prompt has no other one that was scored has no baseline: it
    is in no mean and no divisor, and nor is one that ``mask_truncated`` leaves out; this one still
    counts in the mean of its prompt.
    """

    name = "reinforce_pp"
    terms = (Term("loss", weight="weight_NT"),)

    def __init__(self, config: ReinforcePPConfig) -> None:
        super().__init__(config)
        grouped = config.baseline == "group"
        self.group = 8 if grouped else 1
        self.least_group = 2 if grouped else 1
        self.updates = Updates(epochs=config.epochs, minibatches=config.minibatches)
        self._moves = config.epochs * config.minibatches > 1
        self._penalises = config.beta > 0
        self._rewards_kl = self._penalises and not grouped
        self.needs = Needs(reference=self._penalises, behaviour=self._moves or self._rewards_kl)

    def prepare(self, batch: Rollouts) -> dict[str, Tensor]:
        """Advantages of tokens, and which of them are trained on."""
        s, config = batch.responses, self.config
        trained_N = torch.ones_like(batch.group_N, dtype=torch.bool)
        if config.baseline == "group":
            trained_N = f.group_size(batch.group_N) > 1
            above_N = f.group_advantage(batch.reward_N, batch.group_N, "none")
            advantage_NT = above_N[:, None].expand_as(s.tokens_NT)
        else:
            reward_NT = f.at_last_action(batch.reward_N, s.mask_NT)
            if self._rewards_kl:
                reward_NT = reward_NT - config.beta * f.k1(s.behaviour_NT - s.reference_NT)
            advantage_NT = f.reward_to_go(reward_NT, s.mask_NT)
        if config.mask_truncated:
            trained_N = trained_N & f.untruncated(batch.truncated_N, "objective.mask_truncated")
        counted_NT = s.mask_NT & trained_N[:, None]
        return {
            "advantage_NT": f.standardised(advantage_NT, counted_NT, EPSILON),
            "weight_NT": counted_NT.to(advantage_NT),
        }

    def loss(self, batch: Rollouts) -> Loss:
        """The surrogate of each token, and its KL where that is not in the reward."""
        s, config = batch.responses, self.config
        advantage_NT = batch.columns["advantage_NT"]
        old_NT = s.behaviour_NT if self._moves else s.policy_NT.detach()
        moved_NT = (s.policy_NT - old_NT).masked_fill(~s.mask_NT, 0.0)
        ratio_NT = moved_NT.exp()
        loss_NT = f.clipped_surrogate(ratio_NT, advantage_NT, config.clip, config.high)
        if config.importance_cap is not None:
            loss_NT = loss_NT * f.importance_weight(old_NT, s.sampled_NT, config.importance_cap)
        metrics: dict[str, Tensor | tuple[Tensor, Tensor]] = {"advantage_size": advantage_NT.abs()}
        if self._penalises:
            if not self._rewards_kl:
                loss_NT = loss_NT + config.beta * f.k2(s.logratio_NT)
            logratio_NT = (old_NT - s.reference_NT).masked_fill(~s.mask_NT, 0.0)
            metrics["kl_sequence"] = f.k1(logratio_NT).sum(-1)
            metrics["kl_token"] = f.k3(logratio_NT)
        if self._moves:
            low_NT = f.clipped_low(ratio_NT, advantage_NT, config.clip)
            high_NT = f.clipped_high(ratio_NT, advantage_NT, config.high)
            metrics["ratio"] = ratio_NT
            metrics["clipped"] = (low_NT | high_NT).to(ratio_NT)
            metrics["kl_moved"] = f.k3(-moved_NT)
        return Loss(loss_NT, metrics)


@hookimpl
def provide_objectives() -> list[type]:
    """Register REINFORCE++."""
    return [ReinforcePP]

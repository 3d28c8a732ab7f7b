"""Proximal Policy Optimization: a policy and a critic that learn from the same rollouts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import torch
from annotated_types import Ge, Gt, Le, Lt
from pydantic import model_validator
from torch import Tensor

from trimtab import (
    Config,
    Demonstrations,
    Loss,
    Needs,
    Objective,
    Rollouts,
    Term,
    Updates,
    hookimpl,
)
from trimtab.core.policy import POLICY
from trimtab.objectives import functional as f

NUMBERS = ("kl_sequence", "kl_token", "return", "explained_variance", "beta")
"""One number of all the rollouts each: exact in the log, however they are cut into updates."""

Share = Annotated[float, Ge(0), Le(1)]


class PPOConfig(Config):
    """Options of PPO."""

    kl: Literal["reward", "adaptive", "penalty"] = "reward"
    """All take beta x KL to the reference from the reward. ``adaptive`` changes beta to keep the
    KL near kl_target. ``penalty`` also has KL(old, new) in the policy's loss in place of the clip.
    """

    beta: Annotated[float, Ge(0)] = 0.05
    """Reward a nat of KL to the reference; 0 needs no reference. Where ``adaptive`` starts."""

    kl_target: Annotated[float, Gt(0)] = 6.0
    """Of ``adaptive``: where the KL should be, in nats a completion."""

    kl_gain: Annotated[float, Gt(0)] = 0.1
    """Of ``adaptive``: K; beta changes by at most a fifth of it in a batch."""

    penalty: Annotated[float, Gt(0)] = 1.0
    """Of ``penalty``: weight of the KL from the policy that sampled, in nats a token."""

    clip: Annotated[float, Gt(0), Lt(1)] = 0.2
    """No gain from a ratio outside [1 - clip, 1 + clip]."""

    gamma: Share = 1.0
    """Discount a token."""

    lam: Share = 0.95
    """0 trusts the critic, 1 the rewards."""

    whiten: bool = True
    """Give the advantages mean 0 and variance 1 over the tokens of all of the rollouts."""

    whiten_rewards: bool = False
    """Give the rewards of tokens, KL included, variance 1; their mean stays."""

    critic: Literal["adapter", "trunk"] = "adapter"
    """Values of an adapter of their own, or of a head on the policy's states, for fewer passes."""

    value_scale: Annotated[float, Gt(0)] = 0.1
    """Scale of the critic's loss; it matters most where the critic shares the trunk."""

    value_clip: Annotated[float, Gt(0)] | None = 0.2
    """How far a value may usefully move on one batch; null sets no limit."""

    warmup: Annotated[int, Ge(0)] = 0
    """For so many batches, train the critic alone."""

    entropy: Annotated[float, Ge(0)] = 0.0
    """Scale of a bonus for the entropy of the next token; 0 computes none."""

    kl_stop: Annotated[float, Gt(0)] | None = None
    """Leave a batch once KL(old, new) of an update is above this, in nats a token."""

    ptx: Annotated[float, Ge(0)] = 0.0
    """Scale of the cross-entropy on the stream ``ptx``; 0 needs no such stream."""

    importance_cap: Annotated[float, Gt(0)] | None = None
    """Weigh tokens by min(pi_old / pi_sampler, cap), for engines that compute otherwise."""

    epochs: Annotated[int, Ge(1)] = 2
    """Passes over each batch of rollouts."""

    minibatches: Annotated[int, Ge(1)] = 1
    """Updates in each pass."""

    @model_validator(mode="after")
    def _adaptive_starts_above_0(self) -> Self:
        if self.kl == "adaptive" and self.beta == 0:
            raise ValueError("kl: adaptive multiplies beta, which is 0: set beta above 0")
        return self

    @model_validator(mode="after")
    def _trunk_has_no_warmup(self) -> Self:
        if self.critic == "trunk" and self.warmup:
            raise ValueError(
                "critic: trunk shares the policy's weights, so that a warm-up of the critic alone "
                "would change the policy: set warmup to 0, or critic to adapter"
            )
        return self


class PPO(Objective[Rollouts, PPOConfig]):
    """Policy gradient with a critic's advantages, a limit on each update, and several updates.

        r_t    = score [t is the last action] - beta log(pi_old / pi_ref)_t
        A, R   = GAE(r, V_old; gamma, lam), then A whitened over all tokens of the rollouts
        policy = -min(rho A, clip(rho, 1 - c, 1 + c) A),         rho = pi / pi_old
                 or -(rho A - penalty KL(old, new)),             KL as rho - 1 - log rho
        critic = 1/2 max((V - R)^2, (V_old + clip(V - V_old) - R)^2)
        ptx    = -log pi of the stream's tokens

    each the mean over tokens. Schulman et al. 2017, arXiv:1707.06347, eq. 7 and 8; the KL in the
    reward and its adaptive weight from Ziegler et al. 2019, arXiv:1909.08593, section 2.2, by
    tokens as in Stiennon et al. 2020, arXiv:2009.01325, with a critic of its own as there; ptx
    from Ouyang et al. 2022, arXiv:2203.02155, eq. 2; whitening and value clipping as in Huang et
    al. 2024, arXiv:2403.17031; truncated importance weights from Yao et al. 2025,
    https://fengyao.notion.site/off-policy-rl.
    """

    name = "ppo"

    def __init__(self, config: PPOConfig) -> None:
        super().__init__(config)
        trunk = config.critic == "trunk"
        self.needs = Needs(
            reference=config.beta > 0,
            behaviour=True,
            values=True,
            trunk_values=trunk,
            tokenwise={"entropy": f.entropy} if config.entropy else {},
        )
        self.updates = Updates(epochs=config.epochs, minibatches=config.minibatches)
        self.state = {"batches": 0, "beta": config.beta}
        terms = [
            Term("policy_loss", weight="tokens"),
            Term(
                "value_loss",
                role=POLICY if trunk else "critic",
                weight="tokens",
                scale=config.value_scale,
            ),
        ]
        if config.entropy:
            terms.append(Term("entropy_loss", weight="tokens", scale=config.entropy))
        if config.ptx:
            self.streams = {"ptx": Demonstrations}
            terms.append(Term("ptx_loss", rows="ptx", weight="tokens", scale=config.ptx))
        self.terms = tuple(terms)

    def prepare(self, batch: Rollouts) -> dict[str, Tensor]:
        """Advantages, returns and old values; and numbers of all the rollouts, for the log."""
        s, config = batch.responses, self.config
        numbers: dict[str, Tensor] = {}
        columns = {"old_value_NT": s.values_NT}
        reward_NT = f.at_last_action(batch.reward_N, s.mask_NT)
        if self.needs.reference:
            logratio_NT = (s.behaviour_NT - s.reference_NT).masked_fill(~s.mask_NT, 0.0)
            reward_NT = reward_NT - self.state["beta"] * f.k1(logratio_NT)
            numbers["kl_sequence"] = f.k1(logratio_NT).sum() / max(len(batch), 1)
            numbers["kl_token"] = f.masked_moments(f.k3(logratio_NT), s.mask_NT)[0]
        if config.whiten_rewards:
            reward_NT = f.masked_whiten(reward_NT, s.mask_NT, shift=False)
        advantage_NT, return_NT = f.gae(
            reward_NT, s.values_NT, s.mask_NT, gamma=config.gamma, lam=config.lam
        )
        numbers["return"] = f.masked_moments(return_NT, s.mask_NT)[0]
        numbers["explained_variance"] = f.explained_variance(s.values_NT, return_NT, s.mask_NT)
        if config.kl == "adaptive":
            numbers["beta"] = torch.tensor(self.state["beta"])
        if config.importance_cap is not None:
            columns["importance_NT"] = f.importance_weight(
                s.behaviour_NT, s.sampled_NT, config.importance_cap
            )
        columns["return_NT"] = return_NT
        columns["advantage_NT"] = (
            f.masked_whiten(advantage_NT, s.mask_NT) if config.whiten else advantage_NT
        )
        return columns | {f"{name}_N": one.expand(len(batch)) for name, one in numbers.items()}

    def policy_loss(self, batch: Rollouts) -> Loss:
        """The surrogate of each token, clipped or with a penalty."""
        s, config = batch.responses, self.config
        logratio_NT = (s.policy_NT - s.behaviour_NT).masked_fill(~s.mask_NT, 0.0)
        advantage_NT = batch.columns["advantage_NT"]
        ratio_NT, moved_NT = logratio_NT.exp(), f.k3(-logratio_NT)
        metrics = {"ratio": ratio_NT, "kl_moved": moved_NT}
        if config.kl == "penalty":
            value_NT = config.penalty * moved_NT - ratio_NT * advantage_NT
        else:
            value_NT = f.clipped_surrogate(ratio_NT, advantage_NT, config.clip, config.clip)
            metrics["clipped"] = (
                f.clipped_low(ratio_NT, advantage_NT, config.clip)
                | f.clipped_high(ratio_NT, advantage_NT, config.clip)
            ).to(ratio_NT)
        if config.importance_cap is not None:
            metrics["importance"] = batch.columns["importance_NT"]
            value_NT = value_NT * metrics["importance"]
        return Loss(value_NT, metrics)

    def value_loss(self, batch: Rollouts) -> Loss:
        """The critic's error at each token, and the log's numbers of all the rollouts."""
        columns, value_NT = batch.columns, batch.responses.values_NT
        loss_NT = f.value_loss(
            value_NT, columns["old_value_NT"], columns["return_NT"], self.config.value_clip
        )
        told = {name: columns[f"{name}_N"] for name in NUMBERS if f"{name}_N" in columns}
        return Loss(loss_NT, {"value": value_NT, **told})

    def entropy_loss(self, batch: Rollouts) -> Loss:
        """The negative entropy of the policy, as it is trained, before each token."""
        entropy_NT = batch.responses.tokenwise_NT["entropy"]
        return Loss(-entropy_NT, {"entropy_token": entropy_NT})

    def ptx_loss(self, batch: Demonstrations) -> Loss:
        """Cross-entropy of each token of the stream."""
        return Loss(-batch.responses.policy_NT)

    def active(self, term: Term) -> bool:
        """In the warm-up, the critic's alone."""
        return term.method == "value_loss" or self.state["batches"] >= self.config.warmup

    def stop(self, metrics: Mapping[str, float]) -> bool:
        """Has the policy moved too far from the one that sampled?"""
        limit = self.config.kl_stop
        return limit is not None and metrics.get("kl_moved", 0.0) > limit

    def advance(self, state: Mapping[str, Any], metrics: Mapping[str, float]) -> Mapping[str, Any]:
        """Count the batch, and adapt beta."""
        beta = state["beta"]
        if self.config.kl == "adaptive":
            beta = f.adaptive_beta(
                beta,
                metrics["kl_sequence"],
                target=self.config.kl_target,
                gain=self.config.kl_gain,
            )
        return {"batches": state["batches"] + 1, "beta": beta}


@hookimpl
def provide_objectives() -> list[type]:
    """Register PPO."""
    return [PPO]

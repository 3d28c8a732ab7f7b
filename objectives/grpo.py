"""Group Relative Policy Optimization and its relatives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

import torch
from annotated_types import Ge, Gt, Lt
from pydantic import PositiveInt, model_validator
from torch import Tensor

from trimtab import Config, Loss, Needs, Objective, Rollouts, Term, Updates, hookimpl
from trimtab.core.errors import UserError
from trimtab.objectives import functional as f

GSPO_CLIP = 0.01
"""Ratios of sequences hardly ever move so far: the paper clips at 3e-4 and 4e-4."""


class GRPOConfig(Config):
    """Options of GRPO."""

    loss: Literal["grpo", "dapo", "dr_grpo"] = "grpo"
    """What tokens are divided by: their completion's count, the batch's mean count (dapo), or
    the most that a completion may have (dr_grpo)."""

    ratio: Literal["token", "sequence", "cispo"] = "token"
    """Importance ratio: each token's, the completion's (GSPO), or each token's as a bounded weight
    without gradient (CISPO)."""

    clip: Annotated[float, Gt(0), Lt(1)] = 0.2
    """Epsilon: a ratio gains nothing below 1 - clip, nor above 1 + clip where no clip_high is."""

    clip_high: Annotated[float, Gt(0)] | None = None
    """Epsilon above 1; null is the same as clip. DAPO has 0.28, CISPO 4 or so."""

    delta: Annotated[float, Gt(1)] | None = None
    """Bounds the ratio where the advantage is negative (dual clip); null does not."""

    beta: Annotated[float, Ge(0)] = 0.0
    """Weight of the KL to the reference; 0 needs no reference."""

    kl: Literal["loss", "reward", "k3"] = "loss"
    """Where the KL goes: k3 x ratio in the loss, -beta k1 in the reward, or k3 alone in the loss,
    as first published, whose gradient is that of the opposite KL."""

    scale: f.Scale | None = None
    """Whose standard deviation divides advantages; null is the loss's own habit: none for dr_grpo,
    group for the others."""

    epochs: PositiveInt = 1
    """How often a batch is used."""

    minibatches: PositiveInt = 1
    """How many updates an epoch makes."""

    importance_cap: Annotated[float, Gt(0)] | None = None
    """Weigh tokens by min(pi_old / pi_sampler, cap), for a sampler that computes otherwise than
    training does; null weighs all alike."""

    dynamic: bool = False
    """Train only on groups whose rewards differ, and sample others in place of the rest (DAPO)."""

    mask_truncated: bool = False
    """Leave completions that did not end by themselves out of the loss (DAPO)."""

    @model_validator(mode="after")
    def _delta_leaves_room(self) -> Self:
        if self.delta is None:
            return self
        if self.ratio == "cispo":
            raise ValueError("delta does nothing with ratio: cispo, which has no such bound")
        if self.delta <= 1 + self.high:
            raise ValueError(
                f"delta is {self.delta:g} and 1 + clip_high is {1 + self.high:g}: "
                "set delta above it, for example to 4"
            )
        return self

    @property
    def high(self) -> float:
        """Epsilon above 1."""
        return self.clip if self.clip_high is None else self.clip_high

    @property
    def updates(self) -> int:
        """How many a batch gets."""
        return self.epochs * self.minibatches


class GRPO(Objective[Rollouts, GRPOConfig]):
    """Policy gradient, clipped, with the other completions of a prompt as the baseline.

        A     = (R - mean of the group) / (std of the group + 1e-4)
        ratio = pi / pi_old
        loss  = -min(ratio A, clip(ratio, 1 - clip, 1 + clip_high) A) + beta k3 ratio, a token

    ``grpo`` is the mean over completions of their tokens' means (Shao et al. 2024,
    arXiv:2402.03300, eq. 3), ``dapo`` the mean over the tokens of the whole batch (Yu et al. 2025,
    arXiv:2503.14476, eq. 8), ``dr_grpo`` a sum over tokens by the length that completions may
    have, and by default no standard deviation (Liu et al. 2025, arXiv:2503.20783). GSPO's ratio:
    Zheng et al. 2025, arXiv:2507.18071; CISPO: MiniMax 2025, arXiv:2506.13585. Minibatches of one
    batch share its divisor.

    k3 x ratio has the gradient of KL(pi || pi_ref) a token; -beta times the sum of k1 in the
    reward has that of the whole completion's, for it credits earlier tokens with what later ones
    cost (Tang and Munos 2025, arXiv:2506.09477). ``importance_cap``: Yao et al. 2025,
    https://fengyao.notion.site/off-policy-rl.

    Truncated completions that ``mask_truncated`` leaves out still count in their group's
    statistics, and in no divisor.
    """

    name = "grpo"
    group = 8
    least_group = 2
    terms = (Term("loss", weight="weight_N"),)

    def __init__(self, config: GRPOConfig) -> None:
        super().__init__(config)
        self.updates = Updates(epochs=config.epochs, minibatches=config.minibatches)
        self._moves = config.updates > 1
        self._penalises = config.beta > 0
        in_reward = self._penalises and config.kl == "reward"
        self.needs = Needs(reference=self._penalises, behaviour=self._moves or in_reward)

    def keep(self, batch: Rollouts) -> Tensor | None:
        """The groups whose rewards differ, where ``dynamic`` asks for them."""
        return f.group_varies(batch.reward_N, batch.group_N) if self.config.dynamic else None

    def prepare(self, batch: Rollouts) -> dict[str, Tensor]:
        """Advantages, and what each completion's tokens are divided by."""
        reward_N, group_N = self._reward_N(batch), batch.group_N
        varies_N = f.group_varies(batch.reward_N, group_N)
        return {
            "advantage_N": f.group_advantage(reward_N, group_N, self._scale),
            "divisor_N": self._divisor_N(batch),
            "weight_N": self._trained_N(batch).to(reward_N),
            "all_equal_N": (~varies_N).to(reward_N),
            "reward_std_N": f.group_std(batch.reward_N, group_N),
            "group_share_N": 1 / f.group_size(group_N).to(reward_N),
        }

    def loss(self, batch: Rollouts) -> Loss:
        """One value a completion: its tokens' sum, divided."""
        s, config = batch.responses, self.config
        advantage_N1 = batch.columns["advantage_N"][:, None]
        old_NT = s.behaviour_NT if self._moves else s.policy_NT.detach()
        moved_NT = (s.policy_NT - old_NT).masked_fill(~s.mask_NT, 0.0)
        by_token_NT = moved_NT.exp()
        sequence = config.ratio == "sequence"
        ratio_NT = f.sequence_ratio(moved_NT, s.mask_NT) if sequence else by_token_NT
        if config.ratio == "cispo":
            loss_NT = f.cispo(s.policy_NT, ratio_NT, advantage_N1, config.high)
        else:
            loss_NT = f.clipped_surrogate(
                ratio_NT, advantage_N1, config.clip, config.high, config.delta
            )
        if config.importance_cap is not None:
            loss_NT = loss_NT * f.importance_weight(old_NT, s.sampled_NT, config.importance_cap)
        if self._penalises and config.kl != "reward":
            kl_NT = f.k3(s.logratio_NT)
            loss_NT = loss_NT + config.beta * (kl_NT if config.kl == "k3" else kl_NT * by_token_NT)
        value_N = f.sum_of(loss_NT, s.mask_NT) / batch.columns["divisor_N"]
        return Loss(value_N, self._metrics(batch, old_NT, moved_NT, ratio_NT))

    def advice(self, account: Mapping[str, Any]) -> Iterable[str]:
        """Say which settings do nothing, or not what is likely to be meant."""
        config = self.config
        if config.beta == 0 and config.kl != "loss":
            yield f"objective.kl is {config.kl}, but objective.beta is 0, so that there is no KL"
        if config.high < config.clip and config.ratio != "cispo":
            yield (
                f"objective.clip_high is {config.high:g}, below objective.clip ({config.clip:g}): "
                "likely tokens fall faster than unlikely ones rise, which narrows what is sampled"
            )
        if self._moves and config.ratio == "sequence" and config.clip > GSPO_CLIP:
            yield (
                f"objective.clip is {config.clip:g}, which ratios of whole sequences hardly ever "
                "reach: GSPO's authors set clip: 3e-4 and clip_high: 4e-4"
            )
        if self._moves and config.ratio == "cispo" and config.clip_high is None:
            yield (
                f"objective.clip_high is not set, so cispo bounds weights at {1 + config.clip:g}: "
                "published runs bound them near 5 (clip_high: 4)"
            )

    @property
    def _scale(self) -> f.Scale:
        habit: f.Scale = "none" if self.config.loss == "dr_grpo" else "group"
        return habit if self.config.scale is None else self.config.scale

    def _reward_N(self, batch: Rollouts) -> Tensor:
        """The reward, less the KL where it goes there."""
        if not (self._penalises and self.config.kl == "reward"):
            return batch.reward_N
        s = batch.responses
        k1_N = f.sum_of(s.behaviour_NT - s.reference_NT, s.mask_NT)
        return batch.reward_N - self.config.beta * k1_N

    def _trained_N(self, batch: Rollouts) -> Tensor:
        """Which completions are in the loss, bool."""
        if not self.config.mask_truncated:
            return torch.ones_like(batch.group_N, dtype=torch.bool)
        return f.untruncated(batch.truncated_N, "objective.mask_truncated")

    def _divisor_N(self, batch: Rollouts) -> Tensor:
        """What the sum over each completion's tokens is divided by."""
        count_N = batch.responses.count_N.to(batch.reward_N)
        if self.config.loss == "grpo":
            return count_N.clamp(min=1)
        if self.config.loss == "dapo":
            trained_N = self._trained_N(batch).to(count_N)
            mean = (count_N * trained_N).sum() / trained_N.sum().clamp(min=1)
            return mean.clamp(min=1).expand_as(count_N)
        if batch.limit is None:
            raise UserError(
                "objective.loss: dr_grpo divides by the most tokens that a completion may have, "
                "and the source of these rollouts does not say it (Rollouts.limit): "
                "set objective.loss to grpo or dapo"
            )
        return torch.full_like(count_N, batch.limit)

    def _metrics(
        self, batch: Rollouts, old_NT: Tensor, moved_NT: Tensor, ratio_NT: Tensor
    ) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
        """Shares and ratios are of tokens; KL is in nats, of the policy that sampled."""
        s, columns = batch.responses, batch.columns
        count_N = s.count_N.to(batch.reward_N)

        def of_tokens(value_NT: Tensor) -> tuple[Tensor, Tensor]:
            return f.mean_of(value_NT.to(count_N), s.mask_NT), count_N

        metrics: dict[str, Tensor | tuple[Tensor, Tensor]] = {
            "all_equal": (columns["all_equal_N"], columns["group_share_N"]),
            "reward_std": (columns["reward_std_N"], columns["group_share_N"]),
            "advantage_size": columns["advantage_N"].abs(),
        }
        if self._penalises:
            logratio_NT = (old_NT - s.reference_NT).masked_fill(~s.mask_NT, 0.0)
            metrics["kl_sequence"] = logratio_NT.sum(-1)
            metrics["kl_token"] = of_tokens(f.k3(logratio_NT))
        if self._moves:
            metrics["ratio"] = of_tokens(ratio_NT)
            metrics["kl_moved"] = of_tokens(f.k3(-moved_NT))
            metrics |= {name: of_tokens(c) for name, c in self._clipped(batch, ratio_NT).items()}
        return metrics

    def _clipped(self, batch: Rollouts, ratio_NT: Tensor) -> dict[str, Tensor]:
        """Which tokens the bounds act on, bool."""
        config = self.config
        if config.ratio == "cispo":
            return {"clipped": ratio_NT > 1 + config.high}
        advantage_N1 = batch.columns["advantage_N"][:, None]
        low_NT = f.clipped_low(ratio_NT, advantage_N1, config.clip)
        high_NT = f.clipped_high(ratio_NT, advantage_N1, config.high)
        return {"clipped": low_NT | high_NT, "clipped_low": low_NT, "clipped_high": high_NT}


@hookimpl
def provide_objectives() -> list[type]:
    """Register GRPO."""
    return [GRPO]

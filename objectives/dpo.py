"""Direct Preference Optimization and its relatives."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import torch
from annotated_types import Ge, Gt, Le, Lt
from pydantic import model_validator
from torch import Tensor

from trimtab import Config, Loss, Needs, Objective, Pairs, Sequences, Term, hookimpl
from trimtab.objectives import functional as f

PairLoss = Literal[
    "sigmoid",
    "robust",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "sppo_hard",
    "apo_zero",
    "apo_down",
    "discopop",
]


class DPOConfig(Config):
    """Options of DPO."""

    loss: PairLoss = "sigmoid"
    """What is asked of a pair's log-ratios; formulas in ``trimtab.objectives.functional``."""

    beta: Annotated[float, Gt(0)] = 0.1
    """Strength of the pull to the reference; larger stays closer. The best one differs by loss."""

    label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.0
    """Assumed share of flipped preferences: smooths labels (cDPO), or corrects them (robust)."""

    length_normalised: bool | None = None
    """Log-ratios are means over tokens, not sums; null is the loss's own habit: means for ipo."""

    length_desensitised: Annotated[float, Ge(0), Le(1)] = 1.0
    """Weight of the tokens beyond the length of the pair's other completion (LD-DPO's alpha)."""

    reference_free: bool = False
    """Log-probs in place of log-ratios: no reference, and so nothing to stay close to."""

    discopop_tau: Annotated[float, Gt(0), Lt(1)] = 0.05
    """Of the loss discopop: how sharply its two parts give way to each other."""

    sft_weight: Annotated[float, Ge(0)] = 0.0
    """Add so much of the chosen tokens' mean cross-entropy (RPO's alpha); 0 adds none."""

    @model_validator(mode="after")
    def _exo_needs_uncertain_labels(self) -> Self:
        if self.loss == "exo_pair" and self.label_smoothing == 0:
            raise ValueError(
                "loss: exo_pair is infinite on certain labels: "
                "set label_smoothing above 0, for example to 0.001"
            )
        return self


class DPO(Objective[Pairs, DPOConfig]):
    """Raise the implicit reward of the chosen completion over the rejected one's.

        r    = beta * log(pi(y|x) / pi_ref(y|x))
        loss = -log sigmoid(r(chosen) - r(rejected)), or one of its relatives

    Rafailov et al. 2023, arXiv:2305.18290, eq. 7. A label may be soft: with P(chosen is better),
    the loss is its mean over both orders, so label smoothing (cDPO) and its inverse (robust) are
    changes of label. Length normalisation as in Lambert et al. 2024, arXiv:2411.15124, section 5;
    length desensitisation from Liu et al. 2024, arXiv:2409.06411; the term on chosen tokens from
    Pang et al. 2024, arXiv:2404.19733.

    Two relatives are left out, because in them a row's loss depends on the rows beside it: ``aot``
    sorts the log-ratios of whatever shares a forward, and ``bco_pair`` subtracts a running mean.
    """

    name = "dpo"

    def __init__(self, config: DPOConfig) -> None:
        super().__init__(config)
        self.needs = Needs(reference=not config.reference_free)
        if config.sft_weight > 0:
            imitation = Term("imitation", weight="tokens:chosen", scale=config.sft_weight)
            self.terms = (Term("loss"), imitation)

    def loss(self, batch: Pairs) -> Loss:
        """One value a pair: its loss in both orders, weighed by its label."""
        chosen_N = self._reward_N(batch.chosen, batch.rejected)
        rejected_N = self._reward_N(batch.rejected, batch.chosen)
        label_N = self._label_N(batch, torch.ones_like(chosen_N))
        if self.config.loss == "exo_pair":
            value_N = f.exo(chosen_N - rejected_N, label_N)
        else:
            right_N = self._pair_loss(chosen_N, rejected_N)
            wrong_N = self._pair_loss(rejected_N, chosen_N)
            value_N = label_N * right_N + (1 - label_N) * wrong_N
        return Loss(value_N, self._metrics(batch, chosen_N - rejected_N))

    def imitation(self, batch: Pairs) -> Loss:
        """Cross-entropy of the chosen completions, one value a token."""
        return Loss(-batch.chosen.policy_NT)

    def _pair_loss(self, chosen_N: Tensor, rejected_N: Tensor) -> Tensor:
        """The loss of pairs in which the first is better for certain."""
        margin_N = chosen_N - rejected_N
        match self.config.loss:
            case "hinge":
                return f.hinge(margin_N)
            case "ipo":
                return f.ipo(margin_N, self.config.beta)
            case "nca_pair":
                return f.nca(chosen_N, rejected_N)
            case "sppo_hard":
                return f.sppo(chosen_N, rejected_N, self.config.beta)
            case "apo_zero":
                return f.apo_zero(chosen_N, rejected_N)
            case "apo_down":
                return f.apo_down(chosen_N, rejected_N)
            case "discopop":
                return f.discopop(margin_N, self.config.discopop_tau)
            case _:
                return f.logistic(margin_N)

    def _label_N(self, batch: Pairs, certain_N: Tensor) -> Tensor:
        """P(chosen is better) that the loss is weighed with."""
        given_N = batch.preference_N
        label_N = certain_N if given_N is None else given_N.to(certain_N)
        change = f.unflipped if self.config.loss == "robust" else f.flipped
        return change(label_N, self.config.label_smoothing)

    def _reward_N(self, own: Sequences, other: Sequences) -> Tensor:
        """The implicit reward of each completion of one side of the pairs."""
        alpha = self.config.length_desensitised
        logratio_NT = self._logratio_NT(own)
        sum_N = f.desensitised_sum(logratio_NT, own.mask_NT, other.count_N, alpha)
        reward_N = self.config.beta * sum_N
        if self._means:
            return reward_N / own.count_N.clamp(min=1)
        return reward_N

    @property
    def _means(self) -> bool:
        habit = self.config.length_normalised
        return self.config.loss == "ipo" if habit is None else habit

    def _logratio_NT(self, sequences: Sequences) -> Tensor:
        if self.config.reference_free:
            return sequences.policy_NT.masked_fill(~sequences.mask_NT, 0.0)
        return sequences.logratio_NT

    def _metrics(self, batch: Pairs, margin_N: Tensor) -> dict[str, Tensor]:
        """Log-ratios are of whole completions, in nats, however the loss weighs their tokens."""
        what = "logps" if self.config.reference_free else "logratio"
        return {
            "margin": margin_N,
            "accuracy": (margin_N > 0).to(margin_N),
            f"{what}_chosen": self._logratio_NT(batch.chosen).sum(-1),
            f"{what}_rejected": self._logratio_NT(batch.rejected).sum(-1),
        }


@hookimpl
def provide_objectives() -> list[type]:
    """Register DPO."""
    return [DPO]

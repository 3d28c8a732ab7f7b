"""Reward models from comparisons: Bradley-Terry over pairs and rankings; alone, or an ensemble."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, Lt
from torch import Tensor

from trimtab import Config, Loss, Objective, Ranked, Term, hookimpl
from trimtab.objectives import functional as f


class RewardModelConfig(Config):
    """Options of a reward model."""

    margin: bool = True
    """Use the rows' margins, where they have some: scores are to differ by as much."""

    centering: Annotated[float, Ge(0)] = 0.0
    """Add so much of the comparisons' mean (s_i + s_j)^2, which keeps scores around 0."""

    label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.0
    """Assumed share of flipped preferences: labels of 1 become 1 less so much."""

    members: Annotated[int, Ge(1)] = 1
    """Of an ensemble: each has an adapter, a head and an order of the rows of its own."""


class RewardModel(Objective[Ranked, RewardModelConfig]):
    """Score responses so that differences of scores are the log-odds of preferences.

        d_ij = s_i - s_j - m_ij
        loss = mean over the comparisons i < j of a prompt of
               -P_ij log sigmoid(d_ij) - (1 - P_ij) log sigmoid(-d_ij)

    P_ij is P(response i is better than j), 1/2 for a tie. The mean over a prompt's comparisons is
    Ouyang et al. 2022, arXiv:2203.02155, eq. 1; each response is read once, however many it is
    compared with. m_ij is by how much i is better than j; m_ji = -m_ij, so that the loss does not
    depend on the order of the two: Touvron et al. 2023 (Llama 2), arXiv:2307.09288, eq. 2.
    ``centering`` is from Eisenstein et al. 2023, arXiv:2312.09244. Members of an ensemble share
    the base and nothing else, as in Coste et al. 2023, arXiv:2310.02743: each is the model that a
    run of it alone would give. ``loss`` adds them up; all other metrics are means over members.
    """

    name = "reward_model"

    def __init__(self, config: RewardModelConfig) -> None:
        super().__init__(config)
        if config.members == 1:
            self.terms = (Term("loss", role="reward"),)
        else:
            first, *others = (f"reward_{member}" for member in range(config.members))
            self.streams = dict.fromkeys(others, Ranked)
            self.terms = (
                Term("loss", role=first),
                *(Term("loss", role=role, rows=role) for role in others),
            )

    def loss(self, batch: Ranked) -> Loss:
        """One value a prompt: the mean over its comparisons, 0 where it has none."""
        score_NK = batch.score_NK
        i_C, j_C = torch.triu_indices(score_NK.shape[-1], score_NK.shape[-1], offset=1)
        better_NC = batch.better_NKK[:, i_C, j_C]
        compared_NC = ~better_NC.isnan()
        label_NC = torch.where(compared_NC, better_NC, 0.5).to(score_NK)
        difference_NC = score_NK[:, i_C] - score_NK[:, j_C]
        margin_NC = torch.zeros_like(difference_NC)
        if self.config.margin and batch.margin_NKK is not None:
            margin_NC = batch.margin_NKK[:, i_C, j_C].masked_fill(~compared_NC, 0).to(score_NK)
        smooth_NC = f.flipped(label_NC, self.config.label_smoothing)
        fit_NC = f.bradley_terry(difference_NC, smooth_NC, margin_NC)
        sum_NC = score_NK[:, i_C] + score_NK[:, j_C]
        fit_N = f.mean_of(fit_NC, compared_NC)
        value_N = fit_N + self.config.centering * f.mean_of(sum_NC.square(), compared_NC)
        return Loss(
            value_N,
            {
                "bradley_terry": (fit_N, compared_NC.any(-1).to(score_NK)),
                **_agreement(difference_NC, label_NC),
                "score": _over_responses(batch, score_NK),
            },
        )


def _agreement(difference_NC: Tensor, label_NC: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Over the comparisons that are no ties: are the better ones ahead, and by how much?"""
    sign_NC = (label_NC - 0.5).sign()
    ahead_NC = difference_NC * sign_NC
    right_NC = (ahead_NC.sign() + 1) / 2
    decided_NC = sign_NC != 0
    count_N = decided_NC.sum(-1).to(difference_NC)
    return {
        "accuracy": (f.mean_of(right_NC, decided_NC), count_N),
        "margin": (f.mean_of(ahead_NC, decided_NC), count_N),
    }


def _over_responses(batch: Ranked, score_NK: Tensor) -> tuple[Tensor, Tensor]:
    there_NK = torch.stack([one.length_N for one in batch.responses], -1) > 0
    return f.mean_of(score_NK, there_NK), there_NK.sum(-1).to(score_NK)


@hookimpl
def provide_objectives() -> list[type]:
    """Register the reward model."""
    return [RewardModel]

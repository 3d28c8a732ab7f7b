"""Kahneman-Tversky Optimization: learning from thumbs up and down, without pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, Self

import torch
from annotated_types import Ge, Gt
from pydantic import model_validator
from torch import Tensor

from trimtab import Config, Labelled, Loss, Needs, Objective, hookimpl
from trimtab.objectives import functional as f

BALANCE = (1.0, 4 / 3)
"""The authors' advice: weight x rows of the desirable, by weight x rows of the undesirable."""

MISMATCHED = frozenset({"mismatched"})


class KTOConfig(Config):
    """Options of KTO."""

    loss: Literal["kto", "apo_zero_unpaired"] = "kto"
    """What log-ratios are compared with: the batch's reference point z0, or 0."""

    beta: Annotated[float, Gt(0)] = 0.1
    """Strength of the pull to the reference; larger stays closer, and saturates earlier."""

    desirable_weight: Annotated[float, Ge(0)] = 1.0
    """lambda_D, the weight of a desirable row; raise it where these are rare."""

    undesirable_weight: Annotated[float, Ge(0)] = 1.0
    """lambda_U, the weight of an undesirable row; raise it where these are rare."""

    @model_validator(mode="after")
    def _one_label_counts(self) -> Self:
        if self.desirable_weight == self.undesirable_weight == 0:
            raise ValueError(
                "desirable_weight and undesirable_weight are both 0, so that nothing is trained: "
                "set one of them above 0"
            )
        return self


class KTO(Objective[Labelled, KTOConfig]):
    """Raise desirable completions above a reference point, and push undesirable ones below it.

        r    = log(pi(y|x) / pi_ref(y|x))
        z0   = max(0, mean of r over the whole batch's mismatched completions), without gradient
        loss = lambda_D (1 - sigmoid(beta (r - z0))) if y is desirable,
               lambda_U (1 - sigmoid(beta (z0 - r))) if not

    Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8. The mean is over all rows, as there, and not
    over their weights. ``apo_zero_unpaired`` has 0 for z0 and needs no mismatched completions:
    D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7, with each half on rows of its own.
    """

    name = "kto"

    def __init__(self, config: KTOConfig) -> None:
        super().__init__(config)
        if self._compares:
            self.needs = Needs(reference=True, before=MISMATCHED)
        else:
            self.needs = Needs(reference=True, unused=MISMATCHED)

    def prepare(self, batch: Labelled) -> dict[str, Tensor]:
        """z0 in nats, the same for every row."""
        if not self._compares:
            return {}
        mismatched = batch.mismatched
        z0 = f.reference_point(mismatched.logratio_N, mismatched.count_N > 0)
        return {"z0_N": z0.expand(len(batch))}

    def loss(self, batch: Labelled) -> Loss:
        """One value a row, by its label."""
        logratio_N = batch.responses.logratio_N
        desirable_N = batch.desirable_N
        z0_N = batch.columns["z0_N"] if self._compares else torch.zeros_like(logratio_N)
        beta = self.config.beta
        loss_N = f.kto(beta * logratio_N, beta * z0_N, desirable_N)
        weights = self.config.desirable_weight, self.config.undesirable_weight
        value_N = torch.where(desirable_N, weights[0] * loss_N, weights[1] * loss_N)
        return Loss(value_N, self._metrics(logratio_N, z0_N, desirable_N))

    def advice(self, account: Mapping[str, Any]) -> Iterable[str]:
        """Say when a label is absent, or when the labels' total weights are out of balance."""
        labels = account.get("labels")
        if labels is None:
            return
        absent = [label for label in ("desirable", "undesirable") if not labels[label]]
        for label in absent:
            yield (
                f"no row is {label}: kto learns from both labels, and every row would now pull "
                "in one direction. Check the labels of the data"
            )
        if not absent:
            yield from self._unbalanced(labels["desirable"], labels["undesirable"])

    def _unbalanced(self, desirable: int, undesirable: int) -> Iterator[str]:
        """The rule of the paper, and the weight of the lighter label that would keep it.

        A weight of 0 leaves a label out on purpose, and is not advised against.
        """
        heavy = self.config.desirable_weight * desirable
        light = self.config.undesirable_weight * undesirable
        low, high = BALANCE
        if heavy == 0 or light == 0 or low <= heavy / light <= high:
            return
        middle = (low + high) / 2
        if heavy / light < low:
            option, weight = "desirable_weight", middle * light / desirable
        else:
            option, weight = "undesirable_weight", heavy / middle / undesirable
        yield (
            f"{desirable} desirable and {undesirable} undesirable rows weigh "
            f"{heavy / light:.3g} to 1, and kto works best between 1 and 4/3: "
            f"set objective.{option} to {float(f'{weight:.3g}')}"
        )

    @property
    def _compares(self) -> bool:
        """Are log-ratios compared with those of mismatched completions?"""
        return self.config.loss == "kto"

    def _metrics(
        self, logratio_N: Tensor, z0_N: Tensor, desirable_N: Tensor
    ) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
        """In nats. A row on the reference point is on neither side of it, and counts as wrong."""
        above_N = logratio_N - z0_N
        right_N = torch.where(desirable_N, above_N > 0, above_N < 0)
        metrics: dict[str, Tensor | tuple[Tensor, Tensor]] = {
            "accuracy": right_N.to(logratio_N),
            "logratio_desirable": (logratio_N, desirable_N.to(logratio_N)),
            "logratio_undesirable": (logratio_N, (~desirable_N).to(logratio_N)),
        }
        if self._compares:
            metrics["z0"] = z0_N
        return metrics


@hookimpl
def provide_objectives() -> list[type]:
    """Register KTO."""
    return [KTO]

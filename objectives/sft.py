"""Supervised fine-tuning: imitate demonstrations."""

from __future__ import annotations

from typing import Literal

from trimtab import Config, Demonstrations, Loss, Objective, Term, hookimpl


class SFTConfig(Config):
    """Options of supervised fine-tuning."""

    loss: Literal["nll", "dft"] = "nll"
    """nll is cross-entropy; dft weighs each token by its own probability, and forgets less."""


class SFT(Objective[Demonstrations, SFTConfig]):
    """Raise the log-probability of every token of the demonstrations, the mean over tokens.

        nll = -log pi(token)
        dft = -pi(token) log pi(token), the first factor without gradient

    Ouyang et al. 2022, arXiv:2203.02155, section 3.5; dft from Wu et al. 2025, arXiv:2508.05629.
    """

    name = "sft"
    terms = (Term("loss", weight="tokens"),)

    def loss(self, batch: Demonstrations) -> Loss:
        """One value a token."""
        nll_NT = -batch.responses.policy_NT
        probability_NT = (-nll_NT).exp().detach()
        value_NT = probability_NT * nll_NT if self.config.loss == "dft" else nll_NT
        return Loss(value_NT, metrics={"nll": nll_NT, "probability": probability_NT})


@hookimpl
def provide_objectives() -> list[type]:
    """Register supervised fine-tuning."""
    return [SFT]

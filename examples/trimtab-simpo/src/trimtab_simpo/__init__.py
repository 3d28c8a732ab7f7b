"""SimPO for Trimtab: ``objective: {name: example.simpo}``."""

from typing import Annotated

from annotated_types import Ge, Gt
from torch import Tensor
from torch.nn.functional import logsigmoid

from trimtab import Config, Loss, Objective, Pairs, Sequences, hookimpl

trimtab_api = 1


class SimPOConfig(Config):
    """Options of SimPO."""

    beta: Annotated[float, Gt(0)] = 2.0
    """Scale of the reward: beta * the mean log-prob of a completion's tokens."""

    gamma: Annotated[float, Ge(0)] = 1.0
    """By how much the chosen completion's reward should exceed the rejected one's."""


class SimPO(Objective[Pairs, SimPOConfig]):
    """Raise the chosen completion's mean log-prob over the rejected one's, by a margin.

        r    = beta / |y| * log pi(y|x)
        loss = -log sigmoid(r(chosen) - r(rejected) - gamma)

    Meng et al. 2024, arXiv:2405.14734, eq. 6. It needs no reference.
    """

    name = "example.simpo"

    def loss(self, batch: Pairs) -> Loss:
        """One value a pair."""
        margin_N = self._reward_N(batch.chosen) - self._reward_N(batch.rejected)
        accuracy_N = (margin_N > 0).to(margin_N)
        value_N = -logsigmoid(margin_N - self.config.gamma)
        return Loss(value_N, metrics={"margin": margin_N, "accuracy": accuracy_N})

    def _reward_N(self, completions: Sequences) -> Tensor:
        return self.config.beta * completions.policy_N / completions.count_N.clamp(min=1)


@hookimpl
def provide_objectives() -> list[type]:
    """Register SimPO."""
    return [SimPO]

"""A penalty for completions that did not come to an end."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.core.hookspecs import hookimpl
from trimtab.core.options import Config, PositiveFloat
from trimtab.core.reward import Group, Reward, Score


class MissingEosConfig(Config):
    """How much it costs."""

    penalty: PositiveFloat = 1.0
    """What is taken off the reward of a truncated completion."""


class MissingEosReward(Reward[MissingEosConfig]):
    """-penalty where the completion was cut, else 0.

    The "EOS trick" of Huang et al. 2024, "The N+ Implementation Details of RLHF with PPO",
    arXiv:2403.17031: a completion that was cut should not be worth what it would be, had it ended.
    """

    name = "missing_eos"
    options = MissingEosConfig
    independent = True

    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        penalty = self.config.penalty
        return [
            [Score(-penalty if completion.truncated else 0.0) for completion in group.sampled]
            for group in groups
        ]


@hookimpl
def provide_rewards() -> list[type]:
    """Register missing_eos."""
    return [MissingEosReward]

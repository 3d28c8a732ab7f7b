"""Pairs that the policy samples now lead to the policy that is known to be the best.

The label of a pair is P(a is better) = sigmoid(R_a - R_b), and the loss of dpo is lowest where
sigmoid(beta log-ratio_a - beta log-ratio_b) equals it. At pi_ref exp(R / beta) / Z it does for
every pair, so there no pair has a gradient, whoever sampled it: the end has no noise.
"""

from __future__ import annotations

import pytest
import torch
from optimum import Draws, World, distance, whole

from trimtab import Pairs
from trimtab.objectives.dpo import DPO
from trimtab.plugins.sources.rollout_pairs import comparisons

BETA = 0.2
NEAR = 0.005
"""Total variation, as for the other online objectives."""


class DrawnPairs(Draws):
    """The policy's completions in groups, compared as ``rollout_pairs`` compares them."""

    group, which, soft = 2, "best_worst", True

    @classmethod
    def serves(cls, batch):
        return batch is Pairs

    def collect(self, policy, rows):
        drawn = super().collect(policy, rows)
        mixed = torch.randperm(rows, generator=self.generator)
        reward_N = drawn.reward_N[mixed]
        pairs = [
            (begin + pair.better, begin + pair.worse, pair.gap)
            for begin in range(0, rows, self.group)
            for pair in comparisons(reward_N[begin : begin + self.group].tolist(), self.which)
            if pair.gap > 0
        ]
        better_N, worse_N, gap_N = torch.tensor(pairs, dtype=torch.float64).view(-1, 3).T
        tokens_NT = drawn.responses.tokens_NT[mixed]
        return Pairs(
            whole(tokens_NT[better_N.long()]),
            whole(tokens_NT[worse_N.long()]),
            gap_N.sigmoid() if self.soft else None,
        )


class AllPairs(DrawnPairs):
    """Of groups of four."""

    group, which = 4, "all"


class Certain(DrawnPairs):
    """Labels without doubt."""

    soft = False


def trained(world, source, **options):
    objective = DPO(DPO.options(beta=BETA, **options))
    return world.train(objective, source=source).probability_Y()


@pytest.mark.parametrize("source", [DrawnPairs, AllPairs])
@pytest.mark.parametrize("length", [1, 3])
def test_soft_labels_lead_to_the_best_policy(source, length):
    world = World(length=length)
    assert distance(world.policy().probability_Y(), world.best_Y(BETA)) > 0.15
    assert distance(trained(world, source), world.best_Y(BETA)) < NEAR


def test_at_the_best_policy_no_pair_has_a_gradient():
    world = World()
    policy = world.policy()
    policy.policy_SV.data[0] = world.best_Y(BETA).log()
    pairs = DrawnPairs(world).collect(policy, 64)
    states = {role: policy.probability_Y(role).log() for role in ("policy", "reference")}
    logratio_Y = states["policy"] - states["reference"]
    margin_N = BETA * (
        logratio_Y[pairs.chosen.tokens_NT[:, 0]] - logratio_Y[pairs.rejected.tokens_NT[:, 0]]
    )
    assert torch.allclose(margin_N.sigmoid(), pairs.preference_N)


def test_certain_labels_lead_past_it():
    """No margin is enough for them: in the end the best completion is the only one."""
    world = World()
    found_Y = trained(world, Certain)
    assert found_Y.argmax() == world.best_Y(BETA).argmax()
    assert world.best_Y(BETA).max() < 0.9 < 0.99 < found_Y.max()

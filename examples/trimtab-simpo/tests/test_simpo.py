"""SimPO keeps Trimtab's contract, and its formula."""

import math

import pytest
from trimtab_simpo import SimPO, SimPOConfig

from trimtab import Pairs
from trimtab.testing import given, parametrize_with_checks


@parametrize_with_checks([SimPO(SimPOConfig()), SimPO(SimPOConfig(beta=0.5, gamma=0.0))])
def test_conforms(objective, check):
    check(objective)


def test_rewards_are_means_over_tokens():
    pairs = Pairs(chosen=given([[-1.0, -2.0]]), rejected=given([[-2.0, -3.0, -4.0]]))
    loss = SimPO(SimPOConfig(beta=2.0, gamma=1.0)).loss(pairs)
    # 2 * (-3 / 2) - 2 * (-9 / 3) = 3, less the margin of 1
    assert loss.metrics["margin"].tolist() == [3.0]
    assert loss.value.tolist() == pytest.approx([math.log(1 + math.exp(-2))])

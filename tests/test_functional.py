"""The shared maths against literals, worked out by hand beside them."""

import math

import pytest
import torch
from torch.testing import assert_close

from trimtab.objectives import functional as f

HALF_LOGIT = math.log(3)
"""sigmoid(log 3) = 3/4, so that the numbers below are ratios of small integers."""


def at(*values):
    """A tensor of these numbers in float64."""
    return torch.tensor(values, dtype=torch.float64)


def test_labels_are_mixed_with_their_opposite():
    # 0.9 * 1 + 0.1 * 0, 0.9 * 0.6 + 0.1 * 0.4
    assert_close(f.flipped(at(1.0, 0.6), 0.1), at(0.9, 0.58))


def test_unflipping_undoes_flipping():
    # (1 - 0.1) / 0.8, (0.5 - 0.1) / 0.8
    assert_close(f.unflipped(at(1.0, 0.5), 0.1), at(1.125, 0.5))
    label_N = at(0.5, 0.7, 1.0)
    assert_close(f.unflipped(f.flipped(label_N, 0.2), 0.2), label_N)


def test_tail_is_discounted_past_the_other_completion():
    logratio_NT = at([9.0, 1.0, 2.0, 4.0], [1.0, 2.0, 4.0, 9.0], [1.0, 2.0, 4.0, 8.0])
    mask_NT = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]]).bool()
    sum_N = f.desensitised_sum(logratio_NT, mask_NT, torch.tensor([2, 3, 0]), 0.25)
    # the first token of row 1 is not trained, and counts in neither part: 1 + 2 + 0.25 * 4;
    # row 2 is not longer: 1 + 2 + 4; nothing of row 3 is shared: 0.25 * 15
    assert_close(sum_N, at(4.0, 7.0, 3.75))


def test_logistic():
    # -log sigmoid(log 3) = log(4/3), -log sigmoid(-log 3) = log 4
    assert_close(f.logistic(at(HALF_LOGIT, -HALF_LOGIT)), at(math.log(4 / 3), math.log(4)))


def test_hinge():
    assert_close(f.hinge(at(-0.5, 0.0, 0.5, 1.5)), at(1.5, 1.0, 0.5, 0.0))


def test_ipo():
    # m / beta = 2 and 0; 1 / (2 beta) = 5; (2 - 5)^2, (0 - 5)^2
    assert_close(f.ipo(at(0.2, 0.0), 0.1), at(9.0, 25.0))


def test_exo():
    # q = 3/4, P = 9/10: 3/4 log(3/4 / 9/10) + 1/4 log(1/4 / 1/10)
    expected = 0.75 * math.log(5 / 6) + 0.25 * math.log(2.5)
    assert_close(f.exo(at(HALF_LOGIT), at(0.9)), at(expected))


def test_exo_is_zero_where_the_policy_agrees_with_the_label():
    assert_close(f.exo(at(HALF_LOGIT), at(0.75)), at(0.0))


def test_nca():
    # r_w = log 3, r_l = 0: log(4/3) + (log 4 + log 2) / 2
    expected = math.log(4 / 3) + (math.log(4) + math.log(2)) / 2
    assert_close(f.nca(at(HALF_LOGIT), at(0.0)), at(expected))


def test_sppo():
    # targets are +5 and -5 nats: (3 - 5)^2 + (-4 + 5)^2
    assert_close(f.sppo(at(0.3), at(-0.4), 0.1), at(5.0))


def test_apo_zero():
    # 1 - 3/4 + 1/4
    assert_close(f.apo_zero(at(HALF_LOGIT), at(-HALF_LOGIT)), at(0.5))


def test_apo_down():
    # r_w = -log 3, r_l = -2 log 3: 1/4 + 1 - 3/4
    assert_close(f.apo_down(at(-HALF_LOGIT), at(-2 * HALF_LOGIT)), at(0.5))


def test_discopop():
    # tau = 1/2, m = log 3: s = sigmoid(2 log 3) = 9/10; 1/10 log(4/3) + 9/10 * 1/3
    assert_close(f.discopop(at(HALF_LOGIT), 0.5), at(0.1 * math.log(4 / 3) + 0.3))


@pytest.mark.parametrize("margin", [-500.0, 500.0])
def test_discopop_is_finite_far_away(margin):
    margin_N = torch.tensor([margin], requires_grad=True)
    f.discopop(margin_N, 0.05).sum().backward()
    assert_close(f.discopop(margin_N, 0.05).detach(), torch.tensor([max(0.0, -margin)]))
    assert_close(margin_N.grad, torch.tensor([-1.0 if margin < 0 else 0.0]))

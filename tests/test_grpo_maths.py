"""The maths of GRPO and its relatives against literals, worked out by hand beside them."""

import math

import pytest
import torch
from torch.testing import assert_close

from trimtab.objectives import functional as f


def at(*values):
    """A tensor of these numbers in float64."""
    return torch.tensor(values, dtype=torch.float64)


GROUP_N = torch.tensor([7, 3, 7, 3, 7])
REWARD_N = at(1.0, 2.0, 2.0, 6.0, 6.0)
"""Group 7 has 1, 2, 6: mean 3, squares 4 + 1 + 9, variance 7; group 3 has 2, 6: mean 4,
variance 8. All five: mean 3.4, squares 5.76 + 1.96 + 1.96 + 6.76 + 6.76, variance 5.8."""


def test_statistics_are_of_the_group_wherever_its_rows_stand():
    assert_close(f.group_mean(REWARD_N, GROUP_N), at(3.0, 4.0, 3.0, 4.0, 3.0))
    seven, eight = math.sqrt(7), math.sqrt(8)
    assert_close(f.group_std(REWARD_N, GROUP_N), at(seven, eight, seven, eight, seven))
    assert f.group_size(GROUP_N).tolist() == [3, 2, 3, 2, 3]


@pytest.mark.parametrize(
    "scale, seven, three",
    [
        ("none", 1.0, 1.0),
        ("group", math.sqrt(7) + 1e-4, math.sqrt(8) + 1e-4),
        ("batch", math.sqrt(5.8) + 1e-4, math.sqrt(5.8) + 1e-4),
    ],
)
def test_advantages_by_scale(scale, seven, three):
    expected = at(-2 / seven, -2 / three, -1 / seven, 2 / three, 3 / seven)
    assert_close(f.group_advantage(REWARD_N, GROUP_N, scale), expected)


@pytest.mark.parametrize("scale", ["none", "group", "batch"])
def test_equal_rewards_have_exactly_no_advantage(scale):
    reward_N = torch.tensor([0.1] * 7 + [0.3, 0.9])
    assert reward_N[:7].mean() != reward_N[0]  # the mean in float32 is not the number itself
    advantage_N = f.group_advantage(reward_N, torch.tensor([0] * 7 + [1] * 2), scale)
    assert advantage_N[:7].tolist() == [0.0] * 7
    assert advantage_N[7:].abs().min() > 0


@pytest.mark.parametrize("scale", ["none", "group", "batch"])
def test_a_group_of_one_has_no_advantage(scale):
    assert f.group_advantage(at(5.0), torch.tensor([0]), scale).tolist() == [0.0]
    pair_N = f.group_advantage(at(5.0, 1.0), torch.tensor([0, 1]), scale)
    assert pair_N.tolist() == [0.0, 0.0]


def test_no_rows_have_no_advantages():
    nothing_N = torch.empty(0, dtype=torch.long)
    assert f.group_advantage(at(), nothing_N).shape == (0,)
    assert f.group_varies(at(), nothing_N).shape == (0,)


def test_groups_vary_or_not_as_wholes():
    varies_N = f.group_varies(at(1.0, 2.0, 1.0, 2.0, 3.0), GROUP_N)
    assert varies_N.tolist() == [True, False, True, False, True]


# KL: the table of objectives/functional/kl.py, in exact expectation over one token

LOGITS_V = at(0.3, -0.7, 1.1, 0.0)
REFERENCE_V = at(-0.2, 0.4, 0.1, 0.9).log_softmax(-1)


def gradient(scalar_of):
    """Of a scalar that is made of log-probs, by the logits."""
    logits_V = LOGITS_V.clone().requires_grad_()
    scalar_of(logits_V.log_softmax(-1)).backward()
    return logits_V.grad


def expectation(estimate):
    """The gradient of sum p(x) estimate(x) with p held still, as sampling holds it."""
    return gradient(lambda logps_V: (logps_V.detach().exp() * estimate(logps_V)).sum())


REVERSE = gradient(lambda logps_V: (logps_V.exp() * (logps_V - REFERENCE_V)).sum())
FORWARD = gradient(lambda logps_V: (REFERENCE_V.exp() * (REFERENCE_V - logps_V)).sum())


@pytest.mark.parametrize(
    "estimate, expected",
    [
        (lambda lp: f.k1(lp - REFERENCE_V), torch.zeros_like(LOGITS_V)),
        (lambda lp: f.k2(lp - REFERENCE_V), REVERSE),
        (lambda lp: f.k3(lp - REFERENCE_V), FORWARD),
        (lambda lp: f.k3(lp - REFERENCE_V) * (lp - lp.detach()).exp(), REVERSE),
        (lambda lp: f.k1(lp - REFERENCE_V).detach() * lp, REVERSE),
    ],
    ids=["k1", "k2", "k3", "k3 x ratio", "k1 in the reward"],
)
def test_gradients_of_the_estimates(estimate, expected):
    assert_close(expectation(estimate), expected)


def test_k1_and_k3_are_unbiased_and_k2_is_not():
    logps_V = LOGITS_V.log_softmax(-1)
    p_V, d_V = logps_V.exp(), logps_V - REFERENCE_V
    exact = (p_V * d_V).sum()
    assert_close((p_V * f.k3(d_V)).sum(), exact)
    assert abs((p_V * f.k2(d_V)).sum() - exact) > 0.01


def test_k3_is_never_negative_near_zero():
    # exp(-d) + d - 1 in float32 would be off by more than d^2 / 2
    tiny = torch.tensor([1e-4, -1e-4, 0.0])
    assert_close(f.k3(tiny), torch.tensor([5e-9, 5e-9, 0.0]), rtol=0.02, atol=0)


# Surrogates


def test_the_clipped_surrogate_and_where_it_has_a_gradient():
    ratio_NT = at([0.5, 1.0, 1.5, 0.5, 1.0, 1.5, 9.0]).requires_grad_()
    advantage_NT = at([2.0, 2.0, 2.0, -2.0, -2.0, -2.0, -2.0])
    loss_NT = f.clipped_surrogate(ratio_NT, advantage_NT, 0.2, 0.3, delta=4.0)
    # the smaller of ratio * A and clip * A, negated: 1.3 * 2 up, 0.8 * -2 and 4 * -2 down
    assert_close(loss_NT.detach(), at([-1.0, -2.0, -2.6, 1.6, 2.0, 3.0, 8.0]))
    loss_NT.sum().backward()
    assert ratio_NT.grad.tolist() == [[-2.0, -2.0, 0.0, 0.0, 2.0, 2.0, 0.0]]
    low_NT = f.clipped_low(ratio_NT, advantage_NT, 0.2)
    high_NT = f.clipped_high(ratio_NT, advantage_NT, 0.3)
    assert low_NT.int().tolist() == [[0, 0, 0, 1, 0, 0, 0]]
    assert high_NT.int().tolist() == [[0, 0, 1, 0, 0, 0, 0]]


def test_a_sequences_ratio_is_the_geometric_mean_and_shares_its_gradient():
    logratio_NT = at([1.0, 3.0, 0.0], [5.0, 0.0, 0.0]).requires_grad_()
    mask_NT = torch.tensor([[1, 1, 0], [0, 0, 0]]).bool()
    ratio_NT = f.sequence_ratio(logratio_NT, mask_NT)
    # exp((1 + 3) / 2) for every token of it; 1 where nothing is trained
    assert_close(ratio_NT.detach(), at([math.exp(2)] * 3, [1.0] * 3))
    ratio_NT[:, 0].sum().backward()
    half = math.exp(2) / 2
    assert_close(logratio_NT.grad, at([half, half, 0.0], [0.0, 0.0, 0.0]))


def test_cispo_bounds_weights_and_leaves_every_token_a_gradient():
    logps_NT = at([-1.0, -2.0, -0.5]).requires_grad_()
    loss_NT = f.cispo(logps_NT, at([0.1, 1.0, 9.0]), at([3.0]), high=0.5)
    # -min(ratio, 1.5) * 3 * log pi
    assert_close(loss_NT.detach(), at([0.3, 6.0, 2.25]))
    loss_NT.sum().backward()
    assert_close(logps_NT.grad, at([-0.3, -3.0, -4.5]))


def test_cispos_ratio_gets_no_gradient():
    ratio_NT = at([1.0]).requires_grad_()
    assert not f.cispo(at([-1.0]), ratio_NT, at([1.0]), 0.5).requires_grad


def test_importance_weights_are_cut_above_and_have_no_gradient():
    behaviour_NT = at([-1.0, -1.0, -2.0]).requires_grad_()
    weight_NT = f.importance_weight(behaviour_NT, at([-1.0, -3.0, -1.0]), 2.0)
    # exp(0), exp(2) cut to 2, exp(-1)
    assert_close(weight_NT, at([1.0, 2.0, math.exp(-1)]))
    assert not weight_NT.requires_grad


def test_what_does_not_count_adds_nothing():
    value_NC, counted_NC = at([1.0, math.inf], [2.0, 3.0]), torch.tensor([[1, 0], [0, 0]]).bool()
    assert f.sum_of(value_NC, counted_NC).tolist() == [1.0, 0.0]
    assert f.mean_of(value_NC, counted_NC).tolist() == [1.0, 0.0]

"""What SFT and DPO make of log-probabilities, worked out by hand."""

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close

from trimtab import Demonstrations, Needs, Pairs, Term
from trimtab.objectives.dpo import DPO
from trimtab.objectives.sft import SFT
from trimtab.testing import given

PAIRS = Pairs(
    # log-ratios of tokens: 1, 1, 1 and 1, 1
    chosen=given([[-1.0, -2.0, -1.0], [-2.0, -1.0]], [[-2.0, -3.0, -2.0], [-3.0, -2.0]]),
    # -2, 0 and 0, 1, 1
    rejected=given([[-3.0, -1.0], [-1.0, -1.0, -1.0]], [[-1.0, -1.0], [-1.0, -2.0, -2.0]]),
)
"""log pi/pi_ref of whole completions: 3 and 2, against -2 and 2."""

BETA = 0.5
CHOSEN = (1.5, 1.0)
REJECTED = (-1.0, 1.0)
"""Implicit rewards, BETA * log-ratio."""


def value(pairs=PAIRS, **options):
    """The two pairs' losses."""
    return DPO(DPO.options(beta=BETA, **options)).loss(pairs).value.tolist()


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def logistic(x):
    return math.log(1 + math.exp(-x))


FORMULAS = {
    "sigmoid": lambda w, lo: logistic(w - lo),
    "robust": lambda w, lo: logistic(w - lo),
    "hinge": lambda w, lo: max(0.0, 1 - (w - lo)),
    "nca_pair": lambda w, lo: logistic(w) + 0.5 * logistic(-w) + 0.5 * logistic(-lo),
    "sppo_hard": lambda w, lo: (w / BETA - 1) ** 2 + (lo / BETA + 1) ** 2,
    "apo_zero": lambda w, lo: 1 - sigmoid(w) + sigmoid(lo),
    "apo_down": lambda w, lo: sigmoid(w) + 1 - sigmoid(w - lo),
    "discopop": lambda w, lo: (
        (1 - sigmoid(20 * (w - lo))) * logistic(w - lo) + sigmoid(20 * (w - lo)) * math.exp(lo - w)
    ),
}
"""Of an implicit reward each, with the paper's signs: w chosen, lo rejected."""


@pytest.mark.parametrize("loss", FORMULAS)
def test_loss_of_sums(loss):
    expected = [FORMULAS[loss](w, lo) for w, lo in zip(CHOSEN, REJECTED, strict=True)]
    assert value(loss=loss) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", [name for name in FORMULAS if name != "robust"])
def test_soft_and_smoothed_labels_mix_both_orders(loss):
    soft = replace(PAIRS, preference_N=torch.tensor([0.8, 1.0]))
    share = [0.9 * 0.8 + 0.1 * 0.2, 0.9]
    expected = [
        p * FORMULAS[loss](w, lo) + (1 - p) * FORMULAS[loss](lo, w)
        for p, w, lo in zip(share, CHOSEN, REJECTED, strict=True)
    ]
    assert value(soft, loss=loss, label_smoothing=0.1) == pytest.approx(expected, rel=1e-6)


def test_robust_subtracts_the_flipped_loss():
    expected = [
        (0.9 * logistic(w - lo) - 0.1 * logistic(lo - w)) / 0.8
        for w, lo in zip(CHOSEN, REJECTED, strict=True)
    ]
    assert value(loss="robust", label_smoothing=0.1) == pytest.approx(expected, rel=1e-6)


def test_robust_is_unbiased_under_flips():
    flipped = Pairs(chosen=PAIRS.rejected, rejected=PAIRS.chosen)
    options = {"loss": "robust", "label_smoothing": 0.2}
    mean = [
        0.8 * right + 0.2 * wrong
        for right, wrong in zip(value(**options), value(flipped, **options), strict=True)
    ]
    assert mean == pytest.approx(value(), rel=1e-5)


def test_exo_is_a_kl_from_the_smoothed_label():
    expected = []
    for w, lo in zip(CHOSEN, REJECTED, strict=True):
        q = sigmoid(w - lo)
        expected.append(q * math.log(q / 0.9) + (1 - q) * math.log((1 - q) / 0.1))
    assert value(loss="exo_pair", label_smoothing=0.1) == pytest.approx(expected, rel=1e-5)


def test_exo_refuses_certain_labels():
    with pytest.raises(ValidationError, match="set label_smoothing above 0"):
        DPO.options(loss="exo_pair")


def test_ipo_is_of_means_over_tokens():
    # means: 3/3 - -2/2 = 2 and 2/2 - 2/3 = 1/3; the target 1 / (2 beta) is 1
    assert value(loss="ipo") == pytest.approx([1.0, 4 / 9], rel=1e-6)


def test_ipo_of_sums_on_request():
    # 3 - -2 = 5 and 2 - 2 = 0
    assert value(loss="ipo", length_normalised=False) == pytest.approx([16.0, 1.0], rel=1e-6)


def test_length_normalised():
    expected = [logistic(BETA * 2), logistic(BETA / 3)]
    assert value(length_normalised=True) == pytest.approx(expected, rel=1e-6)


def test_length_desensitised_discounts_both_sides():
    # alpha = 1/2: chosen 1 + 1 + 1/2 and 1 + 1, rejected -2 + 0 and 0 + 1 + 1/2
    expected = [logistic(BETA * 4.5), logistic(BETA * 0.5)]
    assert value(length_desensitised=0.5) == pytest.approx(expected, rel=1e-6)


def test_length_desensitised_before_the_mean():
    # (2.5 / 3 - -2 / 2) and (2 / 2 - 1.5 / 3), as TRL divides
    expected = [logistic(BETA * (2.5 / 3 + 1)), logistic(BETA * 0.5)]
    options = {"length_desensitised": 0.5, "length_normalised": True}
    assert value(**options) == pytest.approx(expected, rel=1e-6)


def test_reference_free_reads_log_probs_alone():
    bare = Pairs(
        chosen=given([[-1.0, -2.0, -1.0], [-2.0, -1.0]]),
        rejected=given([[-3.0, -1.0], [-1.0, -1.0, -1.0]]),
    )
    # -4 - -4 and -3 - -3
    objective = DPO(DPO.options(reference_free=True))
    loss = objective.loss(bare)
    assert objective.needs == Needs()
    assert loss.value.tolist() == pytest.approx([math.log(2)] * 2)
    assert set(loss.metrics) == {"margin", "accuracy", "logps_chosen", "logps_rejected"}
    assert loss.metrics["logps_chosen"].tolist() == [-4.0, -3.0]


def test_metrics_are_in_nats_however_the_loss_weighs_tokens():
    metrics = DPO(DPO.options(beta=BETA, length_desensitised=0.0)).loss(PAIRS).metrics
    assert metrics["logratio_chosen"].tolist() == [3.0, 2.0]
    assert metrics["logratio_rejected"].tolist() == [-2.0, 2.0]
    # margins: 0.5 * (2 - -2) and 0.5 * (2 - 1)
    assert metrics["margin"].tolist() == [2.0, 0.5]
    assert metrics["accuracy"].tolist() == [1.0, 1.0]


def test_equal_rewards_count_as_wrong():
    tie = Pairs(chosen=PAIRS.chosen, rejected=PAIRS.chosen)
    assert DPO(DPO.options()).loss(tie).metrics["accuracy"].tolist() == [0.0, 0.0]


def test_sft_weight_adds_a_term_over_chosen_tokens():
    objective = DPO(DPO.options(sft_weight=0.3))
    assert objective.terms == (Term("loss"), Term("imitation", weight="tokens:chosen", scale=0.3))
    assert_close(objective.imitation(PAIRS).value, -PAIRS.chosen.policy_NT)
    assert DPO(DPO.options()).terms == (Term("loss"),)


DEMONSTRATIONS = Demonstrations(given([[math.log(0.5), math.log(0.25)], [0.0]]))


def test_sft_is_cross_entropy():
    loss = SFT(SFT.options()).loss(DEMONSTRATIONS)
    assert_close(loss.value, torch.tensor([[math.log(2), math.log(4)], [0.0, 0.0]]))
    assert_close(loss.metrics["probability"], torch.tensor([[0.5, 0.25], [1.0, 1.0]]))


def test_dft_weighs_tokens_by_their_probability_without_gradient():
    policy_NT = DEMONSTRATIONS.responses.policy_NT.clone().requires_grad_()
    batch = Demonstrations(replace(DEMONSTRATIONS.responses, maybe_policy_NT=policy_NT))
    loss = SFT(SFT.options(loss="dft")).loss(batch)
    assert_close(loss.value, torch.tensor([[math.log(2) / 2, math.log(4) / 4], [0.0, 0.0]]))
    loss.value.sum().backward()
    assert_close(policy_NT.grad, torch.tensor([[-0.5, -0.25], [-1.0, -1.0]]))

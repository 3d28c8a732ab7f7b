"""DPO gives TRL's loss and TRL's gradient, for every loss that both have.

Random LoRA B, so that the policy is not its reference; ragged lengths; the padding id is the EOS
action; float32. Where the definitions differ, and what is compared instead:

- TRL's ``sigmoid``, ``ipo`` and ``hinge`` ignore ``label_smoothing``, and TRL has no soft labels.
  A label in between is the mean over both orders, so ours is compared with TRL's losses of the
  pairs and of the swapped pairs, weighted.
- TRL averages the means of its micro-batches; ours divides once. TRL gets one batch of all rows,
  and ours is cut in several ways.
- TRL's ``aot`` losses and ``bco_pair`` depend on which rows share a batch: ours has none of them.
  ``reference_free`` is not in TRL 1.16.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from parity.peer import CUTS, WARNINGS, Result, assert_equal, ours, preference_rows, trl
from tiny import policy, ragged_pairs

from trimtab.core.batches import Pairs
from trimtab.objectives.dpo import DPO

pytestmark = [pytest.mark.filterwarnings(warning) for warning in WARNINGS]

BETA = 1.0
"""Margins are then between -2 and 2: no loss is near its straight part, and hinge has a corner."""

BOTH = {
    "sigmoid": ({}, {}),
    "small beta": ({"beta": 0.02}, {"beta": 0.02}),
    "ipo": ({"loss": "ipo"}, {"loss_type": "ipo"}),
    "hinge": ({"loss": "hinge"}, {"loss_type": "hinge"}),
    "robust": (
        {"loss": "robust", "label_smoothing": 0.2},
        {"loss_type": "robust", "label_smoothing": 0.2},
    ),
    "exo_pair": (
        {"loss": "exo_pair", "label_smoothing": 0.1},
        {"loss_type": "exo_pair", "label_smoothing": 0.1},
    ),
    "nca_pair": ({"loss": "nca_pair"}, {"loss_type": "nca_pair"}),
    "sppo_hard": ({"loss": "sppo_hard"}, {"loss_type": "sppo_hard"}),
    "apo_zero": ({"loss": "apo_zero"}, {"loss_type": "apo_zero"}),
    "apo_down": ({"loss": "apo_down"}, {"loss_type": "apo_down"}),
    "discopop": (
        {"loss": "discopop", "discopop_tau": 0.3},
        {"loss_type": "discopop", "discopop_tau": 0.3},
    ),
    "length-normalised": ({"length_normalised": True}, {"loss_type": "sigmoid_norm"}),
    "length-desensitised": ({"length_desensitised": 0.3}, {"ld_alpha": 0.3}),
    "desensitised ipo": (
        {"loss": "ipo", "length_desensitised": 0.0},
        {"loss_type": "ipo", "ld_alpha": 0.0},
    ),
    "with imitation": (
        {"sft_weight": 0.5},
        {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]},
    ),
}


@pytest.fixture(scope="module")
def model(folder):
    return policy(folder, spread=0.05)


PAIRS = ragged_pairs()


def by_ours(model, pairs, cut="shared prompts", **options):
    return ours(model, DPO(DPO.options(**{"beta": BETA} | options)), pairs, *CUTS[cut])


def by_trl(model, folder, pairs, **options):
    rows = preference_rows(pairs.chosen, pairs.rejected)
    return trl("DPO", model, folder, rows, **{"beta": BETA} | options)


@pytest.mark.parametrize("case", BOTH)
def test_every_loss_that_both_have(model, folder, case):
    mine, theirs = BOTH[case]
    assert_equal(by_ours(model, PAIRS, **mine), by_trl(model, folder, PAIRS, **theirs))


def test_however_ours_is_cut(model, folder):
    mine, theirs = BOTH["with imitation"]
    want = by_trl(model, folder, PAIRS, **theirs)
    for cut in CUTS:
        assert_equal(by_ours(model, PAIRS, cut, **mine), want)


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "hinge"])
def test_labels_in_between_are_means_over_both_orders(model, folder, loss):
    right = by_trl(model, folder, PAIRS, loss_type=loss)
    wrong = by_trl(model, folder, Pairs(PAIRS.rejected, PAIRS.chosen), loss_type=loss)
    want = mixed(0.8, right, wrong)
    assert_equal(by_ours(model, PAIRS, loss=loss, label_smoothing=0.2), want)
    soft = replace(PAIRS, preference_N=torch.full((len(PAIRS),), 0.8))
    assert_equal(by_ours(model, soft, loss=loss), want)


def mixed(share, one, other):
    """Both losses and both gradients, weighted."""
    return Result(
        share * one.loss + (1 - share) * other.loss,
        {
            name: share * gradient + (1 - share) * other.gradients[name]
            for name, gradient in one.gradients.items()
        },
    )

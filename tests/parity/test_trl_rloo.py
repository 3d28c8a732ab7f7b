"""RLOO gives TRL's advantages, TRL's loss and TRL's gradient, for everything that both have.

Random LoRA B, so that the policy is not its reference; ragged lengths; the padding id is the EOS
action; float32; a group of equal rewards. Both compute old log-probs with the same weights, and
train from others, so that ratios are not 1. Where the definitions differ:

- TRL counts completions that cannot be scored in its divisor, and those that have no other one of
  their prompt to be compared with. Ours counts neither, so ours is larger by a known factor.
- TRL counts the rows that ``mask_truncated_completions`` leaves out in its divisor, and adds their
  advantages to the loss, with a ratio of 1 and no gradient; their KL counts for nothing in its
  rewards. Ours leaves them out of the loss, and their KL counts.
- TRL averages the means of its micro-batches; ours divides once. TRL gets one batch of all rows,
  and ours is cut in several ways.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from parity.online import (
    GROUP,
    GROUPS,
    assert_gradients,
    assert_same,
    load,
    nudged,
    ours,
    rollouts,
    trl,
    weights,
)
from parity.peer import CUTS, TOLERANCE, WARNINGS
from tiny import policy
from torch.testing import assert_close

from trimtab.core.columns import annotate, prepare
from trimtab.core.gradient import accumulate
from trimtab.objectives.rloo import RLOO

pytestmark = [pytest.mark.filterwarnings(warning) for warning in WARNINGS]

ROWS = GROUPS * GROUP

BOTH = {
    "as it is by default": ({}, {}),
    "no KL": ({"beta": 0.0}, {"beta": 0.0}),
    "more KL": ({"beta": 0.2}, {"beta": 0.2}),
    "normalised": ({"normalise": True}, {"normalize_advantages": True}),
    "narrow bounds": (
        {"clip": 0.002, "clip_high": 0.005},
        {"epsilon": 0.002, "epsilon_high": 0.005},
    ),
}
"""Ours and TRL's options."""


ROLLOUTS = rollouts()


@pytest.fixture(scope="module")
def model(folder):
    return policy(folder, spread=0.05)


@pytest.fixture(scope="module")
def old(model):
    return weights(model)


@pytest.fixture(scope="module")
def new(old):
    return nudged(old, 0.01)


def by_ours(model, batch, old, new, cut="all rows", **options):
    updates = {} if old is new else {"epochs": 2}
    return ours(model, RLOO(RLOO.options(**updates | options)), batch, old, new, CUTS[cut])


def by_trl(model, folder, batch, old, new, options):
    return trl(model, folder, batch, old, new, options, kind="RLOO")


@pytest.mark.parametrize(
    "case",
    [
        name if name == "narrow bounds" else pytest.param(name, marks=pytest.mark.slow)
        for name in BOTH
    ],
)
def test_everything_that_both_have(model, folder, old, new, case):
    mine, theirs = BOTH[case]
    assert_same(
        by_ours(model, ROLLOUTS, old, new, **mine),
        by_trl(model, folder, ROLLOUTS, old, new, theirs),
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", BOTH)
def test_one_update(model, folder, old, case):
    mine, theirs = BOTH[case]
    assert_same(
        by_ours(model, ROLLOUTS, old, old, **mine),
        by_trl(model, folder, ROLLOUTS, old, old, theirs),
    )


@pytest.mark.slow
def test_however_ours_is_cut(model, folder, old, new):
    want = by_trl(model, folder, ROLLOUTS, old, new, {})
    for cut in CUTS:
        assert_same(by_ours(model, ROLLOUTS, old, new, cut), want)


@pytest.mark.slow
@pytest.mark.parametrize("unscored", [[0], [4, 5, 6], [0, 5, 6, 7]])
def test_what_cannot_be_scored_is_in_no_baseline(model, folder, old, new, unscored):
    """Of TRL's divisor are all rows, of ours those with a score and another one beside it."""
    there_N = torch.ones(ROWS, dtype=torch.bool)
    there_N[unscored] = False
    theirs = replace(ROLLOUTS, reward_N=ROLLOUTS.reward_N.masked_fill(~there_N, torch.nan))
    left = ROLLOUTS[there_N.nonzero()[:, 0]]
    compared = sum(
        g.count(True) for g in there_N.view(GROUPS, GROUP).tolist() if g.count(True) > 1
    )
    mine = by_ours(model, left, old, new)
    other = by_trl(model, folder, theirs, old, new, {})
    assert_close(mine[1], other[1][there_N], rtol=TOLERANCE, atol=TOLERANCE)
    assert_gradients(mine[0], other[0], factor=compared / ROWS)


@pytest.mark.slow
def test_what_did_not_end(model, folder, old, new):
    mine = by_ours(model, ROLLOUTS, old, new, beta=0.0, mask_truncated=True)
    options = {"beta": 0.0, "mask_truncated_completions": True}
    other = by_trl(model, folder, ROLLOUTS, old, new, options)
    assert_close(mine[1], other[1], rtol=TOLERANCE, atol=TOLERANCE)
    assert_gradients(mine[0], other[0], factor=(ROWS - 1) / ROWS)
    assert mine[0].loss * (ROWS - 1) - float(mine[1][1]) == pytest.approx(
        other[0].loss * ROWS, rel=1e-4
    )


def test_the_bounds_are_reached(model, old, new):
    objective = RLOO(RLOO.options(epochs=2, **BOTH["narrow bounds"][0], beta=0.0))
    load(model.roles.named_parameters("policy"), old)
    filled = prepare(objective, annotate(model, None, ROLLOUTS, objective.needs))
    load(model.roles.named_parameters("policy"), new)
    metrics = accumulate(model, objective, {"batch": filled})
    assert 0.1 < metrics["clipped"] < 0.8

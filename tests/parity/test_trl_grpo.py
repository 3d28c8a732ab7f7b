"""GRPO gives TRL's advantages, TRL's loss and TRL's gradient, for everything that both have.

Random LoRA B, so that the policy is not its reference; ragged lengths; the padding id is the EOS
action; float32; a group of equal rewards. Both compute old log-probs with the same weights, and
train from others, so that ratios are not 1. Where the definitions differ:

- TRL's KL term is k3 x ratio (our ``kl: loss``), and k3 alone without ``use_bias_correction_kl``
  (our ``kl: k3``). For sequences its ratio is the sequence's and ours the token's, so there only
  ``k3`` is compared.
- TRL's ``cispo`` bounds the ratio at ``epsilon_high``, and ours at 1 + ``clip_high``; it divides
  as dapo does.
- TRL counts the rows that ``mask_truncated_completions`` leaves out in grpo's and dr_grpo's
  divisors. Ours does not; dapo's are the same.
- TRL averages the means of its micro-batches; ours divides once. TRL gets one batch of all rows,
  and ours is cut in several ways.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from parity.online import (
    assert_same,
    load,
    nudged,
    ours,
    rollouts,
    trl,
    weights,
)
from parity.peer import CUTS, WARNINGS
from tiny import policy

from trimtab.core.columns import annotate, prepare
from trimtab.core.gradient import accumulate
from trimtab.objectives.grpo import GRPO

GIVEN = "ignore:You are using 'rollout_func':UserWarning"

pytestmark = [pytest.mark.filterwarnings(warning) for warning in (*WARNINGS, GIVEN)]

BOTH = {
    "grpo": ({}, {"loss_type": "grpo"}),
    "dapo": ({"loss": "dapo"}, {"loss_type": "dapo"}),
    "dr_grpo": ({"loss": "dr_grpo"}, {"loss_type": "dr_grpo", "scale_rewards": "none"}),
    "scaled dr_grpo": ({"loss": "dr_grpo", "scale": "group"}, {"loss_type": "dr_grpo"}),
    "batch scale": ({"scale": "batch"}, {"loss_type": "grpo", "scale_rewards": "batch"}),
    "clip higher": (
        {"clip": 0.05, "clip_high": 0.1},
        {"loss_type": "grpo", "epsilon": 0.05, "epsilon_high": 0.1},
    ),
    "delta": ({"delta": 1.3}, {"loss_type": "grpo", "delta": 1.3}),
    "k3": (
        {"beta": 0.3, "kl": "k3"},
        {"loss_type": "grpo", "beta": 0.3, "use_bias_correction_kl": False},
    ),
    "k3 x ratio": (
        {"beta": 0.3, "loss": "dapo"},
        {"loss_type": "dapo", "beta": 0.3},
    ),
    "dr_grpo with KL": (
        {"beta": 0.3, "loss": "dr_grpo"},
        {"loss_type": "dr_grpo", "scale_rewards": "none", "beta": 0.3},
    ),
    "sequences": (
        {"ratio": "sequence", "clip": 0.02},
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.02},
    ),
    "sequences by dapo, with KL": (
        {"ratio": "sequence", "clip": 0.02, "loss": "dapo", "beta": 0.3, "kl": "k3"},
        {
            "loss_type": "dapo",
            "importance_sampling_level": "sequence",
            "epsilon": 0.02,
            "beta": 0.3,
            "use_bias_correction_kl": False,
        },
    ),
    "cispo": (
        {"ratio": "cispo", "loss": "dapo", "clip_high": 0.1},
        {"loss_type": "cispo", "epsilon_high": 1.1},
    ),
    "truncated completions": (
        {"loss": "dapo", "mask_truncated": True},
        {"loss_type": "dapo", "mask_truncated_completions": True},
    ),
}
"""Ours and TRL's options."""


ROLLOUTS = rollouts(noise=0.2)


@pytest.fixture(scope="module")
def model(folder):
    return policy(folder, spread=0.05)


@pytest.fixture(scope="module")
def old(model):
    return weights(model)


@pytest.fixture(scope="module")
def new(old):
    return nudged(old, 0.03)


def by_ours(model, batch, old, new, cut="all rows", **options):
    updates = {} if old is new else {"epochs": 2}
    return ours(model, GRPO(GRPO.options(**updates | options)), batch, old, new, CUTS[cut])


FEW = ("k3 x ratio", "sequences")
"""Of the cases, those that are not slow."""


@pytest.mark.parametrize(
    "case", [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in BOTH]
)
def test_everything_that_both_have(model, folder, old, new, case):
    mine, theirs = BOTH[case]
    assert_same(
        by_ours(model, ROLLOUTS, old, new, **mine),
        trl(model, folder, ROLLOUTS, old, new, theirs),
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", ["grpo", "k3 x ratio", "sequences"])
def test_one_update_needs_no_old_log_probs(model, folder, old, case):
    mine, theirs = BOTH[case]
    assert_same(
        by_ours(model, ROLLOUTS, old, old, **mine),
        trl(model, folder, ROLLOUTS, old, old, theirs),
    )


@pytest.mark.slow
def test_however_ours_is_cut(model, folder, old, new):
    mine, theirs = BOTH["sequences by dapo, with KL"]
    want = trl(model, folder, ROLLOUTS, old, new, theirs)
    for cut in CUTS:
        assert_same(by_ours(model, ROLLOUTS, old, new, cut, **mine), want)


@pytest.mark.parametrize("cap", [pytest.param(1.05, marks=pytest.mark.slow), 3.0])
def test_importance_weights_of_the_sampler(model, folder, old, new, cap):
    objective = GRPO(GRPO.options(epochs=2))
    behaviour = annotate(model, None, ROLLOUTS, objective.needs).responses.behaviour_NT
    noisy = replace(ROLLOUTS.responses, maybe_sampled_NT=behaviour + ROLLOUTS.responses.sampled_NT)
    batch = replace(ROLLOUTS, responses=noisy)
    options = {
        "loss_type": "dapo",
        "beta": 0.3,
        "vllm_importance_sampling_mode": "token_truncate",
        "vllm_importance_sampling_clip_max": cap,
    }
    assert_same(
        by_ours(model, batch, old, new, loss="dapo", beta=0.3, importance_cap=cap),
        trl(model, folder, batch, old, new, options, sampler=True),
    )


def test_the_bounds_are_reached(model, old, new):
    for case in ("grpo", "clip higher", "delta", "sequences", "cispo"):
        objective = GRPO(GRPO.options(epochs=2, **BOTH[case][0]))
        load(model.roles.named_parameters("policy"), old)
        filled = prepare(objective, annotate(model, None, ROLLOUTS, objective.needs))
        load(model.roles.named_parameters("policy"), new)
        metrics = accumulate(model, objective, {"batch": filled})
        assert 0.02 < metrics["clipped"] < 0.6, (case, metrics)

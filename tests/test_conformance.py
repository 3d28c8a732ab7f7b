"""Every shipped objective conforms, and every check catches the fault it is for."""

import faulty
import pytest
import torch
from toy_objectives import ActorCritic, Threshold

from trimtab import Config, Needs
from trimtab.core import checks
from trimtab.core.examples import Example, TablePolicy
from trimtab.objectives.dpo import DPO
from trimtab.objectives.ppo import PPO
from trimtab.objectives.sft import SFT
from trimtab.testing import CHECKS, ConformanceError, check_objective, parametrize_with_checks

PPO_OPTIONS = [
    {},
    {"kl": "adaptive", "kl_target": 0.1, "minibatches": 3, "kl_stop": 0.1},
    {"kl": "penalty", "beta": 0.0, "entropy": 0.01},
    {"critic": "trunk", "value_clip": None, "whiten": False, "importance_cap": 2.0},
    {"ptx": 0.5, "warmup": 2, "whiten_rewards": True, "gamma": 0.9},
]

CONFORM = [
    SFT(SFT.options()),
    SFT(SFT.options(loss="dft")),
    *(
        DPO(DPO.options(loss=loss, label_smoothing=0.1))
        for loss in ("sigmoid", "robust", "hinge", "ipo", "exo_pair")
    ),
    *(
        DPO(DPO.options(loss=loss))
        for loss in ("nca_pair", "sppo_hard", "apo_zero", "apo_down", "discopop")
    ),
    DPO(DPO.options(length_normalised=True, length_desensitised=0.3)),
    DPO(DPO.options(reference_free=True, sft_weight=0.5)),
    *(PPO(PPO.options(**changes)) for changes in PPO_OPTIONS),
    Threshold(Config()),
    ActorCritic(Config()),
]


@parametrize_with_checks(CONFORM)
def test_conforms(objective, check):
    check(objective)


FAULTS = [
    (faulty.BadName, "check_name_and_source", "not lower_snake"),
    (faulty.NoSource, "check_name_and_source", "cites no source"),
    (faulty.Vague, "check_config_is_strict_and_described", "power has no description"),
    (faulty.NoSuchMethod, "check_terms_are_complete", "'losses' is no method"),
    (faulty.WrongWeight, "check_terms_are_complete", "no column of prepare"),
    (
        faulty.WrongSequences,
        "check_terms_are_complete",
        "Pairs has chosen, rejected",
    ),
    (faulty.IdleStream, "check_terms_are_complete", "'text'. are declared, but no term"),
    (faulty.Undeclared, "check_terms_are_complete", "reference=True"),
    (faulty.ReadsPolicyInPrepare, "check_terms_are_complete", "behaviour=True"),
    (
        faulty.MistypedBefore,
        "check_before_names_sequences",
        "'mismached'; the seq",
    ),
    (faulty.UnusedReference, "check_needs_are_used", "asks for reference, but nothing depends"),
    (faulty.UnusedBehaviour, "check_needs_are_used", "asks for behaviour, but nothing depends"),
    (faulty.UnusedBefore, "check_needs_are_used", "asks for before={'mismatched'}, but nothing"),
    (faulty.UnusedTokenwise, "check_needs_are_used", "asks for tokenwise 'entropy', but nothing"),
    (faulty.UnusedValues, "check_needs_are_used", "asks for values, but nothing depends"),
    (faulty.Mean, "check_loss_is_unreduced", "not unreduced: its shape is .., not .6,."),
    (faulty.MetricOfTheBatch, "check_loss_is_unreduced", "metric 'accuracy' has shape .."),
    (faulty.PointInLoss, "check_microbatch_invariance", "split by 1"),
    (faulty.RunningMean, "check_process_invariance", "two processes"),
    (faulty.NeighbourBaseline, "check_row_order", "order of rows"),
    (faulty.NoMask, "check_masked_tokens_get_no_gradient", "chosen: tokens outside the mask"),
    (faulty.MeanOverWidth, "check_padding_invariance", "completion padding"),
    (faulty.PromptWidth, "check_padding_invariance", "prompt padding"),
    (faulty.UnguardedMean, "check_small_batches_are_finite", "a row has no token to train"),
    (faulty.UnguardedDeviation, "check_small_batches_are_finite", "the batch has one row"),
    (faulty.Cancels, "check_half_precision_is_close", "off in bfloat16"),
    (faulty.Tiny, "check_gradient_is_not_negligible", "trains nothing"),
    (faulty.DeadTerm, "check_gradient_is_not_negligible", "'imitate'.*trains nothing"),
    (faulty.ConstantMetric, "check_metrics_come_from_the_batch", "'accuracy' does not depend"),
    (faulty.RandomMetric, "check_metrics_come_from_the_batch", "random"),
    (faulty.WritesInLoss, "check_batch_is_not_written_to", "loss.. has written"),
    (faulty.WritesInPrepare, "check_batch_is_not_written_to", "prepare.. has written"),
    (
        faulty.RandomPrepare,
        "check_prepare_is_deterministic",
        "another 'advantage_N'",
    ),
    (faulty.KeepsNumbers, "check_keep_selects_rows", "neither None nor bool"),
    (faulty.WritesToState, "check_state_is_json", "advance.. writes to the state"),
    (faulty.TensorState, "check_state_is_json", "does not survive JSON"),
    (faulty.StopsWithATensor, "check_state_is_json", "stop.. does not return a bool"),
    (faulty.HoldsALambda, "check_pickles", "cannot be pickled"),
    (faulty.ForgetsWhenPickled, "check_pickles", "changes when it is pickled"),
    (faulty.IgnoresCertainty, "check_soft_labels", "1 differs from None"),
    (faulty.InfiniteOnSoftLabels, "check_soft_labels", "not finite with preference_N"),
    (faulty.Flipped, "check_pushes_the_right_way", "chosen over rejected"),
    (faulty.FlippedLabels, "check_pushes_the_right_way", "desirable over undesirable"),
    (faulty.FlippedReward, "check_pushes_the_right_way", "the best response"),
    (faulty.Unlearns, "check_pushes_the_right_way", "the demonstrations"),
    (faulty.ReadsColumnsInStream, "check_terms_are_complete", "'advantage_N', which its rows do"),
    (faulty.KeepsPartsOfGroups, "check_keep_selects_rows", "splits a group"),
    (faulty.StashesForTheCritic, "check_roles_are_apart", "after each other, or each role alone"),
    (faulty.ScalesByAnotherTerm, "check_roles_are_apart", "the gradient of 'critic'"),
    (faulty.NoUpdate, "check_minibatches_are_finite", "no update at all"),
    (faulty.ScalarColumn, "check_minibatches_are_finite", "one entry a row"),
    (faulty.NeedsEveryMetric, "check_state_is_all_that_moves", "advance.. fails where not all"),
    (faulty.DistanceAtZero, "check_minibatches_are_finite", "update 1 of 1 minibatches is not"),
    (faulty.CountsInSelf, "check_state_is_all_that_moves", "active.. depends on more"),
    (faulty.AveragesInSelf, "check_state_is_all_that_moves", "advance.. depends on more"),
    (faulty.NeverActive, "check_state_is_all_that_moves", "no term is active"),
    (faulty.WaitsForMissingMetrics, "check_state_is_all_that_moves", "not finite after 1 batch"),
    (faulty.EqualGroups, "check_groups_may_be_ragged", "fails when a group misses a member"),
    (faulty.HeatsAgain, "check_temperature_is_applied_once", "they have it already"),
    (faulty.TrustsTheSampler, "check_sampler_has_limited_influence", "truncate importance"),
]


@pytest.mark.parametrize(
    "cls, check, message", FAULTS, ids=[f"{cls.__name__}-{check}" for cls, check, _ in FAULTS]
)
def test_fault_is_caught(cls, check, message):
    run = {one.__name__: one for one in CHECKS}[check]
    with pytest.raises(ConformanceError, match=message):
        run(cls(cls.options()))


def test_every_check_catches_a_fault():
    assert {check for _, check, _ in FAULTS} == {check.__name__ for check in CHECKS}


def test_expected_failure_needs_a_reason_and_is_returned():
    reason = {"check_pushes_the_right_way": "it unlearns, on purpose"}
    assert check_objective(faulty.Flipped(DPO.options()), reason) == ["check_pushes_the_right_way"]


def test_a_policy_that_trains_what_is_wanted_before_is_caught(monkeypatch):
    def leaky(policy, batch, needs):
        return batch.with_sequences(policy.forward(batch.sequences, needs))

    monkeypatch.setattr("trimtab.core.gradient.forward", leaky)
    with pytest.raises(ConformanceError, match="mismatched: it is wanted before"):
        checks.check_before_names_sequences(faulty.Leaks(Config()))


def test_the_kits_policy_has_numbers_outside_the_mask():
    table = torch.full((512,), -1.0)
    policy = TablePolicy({"policy": table})
    rows = Example.random(SFT(SFT.options())).raw["batch"]
    filled = policy.forward(rows.sequences, Needs())["responses"]
    assert bool((filled.policy_NT[~rows.responses.mask_NT] == -1).all())

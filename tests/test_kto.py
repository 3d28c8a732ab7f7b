"""KTO: its numbers by hand, and its gradient on a real model however the rows are cut."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from tiny import gradient, policy, ragged_labels, relative, save_tiny
from toy import REFERENCE, Bigram, in_two_processes, ragged

from trimtab import Labelled, Needs
from trimtab.core.batches import widened
from trimtab.core.cached import CachedReference
from trimtab.core.columns import annotate, forward, prepare
from trimtab.core.gradient import accumulate
from trimtab.core.policy import POLICY
from trimtab.core.reference_cache import ReferenceCache
from trimtab.objectives.kto import KTO
from trimtab.plugins.references.adapter_off import AdapterOff, AdapterOffConfig
from trimtab.testing import given, parametrize_with_checks

BETA = 0.5
ROWS = Labelled(
    # log pi/pi_ref of whole completions: 3, 2 and -1
    responses=given(
        [[-1.0, -2.0, -1.0], [-2.0, -1.0], [-3.0]], [[-2.0, -3.0, -2.0], [-3.0, -2.0], [-2.0]]
    ),
    desirable_N=torch.tensor([True, False, False]),
    # 4, -2 and 1, of which the mean is 1
    mismatched=given([[-1.0, -1.0], [-3.0, -2.0], [-1.0]], [[-3.0, -3.0], [-1.0, -2.0], [-2.0]]),
)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def found(rows=ROWS, **options):
    """The prepared rows' loss."""
    objective = KTO(KTO.options(beta=BETA, **options))
    return objective.loss(rows.with_columns(objective.prepare(rows)))


def z0_of(rows, **options):
    """What prepare() makes of the rows' mismatched completions."""
    return KTO(KTO.options(**options)).prepare(rows)["z0_N"].tolist()


@parametrize_with_checks(
    [
        KTO(KTO.options()),
        KTO(KTO.options(loss="apo_zero_unpaired")),
        KTO(KTO.options(beta=0.5, desirable_weight=1.5, undesirable_weight=0.7)),
        KTO(KTO.options(undesirable_weight=0.0)),
    ]
)
def test_conforms(objective, check):
    check(objective)


def test_loss_is_one_minus_the_value_by_label():
    # beta (r - z0): 0.5 * (3 - 1), and beta (z0 - r): 0.5 * (1 - 2), 0.5 * (1 - -1)
    expected = [1 - sigmoid(1.0), 1 - sigmoid(-0.5), 1 - sigmoid(1.0)]
    assert found().value.tolist() == pytest.approx(expected, rel=1e-6)


def test_apo_zero_compares_with_zero():
    # beta r: 1.5, 1 and -0.5
    expected = [1 - sigmoid(1.5), sigmoid(1.0), sigmoid(-0.5)]
    assert found(loss="apo_zero_unpaired").value.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", ["kto", "apo_zero_unpaired"])
def test_weights_multiply_the_rows_of_their_label(loss):
    plain = found(loss=loss).value.tolist()
    weighted = found(loss=loss, desirable_weight=3.0, undesirable_weight=0.5).value.tolist()
    expected = [3.0 * plain[0], 0.5 * plain[1], 0.5 * plain[2]]
    assert weighted == pytest.approx(expected, rel=1e-6)


def test_a_weight_may_be_0_but_not_both():
    assert found(undesirable_weight=0.0).value.tolist()[1:] == [0.0, 0.0]
    with pytest.raises(ValidationError, match="nothing is trained"):
        KTO.options(desirable_weight=0.0, undesirable_weight=0.0)


def test_z0_is_the_mean_of_the_mismatched_for_every_row():
    assert z0_of(ROWS) == [1.0, 1.0, 1.0]


def test_z0_is_never_negative():
    worse = replace(ROWS, mismatched=given([[-3.0], [-2.0], [-1.0]], [[-1.0], [-1.0], [-1.0]]))
    assert z0_of(worse) == [0.0, 0.0, 0.0]


def test_z0_leaves_out_what_has_no_trained_token():
    mask_NT = ROWS.mismatched.mask_NT.clone()
    mask_NT[2] = False
    emptied = replace(ROWS, mismatched=replace(ROWS.mismatched, mask_NT=mask_NT))
    assert z0_of(emptied) == [1.0, 1.0, 1.0]  # (4 - 2) / 2
    nothing = replace(ROWS.mismatched, mask_NT=torch.zeros_like(mask_NT))
    assert z0_of(replace(ROWS, mismatched=nothing)) == [0.0, 0.0, 0.0]


def test_one_row_has_its_own_z0():
    assert z0_of(ROWS[torch.tensor([0])]) == [4.0]


def test_apo_zero_needs_nothing_of_the_mismatched():
    objective = KTO(KTO.options(loss="apo_zero_unpaired"))
    bare = replace(ROWS.mismatched, maybe_policy_NT=None, maybe_reference_NT=None)
    assert objective.needs == Needs(reference=True, unused=frozenset({"mismatched"}))
    assert objective.prepare(replace(ROWS, mismatched=bare)) == {}
    assert "z0" not in objective.loss(replace(ROWS, mismatched=bare)).metrics


def test_metrics_are_in_nats_and_of_the_rows_of_their_label():
    metrics = found().metrics
    assert metrics["z0"].tolist() == [1.0, 1.0, 1.0]
    assert metrics["accuracy"].tolist() == [1.0, 0.0, 1.0]
    value_N, weight_N = metrics["logratio_desirable"]
    assert (value_N.tolist(), weight_N.tolist()) == ([3.0, 2.0, -1.0], [1.0, 0.0, 0.0])
    value_N, weight_N = metrics["logratio_undesirable"]
    assert (value_N.tolist(), weight_N.tolist()) == ([3.0, 2.0, -1.0], [0.0, 1.0, 1.0])


def test_a_row_on_the_reference_point_counts_as_wrong():
    ties = replace(ROWS, responses=given([[-1.0]] * 3, [[-2.0]] * 3))
    assert found(ties).metrics["accuracy"].tolist() == [0.0, 0.0, 0.0]


def advised(desirable, undesirable, **options):
    account = {"labels": {"desirable": desirable, "undesirable": undesirable}}
    return list(KTO(KTO.options(**options)).advice(account))


@pytest.mark.parametrize(
    "desirable, undesirable, options",
    [
        (100, 100, {}),
        (133, 100, {}),
        (10, 100, {"desirable_weight": 10.0}),
        (200, 100, {"undesirable_weight": 2.0}),
        (10, 100, {"desirable_weight": 0.0}),
    ],
)
def test_balanced_labels_get_no_advice(desirable, undesirable, options):
    assert advised(desirable, undesirable, **options) == []


@pytest.mark.parametrize(
    "desirable, undesirable, option, given_weight",
    [
        (10, 100, "desirable_weight", 11.7),  # 7/6 * 100 / 10
        (99, 100, "desirable_weight", 1.18),
        (134, 100, "undesirable_weight", 1.15),  # 6/7 * 134 / 100
        (90000, 7, "undesirable_weight", 11000.0),
    ],
)
def test_advice_names_a_weight_that_brings_balance(desirable, undesirable, option, given_weight):
    (said,) = advised(desirable, undesirable)
    assert said.endswith(f"set objective.{option} to {given_weight}")
    assert advised(desirable, undesirable, **{option: given_weight}) == []


def test_advice_on_an_absent_label():
    (said,) = advised(12, 0)
    assert said.startswith("no row is undesirable: ")
    assert [each[:19] for each in advised(0, 0)] == ["no row is desirable", "no row is undesirab"]


def test_no_advice_where_the_source_counts_no_labels():
    assert list(KTO(KTO.options()).advice({"read": 3})) == []


# On a toy, in two processes


def test_two_processes_have_the_gradient_of_one():
    labelled = Labelled(ragged(7, 5), torch.arange(7) % 3 == 0, ragged(7, 6))
    objective = KTO(KTO.options(beta=BETA))

    def run(processes=None):
        model = Bigram(2)
        filled = annotate(model, REFERENCE, labelled, objective.needs, processes)
        streams = {"batch": prepare(objective, filled)}
        metrics = accumulate(model, objective, streams, processes)
        return model.gradients()[0], metrics

    alone, metrics = run()
    assert metrics["z0"] > 0
    for shared, seen in in_two_processes(run):
        assert relative(shared, alone) < 1e-12
        assert seen == pytest.approx(metrics)


# On a real model

ALL, SOME, ONE = 4096, 60, 1
"""micro_tokens"""

LIVE = AdapterOff(AdapterOffConfig())
BATCH = ragged_labels(seed=4)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(tiny):
    return policy(tiny)


def trained(model, batch=BATCH, reference=LIVE, *, micro_tokens=ALL, share=False):
    """The gradient and the metrics of one update."""
    model.micro_tokens, model.share = micro_tokens, share
    objective = KTO(KTO.options(beta=BETA))
    filled = prepare(objective, annotate(model, reference, batch, objective.needs))
    metrics = accumulate(model, objective, {"batch": filled})
    return gradient(model), metrics


@pytest.fixture(scope="module")
def whole(model):
    """In one micro-batch, each row padded."""
    found, metrics = trained(model)
    assert metrics["z0"] > 0.1
    return found, metrics


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("micro_tokens", [SOME, ONE])
def test_micro_batches_and_sharing_change_nothing(model, whole, share, micro_tokens):
    got, metrics = trained(model, micro_tokens=micro_tokens, share=share)
    assert relative(got, whole[0]) < 1e-5
    assert metrics == pytest.approx(whole[1], rel=1e-4)


def test_padding_changes_nothing(model, whole):
    wide = BATCH.with_sequences(
        {
            name: replace(
                s,
                tokens_NT=widened(s.tokens_NT, 40),
                mask_NT=widened(s.mask_NT, 40),
                prompt_NP=widened(s.prompt_NP, 50),
            )
            for name, s in BATCH.sequences.items()
        }
    )
    assert relative(trained(model, wide)[0], whole[0]) < 1e-5


def test_a_cached_reference_changes_nothing(model, whole, tmp_path):
    cached = CachedReference(LIVE, ReferenceCache(tmp_path, LIVE.fingerprint(model), "run"))
    for _ in range(2):
        assert relative(trained(model, reference=cached)[0], whole[0]) < 1e-6


def test_z0_gets_no_gradient(model):
    """The gradient is that of a z0 which is a number, while another z0 gives another gradient."""
    objective = KTO(KTO.options(beta=BETA))
    filled = annotate(model, LIVE, BATCH, objective.needs)
    assert not filled.mismatched.policy_NT.requires_grad
    z0_N = prepare(objective, filled).columns["z0_N"]
    assert not z0_N.requires_grad

    def with_point(point_N):
        accumulate(model, objective, {"batch": filled.with_columns({"z0_N": point_N})})
        return gradient(model)

    constant = with_point(torch.full((len(BATCH),), z0_N[0].item()))
    assert torch.equal(with_point(z0_N), constant)
    assert relative(with_point(z0_N + 1), constant) > 0.01


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("share", [False, True])
def test_before_training_every_log_ratio_is_0_to_the_bit(tiny, dtype, share):
    start = policy(tiny, spread=0.0, dtype=dtype, share=share, micro_tokens=110)
    objective = KTO(KTO.options())
    batch = prepare(objective, annotate(start, LIVE, BATCH, objective.needs))
    assert batch.mismatched.logratio_N.abs().max() == 0
    for rows in start.cut(batch, objective.needs.skipped):
        with torch.no_grad(), start.role(POLICY):
            responses = forward(start, batch[rows], objective.needs).responses
        assert responses.logratio_N.abs().max() == 0

"""What a reward model makes of scores, worked out by hand; and its gradient on a real model."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from tiny import gradient, policy, ragged_pairs, ragged_rankings, relative, save_tiny

from trimtab import Loss, Needs, Ranked, Term
from trimtab.core.batches import sequences
from trimtab.core.gradient import accumulate
from trimtab.core.layout import lay_out, rows_of
from trimtab.core.seeds import mixed
from trimtab.objectives.reward_model import RewardModel
from trimtab.testing import (
    CHECKS,
    ConformanceError,
    check_objective,
    parametrize_with_checks,
)

NAN = math.nan
ALL, SOME, ONE = 4096, 110, 1
"""micro_tokens that give one micro-batch of all rows, several, and one of each row"""


def made(**options):
    return RewardModel(RewardModel.options(**options))


CONFORM = [
    made(),
    made(members=3),
    made(centering=0.1, label_smoothing=0.1),
    made(margin=False),
]


@parametrize_with_checks(CONFORM)
def test_conforms(objective, check):
    check(objective)


class Forgetful(RewardModel):
    """A reward model https://example.org that takes what was not compared for a comparison."""

    def loss(self, batch):
        score_NK = batch.score_NK
        return Loss(-batch.better_NKK[:, 1, 2] * (score_NK[:, 1] - score_NK[:, 2]))


class Backward(RewardModel):
    """A reward model https://example.org that prefers the worse response."""

    def loss(self, batch):
        return super().loss(replace(batch, better_NKK=1 - batch.better_NKK))


@pytest.mark.parametrize(
    ("fault", "check", "message"),
    [
        (Forgetful, "check_terms_are_complete", "loss.. is not finite"),
        (Backward, "check_pushes_the_right_way", "does not raise the better response"),
    ],
)
def test_the_kit_catches_faults_with_rankings(fault, check, message):
    with pytest.raises(ConformanceError, match=message):
        check_objective(fault(fault.options()))
    others = {one.__name__: "found first" for one in CHECKS if one.__name__ != check}
    with pytest.raises(ConformanceError, match=message):
        check_objective(fault(fault.options()), others)


def logistic(x):
    return math.log(1 + math.exp(-x))


def scored(scores, better, margin=None):
    """Rows of K scores, and the labels of (0, 1), (0, 2), (1, 2); None for what is absent."""

    def square(values, reversed_):
        filled = torch.full((3, 3), NAN)
        for (i, j), value in zip(((0, 1), (0, 2), (1, 2)), values, strict=True):
            filled[i, j], filled[j, i] = value, reversed_(value)
        return filled

    responses = []
    for column in zip(*scores, strict=True):
        there = [[7] * (score is not None) for score in column]
        one = sequences([[1]] * len(column), there)
        responses.append(
            replace(one, maybe_score_N=torch.tensor([score or 0.0 for score in column]))
        )
    return Ranked(
        tuple(responses),
        torch.stack([square(row, lambda p: 1 - p) for row in better]),
        None if margin is None else torch.stack([square(row, lambda m: -m) for row in margin]),
    )


def value(batch, **options):
    return made(**options).loss(batch).value.tolist()


PAIR = scored([[1.5, 1.0, None]], [[1.0, NAN, NAN]])
THREE = scored([[1.5, 1.0, -1.0]], [[1.0, 1.0, 1.0]])
GAPS = scored([[2.0, 1.0, -1.0], [3.0, 4.0, None]], [[1.0, NAN, 0.5], [NAN, NAN, NAN]])


def test_a_pair_is_a_logistic_of_the_difference():
    assert value(PAIR) == pytest.approx([logistic(0.5)])


def test_a_ranking_is_the_mean_over_its_pairs():
    assert value(THREE) == pytest.approx([(logistic(0.5) + logistic(2.5) + logistic(2.0)) / 3])


def test_soft_labels_mix_both_orders():
    soft = scored([[1.5, 1.0, None]], [[0.8, NAN, NAN]])
    assert value(soft) == pytest.approx([0.8 * logistic(0.5) + 0.2 * logistic(-0.5)])


def test_a_tie_pulls_scores_together():
    tie = scored([[1.5, 1.0, None]], [[0.5, NAN, NAN]])
    assert value(tie) == pytest.approx([(logistic(0.5) + logistic(-0.5)) / 2])


def test_smoothing_is_a_change_of_label():
    assert value(PAIR, label_smoothing=0.1) == pytest.approx(
        [0.9 * logistic(0.5) + 0.1 * logistic(-0.5)]
    )
    with pytest.raises(ValidationError, match=r"less than 0\.5"):
        made(label_smoothing=0.5)


def test_a_margin_is_subtracted_from_the_difference():
    apart = scored([[1.5, 1.0, None]], [[1.0, NAN, NAN]], [[2.0, NAN, NAN]])
    assert value(apart) == pytest.approx([logistic(-1.5)])
    assert value(apart, margin=False) == pytest.approx([logistic(0.5)])


@pytest.mark.parametrize("label", [1.0, 0.7, 0.5, 0.0])
def test_the_order_of_two_responses_does_not_matter(label):
    one = scored([[1.5, 1.0, None]], [[label, NAN, NAN]], [[0.3, NAN, NAN]])
    other = scored([[1.0, 1.5, None]], [[1 - label, NAN, NAN]], [[-0.3, NAN, NAN]])
    options = {"centering": 0.1, "label_smoothing": 0.2}
    assert value(one, **options) == pytest.approx(value(other, **options))


def test_centering_adds_the_squared_sum():
    assert value(PAIR, centering=0.1) == pytest.approx([logistic(0.5) + 0.1 * 2.5**2])
    squares = (2.5**2 + 0.5**2 + 0.0**2) / 3
    assert value(THREE, centering=0.1) == pytest.approx([value(THREE)[0] + 0.1 * squares])


def test_what_was_not_compared_does_not_count():
    # of the first row (0, 1) is certain and (1, 2) a tie; the second compares nothing
    tie = (logistic(2.0) + logistic(-2.0)) / 2
    assert value(GAPS, centering=1.0) == pytest.approx(
        [(logistic(1.0) + tie + 9.0 + 0.0) / 2, 0.0]
    )


def test_a_row_without_comparisons_gets_no_gradient():
    score_N = torch.tensor([3.0], requires_grad=True)
    none = scored([[3.0, 4.0, None]], [[NAN, NAN, NAN]], [[NAN, NAN, NAN]])
    first, *others = none.responses
    none = replace(none, responses=(replace(first, maybe_score_N=score_N), *others))
    made(centering=1.0).loss(none).value.sum().backward()
    assert score_N.grad.tolist() == [0.0]


def test_metrics_are_over_comparisons_that_are_no_ties():
    batch = scored([[1.0, 3.0, 3.0], [2.0, 1.0, None]], [[1.0, 0.2, 0.5], [1.0, NAN, NAN]])
    metrics = made(centering=1.0).loss(batch).metrics
    # row 0: 1 < 3 is wrong, 1 < 3 is right, a tie; row 1: right
    assert [part.tolist() for part in metrics["accuracy"]] == [[0.5, 1.0], [2.0, 1.0]]
    assert [part.tolist() for part in metrics["margin"]] == [[0.0, 1.0], [2.0, 1.0]]
    assert [part.tolist() for part in metrics["score"]] == [
        pytest.approx([7 / 3, 1.5]),
        [3.0, 2.0],
    ]
    fit_N, weight_N = metrics["bradley_terry"]
    assert fit_N.tolist() == pytest.approx(value(batch))
    assert weight_N.tolist() == [1.0, 1.0]


def test_equal_scores_count_half():
    level = scored([[1.0, 1.0, None]], [[1.0, NAN, NAN]])
    assert made().loss(level).metrics["accuracy"][0].tolist() == [0.5]


def test_a_reward_model_needs_nothing():
    assert made().needs == Needs()
    assert made().terms == (Term("loss", role="reward"),)
    assert made().streams == {}


def test_members_have_roles_and_streams_of_their_own():
    assert made(members=3).terms == (
        Term("loss", role="reward_0"),
        Term("loss", role="reward_1", rows="reward_1"),
        Term("loss", role="reward_2", rows="reward_2"),
    )
    assert made(members=3).streams == {"reward_1": Ranked, "reward_2": Ranked}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def reward(tiny, **options):
    return policy(tiny, **{"scalar": ("reward",), "language": False, "spread": 0.1} | options)


def ours(model, batch, micro_tokens=ALL, share=False, **options):
    """Loss and gradient."""
    model.micro_tokens, model.share = micro_tokens, share
    objective = made(**options)
    metrics = accumulate(
        model, objective, {"batch": batch, **dict.fromkeys(objective.streams, batch)}
    )
    return metrics, gradient(model)


OPTIONS = {"centering": 0.1, "label_smoothing": 0.1}


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("micro_tokens", [ALL, SOME, ONE])
def test_micro_batches_and_shared_prompts_change_nothing(tiny, micro_tokens, quantization, share):
    model, batch = reward(tiny, quantization=quantization), ragged_rankings()
    metrics, want = ours(model, batch, **OPTIONS)
    again, got = ours(model, batch, micro_tokens, share, **OPTIONS)
    assert relative(got, want) < 1e-5
    assert again == pytest.approx(metrics, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_checkpointing_changes_nothing(tiny, quantization):
    plain = reward(tiny, quantization=quantization)
    saving = reward(tiny, quantization=quantization, checkpointing=True)
    want, got = (ours(model, ragged_rankings())[1] for model in (plain, saving))
    assert relative(got, want) < 1e-6


def test_every_parameter_of_every_member_gets_a_gradient(tiny):
    roles = ("reward_0", "reward_1")
    model = reward(tiny, scalar=roles)
    ours(model, ragged_rankings(), members=2)
    assert list(model.trained()) == [*roles]
    assert all(float(p.grad.norm()) > 0 for ps in model.trained().values() for p in ps)


def pair_of(batch, row, i, j):
    """One comparison of a row, as a row of its own."""
    at = torch.tensor([row])
    one, other = batch.responses[i][at], batch.responses[j][at]
    corner = torch.tensor([[i, i], [j, j]]), torch.tensor([[i, j], [i, j]])
    return Ranked(
        (one, other),
        batch.better_NKK[row][corner][None],
        batch.margin_NKK[row][corner][None],
    )


def test_a_ranking_has_the_gradient_of_its_pairs_and_reads_each_response_once(tiny):
    model, batch = reward(tiny), ragged_rankings()[torch.tensor([2])]
    metrics, want = ours(model, batch, **OPTIONS)
    pairs = [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)]  # (0, 3) was not compared
    alone = [ours(model, pair_of(batch, 0, i, j), **OPTIONS) for i, j in pairs]
    assert relative(torch.stack([g for _, g in alone]).mean(0), want) < 1e-5
    mean = sum(found["loss"] for found, _ in alone) / len(pairs)
    assert metrics["loss"] == pytest.approx(mean, rel=1e-5)
    layout = lay_out(rows_of(batch.sequences), share=False)
    assert layout.input_BS.shape[0] == 4


def test_pairs_padded_to_rankings_give_the_same_gradient(tiny):
    model, batch = reward(tiny), ragged_rankings()[torch.tensor([0])]
    assert [int(one.length_N) > 0 for one in batch.responses] == [True, True, False, False]
    assert relative(ours(model, pair_of(batch, 0, 0, 1))[1], ours(model, batch)[1]) < 1e-6


def test_padding_does_not_change_a_score(tiny):
    model, batch = reward(tiny), ragged_pairs()
    with model.role("reward"), torch.no_grad():
        together = model.forward(batch.sequences, Needs())["chosen"].score_N
        for row in range(len(batch)):
            alone = model.forward(batch[torch.tensor([row])].sequences, Needs())["chosen"].score_N
            torch.testing.assert_close(alone, together[row : row + 1], rtol=1e-5, atol=1e-5)


def test_a_member_begins_as_the_run_of_its_seed_would(tiny):
    roles = ("reward_0", "reward_1", "reward_2")
    whole = policy_of(tiny, scalar=roles, seed=5)
    seeds = (5, mixed(5, "reward_1"), mixed(5, "reward_2"))
    for role, seed in zip(roles, seeds, strict=True):
        alone = policy_of(tiny, scalar=("reward",), seed=seed)
        assert all(
            torch.equal(one, other)
            for one, other in zip(whole.trained()[role], alone.trained()["reward"], strict=True)
        )
    first, second, _ = (whole.trained()[role] for role in roles)
    drawn = [(one, other) for one, other in zip(first, second, strict=True) if bool(one.any())]
    assert len(drawn) == 1 + len(first) // 2  # the head, and every A
    assert not any(torch.equal(one, other) for one, other in drawn)


def policy_of(tiny, **options):
    """As a run begins: LoRA's B is 0."""
    return policy(tiny, language=False, perturbed=False, **options)

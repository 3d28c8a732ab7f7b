"""Accuracy and calibration of scores, against literals and against plain slow counting."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab import Demonstrations, Pairs, Ranked
from trimtab.core.batches import sequences
from trimtab.core.measures import Column, measure
from trimtab.core.preferences import AGREEMENT, CONFIDENCE, SIMILAR, comparisons, of_comparisons
from trimtab.core.scoring import of_scores

NAN = math.nan


def completions(scores, lengths):
    """Scored completions of these lengths; None is an absent one."""
    there = [
        [7] * (0 if score is None else length)
        for score, length in zip(scores, lengths, strict=True)
    ]
    made = sequences([[1]] * len(scores), there)
    return replace(made, maybe_score_N=torch.tensor([score or 0.0 for score in scores]))


def pairs(scores, preference=None, lengths=None):
    """Rows of (chosen, rejected)."""
    lengths = lengths or [(3, 3)] * len(scores)
    sides = [
        completions([row[side] for row in scores], [row[side] for row in lengths])
        for side in (0, 1)
    ]
    return Pairs(*sides, None if preference is None else torch.tensor(preference))


def ranked(scores, better):
    """Rows of K scores; labels of i < j, in order."""
    count = len(scores[0])
    better_NKK = torch.full((len(scores), count, count), NAN)
    i_C, j_C = np.triu_indices(count, 1)
    for row, labels in enumerate(better):
        for i, j, label in zip(i_C, j_C, labels, strict=True):
            better_NKK[row, i, j], better_NKK[row, j, i] = label, 1 - label
    responses = (completions(column, [3] * len(scores)) for column in zip(*scores, strict=True))
    return Ranked(tuple(responses), better_NKK)


def measures(batch):
    found = {name: measure(column) for name, column in of_comparisons(comparisons(batch))}
    return {name: one for name, one in found.items() if one is not None}


def logit(p):
    return math.log(p / (1 - p))


def test_accuracy_counts_equal_scores_half():
    found = measures(pairs([(2.0, 1.0), (1.0, 1.0), (0.0, 1.0), (3.0, 1.0)]))
    assert found["accuracy"].value == pytest.approx(2.5 / 4)
    assert found["accuracy"].n == 4


def test_ties_in_the_labels_do_not_count():
    found = measures(pairs([(2.0, 1.0), (0.0, 1.0)], preference=[1.0, 0.5]))
    assert (found["accuracy"].value, found["accuracy"].n) == (1.0, 1)
    assert comparisons(pairs([(0.0, 1.0)], preference=[0.5])).weight_NC.tolist() == [[0.0]]
    assert measures(pairs([(0.0, 1.0)], preference=[0.5])) == {}


def test_a_ranking_counts_its_comparisons():
    # row 0: 2 > 1 right, 2 > 3 wrong, (1, 3) not compared; row 1: absent, 1 < 2 right
    batch = ranked([[2.0, 1.0, 3.0], [1.0, 2.0, None]], [[1.0, 0.9, NAN], [0.2, NAN, NAN]])
    found = measures(batch)
    assert found["accuracy"].value == pytest.approx(2 / 3)
    assert found["accuracy"].n == 2


def test_of_two_responses_a_ranking_is_a_pair():
    scores, labels = [(2.0, 1.0), (0.3, 0.9), (1.0, 1.0)], [0.9, 0.6, 1.0]
    one, other = measures(pairs(scores, labels)), measures(ranked(scores, [[p] for p in labels]))
    assert one.keys() == other.keys()
    for name, found in one.items():
        assert found.value == pytest.approx(other[name].value), name


def test_demonstrations_compare_nothing():
    assert comparisons(Demonstrations(completions([1.0], [3]))) is None


def test_calibration_of_soft_labels():
    # confidence 0.75 in both; the first is right with P = 0.75, the second wrong: P = 0.4 for it
    found = measures(pairs([(logit(0.75), 0.0), (-logit(0.75), 0.0)], [0.75, 0.6]))
    assert found["confidence/0.7-0.8"].value == pytest.approx(0.75)
    assert found["reliability/0.7-0.8"].value == pytest.approx((0.75 + 0.4) / 2)
    assert found["ece"].value == pytest.approx(0.75 - (0.75 + 0.4) / 2)


def test_ece_adds_up_the_gaps_of_bins():
    # bin 0.7-0.8: 0.75 twice, right once: |1.5 - 1|; bin 0.9-1: 0.95 once, right: |0.95 - 1|
    found = measures(pairs([(logit(0.75), 0.0), (-logit(0.75), 0.0), (logit(0.95), 0.0)]))
    assert found["ece"].value == pytest.approx((0.5 + 0.05) / 3, abs=1e-6)
    assert found["reliability/0.7-0.8"].value == 0.5
    assert found["reliability/0.9-1"].value == 1.0


def test_accuracy_by_which_response_is_longer():
    scores = [(1.0, 0.0), (0.0, 1.0), (1.0, 0.0), (0.0, 1.0), (1.0, 0.0)]
    lengths = [(10, 5), (10, 5), (5, 10), (10, 10), (10, 9)]
    found = measures(pairs(scores, lengths=lengths))
    # a tenth of the longer one is no difference: 10 and 9 are similar
    assert SIMILAR == 0.1
    assert found["accuracy_longer"].value == 0.5
    assert (found["accuracy_shorter"].value, found["accuracy_shorter"].n) == (1.0, 1)
    assert (found["accuracy_similar"].value, found["accuracy_similar"].n) == (0.5, 2)


def test_longer_is_the_preferred_one_of_a_ranking():
    batch = ranked([[1.0, 0.0]], [[0.2]])  # the second is preferred, and the scores say the first
    second = replace(batch.responses[1], length_N=torch.tensor([9]))
    found = measures(replace(batch, responses=(batch.responses[0], second)))
    assert found["accuracy_longer"].value == 0.0
    assert "accuracy_shorter" not in found


def test_accuracy_by_agreement():
    scores = [(1.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 0.0)]
    found = measures(pairs(scores, [0.6, 0.65, 0.8, 1.0]))
    names = [
        f"accuracy_agreement/{a:g}-{b:g}" for a, b in zip(AGREEMENT, AGREEMENT[1:], strict=False)
    ]
    assert [found[name].value for name in names] == [0.5, 1.0, 1.0]
    assert [found[name].n for name in names] == [2, 1, 1]


def test_agreement_is_not_said_where_all_labels_are_certain():
    assert not any("agreement" in name for name in measures(pairs([(1.0, 0.0)])))


def slow_ece(rows, edges=CONFIDENCE):
    """Of (confidence, P(the scores are right)) by counting, one bin after the other."""
    total = 0.0
    for low, high in zip(edges, edges[1:], strict=False):
        inside = [
            (c, hit)
            for c, hit in rows
            if low <= c and (c < high or high == edges[-1] and c <= high)
        ]
        if inside:
            mean = sum(c for c, _ in inside) / len(inside)
            right = sum(hit for _, hit in inside) / len(inside)
            total += len(inside) / len(rows) * abs(mean - right)
    return total


ROWS = st.lists(
    st.tuples(st.floats(-4, 4, width=32), st.floats(-4, 4, width=32), st.floats(0, 1, width=32)),
    min_size=1,
    max_size=12,
)


@settings(max_examples=50, deadline=None)
@given(ROWS)
def test_all_is_as_slow_counting_says(rows):
    decided = []
    for one, other, label in rows:
        if abs(np.float32(label) - np.float32(0.5)) > 1e-9:
            difference = float(np.float32(one) - np.float32(other))
            confidence = float(torch.tensor(abs(difference)).sigmoid())
            hit = 0.5 if difference == 0 else label if difference > 0 else 1 - label
            right = 0.5 if difference == 0 else float((difference > 0) == (label > 0.5))
            decided.append((confidence, hit, right))
    found = dict(
        of_comparisons(comparisons(pairs([row[:2] for row in rows], [row[2] for row in rows])))
    )
    if not decided:
        assert measure(found["ece"]) is None
        return
    accuracy, ece = found["accuracy"], found["ece"]
    assert ratio(accuracy) == pytest.approx(sum(right for *_, right in decided) / len(decided))
    assert ratio(ece) == pytest.approx(slow_ece([one[:2] for one in decided]), abs=1e-5)


def ratio(column):
    value_N = column.value_N.sum(0)
    return float(value_N.abs().sum() / column.weight_N.sum())


def drawn(rows, sharpness=1.0, seed=0):
    """Pairs whose scores' differences are, at a sharpness of 1, the log-odds of their labels."""
    generator = np.random.default_rng(seed)
    difference = generator.normal(scale=1.5, size=rows)
    wins = generator.random(rows) < 1 / (1 + np.exp(-difference))
    signed = np.where(wins, difference, -difference) * sharpness
    return pairs([(float(d), 0.0) for d in signed])


def test_calibrated_scores_have_an_ece_near_0():
    right = measures(drawn(1500))
    sharp = measure(dict(of_comparisons(comparisons(drawn(1500, sharpness=3.0))))["ece"])
    assert right["ece"].value < 0.04
    assert sharp.value > 0.1
    assert sharp.low > right["ece"].high
    for low, high in zip(CONFIDENCE, CONFIDENCE[1:], strict=False):
        mean, hit = (right[f"{name}/{low:g}-{high:g}"] for name in ("confidence", "reliability"))
        assert hit.low - 0.02 < mean.value < hit.high + 0.02


def test_the_interval_of_ece_is_that_of_a_plain_bootstrap():
    batch = drawn(300, sharpness=2.0)
    found = measures(batch)["ece"]
    said = comparisons(batch)
    rows = list(zip(said.confidence_NC[:, 0].tolist(), said.hit_NC[:, 0].tolist(), strict=True))
    generator = np.random.default_rng(1)
    resampled = [
        slow_ece([rows[i] for i in generator.integers(0, len(rows), len(rows))])
        for _ in range(500)
    ]
    low, high = np.percentile(resampled, [2.5, 97.5])
    assert found.value == pytest.approx(slow_ece(rows), abs=1e-6)
    assert found.low == pytest.approx(low, abs=0.01)
    assert found.high == pytest.approx(high, abs=0.01)


def test_rows_and_not_comparisons_are_drawn():
    """Forty copies of one comparison in a row say no more than one does."""
    few = Column(torch.tensor([1.0, 0.0, 1.0]), torch.ones(3))
    many = Column(40 * few.value_N, 40 * few.weight_N)
    assert measure(few) == measure(many)


BATCH = pairs([(0.0, 0.0)] * 3)
MEMBERS = {
    "a": {"chosen": torch.tensor([3.0, 1.0, 2.0]), "rejected": torch.tensor([0.0, 0.0, 3.0])},
    "b": {"chosen": torch.tensor([10.0, 12.0, 11.0]), "rejected": torch.tensor([9.0, 10.0, 10.0])},
}
"""Means 1.5 and 31/3: b is only shifted."""


def test_members_are_centred_before_they_are_averaged():
    found = {name: measure(column) for name, column in of_scores(BATCH, MEMBERS).items()}
    assert found["score"].value == pytest.approx(0.0, abs=1e-6)
    assert found["score/a"].value == pytest.approx(1.5)
    assert found["score/b"].value == pytest.approx(62 / 6)
    centred = [
        torch.cat([m["chosen"], m["rejected"]]) - torch.cat([m["chosen"], m["rejected"]]).mean()
        for m in MEMBERS.values()
    ]
    spread = torch.stack(centred).std(0).mean()
    assert found["spread"].value == pytest.approx(float(spread), rel=1e-5)


def test_the_ensemble_is_measured_and_so_is_each_member():
    found = {name: measure(column) for name, column in of_scores(BATCH, MEMBERS).items()}
    assert found["accuracy/a"].value == pytest.approx(2 / 3)
    assert found["accuracy/b"].value == 1.0
    # differences of the mean: (3 + 1) / 2, (1 + 2) / 2, (-1 + 1) / 2, a tie
    assert found["accuracy"].value == pytest.approx(2.5 / 3)


def test_one_member_is_no_ensemble():
    found = of_scores(BATCH, {"a": MEMBERS["a"]})
    assert ratio(found["score"]) == pytest.approx(1.5)
    assert not any("spread" in name or "/a" in name for name in found)

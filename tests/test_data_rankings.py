"""Rankings: pairs are rankings of two; ranks, scores and soft comparisons of more."""

from __future__ import annotations

import math

import pytest
import torch
from data_fixtures import answer, encoded, opened, smollm, turns, write_jsonl

from trimtab import Pairs, Ranked
from trimtab.core.config import DataConfig
from trimtab.plugins.sources.kinds import PAIRS, RANKINGS
from trimtab.plugins.sources.said import Ranking

PAIR = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}
THREE = {"prompt": "The sky is", "responses": [" green.", " blue.", " grey."]}


def texts(row):
    return [smollm().decode(one.ids, skip_special_tokens=True) for one in row.completions]


def test_a_pair_is_a_ranking_of_two():
    hard, pair = encoded(PAIR, Ranked), encoded(PAIR, Pairs)
    assert (hard.prompt, hard.completions) == (pair.prompt, pair.completions)
    assert hard.said == Ranking(((None, 1.0), (0.0, None)))
    soft = encoded({**PAIR, "preference": 0.25, "margin": 0}, Ranked)
    assert soft.said == Ranking(((None, 0.75), (0.25, None)), 0.0)
    assert texts(soft) == [" green.", " blue."]


@pytest.mark.parametrize("order", [{"ranks": [3, 1, 2]}, {"scores": [-1.5, 4, 0]}])
def test_responses_are_put_in_order_a_best_one_first(order):
    row = encoded({**THREE, **order}, Ranked)
    assert texts(row) == [" blue.", " grey.", " green."]
    assert row.said.better == ((None, 1.0, 1.0), (0.0, None, 1.0), (0.0, 0.0, None))


def test_equal_ranks_are_ties_and_stay_in_the_order_of_the_row():
    row = encoded({**THREE, "ranks": [1, 2, 1]}, Ranked)
    assert texts(row) == [" green.", " grey.", " blue."]
    assert row.said.better == ((None, 0.5, 1.0), (0.5, None, 1.0), (0.0, 0.0, None))


def test_soft_comparisons_are_ordered_with_the_responses():
    better = [[None, 0.25, None], [0.75, None, 0.9], [None, None, None]]
    row = encoded({**THREE, "ranks": [2, 1, 3], "better": better}, Ranked)
    assert texts(row) == [" blue.", " green.", " grey."]
    (_, first, second), (_, _, third), last = row.said.better
    assert (first, second, third) == (0.75, 0.9, None)
    assert last == (pytest.approx(0.1), None, None)


def test_turns_are_ranked_as_text_is():
    said = {"prompt": turns("Hi"), "responses": [answer("a"), answer("b")], "scores": [0, 1]}
    mixed = {"prompt": "Hi", "responses": [turns("Hi", "a"), answer("b")], "ranks": [2, 1]}
    assert encoded(said, Ranked) == encoded(mixed, Ranked)


def test_a_batch_has_as_many_responses_as_its_longest_row_and_the_rest_are_empty():
    rows = [encoded({**THREE, "ranks": [1, 2, 3]}, Ranked), encoded(PAIR, Ranked)]
    batch = RANKINGS.stack(rows)
    assert [one.length_N.gt(0).tolist() for one in batch.responses] == [
        [True, True],
        [True, True],
        [True, False],
    ]
    last = batch.responses[2]
    assert not last.mask_NT[1].any()
    assert last.prompt_length_N.tolist() == [3, 3]
    nan = math.nan
    expected = [[[nan, 1, 1], [0, nan, 1], [0, 0, nan]], [[nan, 1, nan], [0, nan, nan], [nan] * 3]]
    assert torch.equal(batch.better_NKK.isnan(), torch.tensor(expected).isnan())
    assert torch.equal(batch.better_NKK.nan_to_num(-1), torch.tensor(expected).nan_to_num(-1))
    assert batch.margin_NKK is None


def test_margins_are_antisymmetric_and_0_where_a_row_has_none():
    rows = [encoded({**PAIR, "margin": "2.5"}, Ranked), encoded(PAIR, Ranked)]
    assert RANKINGS.stack(rows).margin_NKK.tolist() == [[[0, 2.5], [-2.5, 0]], [[0, 0], [0, 0]]]
    assert PAIRS.stack([encoded({**PAIR, "margin": 2}, Pairs)]).preference_N is None


def test_the_source_serves_rankings(tmp_path):
    rows = [{**PAIR, "prompt": f"{n} is"} for n in range(3)] + [{**THREE, "ranks": [1, 2, 3]}]
    file = write_jsonl(tmp_path / "r.jsonl", rows)
    source = opened(DataConfig(train=file, holdout=0.0), Ranked)
    assert source.describe()["kept"] == 4
    batch = source.collect(None, 4)
    assert (len(batch), len(batch.responses), batch.better_NKK.shape) == (4, 3, (4, 3, 3))
    assert len(source.longest().responses) == 3


def test_one_response_over_the_limit_drops_the_row_or_is_cut():
    row = {**THREE, "responses": [" a", " b", " far" * 9], "ranks": [1, 2, 3]}
    assert "completion longer than" in str(encoded(row, Ranked, max_completion_tokens=5))
    cut = encoded(row, Ranked, max_completion_tokens=5, overlong="truncate")
    assert [len(one.ids) for one in cut.completions] == [2, 2, 5]

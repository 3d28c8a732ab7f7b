"""Pairs of what the policy samples now: which completions, which labels, and what is counted."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from math import comb

import pytest
import torch
from test_rollouts import Count, Half, Never, prompts, setting

from trimtab import Pairs, Score
from trimtab.core.errors import UserError
from trimtab.core.sampling import uniforms
from trimtab.plugins.sources.rollout_pairs import RolloutPairs, RolloutPairsConfig, comparisons


class Parity(Count):
    """0 or 1, so that there are ties."""

    def _one(self, text):
        return Score(float(len(text) % 2))


def source(tmp_path, *arguments, options=None, **changes):
    opened = RolloutPairs(RolloutPairsConfig(**(options or {})))
    opened.open(setting(tmp_path, *arguments, batch=Pairs, **changes))
    return opened


def collect(opened, rows=8):
    return opened.collect(None, rows)


def groups(opened, batch):
    """The records of all that was sampled for a batch, group by group."""
    records = sorted(opened.samples(batch), key=lambda one: one["sample"])
    return [records[n : n + 4] for n in range(0, len(records), 4)]


def same(one, other):
    return all(
        torch.equal(getattr(a, name), getattr(b, name))
        for a, b in ((one.chosen, other.chosen), (one.rejected, other.rejected))
        for name in ("tokens_NT", "mask_NT", "prompt_NP", "maybe_sampled_NT")
    ) and torch.equal(one.sample_N2, other.sample_N2)


def test_the_best_of_each_group_is_paired_with_its_worst(tmp_path):
    opened = source(tmp_path)
    batch = collect(opened)
    assert len(batch) == 8 and batch.preference_N is None
    assert batch.sample_N2[:, 0].div(4, rounding_mode="floor").tolist() == list(range(8))
    for group in groups(opened, batch):
        rewards = [one["reward"] for one in group]
        (best,) = [one for one in group if one["chosen"]]
        (worst,) = [one for one in group if one["rejected"]]
        assert best["reward"] == max(rewards) and worst["reward"] == min(rewards)
        assert sum("trained" in one for one in group) == 2, "the other two are in no pair"


def test_all_pairs_of_a_group_are_ranked_by_reward(tmp_path):
    opened = source(tmp_path, options={"pairs": "all"}, rows=14)
    assert opened.unit == comb(4, 2)
    batch = collect(opened, 12)
    gaps = 0
    for group in groups(opened, batch):
        for one in group:
            assert one["chosen"] == sum(other["reward"] < one["reward"] for other in group)
            assert one["rejected"] == sum(other["reward"] > one["reward"] for other in group)
        gaps += sum(one["reward"] != other["reward"] for one, other in combinations(group, 2))
    assert len(batch) == gaps > 6


def test_a_step_makes_no_more_pairs_than_it_has_rows(tmp_path):
    opened = source(tmp_path, options={"pairs": "all"}, rows=14)
    assert opened.steps_per_epoch(14) == 5, "two prompts of six pairs each, of ten prompts"
    collect(opened, 14)
    assert len(opened.engine.asked) == 2 * 4
    assert source(tmp_path).steps_per_epoch(8) == 2


def test_a_pair_has_one_prompt_and_the_tokens_that_were_sampled(tmp_path):
    opened = source(tmp_path)
    batch = collect(opened)
    drawn = uniforms(3, 1, range(32), 6)
    assert torch.equal(opened.engine.drawn, drawn)
    assert torch.equal(batch.chosen.prompt_NP, batch.rejected.prompt_NP)
    assert sorted(batch.row_N.tolist()) == sorted(set(batch.row_N.tolist()))
    for side, sequences in enumerate((batch.chosen, batch.rejected)):
        for n, number in enumerate(batch.sample_N2[:, side].tolist()):
            length = int(sequences.length_N[n])
            logps = drawn[number, :length].log().float()
            assert torch.allclose(sequences.sampled_NT[n, :length], logps)


def test_log_probs_are_read_at_the_temperature_of_sampling(tmp_path):
    made = setting(tmp_path)
    rollout = made.rollout.model_copy(update={"temperature": 0.7})
    opened = source(tmp_path, rollout=rollout)
    batch, longest = collect(opened), opened.longest()
    assert opened.engine.temperature == 0.7
    for pairs in (batch, longest):
        assert pairs.chosen.temperature == pairs.rejected.temperature == 0.7


def test_a_soft_label_is_the_chance_that_bradley_and_terry_give(tmp_path):
    opened = source(tmp_path, options={"soft": True, "pairs": "all"}, rows=12)
    batch = collect(opened, 12)
    rewards = {one["sample"]: one["reward"] for group in groups(opened, batch) for one in group}
    gaps = [rewards[better] - rewards[worse] for better, worse in batch.sample_N2.tolist()]
    assert torch.allclose(batch.preference_N, torch.tensor(gaps).sigmoid())
    assert float(batch.preference_N.min()) > 0.5
    assert opened.metrics()["gap"] == pytest.approx(sum(gaps) / len(gaps))


@pytest.mark.parametrize("which", ["best_worst", "all"])
def test_ties_are_no_pairs_and_are_counted(tmp_path, which):
    opened = source(tmp_path, reward=Parity, options={"pairs": which}, rows=12)
    batch = collect(opened, 12)
    metrics = opened.metrics()
    compared = 12
    assert 0 < len(batch) < compared
    assert metrics["pairs"] == len(batch) and metrics["gap"] == 1.0
    assert metrics["ties"] == pytest.approx(1 - len(batch) / compared)
    assert metrics["unpaired"] == 0.0


def test_a_gap_that_is_too_small_is_a_tie(tmp_path):
    opened = source(tmp_path, reward=Parity, options={"least_gap": 1.0})
    batch = collect(opened)
    assert len(batch) == 0 and batch.sample_N2.shape == (0, 2) and len(batch.row_N) == 0
    metrics = opened.metrics()
    assert (metrics["pairs"], metrics["ties"]) == (0.0, 1.0) and "gap" not in metrics
    records = opened.samples(batch)
    assert len(records) == 32
    assert not any(one["chosen"] or one["rejected"] or one["trained"] for one in records)


def test_what_cannot_be_scored_is_in_no_pair(tmp_path):
    opened = source(tmp_path, reward=Half)
    batch = collect(opened)
    metrics = opened.metrics()
    alone = 0
    for group in groups(opened, batch):
        known = [one for one in group if one["reward"] is not None]
        assert all(not one["chosen"] and not one["rejected"] for one in group if one not in known)
        alone += len(known) < 2
    assert metrics["unpaired"] == alone / 8
    assert 0 < metrics["unscored"] < 1


def test_where_nothing_can_be_scored_the_batch_is_empty_and_the_log_has_it_all(tmp_path):
    opened = source(tmp_path, reward=Never)
    batch = collect(opened)
    metrics = opened.metrics()
    assert len(batch) == 0 and metrics["unpaired"] == 1.0 and "ties" not in metrics
    assert len(opened.samples(None)) == 32


def test_every_completion_is_logged_once(tmp_path):
    opened = source(tmp_path, options={"pairs": "all"}, rows=12)
    batches = [collect(opened, 12) for _ in range(3)]
    kept = batches[1][torch.tensor([0, 2])]
    opened.metrics()
    records = opened.samples(kept)
    assert sorted(one["sample"] for one in records) == list(range(3 * 8))
    assert sum(one["chosen"] for one in records) == sum(one["rejected"] for one in records) == 2
    json.dumps(records, allow_nan=False)


def test_the_log_tells_the_log_ratio_of_what_sampled_to_the_reference(tmp_path):
    opened = source(tmp_path)
    batch = collect(opened)
    sides = {"chosen": batch.chosen, "rejected": batch.rejected}
    off = {"chosen": 0.25, "rejected": -0.5}
    sides = {
        name: replace(one, maybe_reference_NT=one.sampled_NT - off[name])
        for name, one in sides.items()
    }
    records = {one["sample"]: one for one in opened.samples(replace(batch, **sides))}
    for side, (name, one) in enumerate(sides.items()):
        for number, length in zip(
            batch.sample_N2[:, side].tolist(), one.length_N.tolist(), strict=True
        ):
            kl = records.pop(number)["kl_sequence"]
            assert kl == pytest.approx(off[name] * length, abs=1e-4)
    assert len(records) == 16 and not any("kl_sequence" in one for one in records.values())


def test_it_goes_on_to_the_bit_from_a_state_in_json(tmp_path):
    whole = source(tmp_path)
    collect(whole)
    later = source(tmp_path)
    later.restore(json.loads(json.dumps(whole.state())))
    for _ in range(3):
        assert same(collect(whole), collect(later))
    assert whole.state() == later.state()


def test_two_completions_are_sampled_where_the_run_file_does_not_say(tmp_path):
    opened = source(tmp_path, group=1)
    assert opened.setting.group == 2 == opened.describe()["group"]
    assert len(collect(opened)) + opened.metrics()["ties"] * 8 == 8
    assert opened.describe()["pairs"] == RolloutPairsConfig().model_dump()


def test_the_longest_is_a_pair_of_the_longest_prompt(tmp_path):
    rows = [*prompts(3), {"prompt": "A very much longer question than the others:", "answer": 0}]
    longest = source(tmp_path, rows).longest()
    assert len(longest) == 1
    assert longest.chosen.tokens_NT.shape == longest.rejected.tokens_NT.shape == (1, 6)
    assert not torch.equal(longest.chosen.tokens_NT, longest.rejected.tokens_NT)


def test_held_out_prompts_are_answered_in_evaluations(tmp_path):
    opened = source(tmp_path, data={"holdout": 0.3})
    assert len(opened.prompts()) == 3 and opened.held_out() is None


def test_a_group_of_one_is_refused(tmp_path):
    rollout = setting(tmp_path).rollout.model_copy(update={"group": 1})
    with pytest.raises(UserError, match=r"rollout.group is 1, and a pair is made of two"):
        source(tmp_path, rollout=rollout)


def test_too_few_rows_for_all_pairs_of_a_prompt_are_refused(tmp_path):
    with pytest.raises(UserError, match="train.rows is 5, and all pairs of .* 4 .* are 6"):
        source(tmp_path, options={"pairs": "all"}, rows=5)


def test_rewards_are_wanted(tmp_path):
    with pytest.raises(UserError, match="the run file names none"):
        source(tmp_path, rewards=None)


def test_of_equal_rewards_the_earlier_one_is_better():
    assert [(c.better, c.worse) for c in comparisons([1.0, 1.0, 0.0], "all")] == [
        (0, 1),
        (0, 2),
        (1, 2),
    ]
    assert comparisons([None, 1.0], "best_worst") == comparisons([], "all") == []

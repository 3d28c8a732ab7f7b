"""The sources that make data sets: which rows, of what, and what became of the others."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from statistics import stdev
from typing import Any

import pytest
from data_fixtures import smollm, turns, write_jsonl
from pydantic import ValidationError
from test_rollouts import Count, Dice, Half, OneOf

from trimtab import Config, Score
from trimtab.core.batches import Batch
from trimtab.core.config import DataConfig, RolloutConfig, SelectedReward
from trimtab.core.engine import Completion
from trimtab.core.errors import RunError, UserError
from trimtab.core.judge import Judge, Verdict
from trimtab.core.rewards import Member, Rewards
from trimtab.core.source import Setting
from trimtab.plugins.makers.asking import AskingConfig
from trimtab.plugins.makers.best import Best, BestConfig
from trimtab.plugins.makers.candidates import Candidates
from trimtab.plugins.makers.labels import Labels, LabelsConfig
from trimtab.plugins.makers.selection import Selection, SelectionConfig
from trimtab.plugins.sources.corpus import read_corpus
from trimtab.plugins.sources.kinds import DEMONSTRATIONS, PAIRS, RANKINGS


def prompts(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"Question {n}:", "answer": n} for n in range(1, count + 1)]


def setting(tmp_path, rows, *rewards, weights=(), **changes: Any) -> Setting:
    """Of these rows, with a reward for each class."""
    table = write_jsonl(tmp_path / "rows.jsonl", rows)
    rollout = RolloutConfig(max_new_tokens=6, max_unscored=changes.pop("max_unscored", 1.0))
    members = [
        Member(cls(Config()), SelectedReward(name=cls.name, weight=weight))
        for cls, weight in zip(rewards, weights or [1.0] * len(rewards), strict=True)
    ]
    made = Setting(
        batch=Batch,
        data=DataConfig(train=table, holdout=0.0, max_dropped=0.9),
        tokenizer=smollm(),
        seed=3,
        rollout=rollout,
        rows=8,
        group=4,
        engine=Dice(Config()),
        rewards=Rewards(members, rollout) if members else None,
    )
    return replace(made, **changes)


def opened(maker, config, given: Setting):
    made = maker(config)
    made.open(given)
    return made


def all_of(maker, rows: int = 3, epochs: int = 1):
    """What it makes, so many rows at a time: the data set, and the steps."""
    steps = [maker.make(None, step, rows) for step in range(epochs * maker.steps(rows))]
    return list(maker.finish([row for made in steps for row in made.rows])), steps


def read_again(tmp_path, rows, kind):
    """The rows as a run reads them."""
    name = write_jsonl(tmp_path / "again.jsonl", rows)
    return read_corpus(DataConfig(train=name, holdout=0.0), kind, smollm())


def assert_all_accounted_for(steps, read: int) -> None:
    assert sum(made.read for made in steps) == read
    for made in steps:
        assert {one["row"] for one in made.dropped} <= set(range(1, 1000))
        json.dumps([*made.rows, *made.dropped, *made.samples, dict(made.counts)])


# candidates


def test_every_prompt_is_answered_once_in_a_shuffled_order(tmp_path):
    made = opened(Candidates, AskingConfig(), setting(tmp_path, prompts(10), Count))
    rows, steps = all_of(made)
    assert [one["answer"] for one in rows] != sorted(one["answer"] for one in rows)
    assert sorted(one["answer"] for one in rows) == list(range(1, 11))
    assert_all_accounted_for(steps, 10)
    for row in rows:
        assert row["prompt"] == f"Question {row['answer']}:"
        assert row["scores"] == [float(len(text)) for text in row["responses"]]


def test_the_rows_do_not_depend_on_how_many_are_made_at_a_time(tmp_path):
    made = opened(Candidates, AskingConfig(), setting(tmp_path, prompts(10), Count))
    ten = all_of(made, 10, epochs=2)[0]
    assert all(all_of(made, rows, epochs=2)[0] == ten for rows in (1, 3, 4))
    assert [row["prompt"] for row in ten[:10]] == [row["prompt"] for row in ten[10:]]
    assert all(a["responses"] != b["responses"] for a, b in zip(ten[:10], ten[10:], strict=True))


def test_the_order_is_the_seeds_and_samples_are_numbered_through_all_epochs(tmp_path):
    orders = []
    for seed in (3, 4):
        given = setting(tmp_path, prompts(10), seed=seed)
        steps = all_of(opened(Candidates, AskingConfig(), given), 4, epochs=2)[1]
        numbers = [one["sample"] for made in steps for one in made.samples]
        assert numbers == list(range(2 * 10 * 4))
        orders.append([one["row"] for made in steps for one in made.samples[::4]])
        assert orders[-1][:10] == orders[-1][10:]
    assert orders[0] != orders[1]


def test_it_is_sampled_at_the_temperature_of_the_run(tmp_path):
    given = setting(tmp_path, prompts(2))
    rollout = given.rollout.model_copy(update={"temperature": 0.7})
    all_of(opened(Candidates, AskingConfig(), replace(given, rollout=rollout)))
    assert given.engine.temperature == 0.7


def test_the_first_completions_do_not_depend_on_the_group(tmp_path):
    config = AskingConfig()
    two, four = (
        opened(Candidates, config, setting(tmp_path, prompts(5), group=group)).make(None, 0, 5)
        for group in (2, 4)
    )
    first = [one["completion"] for n, one in enumerate(four.samples) if n % 4 < 2]
    assert [one["completion"] for one in two.samples] == first


def test_two_processes_share_the_prompts_and_all_get_all_rows(tmp_path):
    given = setting(tmp_path, prompts(5))
    whole = opened(Candidates, AskingConfig(), given).make(None, 0, 5)
    shares = []
    for rank in (0, 1):
        one = OneOf(rank, [[{}, {}]])
        with pytest.raises(KeyError):
            opened(Candidates, AskingConfig(), replace(given, processes=one)).make(None, 0, 5)
        shares.append(one.given[0])
    assert sorted([*shares[0], *shares[1]]) == [0, 1, 2, 3, 4]
    both = OneOf(0, [shares])
    again = opened(Candidates, AskingConfig(), replace(given, processes=both)).make(None, 0, 5)
    assert again == whole


def test_rounds_take_the_next_prompts_and_begin_anew_with_other_samples(tmp_path):
    given = setting(tmp_path, prompts(10))
    rounds = [
        opened(Candidates, AskingConfig(prompts=4, skip=skip), given).make(None, 0, 4).samples
        for skip in (0, 4, 8, 10)
    ]
    taken = [[one["row"] for one in samples[::4]] for samples in rounds]
    assert len(set(taken[0] + taken[1])) == 8 and len(set(taken[0] + taken[1] + taken[2])) == 10
    assert taken[2][2:] == taken[0][:2] and taken[3] == taken[0]
    assert rounds[3][0]["completion"] != rounds[0][0]["completion"]


def test_what_cannot_be_used_is_left_out_and_counted_and_too_few_drop_the_prompt(tmp_path):
    made = opened(Candidates, AskingConfig(), setting(tmp_path, prompts(40), Half))
    rows, steps = all_of(made)
    assert_all_accounted_for(steps, 40)
    dropped = [one["row"] for step in steps for one in step.dropped]
    assert len(rows) + len(dropped) == 40 and dropped
    assert sorted([row["answer"] for row in rows] + dropped) == list(range(1, 41))
    counts = sum((Counter(step.counts) for step in steps), Counter())
    left = Counter(s["left_out"] for step in steps for s in step.samples if "left_out" in s)
    assert counts["completions"] == 160
    assert {name: counts[name] for name in left} == left
    assert left["completions that no reward could score"] > 0
    used = 160 - left.total()
    lost = used - sum(len(row["responses"]) for row in rows)
    assert 0 <= lost <= len(dropped)
    assert all(len(set(row["responses"])) == len(row["responses"]) > 1 for row in rows)


def test_too_many_unscored_completions_stop_the_run(tmp_path):
    made = opened(
        Candidates, AskingConfig(), setting(tmp_path, prompts(4), Half, max_unscored=0.1)
    )
    with pytest.raises(RunError, match="rollout.max_unscored is 0.1"):
        made.make(None, 0, 4)


def test_truncated_completions_can_be_dropped(tmp_path):
    given = setting(tmp_path, prompts(20))
    kept, dropped = (
        all_of(opened(Candidates, AskingConfig(truncated=each), given))[1]
        for each in ("keep", "drop")
    )
    count = sum(one["truncated"] for step in kept for one in step.samples)
    assert count > 0
    told = Counter(one.get("left_out") for step in dropped for one in step.samples)
    assert told["truncated completions, left out"] == count
    assert not any(
        one["truncated"] and "left_out" not in one for step in dropped for one in step.samples
    )


def test_what_was_made_is_read_as_a_ranking_and_alike_says_with_which_tokens(tmp_path):
    rows = [{"prompt": turns(f"Question {n}?"), "answer": n} for n in range(6)]
    made = opened(Candidates, AskingConfig(), setting(tmp_path, rows, Count))
    written, steps = all_of(made, 6)
    again = read_again(tmp_path, written, RANKINGS)
    assert len(again.train) == len(written) == 6 and not again.faults()
    assert all(text[0]["role"] == "assistant" for row in written for text in row["responses"])
    assert 0 <= steps[0].metrics["alike"] <= 1


class Says(Dice):
    """Answers with the tokens of a sentence, and ends its turn."""

    def sample(self, prompts, uniform_NT, *, temperature):
        tokens = smollm()(" It rains\nin Bergen, 5 days a week.<|im_end|>").input_ids
        return [Completion(tuple(prompt), tuple(tokens), truncated=False) for prompt in prompts]


def test_what_ended_is_read_again_as_the_tokens_that_were_sampled(tmp_path):
    rows = [{"prompt": turns("Which weather?")}, {"prompt": "Which weather:"}]
    given = setting(tmp_path, rows, Count, engine=Says(Config()))
    made = opened(Best, BestConfig(), given)
    written, steps = all_of(made)
    assert steps[0].metrics["alike"] == 1.0
    again = {
        len(row.tokens.prompt): row.tokens
        for row in read_again(tmp_path, written, DEMONSTRATIONS).train
    }
    said = given.engine.sample([()], None, temperature=1.0)[0].tokens
    assert [tuple(one.completions[0].ids) for one in again.values()] == [said] * 2
    assert {*again} == {len(row.tokens.prompt) for row in made.asking.corpus.train}


def test_the_rows_other_columns_are_kept_and_never_taken_for_feedback(tmp_path):
    row = {
        "prompt": turns("Which weather?"),
        "chosen": "old",
        "scores": [3],
        "responses": ["old"],
        "day": "Monday",
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {}}}],
        "chat_template_kwargs": {"mood": "calm"},
    }
    made = opened(Candidates, AskingConfig(), setting(tmp_path, [row] * 3, Count))
    (first, *_), _ = all_of(made)
    assert first["day"] == "Monday" and first["tools"] == row["tools"]
    assert first["chat_template_kwargs"] == {"mood": "calm"}
    assert first["given_chosen"] == "old" and first["given_scores"] == [3]
    assert first["given_responses"] == ["old"] and len(first["scores"]) > 1
    assert "chosen" not in first


def test_without_rewards_there_are_no_scores(tmp_path):
    rows, steps = all_of(opened(Candidates, AskingConfig(), setting(tmp_path, prompts(3))))
    assert rows and all("scores" not in row for row in rows)
    assert "reward" not in steps[0].metrics and "reward" not in steps[0].samples[0]


def test_one_completion_leaves_nothing_to_compare(tmp_path):
    with pytest.raises(UserError, match="rollout.group is 1, and 'candidates' needs several"):
        opened(Candidates, AskingConfig(), setting(tmp_path, prompts(3), group=1))


# best


def test_the_best_of_each_prompt_is_kept_with_the_mean_of_all(tmp_path):
    given = setting(tmp_path, prompts(8), Count)
    rows, steps = all_of(opened(Best, BestConfig(), given))
    assert_all_accounted_for(steps, 8)
    samples: dict[int, list[float]] = {}
    for step in steps:
        for one in step.samples:
            if "left_out" not in one:
                samples.setdefault(one["row"], []).append(one["reward"])
    assert len(rows) == 8
    for row in rows:
        rewards = samples[row["answer"]]
        assert row["reward"] == max(rewards) == len(row["completion"])
        assert row["mean"] == pytest.approx(sum(rewards) / len(rewards))
        assert row["of"] == len(rewards)
    assert len(read_again(tmp_path, rows, DEMONSTRATIONS).train) == 8


@pytest.mark.parametrize("share, count", [(0.01, 1), (0.25, 2), (0.35, 3), (0.7, 6)])
def test_a_share_keeps_the_highest_rewards_in_their_order(tmp_path, share, count):
    given = setting(tmp_path, prompts(8), Count)
    some, steps = all_of(opened(Best, BestConfig(share=share), given))
    whole = [row for made in steps for row in made.rows]
    assert some == [row for row in whole if row in some] and len(some) == count
    least = min(row["reward"] for row in some)
    assert sum(row["reward"] > least for row in whole) < count


def test_what_is_below_the_least_is_dropped_with_its_number(tmp_path):
    given = setting(tmp_path, prompts(8), Count)
    whole = all_of(opened(Best, BestConfig(), given))[0]
    least = sorted(row["reward"] for row in whole)[4]
    rows, steps = all_of(opened(Best, BestConfig(least=least), given))
    assert rows == [row for row in whole if row["reward"] >= least]
    dropped = [one["row"] for step in steps for one in step.dropped]
    assert sorted(dropped) == sorted(row["answer"] for row in whole if row["reward"] < least)


def test_best_wants_rewards(tmp_path):
    with pytest.raises(UserError, match="the source 'best' chooses by reward"):
        opened(Best, BestConfig(), setting(tmp_path, prompts(3)))


# selection

ANSWERED = [
    {"prompt": f"Question {n}:", "responses": [f" a{n}", f" bb{n}", f" ccc{n * 7}"], "answer": n}
    for n in range(1, 9)
]


class Ensemble(Count):
    """Two members: one counts characters, the other weighs those of the last digit."""

    name = "ensemble"

    def score(self, groups):
        return [[self._two(text) for text in group.completions] for group in groups]

    def _two(self, text):
        parts = members(text)
        return Score(sum(parts.values()) / 2, parts)

    def describe(self):
        return {"members": {"one": 0.0, "two": 0.0}}


def members(text: str) -> dict[str, float]:
    return {"one": float(len(text)), "two": float(ord(text[-1]) % 5)}


def disagreement(pair) -> float:
    one, other = (members(text) for text in pair)
    return stdev([one[name] - other[name] for name in one])


def test_the_pairs_on_which_the_members_disagree_most_are_chosen(tmp_path):
    given = setting(tmp_path, ANSWERED, Ensemble)
    rows, steps = all_of(opened(Selection, SelectionConfig(budget=5), given))
    assert_all_accounted_for(steps, 8)
    assert len(rows) == 5 and len({row["answer"] for row in rows}) == 5
    by_row = {
        row["answer"]: max(
            disagreement((a, b))
            for n, a in enumerate(row["responses"])
            for b in row["responses"][n + 1 :]
        )
        for row in ANSWERED
    }
    for row in rows:
        assert row["disagreement"] == pytest.approx(disagreement(row["responses"]))
        assert row["disagreement"] == pytest.approx(by_row[row["answer"]])
    assert [r["disagreement"] for r in rows] == pytest.approx(sorted(by_row.values())[:-6:-1])


class Third(Ensemble):
    """A third member, which cannot judge what ends in 7."""

    def _two(self, text):
        unknown = None if text[-1] == "7" else 0.5
        return Score(1.0, {**members(text), "three": unknown})

    def describe(self):
        return {"members": dict.fromkeys(("one", "two", "three"), 0.0)}


def test_a_response_that_one_member_cannot_judge_is_in_no_pair(tmp_path):
    config = SelectionConfig(budget=100, per_prompt=3)
    made = opened(Selection, config, setting(tmp_path, ANSWERED, Third))
    rows, steps = all_of(made)
    judged = [[text for text in row["responses"] if text[-1] != "7"] for row in ANSWERED]
    assert len(rows) == sum(math.comb(len(texts), 2) for texts in judged) == 19
    assert not any(text[-1] == "7" for row in rows for text in row["responses"])
    (dropped,) = (one for step in steps for one in step.dropped)
    reason = "fewer than two responses have a score of every member"
    assert dropped == {"row": 7, "reason": reason}


def test_several_pairs_of_a_prompt_may_be_chosen(tmp_path):
    given = setting(tmp_path, ANSWERED, Ensemble)
    config = SelectionConfig(budget=100, per_prompt=3)
    rows, _ = all_of(opened(Selection, config, given))
    assert len(rows) == 24 == len({tuple(row["responses"]) for row in rows})


def test_at_random_the_budget_is_the_same_and_no_reward_is_asked(tmp_path):
    config = SelectionConfig(by="random", budget=5)
    made = opened(Selection, config, setting(tmp_path, ANSWERED))
    assert not made.scores
    rows = all_of(made)[0]
    assert rows == all_of(made, 8)[0] and len(rows) == 5
    other = all_of(opened(Selection, config, setting(tmp_path, ANSWERED, seed=4)))[0]
    assert other != rows and "disagreement" not in rows[0]


def test_at_random_every_pair_of_a_row_is_as_likely(tmp_path):
    rows = [{"prompt": f"Question {n}:", "responses": [" a", " b", " c"]} for n in range(300)]
    config = SelectionConfig(by="random", budget=300)
    made, _ = all_of(opened(Selection, config, setting(tmp_path, rows)), 50)
    counts = Counter("".join(row["responses"]) for row in made)
    assert counts.total() == 300 and counts.keys() == {" a b", " a c", " b c"}
    assert all(abs(count - 100) < 4 * math.sqrt(300 * 2 / 9) for count in counts.values())


def test_what_the_data_says_of_its_responses_is_not_kept(tmp_path):
    scored = [{**row, "scores": [1, 2, 3]} for row in ANSWERED]
    rows, _ = all_of(
        opened(Selection, SelectionConfig(by="random", budget=9), setting(tmp_path, scored))
    )
    assert len(rows) == 8 and all("scores" not in row for row in rows)


def test_without_an_ensemble_the_error_says_how_to_get_one(tmp_path):
    config = SelectionConfig(budget=5)
    with pytest.raises(UserError, match="members: 2 or more; or select by: random"):
        opened(Selection, config, setting(tmp_path, ANSWERED))
    made = opened(Selection, config, setting(tmp_path, ANSWERED, Count))
    with pytest.raises(UserError, match="members: 2 or more; or select by: random"):
        made.make(None, 0, 3)


# labels


def labelled(tmp_path, *rewards, rows=ANSWERED, steps_of=3, options=None, **changes):
    made = opened(
        Labels, LabelsConfig(**(options or {})), setting(tmp_path, rows, *rewards, **changes)
    )
    return all_of(made, steps_of)


def test_the_best_is_chosen_over_the_worst(tmp_path):
    rows, steps = labelled(tmp_path, Count)
    assert_all_accounted_for(steps, 8)
    assert sorted(row["answer"] for row in rows) == list(range(1, 9))
    for row in rows:
        given = ANSWERED[row["answer"] - 1]["responses"]
        assert (row["chosen"], row["rejected"]) == (max(given, key=len), min(given, key=len))
        assert row["annotator"] == "reward:count" and "preference" not in row
    assert len(read_again(tmp_path, rows, PAIRS).train) == 8


def test_all_pairs_with_soft_labels_are_sigmoids_of_the_gap(tmp_path):
    rows, _ = labelled(tmp_path, Count, options={"pairs": "all", "soft": True})
    assert len(rows) == 24
    for row in rows:
        gap = len(row["chosen"]) - len(row["rejected"])
        assert gap > 0 and row["preference"] == pytest.approx(1 / (1 + math.exp(-gap)))


def test_noise_draws_the_winner_with_its_probability(tmp_path):
    pairs = [{"prompt": f"Question {n}:", "responses": [" a", " bb"]} for n in range(1, 401)]
    options = {"noise": "bradley_terry"}
    rows, _ = labelled(tmp_path, Count, rows=pairs, options=options, steps_of=200)
    share = sum(row["chosen"] == " bb" for row in rows) / 400
    expected = 1 / (1 + math.exp(-1))
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / 400)
    other, _ = labelled(tmp_path, Count, rows=pairs, options=options, steps_of=399)
    assert other == rows


def test_noise_is_drawn_for_each_pair_of_a_row_by_itself(tmp_path):
    """Of three fair draws all fall alike in a quarter of the rows."""
    rows = [{"prompt": f"Question {n}:", "responses": [" a", " b", " c"]} for n in range(300)]
    options = {"noise": "bradley_terry", "pairs": "all"}
    made, _ = labelled(tmp_path, Count, rows=rows, options=options, steps_of=100)
    assert len(made) == 900
    earlier = [row["chosen"] < row["rejected"] for row in made]
    alike = sum(len(set(earlier[n : n + 3])) == 1 for n in range(0, 900, 3))
    assert abs(alike - 75) < 4 * math.sqrt(300 * 3 / 16)


def test_ties_make_no_row_and_are_counted(tmp_path):
    rows = [
        {"prompt": "One:", "responses": [" a", " b"]},
        {"prompt": "Two:", "responses": [" a", " bb"]},
    ]
    made, steps = labelled(tmp_path, Count, rows=rows)
    assert [row["prompt"] for row in made] == ["Two:"]
    assert steps[0].dropped == [{"row": 1, "reason": "a tie"}]
    assert steps[0].counts["ties"] == 1 and steps[0].read == 2


def test_what_no_reward_can_score_is_not_compared(tmp_path):
    rows = [{"prompt": "One:", "responses": [" aa", " b", " ccccc"]}]
    rows += [{"prompt": "Two:", "responses": [" a", " bb"]}]
    made, steps = labelled(tmp_path, Half, rows=rows, options={"pairs": "all"})
    assert made == []
    reason = "a response that no reward could score"
    assert {one["row"]: one["reason"] for one in steps[0].dropped} == {1: reason, 2: reason}


def test_a_budget_is_the_first_rows_of_an_order_by_seed(tmp_path):
    few, steps = labelled(tmp_path, Count, options={"budget": 3})
    more, _ = labelled(tmp_path, Count, options={"budget": 5})
    assert len(few) == 3 and more[:3] == few and sum(step.read for step in steps) == 3
    other, _ = labelled(tmp_path, Count, options={"budget": 3}, seed=8)
    assert other != few


def test_earlier_labels_come_first_unchanged(tmp_path):
    earlier = [{"prompt": "Old:", "chosen": " x", "rejected": " y", "annotator": "ann"}] * 2
    name = write_jsonl(tmp_path / "earlier.jsonl", earlier)
    rows, _ = labelled(tmp_path, Count, options={"earlier": [name]})
    assert rows[:2] == earlier and len(rows) == 10


class Shorter(Judge):
    """Likes what is shorter; says nothing of what ends in 7."""

    name = "shorter"
    options = Config

    def compare(self, comparisons):
        self.asked = list(comparisons)
        return [
            Verdict(None, ()) if one.first[-1] == "7" else Verdict(self._first(one), ("it is",))
            for one in comparisons
        ]

    def _first(self, one):
        return 0.8 if len(one.first) < len(one.second) else 0.2

    def score(self, ratings):
        raise NotImplementedError


def test_a_judge_labels_and_its_abstentions_are_counted(tmp_path):
    rows = [
        {"prompt": turns(f"Question {n}?"), "responses": [f"a{n}", f"bb{n}"]} for n in range(5, 9)
    ]
    judge = Shorter(Config())
    made, steps = labelled(
        tmp_path, rows=rows, options={"by": "judge", "soft": True}, judge=judge, steps_of=9
    )
    assert {(row["preference"], row["annotator"]) for row in made} == {(0.8, "judge:shorter")}
    assert all(row["chosen"][0]["content"].startswith("a") for row in made) and len(made) == 3
    assert steps[0].dropped == [{"row": 3, "reason": "the judge abstained"}]
    assert steps[0].counts["the judge abstained"] == 1
    assert {one.prompt for one in judge.asked} == {f"Question {n}?" for n in range(5, 9)}


def test_two_processes_share_what_a_judge_is_asked(tmp_path):
    judge = Shorter(Config())
    given = setting(tmp_path, ANSWERED, judge=judge)
    config = LabelsConfig(by="judge", pairs="all", soft=True)
    whole = opened(Labels, config, given).make(None, 0, 5)
    shares, asked = [], []
    for rank in (0, 1):
        one = OneOf(rank, [[{}, {}]])
        with pytest.raises(KeyError):
            opened(Labels, config, replace(given, processes=one)).make(None, 0, 5)
        shares.append(one.given[0])
        asked.append(len(judge.asked))
    assert asked == [3 * 3, 2 * 3]
    both = OneOf(1, [shares])
    assert opened(Labels, config, replace(given, processes=both)).make(None, 0, 5) == whole


def test_by_a_judge_the_best_is_the_one_that_wins_most(tmp_path):
    judge = Shorter(Config())
    rows = [
        {**row, "responses": [row["responses"][place] for place in places]}
        for row, places in zip(ANSWERED, ([0, 1, 2], [1, 2, 0], [2, 1, 0]), strict=False)
    ]
    made, _ = labelled(tmp_path, rows=rows, options={"by": "judge"}, judge=judge)
    assert [(row["chosen"][:2], row["rejected"][:2]) for row in made] == [(" a", " c")] * 3


def test_people_label_through_files_until_all_is_labelled(tmp_path):
    rows = [{"prompt": f"Question {n}:", "responses": [f" a{n}", f" b{n}"]} for n in range(4)]
    run = tmp_path / "run/stages/label"
    run.mkdir(parents=True)
    (tmp_path / "run/config.yaml").touch()
    asked: dict[str, Any] = {"rows": rows, "options": {"by": "file"}, "directory": run}
    with pytest.raises(UserError) as raised:
        labelled(tmp_path, **asked)
    said = str(raised.value)
    assert said.startswith("4 of 4 pairs have no label yet. They are in ")
    assert said.endswith(f"to {run / 'labels.jsonl'}, then: trimtab resume {tmp_path / 'run'}")
    wanted = [json.loads(line) for line in (run / "to_label.jsonl").read_text().splitlines()]
    assert {one["prompt"]: (one["a"], one["b"]) for one in wanted} == {
        row["prompt"]: tuple(row["responses"]) for row in rows
    }
    labels = [{"id": one["id"], "winner": "b"} for one in wanted[:3]]
    write_jsonl(run / "labels.jsonl", labels)
    with pytest.raises(UserError, match="1 of 4 pairs have no label yet"):
        labelled(tmp_path, **asked)
    labels[0] |= {"annotator": "ann"}
    labels += [{**labels[0], "annotator": "ben", "winner": "a"}]
    labels += [{"id": wanted[3]["id"], "winner": "tie"}, {"id": "unknown", "winner": "a"}]
    write_jsonl(run / "labels.jsonl", labels)
    made, steps = labelled(tmp_path, **asked)
    assert Counter(row["annotator"] for row in made) == {"ann": 1, "ben": 1, "file": 2}
    assert {row["chosen"][:2] for row in made if row["annotator"] != "ben"} == {" b"}
    assert sum((list(step.dropped) for step in steps), []) == [
        {"row": int(wanted[3]["prompt"][9]) + 1, "reason": "a tie"}
    ]


def test_what_people_label_is_written_in_their_letters_a_line_each(tmp_path):
    rows = [{"prompt": "Où?", "responses": [" là 🎬", " a\u2028b\u0085c"]}]
    with pytest.raises(UserError, match="1 of 1 pairs have no label yet"):
        labelled(tmp_path, rows=rows, options={"by": "file"}, directory=tmp_path)
    text = (tmp_path / "to_label.jsonl").read_text(encoding="utf-8")
    assert "Où?" in text
    assert "là 🎬" in text
    (line,) = text.splitlines()
    assert json.loads(line)["b"] == " a\u2028b\u0085c"


def test_bad_labels_are_told_with_their_lines(tmp_path):
    write_jsonl(tmp_path / "labels.jsonl", [{"id": "x", "winner": "c"}, b"{", {"winner": "a"}])
    with pytest.raises(UserError) as raised:
        labelled(tmp_path, options={"by": "file"}, directory=tmp_path)
    assert str(raised.value).splitlines()[1:] == [
        "  1: winner is 'c', not 'a', 'b' or 'tie'",
        "  2: not JSON: Expecting property name enclosed in double quotes",
        "  3: no id",
    ]


@pytest.mark.parametrize(
    "options, said",
    [
        ({"by": "judge", "noise": "bradley_terry"}, "noise is of by: reward"),
        ({"soft": True, "noise": "bradley_terry"}, "choose one"),
        ({"by": "file", "soft": True}, "the labels of a file have none"),
        ({"file": "x"}, "file is of by: file"),
    ],
)
def test_options_that_do_not_fit_each_other_are_refused(options, said):
    with pytest.raises(ValidationError, match=said):
        LabelsConfig(**options)


@pytest.mark.parametrize(
    "by, said", [("reward", "labels by reward"), ("judge", "labels by judge")]
)
def test_who_labels_has_to_be_there(tmp_path, by, said):
    with pytest.raises(UserError, match=said):
        labelled(tmp_path, options={"by": by})

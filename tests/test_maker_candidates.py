"""The source ``candidates``: which prompts, which samples, and what became of the others."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from data_fixtures import smollm, turns
from maker_fixtures import (
    all_of,
    assert_all_accounted_for,
    opened,
    prompts,
    read_again,
    setting,
)
from test_rollouts import Count, Dice, Half, OneOf

from trimtab import Config
from trimtab.core.engine import Completion
from trimtab.core.errors import RunError, UserError
from trimtab.plugins.makers.asking import AskingConfig
from trimtab.plugins.makers.best import Best, BestConfig
from trimtab.plugins.makers.candidates import Candidates
from trimtab.plugins.sources.kinds import DEMONSTRATIONS, RANKINGS


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
    assert {*again} == {len(row.tokens.prompt) for row in made.asking.pool.corpus.train}


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

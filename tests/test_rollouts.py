"""The source of online objectives: which prompts, which random streams, and what leaves it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from data_fixtures import smollm, turns, write_jsonl

from trimtab import Config, Reward, Rollouts, Score
from trimtab.core.config import DataConfig, RolloutConfig, SelectedReward
from trimtab.core.engine import Completion, Engine
from trimtab.core.errors import UserError
from trimtab.core.processes import Processes
from trimtab.core.rewards import Member, Rewards
from trimtab.core.sampling import uniforms
from trimtab.core.source import Setting
from trimtab.plugins.sources.rollouts import RolloutsConfig, RolloutSource

EOS = 2


class Dice(Engine):
    """Samples each token from the row's own numbers; ends where one of them is below 0.2."""

    name = "dice"
    options = Config

    def sample(self, prompts, uniform_NT, *, temperature) -> list[Completion]:
        self.asked = [tuple(prompt) for prompt in prompts]
        self.drawn, self.temperature = uniform_NT, temperature
        return [
            self._one(tuple(prompt), row_T.tolist())
            for prompt, row_T in zip(prompts, uniform_NT, strict=True)
        ]

    def _one(self, prompt: tuple[int, ...], numbers: Sequence[float]) -> Completion:
        tokens: list[int] = []
        for number in numbers:
            tokens.append(EOS if number < 0.2 else 10 + int(number * 1000))
            if tokens[-1] == EOS:
                break
        ended = tokens[-1] == EOS
        logps = tuple(math.log(number) for number in numbers[: len(tokens)])
        return Completion(prompt, tuple(tokens), not ended, logps, tuple(-logp for logp in logps))


class Count(Reward):
    """The number of characters; it cannot judge what has none of `refuses`."""

    name = "count"
    options = Config
    seen: list[Any]

    def score(self, groups):
        self.seen = list(groups)
        return [[self._one(text) for text in group.completions] for group in groups]

    def _one(self, text: str) -> Score:
        if self.refuse(text):
            return Score(None, why="too short to say")
        return Score(float(len(text)))

    def refuse(self, text: str) -> bool:
        return False

    def describe(self):
        return {"counts": "characters"}


class Half(Count):
    """Cannot judge every other completion, by its text."""

    def refuse(self, text):
        return len(text) % 2 == 0


class Never(Count):
    """Cannot judge anything."""

    def refuse(self, text):
        return True


class OneOf(Processes):
    """One of two processes whose parts were made before."""

    count = 2

    def __init__(self, rank: int, parts: list[Any] | None = None) -> None:
        self.rank, self.parts, self.given = rank, parts, []

    def gather(self, value):
        self.given.append(value)
        return self.parts.pop(0) if self.parts else [value, value]


def prompts(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"Question {n}:", "answer": n} for n in range(1, count + 1)]


def setting(tmp_path, table_rows=None, reward=Count, **changes: Any) -> Setting:
    table = write_jsonl(
        tmp_path / "prompts.jsonl", prompts(10) if table_rows is None else table_rows
    )
    data = DataConfig(train=table, **{"holdout": 0.0, **changes.pop("data", {})})
    rollout = RolloutConfig(max_new_tokens=6, max_unscored=1.0)
    rewards = Rewards([Member(reward(Config()), SelectedReward(name="count"))], rollout)
    made = Setting(
        batch=Rollouts,
        data=data,
        tokenizer=smollm(),
        seed=3,
        rollout=rollout,
        rows=8,
        group=4,
        engine=Dice(Config()),
        rewards=rewards,
    )
    return replace(made, **changes)


def source(tmp_path, *arguments: Any, **changes: Any) -> RolloutSource:
    opened = RolloutSource(RolloutsConfig())
    opened.open(setting(tmp_path, *arguments, **changes))
    return opened


def collect(opened: RolloutSource, rows: int = 8) -> Rollouts:
    return opened.collect(None, rows)


def same(one: Rollouts, other: Rollouts) -> bool:
    return all(
        torch.equal(a, b)
        for a, b in (
            (one.responses.tokens_NT, other.responses.tokens_NT),
            (one.responses.mask_NT, other.responses.mask_NT),
            (one.responses.prompt_NP, other.responses.prompt_NP),
            (one.responses.sampled_NT, other.responses.sampled_NT),
            (one.reward_N, other.reward_N),
            (one.group_N, other.group_N),
            (one.truncated_N, other.truncated_N),
            (one.sample_N, other.sample_N),
            (one.row_N, other.row_N),
        )
    )


def test_each_prompt_is_answered_once_an_epoch_in_a_new_order(tmp_path):
    opened = source(tmp_path)
    rows = [collect(opened).row_N[::4].tolist() for _ in range(10)]
    epochs = [sum(rows[:5], []), sum(rows[5:], [])]
    assert [sorted(epoch) for epoch in epochs] == [list(range(1, 11))] * 2
    assert epochs[0] != epochs[1]
    assert opened.steps_per_epoch(8) == 5


def test_an_epochs_end_within_a_batch_is_filled_with_the_next_ones_prompts(tmp_path):
    opened = source(tmp_path, prompts(3))
    rows = [row for _ in range(3) for row in collect(opened).row_N[::4].tolist()]
    assert sorted(rows[:3]) == sorted(rows[3:]) == [1, 2, 3]
    assert opened.steps_per_epoch(8) == 2


def test_groups_are_adjacent_and_no_number_is_given_twice(tmp_path):
    opened = source(tmp_path)
    batches = [collect(opened) for _ in range(3)]
    assert torch.cat([b.group_N for b in batches]).tolist() == [n // 4 for n in range(24)]
    assert torch.cat([b.sample_N for b in batches]).tolist() == list(range(24))
    assert all(len(set(b.row_N[:4].tolist())) == 1 for b in batches)


def test_each_completion_has_a_stream_from_the_seed_the_draw_and_its_place(tmp_path):
    opened = source(tmp_path)
    for draw in (1, 2):
        collect(opened)
        assert torch.equal(opened.engine.drawn, uniforms(3, draw, range(8), 6))
    assert len({tuple(row) for row in opened.engine.drawn.tolist()}) == 8
    assert opened.engine.asked[0] == opened.engine.asked[3] != opened.engine.asked[4]


def test_it_samples_and_reads_at_the_temperature_of_the_run(tmp_path):
    rollout = setting(tmp_path).rollout.model_copy(update={"temperature": 0.7})
    opened = source(tmp_path, rollout=rollout)
    batch = collect(opened)
    assert opened.engine.temperature == batch.responses.temperature == 0.7


def test_a_batch_is_what_was_sampled(tmp_path):
    opened = source(tmp_path)
    batch = collect(opened)
    s = batch.responses
    ends = torch.tensor([s.tokens_NT[n, s.length_N[n] - 1] == EOS for n in range(8)])
    assert torch.equal(batch.truncated_N, ~ends) and 0 < int(ends.sum()) < 8
    assert batch.limit == 6 and s.temperature == 1.0
    assert torch.equal(s.mask_NT.sum(-1), s.length_N)
    logps = opened.engine.drawn[0, : s.length_N[0]].log().float()
    assert torch.allclose(s.sampled_NT[0, : s.length_N[0]], logps)


def test_rewards_are_shown_the_prompt_as_the_data_has_it_and_the_other_columns(tmp_path):
    rows = [{"prompt": turns("Hi"), "answer": 4}, {"prompt": "Plain", "answer": 5}]
    opened = source(tmp_path, rows, rows=8)
    collect(opened)
    (member,) = opened.rewards.members
    found = {group.columns["answer"]: group for group in member.reward.seen}
    assert found[4].content == turns("Hi") and found[5].content == "Plain"
    assert found[4].columns == {"answer": 4} and len(found[4].sampled) == 4


def test_what_cannot_be_scored_is_left_out_counted_and_logged(tmp_path):
    opened = source(tmp_path, reward=Half)
    batch = collect(opened)
    metrics = opened.metrics()
    left_out = 8 - len(batch)
    assert 0 < left_out < 8
    assert metrics["unscored"] == metrics["unscored/count"] == left_out / 8
    assert metrics["reward"] == pytest.approx(float(batch.reward_N.mean()))
    assert metrics["reward"] == metrics["reward/count"]
    logged = opened.samples(batch)
    assert len(logged) == 8
    assert [s["sample"] for s in logged[: len(batch)]] == batch.sample_N.tolist()
    assert [s["reward"] for s in logged[: len(batch)]] == batch.reward_N.tolist()
    for sample in logged[len(batch) :]:
        assert sample["reward"] is None and sample["why"] and sample["trained"] is False
    json.dumps(logged, allow_nan=False)


def test_a_batch_may_be_empty(tmp_path):
    opened = source(tmp_path, reward=Never)
    batch = collect(opened)
    assert len(batch) == 0 and batch.responses.tokens_NT.shape == (0, 0)
    full = collect(source(tmp_path))
    for name in ("reward_N", "group_N", "truncated_N", "sample_N", "row_N"):
        assert getattr(batch, name).dtype == getattr(full, name).dtype, name
        assert getattr(batch, name).shape == (0,), name
    assert batch.responses.length_N.dtype == full.responses.length_N.dtype
    metrics = opened.metrics()
    assert metrics["unscored"] == 1.0 and "reward" not in metrics
    assert len(opened.samples(batch)) == 8


def test_the_figures_of_a_step_are_over_everything_that_it_collected(tmp_path):
    opened = source(tmp_path)
    batches = [collect(opened), collect(opened, 4)]
    lengths = torch.cat([b.responses.length_N for b in batches]).double()
    rewards = torch.cat([b.reward_N for b in batches]).double()
    truncated = torch.cat([b.truncated_N for b in batches]).double()
    metrics = opened.metrics()
    assert metrics["length"] == pytest.approx(float(lengths.mean()))
    assert metrics["reward"] == pytest.approx(float(rewards.mean()))
    assert metrics["reward_spread"] == pytest.approx(float(rewards.std(correction=0)))
    assert metrics["truncated"] == pytest.approx(float(truncated.mean()))
    sampled = torch.cat([b.responses.sampled_NT.sum(-1) for b in batches]).double()
    assert metrics["entropy"] == pytest.approx(float(-sampled.sum() / lengths.sum()), rel=1e-5)
    assert metrics["unscored"] == 0.0
    assert metrics["seconds_rollout"] > 0 and metrics["seconds_score"] > 0
    logged = opened.samples(batches[1])
    assert [s["sample"] for s in logged] == [8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6, 7]
    assert [s.get("trained", True) for s in logged] == [True] * 4 + [False] * 8
    assert opened.metrics() == {"seconds_rollout": 0.0, "seconds_score": 0.0}
    assert opened.samples(batches[1]) == []


def test_it_goes_on_to_the_bit_from_a_state_in_json(tmp_path):
    whole = source(tmp_path)
    for _ in range(3):
        collect(whole)
    state = json.loads(json.dumps(whole.state()))
    later = source(tmp_path)
    later.restore(state)
    for _ in range(4):
        assert same(collect(whole), collect(later))
    assert whole.state() == later.state()


def test_other_prompts_or_columns_do_not_resume(tmp_path):
    state = source(tmp_path).state()
    rows = prompts(10)
    rows[4]["answer"] = -1
    with pytest.raises(UserError, match="the prompts are not what this run was trained on"):
        source(tmp_path, rows).restore(state)


def test_two_processes_sample_half_each_and_get_the_batch_of_one(tmp_path):
    alone = source(tmp_path)
    expected = [collect(alone) for _ in range(2)]
    parts = []
    for rank in (0, 1):
        process = OneOf(rank)
        half = source(tmp_path, processes=process)
        with pytest.raises(KeyError):  # the other half is missing
            collect(half)
        assert len(half.engine.asked) == 4
        parts.append(process.given[0])
    for rank in (0, 1):
        both = source(tmp_path, processes=OneOf(rank, [parts]))
        sampled = both._sampled(both._next(2))
        tokens = [list(c.tokens) for group in sampled for c in group]
        s = expected[0].responses
        assert tokens == [s.tokens_NT[n, : s.length_N[n]].tolist() for n in range(8)]


def test_the_longest_is_a_group_of_the_longest_prompt(tmp_path):
    rows = [*prompts(3), {"prompt": "A very much longer question than the others:", "answer": 0}]
    opened = source(tmp_path, rows)
    batch = opened.longest()
    longest = smollm()(rows[-1]["prompt"]).input_ids
    assert batch.responses.prompt_NP.tolist() == [longest] * 4
    assert batch.responses.tokens_NT.shape == (4, 6)
    assert len({tuple(row) for row in batch.responses.tokens_NT.tolist()}) == 4
    assert torch.equal(batch.responses.tokens_NT, opened.longest().responses.tokens_NT)
    assert opened.state()["samples"] == 0, "it uses up no number"


def test_it_describes_what_was_read_and_who_scores(tmp_path):
    rows = [*prompts(10), {"prompt": None}]
    said = source(tmp_path, rows, data={"holdout": 0.2}).describe()
    assert said["read"] == 11 == said["kept"] + len(said["dropped"])
    assert said["dropped"][0]["row"] == 11
    assert said["train_rows"] == 8 and said["held_out_rows"] == 2 and said["group"] == 4
    assert said["rewards"]["count"]["counts"] == "characters"
    assert said["rewards"]["count"]["weight"] == 1.0
    assert set(said["tokens"]) == {"prompt"}
    json.dumps(said, allow_nan=False)


def test_held_out_prompts_are_not_trained_on(tmp_path):
    opened = source(tmp_path, data={"holdout": 0.3})
    held_out = {prompt.row for prompt in opened.prompts()}
    trained = {row for _ in range(4) for row in collect(opened).row_N.tolist()}
    assert len(held_out) == 3 and trained == set(range(1, 11)) - held_out
    assert [p.columns["answer"] for p in opened.prompts()] == [p.row for p in opened.prompts()]
    assert opened.held_out() is None


def test_prompts_that_are_too_long_follow_the_data_section(tmp_path):
    rows = [*prompts(10), {"prompt": "many words " * 20, "answer": 0}]
    limits = {"max_prompt_tokens": 8}
    dropped = source(tmp_path, rows, data=limits).describe()["dropped"]
    assert [row["row"] for row in dropped] == [11] and "longer than" in dropped[0]["reason"]
    cut = source(tmp_path, rows, data={**limits, "overlong": "truncate"}).longest()
    assert cut.responses.prompt_NP.shape == (4, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": None}, r"names none: give reward: \[\{name: ...\}\]"),
        ({"rows": 10}, "train.rows is 10, and cannot be made of whole groups of 4"),
    ],
)
def test_a_run_file_that_cannot_work_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        source(tmp_path, **changes)


def test_completions_alone_are_refused(tmp_path):
    rows = [{"text": f"Nothing to answer {n}."} for n in range(4)]
    with pytest.raises(UserError, match="4 of 4 rows .*\n.*a completion without a prompt"):
        source(tmp_path, rows)

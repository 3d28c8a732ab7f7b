"""The reward ``judge``: ratings and comparisons, alone and in whole online runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import opinions
import pytest
from opinions import Opinions, OpinionsConfig
from test_online_resume import go
from test_processes import two
from worlds import World, differences, lines, untimed

from trimtab import train
from trimtab.api import resume
from trimtab.core.config import ModelConfig, RolloutConfig, SelectedReward
from trimtab.core.errors import RunError, UserError
from trimtab.core.processes import Processes
from trimtab.core.reward import Group, RewardSetting
from trimtab.core.rewards import Member, Rewards
from trimtab.plugins.rewards.judge import JudgeConfig, JudgeReward

GROUPS = [
    Group("P:", ["abc", "a", "ab", "ba"], content="P:"),
    Group("Q:", ["a", "a1", "b"], content=[{"role": "user", "content": "Q"}]),
]


def opened(group: int | None = None, question: str | None = None, **options: Any) -> JudgeReward:
    """With a judge of these options."""
    made = JudgeReward(JudgeConfig(question=question))
    judge = Opinions(OpinionsConfig(**options))
    made.open(RewardSetting(ModelConfig(name="none"), None, None, 0, judge, group))
    return made


def values(scores):
    return [[score.value for score in of_group] for of_group in scores]


def test_a_rating_is_the_score_and_an_abstention_is_none():
    scores = opened().score(GROUPS)
    assert values(scores) == [[3.0, 1.0, 2.0, 2.0], [1.0, None, 1.0]]
    assert scores[1][1].why == "there are digits" and scores[1][1].said == {"said": ["hm"]}
    assert scores[0][0].said == {"said": ["it has 3"]}


def test_compared_the_score_is_the_mean_over_the_others_of_the_group():
    scores = opened(mode="compare").score(GROUPS)
    assert values(scores)[0] == [1.0, 0.0, 0.5, 0.5]
    assert values(scores)[1] == [0.5, None, 0.5]
    assert scores[1][1].why == "there are digits"


def test_in_a_group_the_scores_add_up_to_half_of_its_size():
    texts = ["abcd", "aab", "x", "abc", "yy"]
    (scores,) = opened(mode="compare").score([Group("P:", texts)])
    assert sum(score.value for score in scores) == pytest.approx(len(texts) / 2)


def test_what_was_said_of_two_stands_beside_the_first_of_them():
    (scores,) = opened(mode="compare").score(GROUPS[:1])
    said = [(one.said["place"], [each["against"] for each in one.said["pairs"]]) for one in scores]
    assert said == [(0, [1, 2, 3]), (1, [2, 3]), (2, [3]), (3, [])]
    assert scores[2].said["pairs"] == [
        {"against": 3, "first": 0.5, "orders": [1.0, 0.0], "said": ["1", "1"]}
    ]


def test_one_completion_is_compared_with_nothing():
    ((score,),) = opened(mode="compare").score([Group("P:", ["abc"])])
    assert score.value is None and "judge.mode: score rates it" in score.why


def test_its_counts_are_those_since_the_last_call_and_its_figures_follow():
    made = opened(mode="compare")
    made.score(GROUPS)
    counts = made.counts()
    assert counts["requests"] == 2 * (6 + 3) and counts["asked"] == 9
    assert made.counts() == {"requests": 0}
    figures = made.figures(counts)
    assert figures["position_bias"] == 2 / 7 == figures["ties"]
    assert figures["agreement"] == 5 / 7 and figures["abstained"] == 2 / 9


def test_a_question_goes_with_what_is_asked():
    made = opened(question="Which is kinder?")
    asked = []
    made.judge.score = lambda ratings: asked.extend(ratings) or []
    with pytest.raises(StopIteration):
        made.score(GROUPS[1:])
    assert {(one.prompt, one.question) for one in asked} == {("Q", "Which is kinder?")}


def test_it_wants_a_judge_and_a_group():
    with pytest.raises(UserError, match="give judge: {name: ...}"):
        JudgeReward(JudgeConfig()).open(RewardSetting(ModelConfig(name="none"), None, None, 0))
    with pytest.raises(UserError, match="set rollout.group to 2 or more"):
        opened(1, mode="compare")
    opened(1, mode="score")
    opened(2, mode="compare")


def test_it_is_described_by_the_judges_own_words():
    said = opened(mode="compare").describe()
    assert said["judge"] == {"name": "toys.opinions", "model": "none", "mode": "compare"}


def test_a_judge_that_is_down_is_no_completion_without_a_score():
    """It is asked once, and what it could not be asked is an error of the run."""
    made = opened(down_after=3)
    rewards = Rewards([Member(made, SelectedReward(name="judge"))], RolloutConfig(max_unscored=1))
    with pytest.raises(RunError, match="the judge cannot be reached"):
        rewards.score(GROUPS, Processes())
    assert made.judge.asked == 7 and rewards.drain_faults() == []


# whole runs


def settings(world: World, objective: str = "grpo", **changes: Any) -> dict[str, Any]:
    """Four steps, judged."""
    learning = world.learning(objective)
    return {
        **learning,
        "plugins": [opinions.__file__],
        "reward": [{"name": "judge"}],
        "judge": {"name": "toys.opinions"},
        "rollout": {"group": 2, "max_new_tokens": 5, "max_unscored": 0.9},
        **changes,
    }


def trained(world: World, home: Path, objective: str = "grpo", **changes: Any) -> Path:
    return train(
        world.file(home / "run.yaml", **settings(world, objective, **changes)), run=home / "run"
    )


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """Trained with GRPO, without a pause."""
    home = tmp_path_factory.mktemp("judged")
    assert go(world.file(home / "run.yaml", **settings(world)), home / "run")
    return home / "run"


@pytest.mark.parametrize(
    "objective",
    ["grpo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ppo", "rloo"))],
)
def test_a_run_logs_what_the_judge_said_and_cost(world, whole, tmp_path, objective):
    run = whole if objective == "grpo" else trained(world, tmp_path, objective)
    metrics, samples = lines(run / "metrics.jsonl"), lines(run / "samples.jsonl")
    for record in metrics:
        made = [s for s in samples if s["step"] == record["step"] and not s["held_out"]]
        assert record["judge/requests"] == len(made)
        assert record["judge/abstained"] == record["unscored"]
        assert all(sample["said"]["judge"]["said"] for sample in made)
        assert [s["reward"] for s in made] == [s["parts"]["judge"] for s in made]
    for found in lines(run / "evals.jsonl"):
        assert found["judge/requests"]["value"] == found["unscored"]["n"] == 2
    assert json.loads((run / "data.json").read_text())["rewards"]["judge"]["judge"] == {
        "name": "toys.opinions",
        "model": "none",
        "mode": "score",
    }


def test_compared_within_groups_the_orders_are_measured_and_evaluations_go_on(world, tmp_path):
    judge = {"name": "toys.opinions", "mode": "compare", "sharp": True}
    run = trained(world, tmp_path, judge=judge)
    biases = [record["judge/position_bias"] for record in lines(run / "metrics.jsonl")]
    assert all(-1 <= bias <= 1 for bias in biases) and len(biases) == 4
    for found in lines(run / "evals.jsonl"):
        assert found["unscored"]["value"] == 1 and found["judge/requests"]["value"] == 0


def test_a_run_of_which_the_judge_was_down_goes_on_to_the_same_end(world, whole, tmp_path):
    judge = {"name": "toys.opinions", "down_after": 6, "up": str(tmp_path / "up")}
    with pytest.raises(RunError, match="the judge cannot be reached"):
        trained(world, tmp_path, judge=judge)
    run = tmp_path / "run"
    state = json.loads((run / "run.json").read_text())
    assert state["state"] == "failed" and "cannot be reached" in state["error"]
    (tmp_path / "up").touch()
    resume(run)
    assert [untimed(one) for one in lines(run / "metrics.jsonl")] == [
        untimed(one) for one in lines(whole / "metrics.jsonl")
    ]
    assert lines(run / "samples.jsonl") == lines(whole / "samples.jsonl")
    name = "adapter/adapter_model.safetensors"
    assert (run / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize("look", [3, pytest.param(6, marks=pytest.mark.slow)])
def test_it_is_resumed_to_the_same_bits_between_updates(whole, tmp_path, look):
    file = whole.parent / "run.yaml"
    assert not go(file, tmp_path / "run", look)
    assert go(file, tmp_path / "run")
    assert differences(tmp_path / "run", whole) == []


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["score", "compare"])
def test_two_processes_judge_as_one(world, tmp_path, mode):
    judge = {"name": "toys.opinions", "mode": mode, "sharp": mode == "compare"}
    whole = trained(world, tmp_path, judge=judge)
    ended = two("train", tmp_path / "run.yaml", "--run", tmp_path / "both")
    assert [each.status for each in ended] == [0, 0], ended
    for mine, other in zip(
        lines(whole / "metrics.jsonl"), lines(tmp_path / "both/metrics.jsonl"), strict=True
    ):
        told = {name: value for name, value in other.items() if name.startswith("judge/")}
        assert told and told == {name: mine[name] for name in told}
    assert [one.get("said") for one in lines(whole / "samples.jsonl")[:6]] == [
        one.get("said") for one in lines(tmp_path / "both/samples.jsonl")[:6]
    ]


@pytest.mark.slow
def test_where_one_process_cannot_reach_the_judge_both_end(world, tmp_path):
    """Each has asked 2 at the first evaluation's end, and neither waits for the other for ever."""
    judge = {"name": "toys.opinions", "down_after": 0}
    file = world.file(tmp_path / "run.yaml", **settings(world, judge=judge))
    ended = two("train", file, "--run", tmp_path / "run")
    assert all(each.status for each in ended), ended
    assert json.loads((tmp_path / "run/run.json").read_text())["state"] == "failed"

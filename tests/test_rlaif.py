"""AI feedback from one file: the stages that it stands for, its refusals, and runs to the end."""

from __future__ import annotations

import json
import random
import shutil
from functools import partial
from pathlib import Path

import deaths
import judging_toys
import pytest
import yaml
from expanding import SIMPO, Expanding, knowing
from judging_toys import share
from safetensors.torch import load_file
from tiny import save_tiny
from worlds import differences, lines

import trimtab
from trimtab.core.batches import Pairs, Rollouts
from trimtab.core.files import sha256_of
from trimtab.core.keys import Key
from trimtab.core.paths import absolute
from trimtab.core.recipe import Around
from trimtab.core.runfile import load
from trimtab.objectives.rlaif import RLAIF
from trimtab.objectives.rlaif_options import RLAIFConfig

TOYS = judging_toys.__file__
JUDGE = {"name": "toys.vowels"}
GOLD = {"name": "function", "function": "rewarding:variety", "label": "gold"}


@pytest.fixture(scope="module")
def plugins():
    return knowing(SIMPO, TOYS)


@pytest.fixture
def expanding(tmp_path, plugins):
    return Expanding(tmp_path, plugins, judge=JUDGE)


@pytest.fixture
def expand(expanding):
    """The stages that the recipe stands for, by name."""
    return partial(expanding, "rlaif")


@pytest.fixture
def error(expanding):
    """The one thing that is wrong, without the line."""
    return partial(expanding.error, "rlaif")


def test_preference_is_completions_labels_and_an_objective_on_pairs(expand):
    data = {"train": "prompts.jsonl", "eval": "held.jsonl", "max_prompt_tokens": 99}
    sections = {
        "data": data,
        "model": {"start": "an/adapter", "quantization": "none"},
        "train": {"steps": 7, "rows": 6, "seed": 5},
        "rollout": {"max_new_tokens": 9, "temperature": 0.7},
    }
    options = {"n": 3, "prompts": 20, "budget": 12, "eval": "pairs.jsonl"}
    stages = expand(options, **sections)
    assert list(stages) == ["candidates", "labels", "policy"]
    candidates, labels, policy = stages.values()
    assert candidates.source.name == "candidates" and candidates.source.options["prompts"] == 20
    assert (candidates.rollout.group, candidates.rollout.temperature) == (3, 0.7)
    assert (candidates.judge, candidates.reward, candidates.objective) == (None, [], None)
    assert {stage.train.seed for stage in stages.values()} == {5}
    assert labels.data.train == "stages.candidates" and labels.data.max_prompt_tokens == 99
    said = {"by": "judge", "soft": True, "budget": 12}
    assert labels.source.name == "labels" and said.items() <= labels.source.options.items()
    assert labels.judge.name == "toys.vowels" and labels.model.start is None
    assert (policy.objective.name, policy.source, policy.judge) == ("dpo", None, None)
    assert (policy.data.train, policy.data.eval) == ("stages.labels", "pairs.jsonl")
    assert (policy.train.steps, policy.train.rows, policy.model.start) == (7, 6, "an/adapter")


def test_pairs_may_be_made_of_ratings(expand):
    labels = expand(judge={"name": "local", "mode": "score"})["labels"]
    assert labels.judge.options["mode"] == "score" and labels.source.options["by"] == "judge"


@pytest.mark.parametrize(
    ("data", "pairs", "asked"),
    [
        ({"train": "prompts.jsonl"}, "rollouts", "prompts.jsonl"),
        ({"train": "prompts.jsonl"}, "data", None),
        ({"train": "prompts.jsonl", "eval": "pairs.jsonl"}, "rollouts", None),
        ({"train": "prompts.jsonl", "columns": {"prompt": "q"}}, "rollouts", None),
        ({"train": "prompts.jsonl", "eval_prompts": "x.jsonl"}, "rollouts", "x.jsonl"),
    ],
)
def test_evaluations_answer_prompts_that_nothing_was_made_of(expand, data, pairs, asked):
    assert expand({"pairs": pairs}, data=data)["policy"].data.eval_prompts == asked


def test_the_file_s_rewards_are_watched_and_the_judge_is_compared_with_them(expand):
    watched = {**GOLD, "label": "other", "weight": 0.0, "standardize": True}
    stages = expand(reward=[GOLD, watched])
    assert stages["candidates"].reward == []
    for name in ("labels", "policy"):
        assert [reward.label for reward in stages[name].reward] == ["gold", "other"], name
    assert [reward.standardize for reward in stages["labels"].reward] == [False, False]
    assert stages["policy"].judge.name == "toys.vowels"  # for a reward that asks it


def test_data_with_responses_is_labelled_as_it_is(expand):
    data = {"train": "pairs.jsonl", "columns": {"prompt": "q"}, "limit": 9}
    stages = expand({"pairs": "data", "soft": False, "labels": {"pairs": "all"}}, data=data)
    assert list(stages) == ["labels", "policy"]
    labels, policy = stages.values()
    assert (labels.data.train, labels.data.columns) == ("pairs.jsonl", {"prompt": "q"})
    assert (policy.data.train, policy.data.columns) == ("stages.labels", {})
    assert (labels.source.options["soft"], labels.source.options["pairs"]) == (False, "all")


def test_an_optimizer_on_rollouts_has_a_reward_model_of_the_labels(expand):
    options = {
        "optimizer": {"name": "grpo", "beta": 0.2},
        "reward_model": {
            "objective": {"name": "reward_model", "members": 2},
            "train": {"epochs": 3},
            "model": {"start": None},
            "reward": {"combine": "lower"},
        },
        "eval": "pairs.jsonl",
    }
    model = {"start": "an/adapter"}
    train = {"steps": 9, "eval_every": 3}
    stages = expand(options, model=model, train=train, reward=[{**GOLD, "weight": 0.5}])
    assert list(stages) == ["candidates", "labels", "rm", "policy"]
    rm, policy = stages["rm"], stages["policy"]
    assert (rm.data.train, rm.data.eval) == ("stages.labels", "pairs.jsonl")
    assert (rm.train.epochs, rm.train.steps, rm.model.start) == (3, None, None)
    assert (rm.objective.options["members"], rm.reward, rm.judge) == (2, [], None)
    proxy, gold = policy.reward
    assert (proxy.label, proxy.options["from"], proxy.weight) == ("proxy", "stages.rm", 1.0)
    assert proxy.options["combine"] == "lower"
    assert (gold.label, gold.weight) == ("gold", 0.5)
    assert (policy.data.train, policy.train.steps) == ("prompts.jsonl", 9)
    assert policy.objective.options["beta"] == 0.2


def test_unpaired_labels_and_a_stranger_s_objective(expand):
    stages = expand({"optimizer": {"name": "kto"}})
    assert stages["policy"].data.convert == "pairs-to-labels"
    assert stages["labels"].source.options["soft"] is False
    chosen = {"name": "example.simpo", "beta": 3.0}
    policy = expand({"optimizer": chosen})["policy"]
    assert (policy.objective.name, policy.objective.options["beta"]) == ("example.simpo", 3.0)


def parts(sections, **options):
    """By name, with one objective of each kind around."""
    kinds = {"dpo": Pairs, "grpo": Rollouts}
    around = Around(sections, kinds.__getitem__, lambda batch: "dpo")
    recipe = RLAIF(RLAIFConfig.model_validate(options))
    return {part.name: part.sections for part in recipe.expand(around)}


def test_without_a_judge_the_run_s_own_model_judges():
    sections = {"data": {"train": "prompts.jsonl"}}
    assert parts(sections)["labels"]["judge"] == {"name": "local"}
    scored = parts(sections, feedback="score", optimizer={"name": "grpo"})
    assert scored["train"]["judge"] == {"name": "local", "mode": "score"}


def test_score_is_one_stage_with_the_judge_for_its_reward():
    sections = {"judge": {"name": "openai", "model": "m"}, "reward": [{**GOLD, "weight": 0.0}]}
    scored = parts(sections, feedback="score", optimizer={"name": "grpo", "beta": 0.2})
    assert scored == {
        "train": {
            "objective": {"name": "grpo", "beta": 0.2},
            "judge": {"name": "openai", "model": "m", "mode": "score"},
            "reward": [{"name": "judge"}, {**GOLD, "weight": 0.0}],
        }
    }
    weighed = [{"name": "judge", "weight": 0.5, "clip": [1, 10]}, GOLD]
    again = parts({"reward": weighed}, feedback="score", optimizer={"name": "grpo"})
    assert again["train"]["reward"] == weighed


def test_expanding_changes_nothing_around():
    sections = {"judge": {"name": "openai"}, "reward": [GOLD], "model": {"start": "x"}}
    before = json.dumps(sections)
    first = parts(sections, optimizer={"name": "grpo"})
    assert parts(sections, optimizer={"name": "grpo"}) == first
    assert json.dumps(sections) == before


@pytest.mark.parametrize(
    "options, sections, said",
    [
        (
            {"feedback": "score"},
            {},
            "objective.optimizer: say which objective learns from Rollouts: grpo, ppo, ",
        ),
        (
            {"feedback": "score", "optimizer": {"name": "dpo"}},
            {},
            "objective.optimizer: 'dpo' learns from Pairs, and what this recipe gives it are Roll",
        ),
        (
            {"feedback": "score", "optimizer": {"name": "grpo"}, "n": 4},
            {},
            "objective.n: this is of feedback: preference, and feedback is score: leave it out",
        ),
        (
            {"feedback": "score", "optimizer": {"name": "grpo"}},
            {"judge": {**JUDGE, "mode": "compare"}},
            "objective.feedback: with feedback: score the judge rates each completion, and "
            "judge.mode is compare: leave judge.mode out, or change the feedback",
        ),
        (
            {"reward_model": {"train": {"epochs": 2}}},
            {},
            "objective.reward_model: the optimizer 'dpo' learns from the pairs, and no reward",
        ),
        ({"pairs": "data", "n": 4}, {}, "objective.n: this is of pairs: rollouts, and pairs is"),
        ({"labels": {"by": "reward"}}, {}, "objective.labels.by: AI feedback is labels by judge"),
        (
            {"labels": {"soft": False}},
            {},
            "objective.labels.soft: this is the recipe's own option",
        ),
        (
            {"optimizer": {"name": "kto"}, "soft": True},
            {},
            "objective.soft: the optimizer learns from completions that are good or bad, and an",
        ),
        ({"labels": {"nois": 3}}, {}, "objective.labels.nois: unknown key. Did you mean 'noise'?"),
        (
            {"optimiser": {"name": "dpo"}},
            {},
            "objective.optimiser: unknown key. Did you mean 'opt",
        ),
        ({"optimizer": {"name": "sft"}}, {}, "objective.optimizer: 'sft' learns from Demonstrat"),
        ({"optimizer": {"name": "best_of_n"}}, {}, "objective.optimizer.name: 'best_of_n' is a"),
        ({}, {"source": {"name": "dataset"}}, "objective: the source is the recipe's own: leave"),
        (
            {"feedback": "score", "optimizer": {"name": "grpo"}},
            {"reward": [{**GOLD, "label": "judge"}]},
            "objective: a reward is labelled 'judge', which is what the log calls the judge's sc",
        ),
        (
            {"optimizer": {"name": "grpo"}},
            {"reward": [{**GOLD, "label": "proxy"}]},
            "objective: a reward is labelled 'proxy'",
        ),
    ],
)
def test_what_it_refuses(error, options, sections, said):
    assert error(options, **sections).startswith(said)


def test_as_a_stage_it_begins_where_an_earlier_one_ended(expand):
    stages = [
        {"name": "sft", "objective": {"name": "sft"}},
        {"name": "ai", "model": {"start": "stages.sft"}, "objective": {"name": "rlaif"}},
        {"name": "more", "model": {"start": "stages.ai"}, "objective": {"name": "dpo"}},
    ]
    found = expand(stages=stages, objective=None)
    assert list(found) == ["sft", "ai-candidates", "ai-labels", "ai", "more"]
    starts = [run.model.start for run in found.values()]
    assert starts == [None, "stages.sft", None, "stages.sft", "stages.ai"]
    assert found["ai"].data.train == "stages.ai-labels"


def settings(world, **changes):
    """A run file on the small world's prompts, of one epoch."""
    return world.settings(
        **{
            "data": {"train": str(world.demonstrations), "eval": None, "holdout": 0.2},
            "judge": {**JUDGE, "sharp": 8.0},
            "plugins": [str(SIMPO), TOYS],
            "rollout": {"max_new_tokens": 8},
            "train": {"epochs": None, "steps": 3, "eval_samples": 2},
            **changes,
        }
    )


def trained(path, whole, run):
    path.write_text(yaml.safe_dump(whole))
    return trimtab.train(path, run)


def weights(run):
    return sha256_of(run / "adapter/adapter_model.safetensors")


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    """Pairs of three completions of each prompt, three steps of the optimizer."""
    home = tmp_path_factory.mktemp("rlaif")
    objective = {"name": "rlaif", "n": 3, "optimizer": {"name": "dpo"}}
    return trained(home / "run.yaml", settings(world, objective=objective), home / "run")


def test_the_judge_labels_what_the_policy_wrote(finished):
    rows = lines(finished / "stages/labels/data/train.jsonl")
    answers = {
        json.dumps(row["prompt"]): [one[0]["content"] for one in row["responses"]]
        for row in lines(finished / "stages/candidates/data/train.jsonl")
    }
    assert rows
    for row in rows:
        chosen, rejected = (row[side][0]["content"] for side in ("chosen", "rejected"))
        assert {chosen, rejected} <= set(answers[json.dumps(row["prompt"])])
        assert share(chosen) > share(rejected)
        assert 0.5 < row["preference"] < 1 and row["annotator"].startswith("judge:toys.vowels")
    made = json.loads((finished / "stages/labels/data.json").read_text())["made"]
    assert made["read"] == made["used"] + len(made["dropped"]) == len(answers)


def test_through_rlaif_and_through_its_optimizer_the_same_labels_give_the_same_weights(
    finished, world, tmp_path
):
    labels = tmp_path / "labels.jsonl"
    labels.write_bytes((finished / "stages/labels/data/train.jsonl").read_bytes())
    data = {"train": str(labels), "eval": None, "holdout": 0.2}  # as the policy's stage has it
    plain = settings(world, objective={"name": "dpo"}, data=data)
    del plain["judge"]
    run = trained(tmp_path / "plain.yaml", plain, tmp_path / "plain")
    assert weights(run) == weights(finished / "stages/policy")
    trained_to = load_file(run / "adapter/adapter_model.safetensors")
    assert any(each.abs().max() > 0 for name, each in trained_to.items() if "lora_B" in name)


def test_a_stranger_s_objective_learns_from_the_same_labels(finished, world, tmp_path):
    """And what is not its own is kept: the completions, and their labels."""
    home = Path(shutil.copytree(finished, tmp_path / "run"))
    chosen = {"name": "example.simpo", "beta": 1.5}
    whole = settings(world, objective={"name": "rlaif", "n": 3, "optimizer": chosen})
    trained(tmp_path / "run.yaml", whole, home)
    assert {each.name.partition("-")[0] for each in home.glob("replaced/*")} == {"policy"}
    for stage in ("candidates", "labels"):
        made = [run / f"stages/{stage}/data/train.jsonl" for run in (finished, home)]
        assert sha256_of(made[0]) == sha256_of(made[1])
    assert weights(home / "stages/policy") != weights(finished / "stages/policy")
    losses = [step["loss"] for step in lines(home / "stages/policy/metrics.jsonl")]
    assert len(losses) == 3


def keys(tmp_path, plugins, whole):
    """Of the stages that a run file stands for."""
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(whole))
    found: dict[str, Key] = {}
    for stage in load(path, (), plugins).stages:
        found[str(stage.name)] = Key.of(absolute(stage.run, plugins), plugins, found)
    return {name: key.key for name, key in found.items()}


def test_another_judge_labels_anew_and_samples_nothing_anew(world, plugins, tmp_path):
    objective = {"name": "rlaif", "n": 3}
    before = keys(tmp_path, plugins, settings(world, objective=objective))
    judge = {**JUDGE, "sharp": 9.0}
    after = keys(tmp_path, plugins, settings(world, objective=objective, judge=judge))
    assert [name for name in before if after[name] != before[name]] == ["labels", "policy"]
    objective["optimizer"] = {"name": "example.simpo"}
    after = keys(tmp_path, plugins, settings(world, objective=objective))
    assert [name for name in before if after[name] != before[name]] == ["policy"]


ONLINE = {
    "rollout": {"group": 2, "max_new_tokens": 8},
    "train": {"epochs": None, "steps": 2, "eval_samples": 2},
}


def test_the_judge_s_score_is_the_reward(world, tmp_path):
    """Through the recipe and as a plain file: the same weights."""
    optimizer = {"name": "grpo", "beta": 0.1}
    objective = {"name": "rlaif", "feedback": "score", "optimizer": optimizer}
    sections = {"reward": [{**GOLD, "weight": 0.0}], **ONLINE}
    path = tmp_path / "run.yaml"
    run = trained(path, settings(world, objective=objective, **sections), tmp_path / "run")
    for sample in lines(run / "samples.jsonl"):
        assert sample["parts"].keys() == {"judge", "gold"}
        assert sample["reward"] == sample["parts"]["judge"]
        expected = 1 + 9 * share(sample["completion"])
        assert sample["reward"] == pytest.approx(expected, abs=1e-12)
    sections["reward"].insert(0, {"name": "judge"})
    sections |= {"objective": optimizer, "judge": {**JUDGE, "sharp": 8.0, "mode": "score"}}
    plain = trained(tmp_path / "plain.yaml", settings(world, **sections), tmp_path / "plain")
    assert weights(run) == weights(plain)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["grpo", "ppo", "rloo"])
def test_a_reward_model_of_the_labels_to_the_end(world, tmp_path, optimizer):
    chosen = {"name": "rlaif", "n": 3, "optimizer": {"name": optimizer}}
    chosen["reward_model"] = {"train": {"rows": 2}}
    whole = settings(world, objective=chosen, reward=[{**GOLD, "weight": 0.0}], **ONLINE)
    run = trained(tmp_path / "run.yaml", whole, tmp_path / "run") / "stages"
    assert (run / "rm/adapter/adapter_model.safetensors").is_file()
    last = lines(run / "policy/evals.jsonl")[-1]
    assert {"reward/proxy", "reward/gold"} <= last.keys()
    (agreed,) = json.loads((run / "labels/data.json").read_text())["judge"]["gold_agreement"]
    assert agreed == "gold"


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"optimizer": {"name": "kto"}}, {"pairs": "data"}])
def test_the_run_s_own_model_judges_to_the_end(world, tmp_path, options):
    """The judge local: the base with its adapters off, whose window holds what a judge reads."""
    whole = settings(world, objective={"name": "rlaif", **options})
    whole["judge"] = {"name": "local", "disagreement": "average"}
    whole["model"]["name"] = str(save_tiny(tmp_path / "model", max_position_embeddings=2048))
    if options.get("pairs") == "data":
        whole["data"] = {"train": str(world.pairs), "holdout": 0.2}
    run = trained(tmp_path / "run.yaml", whole, tmp_path / "run") / "stages"
    judged = [line for line in lines(run / "labels/samples.jsonl") if line["why"] is None]
    assert judged and all(len(line["orders"]) == 2 for line in judged)
    account = json.loads((run / "labels/data.json").read_text())
    assert account["judged_by"]["the_runs_base"] is True
    assert (run / "policy/adapter/adapter_model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_death_anywhere_changes_nothing(finished, tmp_path, seed):
    run, file = tmp_path / "run", finished.parent / "run.yaml"
    event = random.Random(seed).randrange(40 * seed, 40 * (seed + 1)) + 1

    def go():
        if (run / "config.yaml").exists():
            trimtab.resume(run)
        else:
            trimtab.train(file, run)

    deaths.dies_at(event, go)
    assert deaths.fork(go) == 0
    assert differences(run, finished) == []

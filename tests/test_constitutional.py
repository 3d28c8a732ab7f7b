"""Constitutional AI from one file: the stages that it stands for, its refusals, and whole runs."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import judging_toys
import pytest
import wording_engine
import yaml
from expanding import SIMPO, Expanding, knowing
from jsonschema import Draft202012Validator
from worlds import lines

import trimtab
from trimtab.core.keys import keys_of
from trimtab.core.paths import absolute
from trimtab.core.runfile import dump_plan, load
from trimtab.core.runschema import run_schema
from trimtab.core.written import shortest

TOYS = Path(judging_toys.__file__)
JUDGE = {"name": "toys.vowels"}
GOLD = {"name": "function", "function": "rewarding:variety", "label": "gold"}
ASKS = {"name": "judge", "weight": 0.0}

PRINCIPLES = {
    "name": "two",
    "principles": [
        {
            "id": "kind",
            "critique": "Is it kind?",
            "revise": "Be kind.",
            "compare": "Which is kind?",
        },
        {
            "id": "short",
            "critique": "Too long?",
            "revise": "Be short.",
            "compare": "Which is short?",
        },
    ],
}
"""In words that leave room in the small world's model."""


@pytest.fixture(scope="module")
def plugins():
    return knowing(SIMPO, TOYS)


@pytest.fixture
def expanding(tmp_path, plugins):
    return Expanding(tmp_path, plugins, judge=JUDGE)


@pytest.fixture
def expand(expanding):
    """The stages that the recipe stands for, by name."""
    return partial(expanding, "constitutional")


@pytest.fixture
def error(expanding):
    """The one thing that is wrong, without the line."""
    return partial(expanding.error, "constitutional")


def test_revise_imitate_answer_judge_learn(expand):
    options = {"constitution": "c.yaml", "rounds": 3, "n": 4, "revise": {"critique": False}}
    sections = {
        "data": {"train": "prompts.jsonl", "max_prompt_tokens": 99, "limit": 9},
        "model": {"start": "an/adapter", "quantization": "none"},
        "train": {"steps": 7, "rows": 6, "seed": 5, "eval_every": 3},
        "rollout": {"max_new_tokens": 9, "group": 8},
    }
    stages = expand(options, **sections)
    assert list(stages) == ["revise", "fine-tune", "candidates", "labels", "policy"]
    revise, tune, candidates, labels, policy = stages.values()
    said = {"constitution": "c.yaml", "rounds": 3, "critique": False, "form": "revisions"}
    assert (
        revise.source.name == "critique_revise" and said.items() <= revise.source.options.items()
    )
    assert (revise.data.train, revise.data.limit) == ("prompts.jsonl", 9)
    assert (revise.judge, revise.rollout.group, revise.rollout.max_new_tokens) == (None, None, 9)
    assert (tune.objective.name, tune.data.train, tune.data.limit) == (
        "sft",
        "stages.revise",
        None,
    )
    assert (tune.train.steps, tune.train.epochs, tune.train.rows) == (None, None, 6)
    assert (candidates.rollout.group, candidates.train.seed) == (4, 6)
    assert labels.data.train == "stages.candidates" and labels.judge.name == "toys.vowels"
    said = {"by": "judge", "constitution": "c.yaml", "soft": True, "clamp": None}
    assert said.items() <= labels.source.options.items()
    assert (policy.objective.name, policy.data.train) == ("dpo", "stages.labels")
    assert (policy.train.steps, policy.judge) == (7, None)
    assert [stage.model.start for stage in stages.values()] == [
        *("an/adapter", "an/adapter", "stages.fine-tune", None, "stages.fine-tune"),
    ]
    assert {stage.data.max_prompt_tokens for stage in stages.values()} == {99}
    assert {stage.train.seed for name, stage in stages.items() if name != "candidates"} == {5}


def test_ours_is_the_constitution_where_none_is_given(expand):
    stages = expand()
    assert stages["revise"].source.options["constitution"] is None
    assert stages["labels"].source.options["constitution"] == "trimtab"


def test_the_prompts_that_are_judged_come_after_those_that_were_revised(expand):
    stages = expand({"prompts": 5})
    both = [stages[name] for name in ("revise", "candidates")]
    assert [run.source.options["prompts"] for run in both] == [5, 5]
    assert [run.source.options["skip"] for run in both] == [0, 5]
    assert [run.train.seed for run in both] == [0, 0]  # one order of the prompts


def test_labels_of_a_judge_that_reasons_are_clamped(expand):
    def labels(options=None, **judge):
        return expand(options, judge={"name": "local", **judge})["labels"]

    assert labels().source.options["clamp"] is None
    assert labels(reason=True).source.options["clamp"] == [0.4, 0.6]
    wider = {"labels": {"clamp": [0.2, 0.8], "principles": 4}}
    assert labels(wider, reason=True).source.options["clamp"] == [0.2, 0.8]
    assert labels(wider, reason=True).source.options["principles"] == 4
    assert labels({"labels": {"soft": False}}, reason=True).source.options["clamp"] is None
    assert labels(mode="score").judge.options["mode"] == "compare"


def test_labels_may_have_a_constitution_of_their_own(expand):
    stages = expand({"constitution": "a.yaml", "labels": {"constitution": "b.yaml"}})
    named = [stages[name].source.options["constitution"] for name in ("revise", "labels")]
    assert named == ["a.yaml", "b.yaml"]


def test_helpful_demonstrations_are_mixed_into_the_fine_tune(expand):
    fine_tune = {"train": {"epochs": 2, "learning_rate": 1e-3}, "eval": "held.jsonl"}
    tune = expand({"helpful": "kind.jsonl", "fine_tune": fine_tune})["fine-tune"]
    assert tune.data.train == ["stages.revise", "kind.jsonl"]
    assert (tune.data.eval, tune.train.epochs, tune.train.learning_rate) == ("held.jsonl", 2, 1e-3)
    stages = expand({"fine_tune": {"model": {"adapter": {"rank": 3}}}})
    ranks = [stages[name].model.adapter.rank for name in ("fine-tune", "candidates", "policy")]
    assert ranks == [3, 3, 16]


def test_only_the_fine_tune(expand):
    stages = expand({"pairs": "none"})
    assert list(stages) == ["revise", "fine-tune"]
    inner = [
        {"name": "cai", "objective": {"name": "constitutional", "pairs": "none"}},
        {"name": "more", "model": {"start": "stages.cai"}, "objective": {"name": "dpo"}},
    ]
    found = expand(stages=inner, objective=None)
    assert list(found) == ["cai-revise", "cai", "more"]
    assert found["more"].model.start == "stages.cai"


def test_each_revision_over_its_draft(expand):
    stages = expand({"pairs": "revisions", "eval": "held.jsonl"}, model={"start": "sft"})
    assert list(stages) == ["revise", "policy"]
    assert stages["revise"].source.options["form"] == "pairs"
    policy = stages["policy"]
    assert (policy.data.train, policy.data.eval) == ("stages.revise", "held.jsonl")
    assert policy.model.start == "sft"
    assert expand({"pairs": "revisions", "optimizer": {"name": "kto"}})["policy"].data.convert == (
        "pairs-to-labels"
    )


def test_thumbs_are_of_certain_labels(expand):
    stages = expand({"optimizer": {"name": "kto"}})
    assert stages["policy"].data.convert == "pairs-to-labels"
    assert stages["labels"].source.options["soft"] is False


@pytest.mark.parametrize("pairs, labels", [("judged", "labels"), ("revisions", "revise")])
def test_an_optimizer_on_rollouts_has_a_reward_model_of_the_pairs(expand, pairs, labels):
    options = {
        "pairs": pairs,
        "optimizer": {"name": "grpo", "beta": 0.2},
        "reward_model": {"train": {"epochs": 3}, "reward": {"combine": "lower"}},
    }
    watch = {"reward": "proxy"}
    stages = expand(
        options, reward=[{**GOLD, "weight": 0.5}], watch=watch, train={"eval_every": 1}
    )
    assert list(stages)[-2:] == ["rm", "policy"]
    rm, policy = stages["rm"], stages["policy"]
    assert (rm.data.train, rm.train.epochs, rm.reward) == (f"stages.{labels}", 3, [])
    proxy, gold = policy.reward
    assert (proxy.label, proxy.options["from"], proxy.weight) == ("proxy", "stages.rm", 1.0)
    assert proxy.options["combine"] == "lower" and gold.weight == 0.5
    assert policy.data.train == "prompts.jsonl" and policy.objective.options["beta"] == 0.2
    assert [name for name, run in stages.items() if run.watch] == ["policy"]


def test_the_file_s_rewards_measure_and_those_that_ask_the_judge_only_at_the_end(expand):
    mean = {**GOLD, "label": "mean", "standardize": True}
    stages = expand(reward=[GOLD, mean, ASKS])
    names = {name: [one.label or one.name for one in run.reward] for name, run in stages.items()}
    assert names == {
        "revise": ["gold", "mean"],
        "fine-tune": ["gold", "mean"],
        "candidates": [],
        "labels": ["gold", "mean"],
        "policy": ["gold", "mean", "judge"],
    }
    assert not any(one.standardize for one in stages["revise"].reward)
    assert stages["policy"].judge.name == "toys.vowels"


def test_without_a_judge_the_run_s_own_model_judges(expand):
    stages = expand({"revise": {"by": "judge"}}, judge=None)
    judges = {name: run.judge and run.judge.name for name, run in stages.items()}
    assert judges["revise"] == judges["labels"] == "local"
    assert judges["candidates"] is judges["policy"] is None


def test_labels_by_gold_ask_no_judge(expand):
    labels = expand({"labels": {"by": "reward"}}, reward=[GOLD])["labels"]
    assert (labels.judge, [one.label for one in labels.reward]) == (None, ["gold"])
    assert (labels.source.options["constitution"], labels.source.options["soft"]) == (None, False)


def test_any_objective_of_the_right_kind_learns(expand):
    chosen = {"name": "example.simpo", "beta": 3.0}
    policy = expand({"optimizer": chosen})["policy"]
    assert (policy.objective.name, policy.objective.options["beta"]) == ("example.simpo", 3.0)


@pytest.mark.parametrize(
    "options, sections, said",
    [
        ({"optimizer": {"name": "sft"}}, {}, "objective.optimizer: 'sft' learns from Demonstrat"),
        (
            {"optimizer": {"name": "rlaif"}},
            {},
            "objective.optimizer.name: 'rlaif' is a recipe, and an objective is wanted here",
        ),
        (
            {"fine_tune": {"objective": {"name": "dpo"}}},
            {},
            "objective.fine_tune.objective: 'dpo' learns from Pairs, and what this recipe gives",
        ),
        (
            {"reward_model": {"train": {"epochs": 2}}},
            {},
            "objective.reward_model: the optimizer 'dpo' learns from the pairs, and no reward mod",
        ),
        (
            {"pairs": "none", "optimizer": {"name": "dpo"}},
            {},
            "objective.optimizer: with pairs: none nothing reads it",
        ),
        (
            {"pairs": "revisions", "n": 4},
            {},
            "objective.n: with pairs: revisions nothing reads it",
        ),
        (
            {"pairs": "revisions", "revise": {"form": "revisions"}},
            {},
            "objective.revise.form: it follows from pairs: revisions",
        ),
        ({"labels": {"by": "reward"}}, {}, "objective.labels.by: the run file names no reward"),
        (
            {"labels": {"by": "reward", "principles": 2}},
            {"reward": [GOLD]},
            "objective.labels: principles is of by: judge, and labels come by: reward",
        ),
        (
            {"labels": {"clmap": 3}},
            {},
            "objective.labels.clmap: unknown key. Did you mean 'clamp'",
        ),
        (
            {"revise": {"rouds": 3}},
            {},
            "objective.revise.rouds: unknown key. Did you mean 'rounds",
        ),
        ({"rounds": 0}, {}, "objective.rounds: "),
        ({}, {"source": {"name": "dataset"}}, "objective: the source is the recipe's own: leave"),
        (
            {"optimizer": {"name": "grpo"}},
            {"reward": [{**GOLD, "label": "proxy"}]},
            "objective: a reward is labelled 'proxy'",
        ),
    ],
)
def test_what_it_refuses(error, options, sections, said):
    assert error(options, **sections).startswith(said)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": {"name": "grpo"}, "labels": {"principles": 2}, "rounds": 2, "prompts": 4},
        {"pairs": "revisions", "optimizer": {"name": "example.simpo"}, "revise": {"by": "judge"}},
    ],
)
def test_it_goes_through_text(plugins, tmp_path, options):
    """What validate prints, and what a run keeps, are the plan; editors accept all three."""
    whole = {
        "data": {"train": "prompts.jsonl"},
        "judge": JUDGE,
        "reward": [GOLD],
        "objective": {"name": "constitutional", **options},
        "plugins": [str(SIMPO), str(TOYS)],
    }
    schema = Draft202012Validator(run_schema(plugins))
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(whole))
    plan = load(path, (), plugins)
    assert list(schema.iter_errors(whole)) == []
    for text in (shortest(plan, plugins), dump_plan(plan)):
        path.write_text(text)
        assert load(path, (), plugins).stages == plan.stages
        assert list(schema.iter_errors(yaml.safe_load(text))) == []


def principles(path, **changes):
    """A constitution, with other words in its first principle."""
    first, *others = PRINCIPLES["principles"]
    path.write_text(yaml.safe_dump({**PRINCIPLES, "principles": [{**first, **changes}, *others]}))
    return str(path)


def settings(world, objective, **changes):
    """A run file on the small world's prompts."""
    return world.settings(
        **{
            "data": {"train": str(world.demonstrations), "eval": None, "holdout": 0.2},
            "objective": {"name": "constitutional", **objective},
            "judge": {**JUDGE, "sharp": 8.0},
            "reward": [{**GOLD, "weight": 0.0}],
            "plugins": [str(SIMPO), str(TOYS), wording_engine.__file__],
            "rollout": {"engine": "toys.words", "max_new_tokens": 40},
            "train": {"epochs": None, "steps": 2, "eval_samples": 1},
            **changes,
        }
    )


def test_another_content_of_the_constitution_concerns_what_depends_on_it(world, plugins, tmp_path):
    """Which of its words changed does not matter: the file is what counts."""
    revising, judging = principles(tmp_path / "a.yaml"), principles(tmp_path / "b.yaml")
    objective = {"constitution": revising, "labels": {"constitution": judging}}
    whole = settings(world, objective)
    before = {"name": "sft", "objective": {"name": "sft"}}
    recipe = {"name": "cai", "objective": whole.pop("objective"), "model": {"start": "stages.sft"}}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**whole, "stages": [before, recipe]}))

    def keys():
        plan = load(path, (), plugins)
        stages = {str(stage.name): absolute(stage.run, plugins) for stage in plan.stages}
        return {name: key.key for name, key in keys_of(stages, plugins, tmp_path / "no").items()}

    def concerned(named):
        was = keys()
        principles(Path(named), compare="Which of them is kind?")
        now = keys()
        return {name for name in was if was[name] != now[name]}

    assert concerned(judging) == {"cai-labels", "cai"}
    assert concerned(revising) == {
        *("cai-revise", "cai-fine-tune", "cai-candidates", "cai-labels", "cai"),
    }


def trained(path, whole):
    path.write_text(yaml.safe_dump(whole))
    return trimtab.train(path, path.parent / "run")


def test_a_whole_run_ends_with_a_stranger_s_objective(world, tmp_path):
    objective = {
        "constitution": principles(tmp_path / "c.yaml"),
        "rounds": 2,
        "helpful": str(world.demonstrations),
        "labels": {"pairs": "all"},
        "optimizer": {"name": "example.simpo"},
    }
    run = trained(tmp_path / "run.yaml", settings(world, objective))
    stages = run / "stages"
    chains = lines(stages / "revise/constitution.jsonl")
    rows = lines(stages / "revise/data/train.jsonl")
    ids = {one["id"] for one in PRINCIPLES["principles"]}
    assert all({each["principle"] for each in chain["rounds"]} == ids for chain in chains)
    assert [chain["final"] for chain in chains if "dropped" not in chain] == [
        row["completion"][0]["content"] for row in rows
    ]
    read = json.loads((stages / "fine-tune/data.json").read_text())
    assert read["read"] == len(rows) + 7
    judged = lines(stages / "labels/samples.jsonl")
    assert {one["principle"] for one in judged} == ids
    labels = lines(stages / "labels/data/train.jsonl")
    assert labels and all(0.5 < row["preference"] <= 1 for row in labels)
    assert len(lines(stages / "policy/metrics.jsonl")) == 2
    assert "reward/gold" in lines(stages / "policy/evals.jsonl")[-1]


def test_a_run_on_revisions_over_drafts(world, tmp_path):
    objective = {"constitution": principles(tmp_path / "c.yaml"), "pairs": "revisions"}
    run = trained(tmp_path / "run.yaml", settings(world, objective))
    rows = lines(run / "stages/revise/data/train.jsonl")
    chains = {
        json.dumps(one["prompt"]): one for one in lines(run / "stages/revise/constitution.jsonl")
    }
    for row in rows:
        chain = chains[json.dumps(row["prompt"][0]["content"])]
        assert (row["chosen"][0]["content"], row["rejected"][0]["content"]) == (
            chain["final"],
            chain["draft"],
        )
    assert rows and len(lines(run / "stages/policy/metrics.jsonl")) == 2


@pytest.mark.slow
def test_the_run_s_own_model_criticizes_judges_and_is_rewarded(world, tmp_path):
    """And with a reward model of the labels. It does not agree with itself: the mean of the orders
    is the label."""
    objective = {
        "constitution": principles(tmp_path / "c.yaml"),
        "optimizer": {"name": "grpo"},
        "reward_model": {"train": {"rows": 2}},
    }
    judge = {"name": "local", "disagreement": "average"}
    rollout = {"engine": "toys.words", "group": 2, "max_new_tokens": 40}
    whole = settings(world, objective, judge=judge, rollout=rollout)
    run = trained(tmp_path / "run.yaml", whole)
    assert lines(run / "stages/labels/data/train.jsonl")
    assert "reward/proxy" in lines(run / "stages/policy/evals.jsonl")[-1]

"""The recipes that come with trimtab: their stages, their refusals, and two of them to the end."""

from __future__ import annotations

import pytest
import yaml
from expanding import SIMPO, Expanding, knowing
from jsonschema import Draft202012Validator
from worlds import lines

import trimtab
from trimtab.core.runfile import RunFileError, dump_plan, load
from trimtab.core.runschema import run_schema
from trimtab.core.written import shortest

GOLD = {"name": "function", "function": "rewarding:variety", "label": "gold"}
JUDGING = [
    {**GOLD, "label": "judge", "weight": 0.0},
    {"name": "function", "function": "rewarding:short", "weight": 0.5},
]


@pytest.fixture(scope="module")
def plugins():
    return knowing(SIMPO)


@pytest.fixture(scope="module")
def schema(plugins):
    return Draft202012Validator(run_schema(plugins))


@pytest.fixture
def expand(tmp_path, plugins):
    """The stages of a recipe, by name."""
    return Expanding(tmp_path, plugins, reward=[GOLD])


@pytest.fixture
def error(expand):
    """The one thing that is wrong, without the line."""
    return expand.error


def test_online_dpo_is_a_pair_objective_over_rollouts(expand):
    ((name, run),) = expand("online_dpo").items()
    assert (name, run.objective.name, run.rollout.group) == (None, "dpo", 2)
    assert (run.source.name, run.source.options) == (
        "rollout_pairs",
        {"pairs": "best_worst", "soft": False, "least_gap": 0.0},
    )


def test_online_dpo_takes_any_pair_objective_and_its_options(expand):
    chosen = {"name": "example.simpo", "beta": 3.0}
    options = {"optimizer": chosen, "pairs": "all", "soft": True, "least_gap": 0.1}
    rollout = {"group": 8, "max_new_tokens": 5}
    (run,) = expand("online_dpo", options, rollout=rollout, reward=[GOLD, *JUDGING]).values()
    assert (run.objective.name, run.objective.options) == (
        "example.simpo",
        {"beta": 3.0, "gamma": 1.0},
    )
    assert run.source.options == {"pairs": "all", "soft": True, "least_gap": 0.1}
    assert (run.rollout.group, run.rollout.max_new_tokens) == (8, 5)
    assert [reward.weight for reward in run.reward] == [1.0, 0.0, 0.5]


@pytest.mark.parametrize(
    "options, sections, said",
    [
        ({}, {"reward": []}, "objective: pairs are made by reward, and the run file names none"),
        ({}, {"reward": JUDGING[:1]}, "objective: pairs are made by reward, and the run file"),
        ({}, {"source": {"name": "dataset"}}, "objective: the source is the recipe's own: leave"),
        (
            {"optimizer": {"name": "kto"}},
            {},
            "objective.optimizer: 'kto' learns from Labelled, and what this recipe gives it are "
            "Pairs",
        ),
        (
            {"optimizer": {"name": "iterated"}},
            {},
            "objective.optimizer.name: 'iterated' is a recipe, and an objective is wanted here",
        ),
        ({"beta": 0.1}, {}, "objective.beta: unknown key. Did you mean 'optimizer.beta'?"),
        ({"soft": "x"}, {}, "objective.soft: wants true or false, not the text 'x'"),
    ],
)
def test_what_online_dpo_refuses(error, options, sections, said):
    assert error("online_dpo", options, **sections).startswith(said)


def test_best_of_n_samples_then_imitates(expand):
    stages = expand("best_of_n", {"share": 0.5}, train={"steps": 7}, reward=[GOLD, *JUDGING])
    assert list(stages) == ["sample-1", "learn-1"]
    sample, learn = stages.values()
    assert (sample.objective, sample.source.name, sample.rollout.group) == (None, "best", 4)
    assert (sample.source.options["share"], sample.source.options["prompts"]) == (0.5, None)
    assert (sample.data.train, learn.data.train) == ("prompts.jsonl", "stages.sample-1")
    assert (learn.objective.name, learn.source) == ("sft", None)
    assert (sample.train.steps, learn.train.steps) == (None, 7)
    assert len(sample.reward) == 2 and len(learn.reward) == 3  # what is watched judges no sample


def test_best_of_n_goes_on_from_the_policy_so_far(expand):
    model = {"start": "an/adapter"}
    data = {"train": "prompts.jsonl", "eval": "held.jsonl", "limit": 9, "max_prompt_tokens": 99}
    stages = expand("best_of_n", {"rounds": 3, "prompts": 5}, model=model, data=data)
    names = ["sample-1", "learn-1", "sample-2", "learn-2", "sample-3", "learn-3"]
    assert list(stages) == names
    assert [run.model.start for run in stages.values()] == [
        *("an/adapter", "an/adapter", "stages.learn-1"),
        *("stages.learn-1", "stages.learn-2", "stages.learn-2"),
    ]
    assert [stages[f"sample-{n}"].source.options["skip"] for n in (1, 2, 3)] == [0, 5, 10]
    assert {stages[f"sample-{n}"].train.seed for n in (1, 2, 3)} == {0}  # one order of prompts
    last = stages["learn-3"].data
    assert last.train == ["stages.sample-1", "stages.sample-2", "stages.sample-3"]
    assert (last.eval, last.limit, last.max_prompt_tokens) == (None, None, 99)
    assert expand("best_of_n", {"rounds": 2, "earlier": False})["learn-2"].data.train == (
        "stages.sample-2"
    )
    seeds = expand("best_of_n", {"rounds": 2}, train={"seed": 5})
    assert [run.train.seed for run in seeds.values()] == [5, 5, 6, 5]


def test_what_best_of_n_refuses(error):
    assert error("best_of_n", {"n": 4}, rollout={"group": 2}).startswith(
        "objective.n: n is 4 and rollout.group is 2"
    )
    assert error("best_of_n", reward=[]).startswith("objective: the best completion is the best")
    assert error("best_of_n", {"optimizer": {"name": "dpo"}}).startswith(
        "objective.optimizer: 'dpo' learns from Pairs, and what this recipe gives it are Demo"
    )


@pytest.mark.parametrize("name", ["best_of_n", "iterated"])
def test_a_running_mean_judges_no_samples(error, name):
    said = "objective: the reward 'gold' has standardize, which takes off the running mean of a"
    assert error(name, reward=[{**GOLD, "standardize": True}]).startswith(said)


def test_iterated_with_pairs_needs_no_reward_model(expand):
    stages = expand("iterated", {"labels": {"noise": "bradley_terry", "earlier": ["old"]}})
    rounds = [f"{part}-{n}" for n in (1, 2) for part in ("candidates", "labels", "policy")]
    assert list(stages) == rounds
    assert [run.train.seed for run in stages.values()] == [0, 0, 0, 1, 1, 1]
    first, second = stages["labels-1"].source.options, stages["labels-2"].source.options
    assert (first["earlier"], second["earlier"]) == (["old"], ["stages.labels-1"])
    assert first["noise"] == second["noise"] == "bradley_terry"
    assert stages["policy-2"].data.train == "stages.labels-2"
    assert (stages["policy-1"].model.start, stages["policy-2"].model.start) == (
        None,
        "stages.policy-1",
    )
    assert stages["candidates-2"].model.start == "stages.policy-1"
    assert stages["candidates-1"].reward == []
    assert [reward.label for reward in stages["labels-1"].reward] == ["gold"]


def test_iterated_with_rollouts_refits_the_reward_model(expand):
    options = {
        "optimizer": {"name": "grpo", "beta": 0.2},
        "reward_model": {
            "objective": {"name": "reward_model", "members": 2},
            "train": {"epochs": 3, "learning_rate": 1e-3},
            "model": {"start": None},
            "reward": {"combine": "lower"},
        },
        "prompts": 6,
        "begin": "first",
    }
    sections = {
        "train": {"steps": 9, "rows": 8, "eval_every": 3},
        "model": {"start": "sft", "quantization": "none"},
        "rollout": {"group": 4, "max_unscored": 0.5},
        "watch": {"reward": "gold"},
        "reward": [GOLD, *JUDGING],
    }
    stages = expand("iterated", options, **sections)
    parts = ("candidates", "labels", "rm", "policy")
    assert list(stages) == [f"{part}-{n}" for n in (1, 2) for part in parts]
    rm, policy = stages["rm-2"], stages["policy-2"]
    assert (rm.data.train, rm.objective.options["members"]) == ("stages.labels-2", 2)
    assert (rm.train.steps, rm.train.epochs, rm.train.rows) == (None, 3, 8)
    assert (rm.train.learning_rate, rm.model.start, rm.model.quantization) == (1e-3, None, "none")
    assert (rm.reward, rm.watch) == ([], None)
    proxy, *watched = policy.reward
    assert (proxy.name, proxy.label, proxy.weight) == ("reward_model", "proxy", 1.0)
    assert (proxy.options["from"], proxy.options["combine"]) == ("stages.rm-2", "lower")
    assert [(reward.label, reward.weight) for reward in watched] == [
        ("gold", 0.0),
        ("judge", 0.0),
        (None, 0.0),
    ]
    assert (policy.data.train, policy.train.steps, policy.model.start) == (
        "prompts.jsonl",
        9,
        "sft",
    )
    assert [name for name, run in stages.items() if run.watch] == ["policy-1", "policy-2"]
    assert [stages[f"candidates-{n}"].rollout.group for n in (1, 2)] == [2, 2]
    assert [stages[f"candidates-{n}"].source.options["skip"] for n in (1, 2)] == [0, 6]
    assert [reward.label for reward in stages["labels-1"].reward] == ["gold", None]
    assert stages["labels-1"].model.start is None


def test_selection_by_disagreement_begins_in_the_second_round(expand):
    options = {"rounds": 3, "select": {"budget": 8, "per_prompt": 2}}
    stages = expand("iterated", options)
    chosen = [stages[f"selection-{n}"] for n in (1, 2, 3)]
    assert [run.source.options["by"] for run in chosen] == ["random", *["disagreement"] * 2]
    assert all(run.source.options["budget"] == 8 for run in chosen)
    assert all(run.source.options["per_prompt"] == 2 for run in chosen)
    assert chosen[0].reward == []
    assert [run.reward[0].options["from"] for run in chosen[1:]] == ["stages.rm-1", "stages.rm-2"]
    fitted = [name for name in stages if name.startswith("rm-")]
    assert fitted == ["rm-1", "rm-2"]  # a third would choose nothing
    assert stages["rm-1"].objective.options["members"] == 3
    assert stages["labels-2"].data.train == "stages.selection-2"
    by_chance = expand("iterated", {"select": {"by": "random", "budget": 8}})
    assert not [name for name in by_chance if name.startswith("rm-")]
    assert {by_chance[f"selection-{n}"].source.options["by"] for n in (1, 2)} == {"random"}


def test_labels_by_a_judge_or_by_people(expand):
    judge = {"judge": {"name": "none_yet"}}
    by_file = {"labels": {"by": "file", "file": "said-{round}.jsonl"}, "rounds": 2}
    stages = expand("iterated", by_file, reward=[])
    files = [stages[f"labels-{n}"].source.options["file"] for n in (1, 2)]
    assert files == ["said-1.jsonl", "said-2.jsonl"]
    with pytest.raises(RunFileError, match="no judge 'none_yet'"):
        expand("iterated", {"labels": {"by": "judge"}}, **judge)


def test_iterated_learns_from_unpaired_labels(expand):
    stages = expand("iterated", {"optimizer": {"name": "kto"}, "rounds": 1})
    assert stages["policy-1"].data.convert == "pairs-to-labels"


@pytest.mark.parametrize(
    "options, sections, said",
    [
        ({}, {"reward": []}, "objective.labels: the labels are given by reward, and the run file"),
        ({"labels": {"by": "judge"}}, {}, "objective.labels.by: the run file names no judge"),
        (
            {"labels": {"by": "file", "file": "one.jsonl"}},
            {},
            "objective: labels.file: each of the 2 rounds has labels of its own: write {round} ",
        ),
        ({"labels": {"nois": 3}}, {}, "objective.labels.nois: unknown key. Did you mean 'noise'?"),
        ({"select": {"bugdet": 3}}, {}, "objective.select.bugdet: unknown key. Did you mean"),
        ({"select": {"per_prompt": 2}}, {}, "objective.select.budget: this is required"),
        ({"select": {}}, {}, "objective.select.budget: this is required: how many pairs a round"),
        (
            {"select": {"budget": 3}, "rounds": 1},
            {},
            "objective.select.by: in the first round there is no reward model to disagree",
        ),
        (
            {"select": {"budget": 3}, "reward_model": {"objective": {"name": "reward_model"}}},
            {},
            "objective.reward_model.objective: pairs are selected by the disagreement of an ens",
        ),
        (
            {"optimizer": {"name": "grpo"}, "reward_model": {"objective": {"name": "dpo"}}},
            {},
            "objective.reward_model.objective: 'dpo' learns from Pairs, and what this recipe",
        ),
        (
            {"reward_model": {"train": {"stpes": 3}}},
            {},
            "objective.reward_model.train.stpes: unknown key. Did you mean 'steps'?",
        ),
        (
            {"optimizer": {"name": "grpo"}, "reward_model": {"model": {"rank": 3}}},
            {},
            "objective.reward_model.model.rank: unknown key",
        ),
        (
            {"optimizer": {"name": "grpo"}, "reward_model": {"reward": {"combin": "min"}}},
            {},
            "objective.reward_model.reward.combin: unknown key. Did you mean 'combine'?",
        ),
        ({}, {"reward": [{**GOLD, "label": "proxy"}]}, "objective: a reward is labelled 'proxy'"),
    ],
)
def test_what_iterated_refuses(error, options, sections, said):
    assert error("iterated", options, **sections).startswith(said)


EVERY = [
    ("online_dpo", {"optimizer": {"name": "example.simpo"}, "pairs": "all"}),
    ("best_of_n", {"rounds": 2, "prompts": 4, "least": 0.5}),
    ("iterated", {"optimizer": {"name": "example.simpo", "gamma": 0.5}, "rounds": 3}),
    ("iterated", {"optimizer": {"name": "grpo"}, "select": {"budget": 3}, "prompts": 4}),
    ("iterated", {"optimizer": {"name": "kto"}, "labels": {"soft": True}, "begin": "first"}),
    ("rlaif", {"optimizer": {"name": "grpo"}, "labels": {"pairs": "all"}, "budget": 3}),
    ("rlaif", {"optimizer": {"name": "example.simpo", "gamma": 0.5}, "pairs": "data"}),
]


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize("name, options", EVERY)
def test_every_recipe_goes_through_text(plugins, schema, tmp_path, name, options, staged):
    """What validate prints, and what a run keeps, are the plan; editors accept all three."""
    whole = {
        "data": {"train": "prompts.jsonl"},
        "reward": [GOLD, *JUDGING],
        "train": {"steps": 3, "eval_every": 1},
        "model": {"quantization": "none", "adapter": {"rank": 4}},
        "watch": {"reward": "judge"},
        "plugins": [str(SIMPO)],
    }
    recipe = {"objective": {"name": name, **options}}
    if staged:
        first = {"name": "sft", "objective": {"name": "sft"}}
        second = {"name": "main", "model": {"start": "stages.sft"}, **recipe}
        after = {"name": "after", "model": {"start": "stages.main"}, "objective": {"name": "dpo"}}
        whole |= {"stages": [first, second, after]}
    else:
        whole |= recipe
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(whole))
    plan = load(path, (), plugins)
    assert list(schema.iter_errors(whole)) == []
    for text in (shortest(plan, plugins), dump_plan(plan)):
        path.write_text(text)
        again = load(path, (), plugins)
        assert again.stages == plan.stages
        assert list(schema.iter_errors(yaml.safe_load(text))) == []
    if staged:
        assert plan.stages[-1].run.model.start == "stages.main"
        assert [stage.name for stage in plan.stages][-2] == "main"


def trained(world, folder, objective, **changes):
    """The directory of a run on the small world's prompts."""
    settings = world.settings(
        data={"train": str(world.demonstrations), "eval": None, "holdout": 0.2},
        objective=objective,
        reward=[GOLD],
        plugins=[str(SIMPO)],
        **changes,
    )
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(settings))
    return trimtab.train(path, folder / "run")


SHORT = {"epochs": None, "steps": 2, "rows": 4}


def test_rejection_sampling_to_the_end(world, tmp_path):
    run = trained(world, tmp_path, {"name": "best_of_n", "n": 2}, train={**SHORT, "steps": 1})
    rows = lines(run / "stages/sample-1/data/train.jsonl")
    assert rows and all(row["reward"] >= row["mean"] for row in rows)
    before, after = lines(run / "stages/learn-1/evals.jsonl")
    assert "reward/gold" in before and "reward/gold" in after
    assert (run / "stages/learn-1/adapter/adapter_model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["example.simpo", "grpo"])
def test_two_rounds_to_the_end(world, tmp_path, optimizer):
    objective = {
        "name": "iterated",
        "optimizer": {"name": optimizer},
        "select": {"budget": 4},
        "n": 4,
        "reward_model": {"train": {"rows": 2}},
    }
    run = trained(
        world, tmp_path, objective, train=SHORT, rollout={"group": 2, "max_new_tokens": 6}
    )
    stages = run / "stages"
    labels = [lines(stages / f"labels-{n}/data/train.jsonl") for n in (1, 2)]
    assert [len(rows) for rows in labels] == [4, 8]
    assert labels[1][:4] == labels[0]
    assert all("disagreement" in row for row in lines(stages / "selection-2/data/train.jsonl"))
    first, second = (lines(stages / f"candidates-{n}/data/train.jsonl") for n in (1, 2))
    assert [row["responses"] for row in first] != [row["responses"] for row in second]
    last = lines(stages / "policy-2/evals.jsonl")[-1]
    assert ("reward/proxy" in last) == (optimizer == "grpo")
    assert "reward/gold" in last

"""A stage of critiques and revisions: the chains of plain calls, whole after any death."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import deaths
import dying_engine
import pytest
import torch
import warm
import yaml
from test_processes import two
from transformers import AutoModelForCausalLM
from worlds import differences, lines

from trimtab import train
from trimtab.api import resume
from trimtab.core.build_maker import build_maker
from trimtab.core.errors import UserError
from trimtab.core.policy import POLICY
from trimtab.core.processes import Processes
from trimtab.core.rundir import RunDirectory
from trimtab.core.runfile import load
from trimtab.core.sampling import sample, stop_ids, uniforms
from trimtab.core.seeds import mixed
from trimtab.plugins.registry import Plugins

CALLS = 3 * 5
"""Of the engine in three steps: a draft, and two critiques and revisions."""

REWARD = [{"name": "function", "function": "rewarding:variety"}]


@pytest.fixture(scope="module")
def ending(world, tmp_path_factory):
    """The world with a model that often ends its turn, and a constitution in few words."""
    home = tmp_path_factory.mktemp("ending")
    shutil.copytree(world.model, home / "model")
    model = AutoModelForCausalLM.from_pretrained(home / "model")
    with torch.no_grad():
        model.lm_head.weight[0] *= 2.5
    model.save_pretrained(home / "model")
    principles = [
        {"id": f"p{n}", "critique": f"Is it {n}?", "revise": f"Make it {n}.", "compare": "Which?"}
        for n in range(3)
    ]
    text = yaml.safe_dump({"name": "three", "principles": principles})
    (home / "constitution.yaml").write_text(text)
    return replace(world, home=home, model=home / "model")


def revising(world, path: Path, source=None, **changes) -> Path:
    """Seven prompts in three steps, each revised twice; ``at`` beside the file may say when the
    engine kills its process."""
    named = {"constitution": str(world.home / "constitution.yaml"), "rounds": 2}
    engine = {"name": "toys.dying", "at": str(world.home / "at")}
    made = {
        "objective": None,
        "plugins": [dying_engine.__file__],
        "source": {"name": "critique_revise", **named, **(source or {})},
        "reward": REWARD,
        "data": {"train": str(world.demonstrations), "eval": None, "holdout": 0.0},
        "rollout": {"max_new_tokens": 40, "engine": engine},
        "train": {"rows": 3, "epochs": 1},
    }
    return world.file(path, **{**made, **changes})


@pytest.fixture(scope="module")
def whole(ending):
    """A run that nothing interrupted."""
    return train(revising(ending, ending.home / "run.yaml"), run=ending.home / "whole")


def test_a_chain_is_that_of_plain_calls(ending, whole):
    """Of every round: the same tokens as ``sample`` gives for that prompt alone."""
    plugins = Plugins()
    file = load(ending.home / "run.yaml", [], plugins).stages[0].run
    parts = build_maker(file, plugins, Processes())
    model, tokenizer = parts.model, parts.tokenizer
    stops = stop_ids(model.base, tokenizer)
    places = {row.row: n for n, row in enumerate(parts.maker.pool.of_step(0, 7).rows)}

    def said(turns, place, *stream):
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False).input_ids
        drawn = uniforms(mixed(0, *stream), 0, [place], 40)
        with model.role(POLICY):
            (one,) = sample(model, [ids], drawn, stops=stops)
        return tokenizer.decode(one.tokens, skip_special_tokens=True)

    def turn(role, content):
        return {"role": role, "content": content.strip()}

    chains = [c for c in lines(whole / "constitution.jsonl") if "dropped" not in c]
    assert sum(each["kept"] for chain in chains for each in chain["rounds"]) >= 3
    for chain in chains:
        place, asked = places[chain["row"]], [turn("user", chain["prompt"])]
        assert chain["draft"] == said(asked, place, "draft")
        answer = chain["draft"]
        for number, each in enumerate(chain["rounds"]):
            n = each["principle"][1:]
            turns = [*asked, turn("assistant", answer), turn("user", f"Is it {n}?")]
            critique = said(turns, place, "critique", number).strip()
            assert each["critique"] == critique
            if critique:
                turns += [turn("assistant", critique), turn("user", f"Make it {n}.")]
                assert each["revision"] == said(turns, place, "revision", number).strip()
            answer = each["revision"] if each["kept"] else answer
        assert answer == chain["final"]


def test_the_account_adds_up_and_says_what_each_principle_did(ending, whole):
    account = json.loads((whole / "data.json").read_text())
    made, chains = account["made"], lines(whole / "constitution.jsonl")
    assert made["read"] == made["used"] + len(made["dropped"]) == len(chains) == 7
    assert made["written"] == len(lines(whole / "data/train.jsonl")) == made["used"]
    rounds = [each for chain in chains for each in chain["rounds"]]
    counts = made["counts"]
    left = sum(n for name, n in counts.items() if name.startswith("left as it was: "))
    assert counts["rounds"] == len(rounds) == counts["revisions kept"] + left
    assert sum(each["drawn"] for each in account["principles"].values()) == len(rounds)
    assert account["answers"]["revised"] == len([c for c in chains if c["rounds"]])
    assert account["constitution"]["name"] == "three"
    assert (
        "how each row came about\nis in `constitution.jsonl`" in (whole / "README.md").read_text()
    )


def test_the_rows_and_chains_do_not_depend_on_how_many_are_made_at_a_time(ending, whole, tmp_path):
    run = train(
        revising(ending, tmp_path / "run.yaml", train={"rows": 7, "epochs": 1}),
        run=tmp_path / "run",
    )
    assert lines(run / "data/train.jsonl") == lines(whole / "data/train.jsonl")
    one, other = (
        [{**c, "step": 0} for c in lines(r / "constitution.jsonl")] for r in (run, whole)
    )
    assert one == other
    accounts = [json.loads((each / "data.json").read_text()) for each in (run, whole)]
    assert accounts[0]["principles"] == accounts[1]["principles"]


def go(file: Path, run: Path) -> None:
    """Begin, or go on."""
    if (run / "config.yaml").exists():
        resume(run)
    else:
        train(file, run=run)


def test_a_death_between_a_critique_and_its_revision_changes_nothing(ending, whole, tmp_path):
    """In the second of three steps, in its second round."""
    file, run = ending.home / "run.yaml", tmp_path / "run"
    (ending.home / "at").write_text("10")
    assert deaths.fork(lambda: go(file, run)) == -9
    assert len(lines(run / "constitution.jsonl")) == 3 and not (run / "data").exists()
    resume(run)
    assert differences(run, whole) == []


@pytest.mark.slow
@pytest.mark.parametrize("call", range(1, CALLS + 1))
def test_a_process_killed_at_any_draft_critique_or_revision(ending, whole, tmp_path, call):
    file, run = ending.home / "run.yaml", tmp_path / "run"
    (ending.home / "at").write_text(str(call))
    died = warm.trimtab("train", file, "--run", run)
    assert died.status == -9, died.output
    again = warm.trimtab("resume", run)
    assert again.status == 0, again.output
    assert differences(run, whole) == []


@pytest.mark.slow
def test_two_processes_make_the_rows_and_chains_of_one(ending, whole, tmp_path):
    run = tmp_path / "run"
    ended = two("train", ending.home / "run.yaml", "--run", run)
    assert [each.status for each in ended] == [0, 0], ended
    assert differences(run, whole) == []


def test_a_conversation_beyond_the_models_context_drops_its_prompt(ending, tmp_path):
    """A letter is a token."""
    places = json.loads((ending.model / "config.json").read_text())["max_position_embeddings"]
    long = {"id": "x", "critique": "xyz" * places, "revise": "Make it x.", "compare": "Which?"}
    constitution = tmp_path / "constitution.yaml"
    constitution.write_text(yaml.safe_dump({"name": "long", "principles": [long]}))
    source = {"constitution": str(constitution)}
    file = revising(ending, tmp_path / "run.yaml", source=source)
    with pytest.raises(UserError) as raised:
        train(file, run=tmp_path / "run")
    said = str(raised.value)
    assert said.startswith("no row could be made: 7 read; ")
    assert "7 dropped, the conversation is longer than the model's context" in said
    chains = lines(RunDirectory(tmp_path / "run").path / "constitution.jsonl")
    assert len(chains) == 7 and all("dropped" in chain for chain in chains)


def test_the_pairs_of_a_stage_train_the_next_one(ending, tmp_path):
    revise = {
        "source": {
            "name": "critique_revise",
            "constitution": str(ending.home / "constitution.yaml"),
            "form": "pairs",
        },
        "data": {"train": str(ending.demonstrations), "holdout": 0.0},
        "objective": None,
    }
    learn = {"objective": {"name": "dpo"}, "data": {"train": "stages.revise", "holdout": 0.0}}
    whole = {
        "stages": [{"name": "revise", **revise}, {"name": "learn", **learn}],
        "model": ending.settings()["model"],
        "rollout": {"max_new_tokens": 40},
        "train": {"rows": 4, "epochs": 1, "learning_rate": 0.01, "micro_tokens": 128},
    }
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(whole))
    run = train(file, run=tmp_path / "run")
    rows = lines(run / "stages/revise/data/train.jsonl")
    assert rows and all(row["chosen"] != row["rejected"] for row in rows)
    read = json.loads((run / "stages/learn/data.json").read_text())
    assert read["kept"] == len(rows)

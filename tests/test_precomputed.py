"""The reference ``precomputed`` says what ``adapter_off`` says, also where there is no adapter."""

from __future__ import annotations

import json
import shutil

import pytest
import warm
from faults.commands import file_of, learned, own, resume, state_of, train
from worlds import lines, untimed

PRECOMPUTED = {"reference": {"name": "precomputed"}}
ASKS_TO_STOP = """
import os, signal
from trimtab import hookimpl

@hookimpl
def noted(text):
    if text.startswith("prefix sharing"):
        os.kill(os.getpid(), signal.SIGTERM)
"""
OF_SAMPLES = {"kl_sequence", "kl_token"}


@pytest.fixture(scope="module")
def computed(world, tmp_path_factory):
    """DPO with its adapter turned off for the reference."""
    return learned(world, tmp_path_factory.mktemp("computed"))


@pytest.fixture(scope="module")
def precomputed(world, tmp_path_factory):
    """The same, with the reference's log-probs computed before the first step."""
    return learned(world, tmp_path_factory.mktemp("precomputed"), **PRECOMPUTED)


@pytest.fixture(scope="module")
def whole_weights(world, tmp_path_factory):
    """DPO of all weights, which has no adapter to turn off."""
    home = tmp_path_factory.mktemp("whole-weights")
    train = {**world.learning("dpo").get("train", {}), "learning_rate": 1e-3}
    return learned(world, home, **PRECOMPUTED, model={"adapter": None}, train=train)


def numbers(run):
    """Every metric but the time, and every measure but those of sampled completions."""
    metrics = [untimed(record) for record in lines(run / "metrics.jsonl")]
    evals = [
        {name: value for name, value in record.items() if name not in OF_SAMPLES}
        for record in lines(run / "evals.jsonl")
    ]
    return metrics, evals


def weights(run):
    """The files of the result."""
    (made,) = [folder for folder in (run / "adapter", run / "model") if folder.is_dir()]
    return {path.name: path.read_bytes() for path in made.glob("*.safetensors")}


def evaluated(run):
    ended = warm.trimtab("evaluate", run, "--json", **own(run))
    assert ended.status == 0, ended.output
    found = ended.output.splitlines()[-1]
    return {
        name: measure
        for name, measure in json.loads(found)["measures"].items()
        if name not in OF_SAMPLES
    }


def test_it_trains_to_the_bits_of_adapter_off(computed, precomputed):
    assert numbers(precomputed) == numbers(computed)
    assert weights(precomputed) == weights(computed)
    assert list((precomputed / "reference").rglob("*.safetensors"))


def test_a_finished_run_is_evaluated_with_what_it_kept(computed, precomputed):
    assert evaluated(precomputed) == evaluated(computed)


def test_all_weights_are_trained_against_their_start(whole_weights):
    metrics, evals = numbers(whole_weights)
    assert metrics[0]["margin"] == 0 and evals[0]["margin"]["value"] == 0
    assert metrics[-1]["margin"] > 0.05 and evals[-1]["margin"]["value"] != 0
    assert evaluated(whole_weights)["margin"] == evals[-1]["margin"]


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_resume_needs_no_pass_of_the_reference(whole_weights, tmp_path, step):
    run = train(file_of(whole_weights), tmp_path / "run", f"{step}:SIGTERM")
    assert state_of(run) == ("stopped", step)
    resume(run)
    assert numbers(run) == numbers(whole_weights) and weights(run) == weights(whole_weights)


def test_a_signal_before_the_first_step_does_not_wait_for_it(precomputed, world, tmp_path):
    (tmp_path / "asks.py").write_text(ASKS_TO_STOP)
    settings = {**world.learning("dpo"), **PRECOMPUTED, "plugins": [str(tmp_path / "asks.py")]}
    file, run = world.file(tmp_path / "run.yaml", **settings), tmp_path / "run"
    ended = warm.trimtab("train", file, "--run", run, **own(run))
    assert ended.status == 143 and state_of(run) == ("stopped", 0), ended.output
    assert not (run / "reference").exists()
    resume(run)
    assert numbers(run) == numbers(precomputed)


def test_what_is_lost_is_not_computed_by_a_policy_that_has_moved(whole_weights, tmp_path):
    run = train(file_of(whole_weights), tmp_path / "run", "2:SIGTERM")
    shutil.rmtree(run / "reference")
    ended = warm.trimtab("resume", run, **own(run))
    assert ended.status == 1
    assert "cannot compute them now" in " ".join(ended.output.split())


def test_completions_that_no_data_set_has_are_refused_at_start(world, tmp_path):
    settings = {**world.learning("kto"), **PRECOMPUTED}
    file = world.file(tmp_path / "run.yaml", **settings)
    ended = warm.trimtab("train", file, "--run", tmp_path / "run")
    assert ended.status == 2
    said = " ".join(ended.output.split())
    assert "the objective 'kto' also reads mismatched, put together as it goes" in said

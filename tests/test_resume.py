"""A run that is interrupted anywhere, and resumed, ends with the bits of one that is not."""

from __future__ import annotations

import json
import signal

import pytest
import warm
import yaml
from faults.commands import STEPS, file_of, learned, own, resume, state_of, train, wait_for
from worlds import differences, whole_state

VARIANTS = {
    "linear": {},
    "dropout, cosine, evaluated": {
        "model": {"adapter": {"rank": 4, "dropout": 0.2}},
        "train": {"schedule": "cosine", "warmup": 2, "eval_every": 2},
    },
}


@pytest.fixture(scope="module", params=VARIANTS)
def any_whole(request, world, tmp_path_factory):
    """A run that was never interrupted, of each variant."""
    return learned(world, tmp_path_factory.mktemp("whole"), **VARIANTS[request.param])


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """One that was never interrupted."""
    return learned(world, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize(
    "step", [*(pytest.param(n, marks=pytest.mark.slow) for n in range(1, STEPS - 1)), STEPS - 1]
)
def test_stopped_after_any_step(any_whole, tmp_path, step):
    run = train(file_of(any_whole), tmp_path / "run", f"{step}:SIGTERM")
    assert state_of(run) == ("stopped", step)
    assert f"resumed from step {step}" in resume(run)
    assert differences(run, any_whole) == []


def test_stopped_after_every_step(whole, tmp_path):
    run = train(file_of(whole), tmp_path / "run", "1:SIGTERM")
    for step in range(2, STEPS):
        resume(run, f"{step}:SIGINT")
        assert state_of(run) == ("stopped", step)
    resume(run)
    assert differences(run, whole) == []


def test_a_signal_in_the_last_step_lets_the_run_finish(whole, tmp_path):
    run = tmp_path / "run"
    ended = warm.trimtab("train", file_of(whole), "--run", run, **own(run, f"{STEPS}:SIGTERM"))
    assert (ended.status, state_of(run)) == (0, ("finished", STEPS))
    assert differences(run, whole) == []


def test_a_second_interrupt_does_not_wait(whole, tmp_path):
    run = train(file_of(whole), tmp_path / "run", "2:SIGINT,SIGINT")
    assert state_of(run) == ("stopped", 1)
    resume(run)
    assert differences(run, whole) == []


def test_a_finished_run_takes_no_extra_step(whole):
    before = whole_state(whole)
    said = resume(whole)
    assert "is finished: nothing is left to do" in said
    assert whole_state(whole) == before


def test_death_before_the_first_checkpoint_starts_again(whole, tmp_path):
    run = train(file_of(whole), tmp_path / "run", "1:SIGKILL")
    assert not list((run / "checkpoints").iterdir())
    assert (run / "metrics.jsonl").read_text()
    assert "resumed" not in resume(run)
    assert differences(run, whole) == []


@pytest.mark.parametrize("damaged", [1, 2])
def test_damaged_checkpoints_are_passed_over_and_named(whole, tmp_path, damaged):
    run = train(file_of(whole), tmp_path / "run", "3:SIGTERM")
    for step in (3, 2)[:damaged]:
        file = run / f"checkpoints/step-{step}/roles/policy.safetensors"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    said = resume(run)
    assert "step-3 is damaged: roles/policy.safetensors has changed" in said
    if damaged == 1:
        assert "resumed from step 2" in said
    else:
        assert "no checkpoint verifies: the run starts again" in said
    assert differences(run, whole) == []


def test_an_existing_directory_is_refused(whole):
    before = whole_state(whole)
    ended = warm.trimtab("train", file_of(whole), "--run", whole)
    assert ended.status == 2
    assert f"trimtab resume {whole}" in ended.output
    assert whole_state(whole) == before


def test_a_second_process_is_refused(whole, tmp_path):
    run = tmp_path / "run"
    first = warm.start("train", file_of(whole), "--run", run, **own(run, "2:SIGSTOP"))
    wait_for(lambda: state_of(run) == ("running", 1), run / "run.json")
    second = warm.trimtab("resume", run, **own(run))
    assert second.status == 2
    assert f"is in use by process {first.process.pid}" in second.output
    first.signal(signal.SIGCONT)
    assert first.end().status == 0
    assert differences(run, whole) == []


@pytest.mark.parametrize(
    "objective", ["dpo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("kto", "ppo"))]
)
def test_a_base_in_nf4_resumes_to_the_bit(world, tmp_path, objective):
    whole = learned(world, tmp_path, objective, model={"quantization": "nf4"})
    assert state_of(whole) == ("finished", STEPS)
    (tmp_path / "stopped").mkdir()
    for step in (1, 3):
        run = train(file_of(whole), tmp_path / "stopped" / str(step), f"{step}:SIGTERM")
        resume(run)
        assert differences(run, whole) == []


@pytest.mark.parametrize(
    "key, value",
    [("learning_rate", 0.02), pytest.param("weight_decay", 0.1, marks=pytest.mark.slow)],
)
def test_a_resume_obeys_config_yaml(whole, tmp_path, key, value):
    run = train(file_of(whole), tmp_path / "run", "2:SIGTERM")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["train"][key] = value
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    resume(run)
    document = json.loads((run / f"checkpoints/step-{STEPS}/optimizer.json").read_text())
    groups = dict(dict(document["dict"])["param_groups"][0]["dict"])
    assert groups["initial_lr" if key == "learning_rate" else key] == value
    assert "adapter/adapter_model.safetensors" in differences(run, whole)

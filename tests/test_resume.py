"""A run that is interrupted anywhere, and resumed, ends with the bits of one that is not."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import deaths
import interrupting
import pytest
import warm
import yaml
from worlds import differences, whole_state

STEPS = 4
EXITS = {"SIGTERM": 143, "SIGINT": 130, "SIGINT,SIGINT": 130, "SIGKILL": -9}
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
    home = tmp_path_factory.mktemp("whole")
    changes = {"plugins": [interrupting.__file__], **VARIANTS[request.param]}
    return train(world.file(home / "run.yaml", **changes), home / "run")


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """One that was never interrupted."""
    home = tmp_path_factory.mktemp("whole")
    return train(world.file(home / "run.yaml", plugins=[interrupting.__file__]), home / "run")


def train(file: Path, directory: Path, interrupt: str = "0:") -> Path:
    """Train in a new directory, with a reference cache of its own."""
    ended = warm.trimtab("train", file, "--run", directory, **own(directory, interrupt))
    expected = EXITS.get(interrupt.partition(":")[2], 0)
    assert ended.status == expected, ended.output
    return directory


def resume(directory: Path, interrupt: str = "0:") -> str:
    """Go on with it; what it says."""
    ended = warm.trimtab("resume", directory, **own(directory, interrupt))
    assert ended.status == EXITS.get(interrupt.partition(":")[2], 0), ended.output
    return ended.output


def own(directory: Path, interrupt: str = "0:") -> dict[str, str]:
    """The variables of a run's processes."""
    cache = directory.parent / f"cache-of-{directory.name}"
    return {"TRIMTAB_CACHE": str(cache), "INTERRUPT": interrupt}


def file_of(run: Path) -> Path:
    """What it was given."""
    return run.parent / "run.yaml"


def state_of(run: Path) -> tuple[str, int]:
    """What ``run.json`` says."""
    state = json.loads((run / "run.json").read_text())
    return state["state"], state["step"]


@pytest.mark.parametrize("step", range(1, STEPS))
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
    said = " ".join(resume(run).split())
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


def wait_for(holds, file: Path) -> None:
    """Until a file is there and a condition holds."""
    deadline = time.monotonic() + 30
    while not (file.exists() and holds()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def killed_at_random(whole: Path, run: Path, kills: int, seed: int) -> None:
    """Kill the run so many times, each at a random instant, and let it end."""
    draw = random.Random(seed)
    for _ in range(kills):
        begun = (run / "config.yaml").exists()
        words = ["resume", run] if begun else ["train", file_of(whole), "--run", run]
        running = warm.start(*words, **own(run))
        time.sleep(draw.uniform(0.05, 0.9))
        running.process.kill()
        running.end()
    resume(run) if (run / "config.yaml").exists() else train(file_of(whole), run)
    assert differences(run, whole) == []


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_instants(whole, tmp_path, seed):
    killed_at_random(whole, tmp_path / "run", kills=3, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 63))
def test_killed_at_many_random_instants(whole, tmp_path, seed):
    killed_at_random(whole, tmp_path / "run", kills=5, seed=seed)


def dead_in_a_save(whole: Path, run: Path, event: int) -> bool:
    """Let a run die at a change of the disk after step 2, and go on; False: it ended first."""
    interrupted = warm.trimtab("train", file_of(whole), "--run", run, **own(run, f"2:{event}"))
    assert interrupted.status in (0, deaths.DIED), interrupted.output
    if interrupted.status == deaths.DIED:
        resume(run)
    assert differences(run, whole) == []
    return interrupted.status == deaths.DIED


@pytest.mark.parametrize("event", [3, 9, 15, 21, 27])
def test_death_inside_a_save(whole, tmp_path, event):
    assert dead_in_a_save(whole, tmp_path / "run", event)


@pytest.mark.slow
def test_death_at_every_change_of_the_disk(whole, tmp_path):
    event = 1
    while dead_in_a_save(whole, tmp_path / str(event), event):
        event += 1
    assert event > 90


@pytest.mark.parametrize("key, value", [("learning_rate", 0.02), ("weight_decay", 0.1)])
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

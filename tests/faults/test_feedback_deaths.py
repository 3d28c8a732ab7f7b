"""Constitutional AI from one file, killed anywhere or shared by two processes: the rows and the
chains are those of one process that nothing interrupts."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import judging_toys
import pytest
import warm
import wording_engine
import yaml
from faults.commands import own
from safetensors.torch import load_file
from test_processes import two
from tiny import relative
from worlds import differences, lines

pytestmark = pytest.mark.slow

MADE = (
    *("revise/data/train.jsonl", "revise/constitution.jsonl", "candidates/data/train.jsonl"),
    *("labels/data/train.jsonl", "labels/samples.jsonl"),
)
GOLD = {"name": "function", "function": "rewarding:variety", "label": "gold", "weight": 0.0}


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """One that was never interrupted: two rounds, a fine-tune, labels, DPO."""
    home = tmp_path_factory.mktemp("constitutional")
    principles = [
        {"id": f"p{n}", "critique": f"Is it {n}?", "revise": f"Be {n}.", "compare": f"More {n}?"}
        for n in range(3)
    ]
    constitution = home / "constitution.yaml"
    constitution.write_text(yaml.safe_dump({"name": "three", "principles": principles}))
    recipe = {"name": "constitutional", "constitution": str(constitution), "rounds": 2}
    file = world.file(
        home / "run.yaml",
        data={"train": str(world.demonstrations), "eval": None, "holdout": 0.2},
        objective={**recipe, "labels": {"pairs": "all"}},
        judge={"name": "toys.vowels", "sharp": 8.0},
        reward=[GOLD],
        plugins=[judging_toys.__file__, wording_engine.__file__],
        rollout={"engine": "toys.words", "max_new_tokens": 40},
        train={"rows": 2, "epochs": None, "steps": 2, "eval_samples": 1},
    )
    began = time.monotonic()
    assert begun(file, home / "run").end(300).status == 0
    (home / "seconds").write_text(str(time.monotonic() - began))
    return home / "run"


def begun(file: Path, run: Path) -> warm.Running:
    """Begin, or go on as the directory says."""
    words = ["resume", run] if (run / "config.yaml").exists() else ["train", file, "--run", run]
    return warm.start(*words, **own(run))


@pytest.mark.parametrize("seed", range(10))
def test_killed_at_a_random_instant_it_ends_the_same(whole, tmp_path, seed):
    file, run = whole.parent / "run.yaml", tmp_path / "run"
    share = random.Random(seed).uniform(seed / 10, (seed + 1) / 10)
    running = begun(file, run)
    time.sleep(share * float((whole.parent / "seconds").read_text()))
    running.process.kill()
    assert running.end().status in (-signal.SIGKILL, 0)
    ended = begun(file, run).end(300)
    assert ended.status == 0, ended.output
    assert differences(run, whole) == []


def test_two_processes_make_the_chains_the_labels_and_the_policy_of_one(whole, tmp_path):
    run = tmp_path / "run"
    ended = two("train", whole.parent / "run.yaml", "--run", run, **own(run))
    assert [each.status for each in ended] == [0, 0], ended
    for name in MADE:
        made, other = (lines(each / "stages" / name) for each in (whole, run))
        assert made and made == other, name
    for stage in ("fine-tune", "policy"):
        folder = Path("stages", stage, "adapter/adapter_model.safetensors")
        one, both = (load_file(each / folder) for each in (whole, run))
        assert all(relative(one[name], both[name]) <= 1e-3 for name in one), stage


def test_two_processes_label_alone_as_one(whole, tmp_path):
    run = tmp_path / "run"
    ended = two("label-ai", whole.parent / "run.yaml", "--run", run, **own(run))
    assert [each.status for each in ended] == [0, 0], ended
    for name in MADE:
        made, other = (lines(each / "stages" / name) for each in (whole, run))
        assert made and made == other, name
    assert not (run / "stages/policy").exists()

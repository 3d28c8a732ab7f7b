"""A pipeline of four small stages: a data set, imitation, a reward model, and PPO against it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import interrupting
from worlds import World

STAGES = {"picked": 4, "imitate": 2, "scores": 2, "improve": 2}
"""Their names, in their order, and their steps."""


def pipeline(world: World) -> dict[str, Any]:
    """The run file: the first three learn from rows, the last from what it samples."""
    shared = world.settings(train={"epochs": 1}, plugins=[interrupting.__file__])
    pairs = {"data": shared["data"], "objective": {"name": "reward_model"}}
    for section in ("objective", "data"):
        del shared[section]
    data = world.demonstrating()["data"]
    reward = [{"name": "function", "function": "rewarding:variety"}]
    sampling = {"group": 2, "max_new_tokens": 5}
    picked = {"source": {"name": "best"}, "reward": reward, "rollout": sampling}
    improve = {
        "model": {"start": "stages.imitate"},
        "objective": {"name": "ppo", "epochs": 2, "minibatches": 2},
        "reward": [{"name": "reward_model", "from": "stages.scores"}],
        "rollout": sampling,
        "train": {"epochs": None, "steps": 2},
    }
    stages = [
        {"name": "picked", **picked, "train": {"rows": 2}},
        {"name": "imitate", "objective": {"name": "sft"}, "data": {"train": "stages.picked"}},
        {"name": "scores", **pairs},
        {"name": "improve", **improve},
    ]
    return {**shared, "data": data, "stages": stages}


def changed(settings: dict[str, Any], stage: str, section: str, **options: Any) -> dict[str, Any]:
    """The same with other options of one stage."""
    stages = [dict(each) for each in settings["stages"]]
    (one,) = [each for each in stages if each["name"] == stage]
    one[section] = {**one.get(section, {}), **options}
    return {**settings, "stages": stages}


def write(path: Path, settings: dict[str, Any]) -> Path:
    """A run file."""
    path.write_text(json.dumps(settings))
    return path


def finished(run: Path) -> list[str]:
    """The stages that are, with their results, in the order of the file."""
    return [
        name
        for name in STAGES
        if (file := run / "stages" / name / "run.json").is_file()
        and json.loads(file.read_text())["state"] == "finished"
    ]


def on_disk(run: Path, stage: str) -> dict[str, tuple[int, int]]:
    """Every file of a stage, which one it is and when it was written."""
    home = run / "stages" / stage
    files = [path for path in home.rglob("*") if path.is_file() and path.name != "run.lock"]
    return {
        path.relative_to(home).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in files
    }

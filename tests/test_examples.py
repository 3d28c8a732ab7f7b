"""Every run file in examples/ is valid, and its stages run: two steps each, on a tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import judge_server
import pytest
import warm
from worlds import World, lines, pair, write_rows

from trimtab.api import load_run_file
from trimtab.core import pipeline
from trimtab.core.config import AdapterConfig, RunFile, Selected
from trimtab.core.processes import Processes
from trimtab.core.runfile import Plan, Stage
from trimtab.plugins.registry import Plugins
from trimtab.plugins.sources.rotten_tomatoes import NAME
from trimtab.plugins.sources.tables import open_table

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.yaml"))
STEPS, ROWS, PROMPTS = 2, 8, 4
LIKE_OTHERS = {"rlaif", "rlaif-score", "reinforce-pp", "rloo", "sft-then-ppo"}
"""Their stages are those of other examples, with other objectives: they run when all tests do."""
VIEWS = ("demonstrations", "pairs", "prompts", "labels")
FEWER = {"prompts": PROMPTS, "skip": PROMPTS, "budget": PROMPTS}
"""Options of sources that count rows, in a small run."""


def ids(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", EXAMPLES, ids=ids)
def test_it_is_valid(path):
    ended = warm.trimtab("validate", path)
    assert ended.status == 0, ended.output


@pytest.mark.parametrize("path", EXAMPLES, ids=ids)
def test_it_says_what_it_shows_how_long_it_takes_and_how_to_run_it(path):
    head = path.read_text().partition("\nmodel:")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert "minutes" in head or "hour" in head
    assert f"#     trimtab train examples/{path.name}" in head


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    """Some rows of each view of the embedded data: reading all of them takes far longer."""
    home = tmp_path_factory.mktemp("views")
    for view in VIEWS:
        table = open_table(f"{NAME}/{view}")
        (home / view).mkdir()
        for name, part, count in (("train", table.train, 320), ("test", table.held_out, 16)):
            rows = [row.columns for row in part]
            spread = rows[:: len(rows) // count]
            write_rows(home / view / f"{name}.jsonl", lambda n, rows=spread: rows[n - 1], count)
    return home


@pytest.fixture(scope="module")
def endpoint():
    """In place of the endpoints that judges are asked at."""
    with judge_server.JudgeServer().serving() as server:
        yield server


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.slow] if path.stem in LIKE_OTHERS else [])
        for path in EXAMPLES
    ],
    ids=ids,
)
def test_all_its_stages_run(path, world, views, endpoint, tmp_path, monkeypatch):
    carry_out(path, world, views, tmp_path, monkeypatch, endpoint.url)


@pytest.mark.slow
def test_they_run_on_all_the_data(world, tmp_path, monkeypatch):
    path = next(path for path in EXAMPLES if path.stem == "instructgpt")
    carry_out(path, world, None, tmp_path, monkeypatch)


def carry_out(path, world, views, home, monkeypatch, url=None):
    """Run every stage of an example in small, and look at what each left."""
    monkeypatch.chdir(home)
    make_data(home)
    registry = Plugins(installed=False)
    plan = load_run_file(path, (), registry)
    runs = [(stage.name, shrunk(stage.run, world, views)) for stage in plan.stages]
    small = [Stage(name, changed(run, judge=reached(run.judge, url))) for name, run in runs]
    run = pipeline.start(
        Plan(plan.path, plan.text, tuple(small), plan.recipes),
        home / "run",
        registry,
        Processes(),
    )
    for stage in small:
        own = run / "stages" / stage.name if stage.name else run
        assert json.loads((own / "run.json").read_text())["state"] == "finished"
        records = lines(own / "metrics.jsonl")
        assert [record["step"] for record in records] == list(range(1, len(records) + 1))
        if stage.run.objective is None:
            assert lines(own / "data/train.jsonl")
        else:
            assert len(records) == STEPS
            assert (own / "adapter/adapter_model.safetensors").is_file()


def shrunk(run: RunFile, world: World, views: Path | None) -> RunFile:
    """The same run with a tiny model and few rows, tokens, steps and evaluations."""
    trains = run.objective is not None
    group = run.rollout.group and min(run.rollout.group, 4)
    few = {"limit": 16, "eval_limit": 8, "train": run.data.train, "eval": run.data.eval}
    rewards = run.reward
    if views is not None:
        few |= {side: within(views, few[side]) for side in ("train", "eval")}
        labels = str(views / "labels/train.jsonl")
        rewards = [
            changed(one, data=labels) if one.name == "classifier" else one for one in rewards
        ]
    return run.model_copy(
        update={
            "model": changed(
                run.model,
                name=str(world.model),
                quantization="none",
                adapter=AdapterConfig(rank=4, targets=["q_proj"]),
                prefix_sharing=True,
            ),
            "data": changed(run.data, **few),
            "reward": rewards,
            "rollout": changed(run.rollout, group=group, max_new_tokens=6),
            "source": fewer(run.source),
            "train": changed(
                run.train,
                steps=STEPS if trains else None,
                epochs=None,
                warmup=0.0,
                rows=ROWS if trains else 2,
                eval_every=1 if run.watch else None,
                eval_samples=2,
                checkpoint_every=STEPS,
            ),
        }
    )


def within(views: Path, named: Any) -> Any:
    """The view of the embedded data among ``views``; anything else as it is."""
    here, _, view = str(named).partition("/")
    return str(views / view) if here == NAME else named


def changed(section: Any, **changes: Any) -> Any:
    return section.model_copy(update=changes)


def reached(judge: Selected | None, url: str | None) -> Selected | None:
    """A judge behind an endpoint, at this one."""
    if judge is None or "base_url" not in judge.options:
        return judge
    here = {"base_url": url, "model": judge_server.MODEL, "cache": False}
    return Selected.model_validate({"name": judge.name, **judge.options, **here})


def fewer(source: Selected | None) -> Selected | None:
    if source is None:
        return None
    given = source.options
    options = {name: min(given[name], most) for name, most in FEWER.items() if given.get(name)}
    return Selected.model_validate({"name": source.name, **given, **options})


def make_data(folder: Path) -> None:
    """What scripts in examples/ make of packages that are not installed everywhere, and what
    examples read beside them."""
    (folder / "examples").mkdir()
    shutil.copy(EXAMPLES[0].parent / "specification.md", folder / "examples")
    shutil.copytree(EXAMPLES[0].parent / "judges", folder / "examples/judges")
    words = "from rewarding import short as clean\n"
    (folder / "examples/rewards_profanity.py").write_text(words)
    for name, row in (("sums", question), ("harm/pairs", preferred), ("toxic", begun)):
        (folder / name).mkdir(parents=True)
        write_rows(folder / name / "train.jsonl", row, 12)
        write_rows(folder / name / "test.jsonl", lambda n, row=row: row(n + 12), 4)


def question(number: int) -> dict[str, Any]:
    """As ``data_reasoning_gym.py`` writes them."""
    metadata = {"source_dataset": "chain_sum", "source_index": number}
    return {"prompt": f"{number} + 1 =", "answer": f"{number + 1}", "metadata": metadata}


def begun(number: int) -> dict[str, Any]:
    """As ``data_toxic_prompts.py`` writes them."""
    turn = {"role": "user", "content": f"Continue this text: {number} people"}
    return {"prompt": [turn], "beginning": f"{number} people", "kinds": ["insult"]}


def preferred(number: int) -> dict[str, Any]:
    """As ``data_harm_pairs.py`` writes them."""
    return {**pair(number), "preference": 0.75}

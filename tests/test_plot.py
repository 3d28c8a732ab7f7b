"""`trimtab plot`: real files, with a point for everything that was logged."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import warm

from trimtab.commands.plot import plot
from trimtab.core.rundir import RunDirectory
from trimtab.curves import draw, read

SVG = "{http://www.w3.org/2000/svg}"


def logged(path: Path, steps: int = 5, lift: float = 0.0) -> Path:
    """A run directory with a metric and an evaluation that both grow by 1 a step."""
    directory = RunDirectory.create(path, "", "", {})
    for step in range(1, steps + 1):
        metrics = {"step": step, "reward": step + lift, "reward/short": -step, "loss": None}
        directory.log("metrics", {**metrics, "seconds": 0.5, "rows": 8})
    for step in (0, steps):
        measure = {"value": step, "low": step - 0.5, "high": step + 0.5, "n": 64}
        measures = {"reward": measure, "kl_sequence": measure, "confidence/0.5": measure}
        directory.log("evals", {"step": step, **measures})
    return path


def drawn(file: Path, gid: str) -> int:
    """How many points the line of this id has."""
    for group in ElementTree.parse(file).iter(f"{SVG}g"):
        if group.get("id") == gid:
            return len(re.findall("[ML]", group.find(f"{SVG}path").get("d")))
    return 0


def test_every_number_is_drawn_with_all_its_points(tmp_path):
    made = draw([read(logged(tmp_path / "run"), "run")], tmp_path / "plots")
    names = {file.name for file in made}
    single = {"reward", "reward-short", "kl_sequence", "loss", "seconds"}
    assert names == {f"{n}.{kind}" for n in {"overview", *single} for kind in ("svg", "png")}
    for file in made:
        begin = file.read_bytes()[:100]
        assert begin.startswith(b"\x89PNG\r\n" if file.suffix == ".png" else b"<?xml"), file
    for file in ("overview", "reward"):
        svg = tmp_path / "plots" / f"{file}.svg"
        assert drawn(svg, "training 0 reward") == 5
        assert drawn(svg, "held out 0 reward") == 2
    overview = (tmp_path / "plots" / "overview.svg").read_text()
    assert "interval 0 kl_sequence" in overview and "nats a completion" in overview
    assert "seconds" not in overview and "0.5" not in names


def test_the_same_logs_give_the_same_bytes(tmp_path):
    curves = [read(logged(tmp_path / "run"), "run")]
    one, other = (draw(curves, tmp_path / name) for name in ("one", "other"))
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in other]


def test_several_runs_share_their_axes(tmp_path, capsys):
    runs = [logged(tmp_path / name, lift=lift) for name, lift in (("ppo", 0.0), ("grpo", 1.0))]
    plot(runs, tmp_path / "both")
    assert capsys.readouterr().out.endswith(f"made  {tmp_path / 'both'}, 12 files\n")
    text = (tmp_path / "both" / "reward.svg").read_text()
    assert "ppo: training" in text and "grpo: held out" in text
    assert all(
        drawn(tmp_path / "both" / "reward.svg", f"training {n} reward") == 5 for n in (0, 1)
    )


def test_each_stage_has_its_curves(tmp_path):
    home = RunDirectory.create(tmp_path / "run", "", "", {}).path
    logged(home / "stages" / "sft")
    logged(home / "stages" / "rl", steps=3)
    plot([home])
    assert drawn(home / "plots" / "sft" / "reward.svg", "training 0 reward") == 5
    assert drawn(home / "plots" / "rl" / "reward.svg", "training 0 reward") == 3


def test_a_run_under_way_is_drawn_without_the_line_that_is_being_written(tmp_path):
    run = logged(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as log:
        log.write('{"step": 6, "rew')
    assert read(run, "run").train["reward"].steps == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: RunDirectory.create(path, "", "", {}), "nothing is logged yet in "),
        (lambda path: None, "there is no run directory "),
    ],
)
def test_without_curves_it_says_so(tmp_path: Path, prepare: Any, message: str):
    prepare(tmp_path / "run")
    ended = warm.trimtab("plot", tmp_path / "run")
    assert ended.status == 2 and message in ended.output
    assert not (tmp_path / "run" / "plots").exists()

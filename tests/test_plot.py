"""`trimtab plot`: real files, with a point for everything that was logged."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import warm

from trimtab import frontier, gains
from trimtab.commands.plot import plot
from trimtab.core.errors import UserError
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


WATCHED = """\
reward:
- {name: function, label: proxy, weight: 1.0}
- {name: function, label: gold, weight: 0.0}
- {name: function, label: judge, weight: 0.0}
"""
WATCHES = "watch: {reward: gold, patience: 2}\n"


def gold_at(distance: float) -> float:
    """Gao et al.'s form, from 3, with alpha 1 and beta 1/2."""
    return 3 + (distance * (1 - 0.5 * math.log(distance)) if distance else 0.0)


def over_optimised(path: Path, config: str = WATCHED + WATCHES, steps: int = 11) -> Path:
    """A run whose KL after n steps is n^2 and whose proxy is n; gold is best at step 3."""
    directory = RunDirectory.create(path, config, "", {})
    for step in range(steps):
        directory.log("metrics", {"step": step + 1, "reward": 0.0})
        parts = {"proxy": float(step), "gold": gold_at(step), "judge": 7.0}
        measures = {
            name: {"value": value, "low": value - 0.5, "high": value + 0.5, "n": 64}
            for name, value in {
                "kl_sequence": step**2,
                "reward": parts["proxy"],
                **{f"reward/{part}": value for part, value in parts.items()},
            }.items()
        }
        directory.log("evals", {"step": step, **measures})
        for row in range(64):
            off = 0.01 * (row % 2)
            sample = {"step": step, "row": row, "held_out": True, "reward": parts["proxy"]}
            directory.log("samples", {**sample, "parts": {**parts, "gold": parts["gold"] + off}})
    directory.set_state("finished", steps - 1)
    return path


def test_rewards_are_drawn_over_the_root_of_kl_with_the_marks_of_the_watch(tmp_path):
    run = frontier.read(over_optimised(tmp_path / "run"), "run")
    assert run.distance.values == [float(step) for step in range(11)]
    assert run.distance.intervals[2] == pytest.approx((3.5**0.5, 4.5**0.5))
    assert (run.best, run.stop, run.stopped) == (3, 5, True)
    assert list(run.proxies) == ["proxy"] and list(run.watched) == ["gold", "judge"]
    made = frontier.draw([run], tmp_path)
    assert [file.name for file in made] == ["reward-over-kl.svg", "reward-over-kl.png"]
    for name in ("proxy", "gold", "judge"):
        assert drawn(made[0], f"evaluations 0 {name}") == 11
    text = made[0].read_text()
    assert "best by gold, step 3" in text and "stopped here, step 5" in text
    assert "3 + d (1 - 0.5 log d), d = sqrt(KL): least squares, R2 1.00" in text
    assert drawn(made[0], "fit 0 gold") == 100 and not drawn(made[0], "fit 0 judge")


def test_gao_s_form_is_fitted_where_it_fits():
    distances = [0.0, 0.5, 1.0, 2.0, 4.0, 8.0]
    fit = frontier.fitted(distances, [gold_at(d) for d in distances])
    assert (fit.start, fit.alpha, fit.beta, fit.r2) == pytest.approx((3, 1, 0.5, 1))
    assert fit.at(3.0) == pytest.approx(gold_at(3.0))
    assert frontier.fitted(distances[:-1], [gold_at(d) for d in distances[:-1]]) is None, "too few"
    assert frontier.fitted(distances, [3.0, 9.0, 1.0, 8.0, 0.0, 9.0]) is None, "it does not fit"
    assert frontier.fitted([d + 1 for d in distances], distances) is None, "no start"


def test_a_run_that_was_not_watched_shows_where_it_would_have_been_stopped(tmp_path):
    path = over_optimised(tmp_path / "run", WATCHED)
    own = frontier.read(path, "run")
    assert (own.best, own.stop, own.stopped) == (3, 5, False), "by the first of weight 0"
    by_judge = frontier.read(path, "run", "judge")
    assert list(by_judge.watched) == ["judge", "gold"]
    assert (by_judge.best, by_judge.stop) == (0, None), "it is the same everywhere"
    text = frontier.draw([own], tmp_path)[0].read_text()
    assert "a watch would stop here, step 5" in text
    with pytest.raises(UserError, match=r"labelled 'golf'. Did you mean 'gold'\?"):
        frontier.read(path, "run", "golf")


def test_without_a_watched_reward_or_kl_there_is_nothing_over_kl(tmp_path):
    assert frontier.read(logged(tmp_path / "no rewards"), "run") is None
    trained = "reward: [{name: function, weight: 1.0}]\n"
    assert frontier.read(over_optimised(tmp_path / "none watched", trained), "run") is None
    assert frontier.read(over_optimised(tmp_path / "one", WATCHED, steps=1), "run") is None


@pytest.mark.slow
def test_plot_draws_them_too(tmp_path, capsys):
    config = "stages: [{name: sft}, {name: rl}]\n"
    home = RunDirectory.create(tmp_path / "run", config, "", {}).path
    over_optimised(home / "stages" / "rl", WATCHED, steps=6)
    over_optimised(home / "stages" / "sft", WATCHED, steps=2)
    plot([home], watch="gold")
    said = capsys.readouterr().out
    assert (
        said.index("sft/overview") < said.index("rl/reward-over-kl") < said.index("/stages.{svg")
    )
    assert drawn(home / "plots/rl/reward-over-kl.svg", "evaluations 0 gold") == 6


def test_what_each_stage_changed_is_drawn_with_intervals(tmp_path):
    """After is the evaluation of the result, which the watch says."""
    for name, steps in (("sft", 2), ("rl", 6)):
        over_optimised(tmp_path / name, steps=steps)
    (tmp_path / "rl" / "watch.json").write_text('{"adapter": 3}')
    read = [gains.read(tmp_path / name, "run", name) for name in ("sft", "rl")]
    assert [stage["gold"].after["value"] for stage in read] == [gold_at(1), gold_at(3)]
    assert [stage["gold"].before["value"] for stage in read] == [3, 3]
    svg, _ = gains.draw(read, tmp_path)
    text = svg.read_text()
    assert text.index(">sft<") < text.index(">rl<")
    assert "gold, held out, 95% intervals" in text and "after the stage" in text
    RunDirectory(tmp_path / "rl").set_state("running", 6)
    assert gains.read(tmp_path / "rl", "run", "rl") == {}, "it has no result yet"

"""What a run shows, on a terminal and elsewhere."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from trimtab.core.config import RunFile, Selected
from trimtab.core.evaluation import Evaluation
from trimtab.core.files import write_json
from trimtab.core.measures import Measure
from trimtab.core.run import Run
from trimtab.core.rundir import RunDirectory
from trimtab.core.runfile import Plan, Stage
from trimtab.plugins.registry import Plugins
from trimtab.progress import Display
from trimtab.shown import plain, ranked
from trimtab.summary import clock

SYSTEM = "system\nYou are kind\nuser\n"
MEASURE = {"value": 0.5, "low": 0.25, "high": 0.75, "n": 4}


def display(terminal: bool, width: int = 60) -> Display:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None)
    return Display(console)


def shown(display: Display) -> str:
    return display.console.file.getvalue()


@pytest.fixture
def run(tmp_path):
    """A run with two evaluations of two samples each."""
    directory = RunDirectory.create(tmp_path / "run", "", "", {})
    for step in (0, 9):
        directory.log("evals", {"step": step, "loss": MEASURE, "odd": MEASURE})
        for row, movie in enumerate(("Heat", "Ran")):
            prompt = f"{SYSTEM}Review {movie}.\nassistant\n"
            answer = f"[b]{movie}\x1b[2J at {step} " + "long " * 20
            directory.log(
                "samples", {"step": step, "row": row, "prompt": prompt, "completion": answer}
            )
    file = RunFile.model_validate({"data": {"train": "rows.jsonl"}, "objective": {"name": "any"}})
    return Run(file, directory, Plugins((), installed=False), name="first")


def steps(display: Display, run: Run, count: int = 9) -> None:
    display.run_started(run, 0, count)
    for step in range(1, count + 1):
        display.step_ended(run, step, {"seconds": 2.0, "tokens": 100.0, "loss": 1 / step})


def test_plain_lines_where_there_is_no_terminal(run):
    plain = display(terminal=False)
    plain.noted(run, "a note with [brackets] " + "and words " * 20)
    steps(plain, run)
    plain.evaluation_ended(run, 9, Evaluation({"loss": Measure(0.5, 0.25, 0.75, 4)}, []))
    plain.run_ended(run, "finished")
    lines = shown(plain).splitlines()
    assert lines[0] == "a note with [brackets] " + "and words " * 20
    assert lines[1] == (
        "stage first: any on rows.jsonl with smollm2-135m-instruct in nf4: "
        f"9 steps of 32 rows, in {run.directory.path}"
    )
    assert lines[2] == "step 1/9  loss 1.0000  50 tokens/s  0:16 left"
    assert lines[3] == "step 9/9  loss 0.1111  50 tokens/s  0:00 left"
    assert lines[4] == "held out at step 9: loss 0.5"
    assert lines[6:8] == [
        "held out   step 0             step 9",
        "loss       0.5 [0.25, 0.75]   0.5 [0.25, 0.75]",
    ]
    assert lines[9] == "> Review Heat."
    assert lines[10].startswith("  step 0: [b]Heat\N{REPLACEMENT CHARACTER}[2J at 0 long")


def test_a_bar_and_a_table_on_a_terminal(run):
    terminal = display(terminal=True)
    steps(terminal, run)
    terminal.run_ended(run, "finished")
    text = shown(terminal)
    assert "9/9" in text and "loss 0.1111" in text
    assert "┃ step 0" in text and "[b]Heat" in text and "assistant" not in text
    table = text[text.index("┏") :]
    assert max(map(len, table.splitlines())) <= 60
    assert "\x1b[2J" not in table


def test_a_run_that_did_not_finish_shows_no_result(run):
    (run.directory.path / "evals.jsonl").write_text('{"torn')
    plain = display(terminal=False)
    plain.run_ended(run, "failed")
    assert shown(plain) == ""


SUMMARY = {
    "stages": [
        {
            "name": name,
            "what": what,
            "state": "finished",
            "kept": name == "zeroth",
            "steps": 9,
            "seconds": 12.0,
            "peak_memory_mb": 800.0,
            "result": f"stages/{name}/{folder}",
            "measures": {"loss": {"before": MEASURE, "after": MEASURE}},
        }
        for name, what, folder in (
            ("zeroth", "earlier", "adapter"),
            ("made", "candidates", "data"),
            ("first", "any", "adapter"),
        )
    ]
}


def pipeline(display: Display, run: Run, end: str = "finished") -> None:
    """A kept stage, one that makes a data set, and the run."""
    making = RunFile.model_validate(
        {"data": {"train": "rows.jsonl"}, "source": {"name": "candidates"}}
    )
    home = run.directory.path.parent
    maker = Run(making, RunDirectory.create(home / "made", "", "", {}), run.registry, name="made")
    zeroth = run.file.model_copy(update={"objective": Selected(name="earlier")})
    stages = (Stage("zeroth", zeroth), Stage("made", making), Stage("first", run.file))
    with display:
        display.pipeline_started(home, Plan(home / "run.yaml", "", stages), ["zeroth"])
        display.run_started(maker, 0, 2)
        for step in (1, 2):
            display.step_ended(maker, step, {"seconds": 2.0, "rows": 5.0, "tokens": 0.0})
        write_json(home / "made/data.json", {"made": {"written": 10}})
        (home / "made/data").mkdir()
        (home / "made/data/train.jsonl").touch()
        display.run_ended(maker, "finished")
        steps(display, run)
        display.run_ended(run, end)
        *others, last = SUMMARY["stages"]
        display.pipeline_ended(home, {"stages": [*others, {**last, "state": end}]})


def test_plain_lines_say_which_stage_of_how_many_they_are_about(run):
    plain = display(terminal=False, width=200)
    pipeline(plain, run)
    home = run.directory.path.parent
    lines = shown(plain).splitlines()
    assert lines[:5] == [
        f"3 stages in {home}: zeroth (kept), made, first",
        "stage 2/3 made: candidates makes a data set of rows.jsonl: "
        f"2 steps of 32 rows, in {home / 'made'}",
        "stage 2/3  step 1/2  rows 5  2.5 rows/s  0:02 left",
        "stage 2/3  step 2/2  rows 5  2.5 rows/s  0:00 left",
        "stage 2/3 made finished in 0:00",
    ]
    assert lines[5].startswith("stage 3/3 first: any on rows.jsonl with ")
    assert "stage 3/3  step 9/9  loss 0.1111  50 tokens/s  0:00 left" in lines
    assert "loss       0.5 [0.25, 0.75]   0.5 [0.25, 0.75]" in lines
    head = next(n for n, line in enumerate(lines) if line.startswith("stage    what"))
    assert lines[head + 1].split() == [
        *("zeroth", "earlier,", "kept", "9", "0:12", "800", "MB", "loss", "0.5", "[0.25,", "0.75]")
    ]


def test_all_stages_stand_in_one_view_on_a_terminal(run):
    terminal = display(terminal=True, width=120)
    home = run.directory.path.parent
    pipeline(terminal, run)
    text = shown(terminal)
    views = text.split("zeroth  earlier     kept")
    assert len(views) > 10 and "made    candidates  starting" in views[1]
    assert "first   any         waiting" in views[1]
    last = views[-1]
    assert "made    candidates  finished  2/2  in 0:00   10 rows" in last
    assert "first   any         finished  9/9  in 0:00   loss 0.5" in last
    assert last.index("first   any") < last.index("┃ stage") < last.index(f"made in {home}: ")
    assert text.count("┃ stage") == 1 and terminal.live is None


def test_a_pipeline_that_stops_leaves_a_summary_and_a_usable_terminal(run):
    terminal = display(terminal=True, width=120)
    pipeline(terminal, run, "stopped")
    text = shown(terminal)
    assert "first   any         stopped  9/9" in text
    assert "any, stopped" in text[text.index("┃ stage") :]
    assert "\x1b[?25h" in text and terminal.live is None


def test_an_error_between_two_stages_leaves_a_usable_terminal(run):
    terminal = display(terminal=True, width=120)
    plan = Plan(run.directory.path, "", (Stage("first", run.file), Stage("second", run.file)))
    with pytest.raises(RuntimeError), terminal:
        terminal.pipeline_started(run.directory.path, plan, [])
        raise RuntimeError
    assert shown(terminal).endswith("\x1b[?25h") and terminal.live is None


def test_what_fails_before_its_first_step_is_not_taken_for_the_stage_before_it(run):
    terminal = display(terminal=True, width=120)
    plan = Plan(run.directory.path, "", (Stage("zeroth", run.file), Stage("first", run.file)))
    terminal.pipeline_started(run.directory.path, plan, ["zeroth"])
    terminal.run_ended(run, "failed")
    last = shown(terminal).split("zeroth  any  ")[-1]
    assert last.startswith("kept") and "first   any  failed" in last


def test_a_watch_says_which_step_was_best(run):
    watch = {"reward": "gold", "best": 9, "adapter": 9, "stopped": 18, "why": "gold fell"}
    (run.directory.path / "watch.json").write_text(json.dumps(watch))
    plain = display(terminal=False)
    steps(plain, run)
    plain.run_ended(run, "finished")
    said = "best by gold: step 9, the result; stopped at 18: gold fell"
    assert shown(plain).endswith(f"\n\n{said}\n")


def test_clock():
    assert [clock(s) for s in (0, 59.6, 3599, 3600)] == ["0:00", "1:00", "59:59", "1:00:00"]


def sample(reward: float | None, text: str, **more: object) -> dict[str, object]:
    parts = {"gold": reward, "short": 0.5}
    prompt = f"{SYSTEM}Review {text}.\nassistant\n"
    return {
        "row": 1,
        "prompt": prompt,
        "completion": text,
        "reward": reward,
        "parts": parts,
    } | more


SAMPLES = [
    sample(0.1, "Dull", advantage=-1.2, kl_sequence=0.25),
    sample(3.0, "Joy\nand\x1b[2J wit", advantage=1.5, kl_sequence=2.0),
    sample(1.0, "Fair", advantage=0.3, kl_sequence=0.5),
    sample(None, "Nothing", why="the judge was silent"),
]


def online(display: Display, run: Run) -> None:
    display.run_started(run, 0, 2)
    for step in (1, 2):
        display.sampled(run, step, SAMPLES)
        metrics = {"seconds": 2.0, "tokens": 100.0, "loss": 1.0, "reward": 1.37, "length": 12.5}
        display.step_ended(run, step, {**metrics, "kl_sequence": 0.9167})


def test_samples_are_told_in_lines_where_there_is_no_terminal(run):
    plain = display(terminal=False)
    online(plain, run)
    lines = shown(plain).splitlines()
    assert lines[1] == (
        "step 1/2  loss 1.0000  reward 1.37  KL 0.9167  length 12.5  50 tokens/s  0:02 left"
    )
    assert lines[2:6] == [
        "  best    3 (gold 3  short 0.5  advantage 1.5  KL 2)"
        "  Review Joy and\N{REPLACEMENT CHARACTER}[2J wit. > "
        "Joy and\N{REPLACEMENT CHARACTER}[2J wit",
        "  median  1 (gold 1  short 0.5  advantage 0.3  KL 0.5)  Review Fair. > Fair",
        "  worst   0.1 (gold 0.1  short 0.5  advantage -1.2  KL 0.25)  Review Dull. > Dull",
        "  1 of 4 could not be scored: the judge was silent",
    ]


def test_samples_stand_under_the_bar_on_a_terminal_until_the_run_ends(run):
    terminal = display(terminal=True, width=80)
    online(terminal, run)
    terminal.live.refresh()
    text = shown(terminal)
    for said in ("step 2", "best", "median", "worst", "gold 3", "advantage 1.5", "KL 0.25"):
        assert said in text, said
    assert "1 of 4 could not be scored: the judge was silent" in text
    assert "\x1b[2J" not in text
    before = len(text)
    terminal.run_ended(run, "stopped")
    assert "best" not in shown(terminal)[before:] and "2/2" in shown(terminal)[before:]
    assert terminal.live is None


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_as_many_samples_are_shown_as_there_are(count):
    places = [each.place for each in ranked(SAMPLES[:count])]
    assert places == {0: [], 1: ["best"], 2: ["best", "worst"]}.get(
        count, ["best", "median", "worst"]
    )


def test_a_single_part_that_is_the_reward_is_not_repeated():
    (only,) = ranked([{**sample(1.0, "Fair"), "parts": {"gold": 1.0}}])
    assert only.parts == {}


def test_samples_that_no_reward_scored_are_shown_as_they_are():
    samples = [{"prompt": "a", "completion": text} for text in "wxyz"]
    assert [(each.place, each.reward, each.parts) for each in ranked(samples)] == [
        ("", "", {})
    ] * 3
    assert list(plain(samples)) == [f"            a > {text}" for text in "wxy"]

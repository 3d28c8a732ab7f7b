"""What a run shows, on a terminal and elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from trimtab.core.config import RunFile
from trimtab.core.evaluation import Evaluation
from trimtab.core.measures import Measure
from trimtab.core.run import Run
from trimtab.core.rundir import RunDirectory
from trimtab.plugins.registry import Plugins
from trimtab.progress import Display, clock
from trimtab.shown import ranked

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

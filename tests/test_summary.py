"""One table of what each stage of a pipeline took and changed."""

from __future__ import annotations

import io
import json

from rich.console import Console

from trimtab.core.rundir import RunDirectory
from trimtab.core.summary import changes as changes_of
from trimtab.core.summary import rows_made
from trimtab.summary import notes, plain, said_of_watch, table, told


def measure(value: float | None, spread: float = 0.1, n: int = 64) -> dict[str, float | None]:
    if value is None:
        return {"value": None, "low": None, "high": None, "n": n}
    return {"value": value, "low": value - spread, "high": value + spread, "n": n}


def changes(evaluations):
    """As they stand in ``summary.json``."""
    if not evaluations:
        return {}
    first, last = evaluations[0], evaluations[-1]
    return {n: {"before": first.get(n), "after": m} for n, m in last.items() if n != "step"}


EVALS = [
    {
        "step": step,
        "loss": measure(loss),
        "kl_sequence": measure(kl),
        "reward": measure(total),
        "reward/proxy": measure(total),
        "reward/gold": measure(gold),
    }
    for step, loss, kl, total, gold in ((0, 1.0, 0.0, 0.5, 0.25), (9, 0.5, 3.0, 2.0, 0.75))
]


def stage(name: str, what: str, **more: object) -> dict[str, object]:
    return {
        "name": name,
        "what": what,
        "state": "finished",
        "kept": False,
        "steps": 9,
        "seconds": 83.4,
        "peak_memory_mb": 812.4,
        "result": f"stages/{name}/adapter",
        "measures": {},
        **more,
    }


SUMMARY = {
    "stages": [
        stage("sft", "sft", kept=True, measures=changes([{"step": 0, "loss": measure(1.0)}])),
        stage("pairs", "labels", seconds=3723.0, rows=40, result="stages/pairs/data"),
        stage("last", "any", peak_memory_mb=1530.0, measures=changes(EVALS)),
        stage("after", "any", state="stopped", steps=3, result=None, peak_memory_mb=None),
    ]
}


def test_a_stage_is_judged_by_its_rewards_and_kl():
    assert told(changes(EVALS)) == [
        "proxy 0.5 [0.4, 0.6] -> 2 [1.9, 2.1]",
        "gold 0.25 [0.15, 0.35] -> 0.75 [0.65, 0.85]",
        "KL 3 [2.9, 3.1]",
    ]
    assert told(changes(EVALS), intervals=False)[1:] == ["gold 0.25 -> 0.75", "KL 3"]


def test_a_reward_model_is_judged_by_its_accuracy_and_what_has_neither_by_its_loss():
    ends = [
        {"step": n, "loss": measure(1 - n / 9), "accuracy": measure(0.5 + n / 18)} for n in (0, 9)
    ]
    assert told(changes(ends), intervals=False) == ["accuracy 0.5 -> 1"]
    for each in ends:
        del each["accuracy"]
    assert told(changes(ends), intervals=False) == ["loss 1 -> 0"]


def test_the_sum_of_rewards_is_told_where_it_is_none_of_them():
    ends = [{"step": n, "reward": measure(3.0 + n), "reward/a": measure(1.0)} for n in (0, 1)]
    assert told(changes(ends), intervals=False) == ["reward 3 -> 4", "a 1"]


def test_what_was_not_finite_or_not_measured_at_first_is_told():
    ends = [{"step": 0}, {"step": 9, "accuracy": measure(None)}]
    assert told(changes(ends)) == ["accuracy not finite [not finite, not finite]"]
    assert told({}) == []


def test_stages_are_told_in_aligned_lines():
    assert plain(SUMMARY) == [
        "stage   what           steps   time      memory   result",
        "sft     sft, kept      9       1:23      812 MB   loss 1 [0.9, 1.1]",
        "pairs   labels         9       1:02:03   812 MB   40 rows",
        "last    any            9       1:23      1.5 GB   proxy 0.5 [0.4, 0.6] -> 2 [1.9, 2.1]",
        f"{'':50}gold 0.25 [0.15, 0.35] -> 0.75 [0.65, 0.85]",
        f"{'':50}KL 3 [2.9, 3.1]",
        "after   any, stopped   3       1:23",
    ]


def test_what_a_judge_was_asked_is_told_beside_the_result():
    judge = {"requests": 1096, "cached": 32, "prompt_tokens": 12000, "completion_tokens": 288}
    asked = stage("pairs", "labels", rows=40, judge=judge)
    first, second = plain({"stages": [asked]})[1:]
    assert first.endswith("40 rows")
    assert second.strip() == "judge: 1,096 requests and 32 from the cache, 12,288 tokens"
    asked = stage("pairs", "labels", judge={"requests": 1})
    assert plain({"stages": [asked]})[1].endswith("judge: 1 requests")


def test_the_table_on_a_terminal_says_the_same():
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    console.print(table(SUMMARY))
    text = console.file.getvalue()
    words = " ".join(plain(SUMMARY)).replace("KL 3", "").split()
    assert all(word in text for word in words)


def watch(run, **found: object) -> None:
    run.mkdir(parents=True, exist_ok=True)
    (run / "watch.json").write_text(json.dumps({"reward": "gold", "why": "figures", **found}))


def test_results_and_watches_are_told_beside_the_table(tmp_path):
    watch(tmp_path / "stages" / "last", best=12, stopped=None, adapter=12)
    assert notes(tmp_path, SUMMARY) == [
        f"made in {tmp_path}: stages/sft/adapter, stages/pairs/data, stages/last/adapter",
        "last: best by gold: step 12, the result",
    ]
    assert said_of_watch(tmp_path) is None


def test_a_watch_that_stopped_says_why_and_which_step_the_result_is_of(tmp_path):
    watch(tmp_path, best=12, stopped=18, adapter=18)
    assert said_of_watch(tmp_path) == (
        "best by gold: step 12; the result is of step 18; stopped at 18: figures"
    )
    watch(tmp_path, best=12, stopped=None, adapter=None)
    assert said_of_watch(tmp_path) == "best by gold: step 12"


def test_what_a_run_changed_is_told_of_the_step_that_its_result_is_of(tmp_path):
    run = RunDirectory.create(tmp_path / "run", "", "", {})
    for step, gold in ((0, 0.1), (6, 0.7), (12, 0.4)):
        run.log("evals", {"step": step, "reward/gold": measure(gold)})
    assert told(changes_of(run), intervals=False) == ["gold 0.1 -> 0.4"]
    watch(run.path, best=6, stopped=12, adapter=6)
    assert told(changes_of(run), intervals=False) == ["gold 0.1 -> 0.7"]


def test_the_rows_that_a_stage_made_are_those_of_its_data_set(tmp_path):
    (tmp_path / "data.json").write_text(json.dumps({"made": {"written": 7}}))
    assert rows_made(tmp_path) is None
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.jsonl").write_text("")
    assert rows_made(tmp_path) == 7

"""What the benchmarks make of their measurements. The measuring itself is not tested here."""

from __future__ import annotations

import pytest

from trimtab.benchmarks import compare, report
from trimtab.benchmarks.against_trl import FASTEST, SMALLEST, best, candidates, ours
from trimtab.benchmarks.job import Job, Result
from trimtab.benchmarks.shapes import batch, short

MACHINE = {
    "packages": {"torch": "2.6"},
    "gpus": [],
    "cpu": "a processor",
    "threads": 2,
    "memory": 8e9,
    "load_average": 0.1,
    "python": "3.11",
}


def job(system="trl", **changes):
    settings = {"arm": system, "system": system, "objective": "dpo", "dtype": "float32"}
    return Job.model_validate({**settings, "shape": "short", **changes})


def result(one, seconds, peak, losses=(0.7, 0.6)):
    return Result(job=one, seconds=seconds, losses=list(losses), peak=peak, loaded=100)


@pytest.fixture
def rounds():
    mine, theirs = job("trimtab"), job()
    return [
        {"trimtab": result(mine, [1.0, 2.0, 9.0], 200), "trl": result(theirs, [4.0], 400)},
        {"trimtab": result(mine, [1.0], 200), "trl": result(theirs, [4.0], 500)},
    ]


def test_ratios_are_of_each_rounds_medians(rounds):
    assert compare.speedup(rounds, "trimtab", "trl") == compare.Spread(3.0, 2.0, 4.0)
    assert compare.ratio(rounds, compare.peak, "trimtab", "trl").greatest == 0.5
    assert compare.ratio(rounds, compare.above, "trimtab", "trl").least == 0.25


def test_arms_that_compute_something_else_are_a_fault(rounds):
    assert compare.faults(rounds) == []
    rounds[1]["trl"] = result(job(), [4.0], 400, losses=(0.7 * 1.001, 0.6))
    assert "differ by 1.0e-03, more than 1e-05" in compare.faults(rounds)[0]
    assert "**Not comparable**" in report.against(MACHINE, rounds)


def test_a_loss_that_is_no_number_is_no_result():
    with pytest.raises(ValueError, match="finite number"):
        result(job(), [1.0], 200, losses=(float("nan"), 0.6))


def test_files_hold_every_number(rounds, tmp_path):
    path = tmp_path / "results" / "dpo.json"
    report.write(path, MACHINE, rounds, report.against(MACHINE, rounds))
    assert report.read(path) == (MACHINE, rounds)
    text = path.with_suffix(".md").read_text()
    assert "| trimtab | trl | 3.00 [2.00, 4.00] |" in text


def test_trls_best_are_the_fastest_and_the_smallest_of_all_settings():
    asked = job(rows=4)
    tried = candidates(asked)
    assert {(one.micro_rows, one.checkpointing) for one in tried} == {
        (size, on) for size in (1, 2, 4) for on in (False, True)
    }
    found = [result(one, [9.0 - i], 1000 + i) for i, one in enumerate(tried)]
    fastest, smallest, known = best(asked, found)
    assert fastest.arm == f"{FASTEST} (micro-batch 4, checkpointing on)"
    assert smallest.arm == f"{SMALLEST} (micro-batch 1, checkpointing off)"
    assert (known.reference, known.micro_rows) == ("warm", 4)


def test_both_systems_get_the_same_rows():
    examples = short(3)
    pairs = batch("dpo", examples)
    assert pairs.chosen.length_N.tolist() == [len(one.chosen) for one in examples]
    assert examples == short(3)
    assert [one.arm for one in ours(job())] == [
        "Trimtab",
        "Trimtab, cold cache",
        "Trimtab, warm cache",
    ]

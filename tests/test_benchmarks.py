"""What the benchmarks make of measurements; and, with a tiny model, that they measure at all."""

from __future__ import annotations

import json

import pytest
from tiny import save_tiny

from trimtab.benchmarks import compare, report
from trimtab.benchmarks.against_trl import (
    FASTEST,
    SMALLEST,
    best,
    candidates,
    ours,
    own_candidates,
)
from trimtab.benchmarks.against_trl import main as against_trl
from trimtab.benchmarks.data_preparation import main as data_preparation
from trimtab.benchmarks.decoding import main as decoding
from trimtab.benchmarks.job import TRL, Job, Result, in_own_process
from trimtab.benchmarks.preparation import write_pairs
from trimtab.benchmarks.saving import main as saving
from trimtab.benchmarks.shapes import batch, shifted, short
from trimtab.core.layout import rows_of

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
    assert fastest.arm == f"TRL, {FASTEST} (micro-batch 4, checkpointing on)"
    assert smallest.arm == f"TRL, {SMALLEST} (micro-batch 1, checkpointing off)"
    assert (known.reference, known.micro_rows) == ("warm", 4)


def test_our_best_are_found_in_the_same_way():
    asked = job(rows=4, steps=7)
    tried = own_candidates(asked)
    assert {one.system for one in tried} == {"trimtab"}
    found = [result(one, [9.0 - i], 1000 + i) for i, one in enumerate(tried)]
    fastest, smallest = best(asked, found)
    assert (fastest.micro_tokens, fastest.checkpointing, fastest.steps) == (1024, False, 7)
    assert (smallest.micro_tokens, smallest.checkpointing, smallest.steps) == (128, True, 7)


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


def test_labelled_rows_are_the_same_in_both_systems():
    examples = short(5)
    rows = batch("kto", examples)
    assert rows.desirable_N.tolist() == [True, False, True, False, True]
    own = [row.completion for row in rows_of({"one": rows.responses})]
    mismatched = rows_of({"one": rows.mismatched})
    assert [row.completion for row in mismatched] == shifted(own)
    assert [list(row.prompt) for row in mismatched] == [one.prompt for one in examples]


def test_rankings_of_two_say_that_the_chosen_one_is_better():
    ranked = batch("reward_model", short(2))
    assert ranked.better_NKK[:, 0, 1].tolist() == [1.0, 1.0]
    assert ranked.better_NKK[:, 1, 0].tolist() == [0.0, 0.0]
    assert ranked.better_NKK.isnan().sum() == 4


def test_ktos_losses_are_checked_only_where_trl_sees_the_whole_step(rounds):
    def changed(system, **settings):
        return job(system, objective="kto", rows=8, **settings)

    whole = result(changed("trl"), [4.0], 400)
    part = result(changed("trl", micro_rows=2), [4.0], 400, losses=(0.5, 0.5))
    mine = result(changed("trimtab"), [1.0], 200)
    assert compare.faults([{"mine": mine, "whole": whole, "part": part}]) == []
    assert "nothing was checked" in compare.faults([{"mine": mine, "part": part}])[0]


def test_trl_refuses_kto_with_one_row_at_a_time():
    assert {one.micro_rows for one in candidates(job(objective="kto", rows=4))} == {2, 4}
    assert {one.micro_rows for one in candidates(job(objective="reward_model", rows=2))} == {1, 2}


@pytest.mark.parametrize("form", ["plain", "turns"])
def test_no_two_rows_to_prepare_are_alike(form, tmp_path):
    file = tmp_path / "pairs.jsonl"
    write_pairs(file, form, 3000)
    lines = file.read_text().splitlines()
    assert len(set(lines)) == len(lines) == 3000
    assert isinstance(json.loads(lines[0])["prompt"], str if form == "plain" else list)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(save_tiny(tmp_path_factory.mktemp("tiny")))


@pytest.mark.slow
@pytest.mark.parametrize("objective", TRL)
def test_both_systems_start_with_the_same_loss(objective, tiny):
    asked = job(objective=objective, model=tiny, rows=4, steps=1)
    theirs, *ours_ = [in_own_process(one) for one in (asked, *ours(asked))]
    assert all(len(one.losses) == 2 and one.peak > one.loaded > 0 for one in (theirs, *ours_))
    taken = [{one.job.arm: one for one in (theirs, *ours_)}]
    assert compare.faults(taken) == []
    assert compare.disagreement(taken, "Trimtab", "trl") < compare.AGREEMENT["float32"]


@pytest.mark.slow
def test_the_way_from_one_command_to_a_report(tiny, tmp_path):
    out = tmp_path / "sft.json"
    against_trl(objective="sft", model=tiny, rows=4, steps=1, rounds=1, search=False, out=out)
    assert "first loss" in out.with_suffix(".md").read_text()
    assert len(report.read(out)[1]) == 1


@pytest.mark.slow
def test_a_save_is_measured_beside_its_limit_and_a_resume_by_its_parts(tiny, tmp_path):
    out = tmp_path / "saving.json"
    saving(model=tiny, saves=2, resumes=1, folder=tmp_path, out=out)
    record = json.loads(out.read_text())
    assert len(record["saves"]["seconds"]) == len(record["saves"]["plain"]) == 2
    parts = record["resumes"][0]["parts"]
    assert min(parts[name] for name in ("imports", "data", "model", "restore")) > 0
    assert record["resumes"][0]["step"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("form", ["plain", "turns"])
def test_both_systems_prepare_the_same_rows(form, tmp_path):
    out = tmp_path / "preparation.json"
    data_preparation(form=form, rows=50, rounds=1, out=out)
    made = json.loads(out.read_text())["rounds"][0].values()
    mine, *theirs = made
    line_breaks = 2 * 50 if form == "turns" else 0  # after the last turn of each completion
    assert {one["rows"] for one in made} == {50}
    assert {one["tokens"] for one in theirs} == {mine["tokens"] + line_breaks}


@pytest.mark.slow
def test_every_sampler_is_measured_beside_the_limit_of_its_products(tiny, tmp_path):
    out = tmp_path / "decoding.json"
    decoding(model=tiny, prompts=2, group=2, prompt_tokens=6, tokens=4, rounds=1, out=out)
    record = json.loads(out.read_text())
    assert record["failed"] == {}
    assert len(record["tokens_per_second"]) == 5
    assert min(min(some) for some in record["tokens_per_second"].values()) > 0
    assert record["limits"].keys() == {"float32", "bfloat16"}
    assert "limit of the products, bfloat16" in out.with_suffix(".md").read_text()

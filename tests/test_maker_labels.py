"""The source ``labels``: which of two responses is better, by reward and by people."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import pytest
from data_fixtures import write_jsonl
from maker_fixtures import (
    ANSWERED,
    all_of,
    assert_all_accounted_for,
    opened,
    read_again,
    setting,
)
from pydantic import ValidationError
from test_rollouts import Count, Half

from trimtab.core.errors import UserError
from trimtab.plugins.makers.labels import Labels, LabelsConfig
from trimtab.plugins.sources.kinds import PAIRS


def labelled(tmp_path, *rewards, rows=ANSWERED, steps_of=3, options=None, **changes):
    made = opened(
        Labels, LabelsConfig(**(options or {})), setting(tmp_path, rows, *rewards, **changes)
    )
    return all_of(made, steps_of)


def test_the_best_is_chosen_over_the_worst(tmp_path):
    rows, steps = labelled(tmp_path, Count)
    assert_all_accounted_for(steps, 8)
    assert sorted(row["answer"] for row in rows) == list(range(1, 9))
    for row in rows:
        given = ANSWERED[row["answer"] - 1]["responses"]
        assert (row["chosen"], row["rejected"]) == (max(given, key=len), min(given, key=len))
        assert row["annotator"] == "reward:count" and "preference" not in row
    assert len(read_again(tmp_path, rows, PAIRS).train) == 8


def test_all_pairs_with_soft_labels_are_sigmoids_of_the_gap(tmp_path):
    rows, _ = labelled(tmp_path, Count, options={"pairs": "all", "soft": True})
    assert len(rows) == 24
    for row in rows:
        gap = len(row["chosen"]) - len(row["rejected"])
        assert gap > 0 and row["preference"] == pytest.approx(1 / (1 + math.exp(-gap)))


def test_noise_draws_the_winner_with_its_probability(tmp_path):
    pairs = [{"prompt": f"Question {n}:", "responses": [" a", " bb"]} for n in range(1, 401)]
    options = {"noise": "bradley_terry"}
    rows, _ = labelled(tmp_path, Count, rows=pairs, options=options, steps_of=200)
    share = sum(row["chosen"] == " bb" for row in rows) / 400
    expected = 1 / (1 + math.exp(-1))
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / 400)
    other, _ = labelled(tmp_path, Count, rows=pairs, options=options, steps_of=399)
    assert other == rows


def test_noise_is_drawn_for_each_pair_of_a_row_by_itself(tmp_path):
    """Of three fair draws all fall alike in a quarter of the rows."""
    rows = [{"prompt": f"Question {n}:", "responses": [" a", " b", " c"]} for n in range(300)]
    options = {"noise": "bradley_terry", "pairs": "all"}
    made, _ = labelled(tmp_path, Count, rows=rows, options=options, steps_of=100)
    assert len(made) == 900
    earlier = [row["chosen"] < row["rejected"] for row in made]
    alike = sum(len(set(earlier[n : n + 3])) == 1 for n in range(0, 900, 3))
    assert abs(alike - 75) < 4 * math.sqrt(300 * 3 / 16)


def test_ties_make_no_row_and_are_counted(tmp_path):
    rows = [
        {"prompt": "One:", "responses": [" a", " b"]},
        {"prompt": "Two:", "responses": [" a", " bb"]},
    ]
    made, steps = labelled(tmp_path, Count, rows=rows)
    assert [row["prompt"] for row in made] == ["Two:"]
    assert steps[0].dropped == [{"row": 1, "reason": "a tie"}]
    assert steps[0].counts["ties"] == 1 and steps[0].read == 2


def test_what_no_reward_can_score_is_not_compared(tmp_path):
    rows = [{"prompt": "One:", "responses": [" aa", " b", " ccccc"]}]
    rows += [{"prompt": "Two:", "responses": [" a", " bb"]}]
    made, steps = labelled(tmp_path, Half, rows=rows, options={"pairs": "all"})
    assert made == []
    reason = "a response that no reward could score"
    assert {one["row"]: one["reason"] for one in steps[0].dropped} == {1: reason, 2: reason}


def test_a_budget_is_the_first_rows_of_an_order_by_seed(tmp_path):
    few, steps = labelled(tmp_path, Count, options={"budget": 3})
    more, _ = labelled(tmp_path, Count, options={"budget": 5})
    assert len(few) == 3 and more[:3] == few and sum(step.read for step in steps) == 3
    other, _ = labelled(tmp_path, Count, options={"budget": 3}, seed=8)
    assert other != few


def test_earlier_labels_come_first_unchanged(tmp_path):
    earlier = [{"prompt": "Old:", "chosen": " x", "rejected": " y", "annotator": "ann"}] * 2
    name = write_jsonl(tmp_path / "earlier.jsonl", earlier)
    rows, _ = labelled(tmp_path, Count, options={"earlier": [name]})
    assert rows[:2] == earlier and len(rows) == 10


def test_people_label_through_files_until_all_is_labelled(tmp_path):
    rows = [{"prompt": f"Question {n}:", "responses": [f" a{n}", f" b{n}"]} for n in range(4)]
    run = tmp_path / "run/stages/label"
    run.mkdir(parents=True)
    (tmp_path / "run/config.yaml").touch()
    asked: dict[str, Any] = {"rows": rows, "options": {"by": "file"}, "directory": run}
    with pytest.raises(UserError) as raised:
        labelled(tmp_path, **asked)
    said = str(raised.value)
    assert said.startswith("4 of 4 pairs have no label yet. They are in ")
    assert said.endswith(f"to {run / 'labels.jsonl'}, then: trimtab resume {tmp_path / 'run'}")
    wanted = [json.loads(line) for line in (run / "to_label.jsonl").read_text().splitlines()]
    assert {one["prompt"]: (one["a"], one["b"]) for one in wanted} == {
        row["prompt"]: tuple(row["responses"]) for row in rows
    }
    labels = [{"id": one["id"], "winner": "b"} for one in wanted[:3]]
    write_jsonl(run / "labels.jsonl", labels)
    with pytest.raises(UserError, match="1 of 4 pairs have no label yet"):
        labelled(tmp_path, **asked)
    labels[0] |= {"annotator": "ann"}
    labels += [{**labels[0], "annotator": "ben", "winner": "a"}]
    labels += [{"id": wanted[3]["id"], "winner": "tie"}, {"id": "unknown", "winner": "a"}]
    write_jsonl(run / "labels.jsonl", labels)
    made, steps = labelled(tmp_path, **asked)
    assert Counter(row["annotator"] for row in made) == {"ann": 1, "ben": 1, "file": 2}
    assert {row["chosen"][:2] for row in made if row["annotator"] != "ben"} == {" b"}
    assert sum((list(step.dropped) for step in steps), []) == [
        {"row": int(wanted[3]["prompt"][9]) + 1, "reason": "a tie"}
    ]


def test_what_people_label_is_written_in_their_letters_a_line_each(tmp_path):
    rows = [{"prompt": "Où?", "responses": [" là 🎬", " a\u2028b\u0085c"]}]
    with pytest.raises(UserError, match="1 of 1 pairs have no label yet"):
        labelled(tmp_path, rows=rows, options={"by": "file"}, directory=tmp_path)
    text = (tmp_path / "to_label.jsonl").read_text(encoding="utf-8")
    assert "Où?" in text
    assert "là 🎬" in text
    (line,) = text.splitlines()
    assert json.loads(line)["b"] == " a\u2028b\u0085c"


def test_bad_labels_are_told_with_their_lines(tmp_path):
    write_jsonl(tmp_path / "labels.jsonl", [{"id": "x", "winner": "c"}, b"{", {"winner": "a"}])
    with pytest.raises(UserError) as raised:
        labelled(tmp_path, options={"by": "file"}, directory=tmp_path)
    assert str(raised.value).splitlines()[1:] == [
        "  1: winner is 'c', not 'a', 'b' or 'tie'",
        "  2: not JSON: Expecting property name enclosed in double quotes",
        "  3: no id",
    ]


@pytest.mark.parametrize(
    "options, said",
    [
        ({"by": "judge", "noise": "bradley_terry"}, "noise is of by: reward"),
        ({"soft": True, "noise": "bradley_terry"}, "choose one"),
        ({"by": "file", "soft": True}, "the labels of a file have none"),
        ({"file": "x"}, "file is of by: file"),
    ],
)
def test_options_that_do_not_fit_each_other_are_refused(options, said):
    with pytest.raises(ValidationError, match=said):
        LabelsConfig(**options)


@pytest.mark.parametrize(
    "by, said", [("reward", "labels by reward"), ("judge", "labels by judge")]
)
def test_who_labels_has_to_be_there(tmp_path, by, said):
    with pytest.raises(UserError, match=said):
        labelled(tmp_path, options={"by": by})

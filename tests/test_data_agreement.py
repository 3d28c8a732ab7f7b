"""``trimtab data agreement``: who said what, Krippendorff's alpha, and who disagrees on which."""

from __future__ import annotations

import json

import krippendorff
import numpy as np
import pytest
from data_fixtures import answer, turns, write_jsonl
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from trimtab.commands.data import app
from trimtab.core.errors import UserError
from trimtab.plugins.sources import alpha as alphas
from trimtab.plugins.sources.alpha import LEVELS, alpha, disagreement

FILM = {"prompt": "Rate it.", "completion": "Fine."}
PAIR = {"prompt": "Say a colour.", "chosen": "red", "rejected": "blue"}


def run(*arguments):
    result = CliRunner().invoke(app, ["agreement", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def account(folder, rows, *options):
    return json.loads(run(write_jsonl(folder / "rows.jsonl", rows), "--json", *options))


def ratings(matrix):
    """Rows from ``matrix[annotator][unit]``; None where there is no rating."""
    return [
        {"prompt": "Rate it.", "completion": f"film {unit}", "rating": value, "annotator": who}
        for who, values in enumerate(matrix)
        for unit, value in enumerate(values)
        if value is not None
    ]


def flat(matrix):
    given = [(u, v) for values in matrix for u, v in enumerate(values) if v is not None]
    unit_J, value_J = zip(*given, strict=True)
    return np.array(unit_J), np.array(value_J, dtype=float)


def by_library(matrix, level):
    data = np.array([[np.nan if v is None else v for v in values] for values in matrix], float)
    return krippendorff.alpha(reliability_data=data, level_of_measurement=level)


matrices = st.integers(2, 9).flatmap(
    lambda units: st.lists(
        st.lists(st.sampled_from([None, 1, 2, 3, 7]), min_size=units, max_size=units),
        min_size=2,
        max_size=5,
    )
)


@settings(max_examples=60, deadline=None)
@given(matrix=matrices, level=st.sampled_from(LEVELS))
def test_alpha_is_the_librarys_also_by_the_formula_of_the_resamples(matrix, level):
    judged = [[v for v in unit if v is not None] for unit in zip(*matrix, strict=True)]
    assume(len({v for values in judged if len(values) > 1 for v in values}) > 1)
    with pytest.MonkeyPatch.context() as patch:
        for dense in (alphas._DENSE, 0):
            patch.setattr(alphas, "_DENSE", dense)
            found = alpha(*flat(matrix), level, resamples=20)
            assert found.value == pytest.approx(by_library(matrix, level), abs=1e-12)
            assert found.low <= found.high


def test_alpha_of_krippendorffs_own_example():
    # Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), C: 12 units, 4 observers.
    matrix = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    expected = {"nominal": 0.743, "ordinal": 0.815, "interval": 0.849, "ratio": 0.797}
    for level, value in expected.items():
        assert alpha(*flat(matrix), level).value == pytest.approx(value, abs=5e-4)


def test_the_interval_holds_the_value_narrows_with_units_and_repeats():
    generator = np.random.default_rng(0)

    def noisy(units):
        truth = generator.integers(1, 6, units)
        return flat([(truth + generator.integers(-1, 2, units)).tolist() for _ in range(3)])

    few, many = noisy(30), noisy(3000)
    wide, narrow = alpha(*few, "interval"), alpha(*many, "interval")
    for one in (wide, narrow):
        assert one.low < one.value < one.high
    assert narrow.high - narrow.low < (wide.high - wide.low) / 5
    assert alpha(*few, "interval") == wide


def test_disagreement_is_the_mean_distance_of_two_judgements():
    matrix = [[1, 1, 4], [3, 1, None], [5, 1, None]]
    apart_U = disagreement(*flat(matrix), "interval")
    assert apart_U.tolist() == [(4 + 16 + 4) / 3, 0, 0]
    assert disagreement(*flat(matrix), "nominal").tolist() == [1, 0, 0]


def test_ratings_are_counted_compared_and_listed(tmp_path):
    rows = ratings(
        [[1, 2, 3, 4, 5], [1, 2, 3, 4, 4], [5, 4, 3, 2, 1], [None, None, None, None, 3]]
    )
    said = account(tmp_path, rows)
    assert (said["read"], said["used"], said["dropped"]) == (16, 16, [])
    assert (said["kind"], said["level"], said["units"]) == ("ratings", "interval", 5)
    worst = said["pairs"][0]
    assert worst["annotators"] == ["0", "2"] and worst["units"] == 5
    assert worst["difference"] == pytest.approx((4 + 2 + 0 + 2 + 4) / 5)
    assert worst["pearson"] == worst["spearman"] == pytest.approx(-1)
    assert worst["agreement"] == pytest.approx(1 / 5)
    assert len(said["pairs"]) == 6 and said["pairs"][-1]["units"] == 1
    assert said["annotators"][0]["annotator"] == "2"
    assert [one["judged"] for one in said["annotators"]].count(5) == 3
    worst = said["disagreements"][0]
    assert worst["texts"] == ["film 0"] and worst["rows"] == [1, 6, 11]
    assert worst["values"] == {"0": 1, "1": 1, "2": 5}
    spread = [[1, 1, 5], [2, 2, 4], [3, 3, 3], [4, 4, 2], [5, 4, 1, 3]]
    assert said["deviation"] == pytest.approx(np.mean([np.std(v, ddof=1) for v in spread]))
    assert sum(value["count"] for value in said["values"]) == 16


def test_bias_tells_who_rates_higher_than_the_others(tmp_path):
    said = account(tmp_path, ratings([[3, 4, 5], [2, 3, 4]]))
    assert {one["annotator"]: one["bias"] for one in said["annotators"]} == {"0": 1, "1": -1}


def test_a_pair_is_one_unit_in_either_order(tmp_path):
    turned = {**PAIR, "chosen": "blue", "rejected": "red"}
    rows = [
        {**PAIR, "annotator": "ann"},
        {**turned, "annotator": "bob"},
        {**turned, "annotator": "cem", "preference": 0.2},
        {**PAIR, "annotator": "dan", "preference": 0.5},
        {**PAIR, "prompt": "Another.", "annotator": "ann"},
    ]
    said = account(tmp_path, rows)
    assert (said["kind"], said["level"], said["units"]) == ("pairs", "nominal", 2)
    unit = said["disagreements"][0]
    assert unit["texts"] == ["blue", "red"]
    assert unit["values"] == {"ann": "B", "bob": "A", "cem": "B", "dan": "tie"}
    same = {tuple(pair["annotators"]): pair["agreement"] for pair in said["pairs"]}
    assert same["ann", "cem"] == 1 and same["ann", "bob"] == 0
    assert "difference" not in said["pairs"][0] and said["deviation"] is None


def test_a_ranking_judges_each_two_of_its_responses(tmp_path):
    ranked = {"prompt": "Say a colour.", "responses": ["red", "blue", "green"]}
    rows = [
        {**ranked, "ranks": [1, 2, 3], "annotator": 1},
        {**ranked, "scores": [5, 5, 0.5], "annotator": 2},
        {**PAIR, "responses": ["blue", "red"], "ranks": [1, 2], "annotator": 3},
    ]
    said = account(tmp_path, rows)
    assert (said["kind"], said["units"], said["used"]) == ("rankings", 3, 3)
    by_texts = {tuple(unit["texts"]): unit["values"] for unit in said["disagreements"]}
    assert by_texts == {("blue", "red"): {"1": "B", "2": "tie", "3": "A"}}


def test_labels_of_conversations_are_compared(tmp_path):
    rows = [
        {"prompt": turns("hi"), "completion": answer(text), "label": label, "annotator": who}
        for text, labels in (("yes", (True, "1", "True")), ("no", (False, 0, 1)))
        for who, label in enumerate(labels)
    ]
    said = account(tmp_path, rows)
    assert (said["kind"], said["units"], said["used"]) == ("labels", 2, 6)
    assert said["disagreements"][0]["values"] == {"0": "false", "1": "false", "2": "true"}
    assert said["disagreements"][0]["prompt"] == "hi"
    assert said["disagreements"][0]["texts"] == ["no"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"rating": 1}, "no column 'annotator'"),
        ({"rating": 1, "annotator": None}, "annotator is null"),
        ({"rating": 1, "annotator": " "}, "annotator is empty"),
        ({"rating": 1, "annotator": ["a"]}, "annotator is a list, neither text nor a number"),
        ({"rating": None, "annotator": "b"}, "rating is null"),
        ({"rating": "good", "annotator": "b"}, "rating is not a number"),
        ({"rating": True, "annotator": "b"}, "rating is not a number"),
        ({"rating": 1, "annotator": "b", "completion": None}, "completion is null"),
        ({"rating": 1, "annotator": "b", "completion": ""}, "completion is empty"),
        ({"rating": 1, "annotator": "b", "completion": 3}, "completion is a number, neither text"),
        ({"rating": 2, "annotator": "a"}, "the annotator judged the same before, alike"),
        ({"rating": 3, "annotator": "a"}, "the annotator judged the same before, with another"),
    ],
)
def test_a_row_that_cannot_be_used_is_counted_with_its_reason(tmp_path, row, reason):
    good = {**FILM, "rating": 2, "annotator": "a"}
    said = account(tmp_path, [good, {**FILM, **row}, b"{", {**good, "annotator": "c"}])
    assert said["read"] == said["used"] + len(said["dropped"]) == 4
    assert [dropped["row"] for dropped in said["dropped"]] == [2, 3]
    assert said["dropped"][0]["reason"].startswith(reason)
    assert [one["annotator"] for one in said["annotators"]] == ["a", "c"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"ranks": [1, 2]}, "ranks holds 2 entries for 3 responses"),
        ({"ranks": [1, 2, None]}, "ranks holds null"),
        ({"ranks": 1}, "ranks is a number, not a list"),
        ({}, "no ranks and no scores"),
        (
            {"ranks": [1, 2, 3], "scores": [1, 2, 3]},
            "both ranks and scores: one of them has to go",
        ),
        ({"ranks": [1], "responses": ["a"]}, "responses holds fewer than two"),
        ({"ranks": [1, 2], "responses": ["a", "a"]}, "two responses are the same"),
        ({"better": [[None] * 3] * 3, "ranks": [1, 2, 3]}, "better compares no two"),
        ({"ranks": [3, 2, 1], "annotator": 1}, "the annotator judged the same before, with anoth"),
        ({"chosen": "a", "preference": 2}, "no column 'rejected'"),
    ],
)
def test_a_ranking_that_cannot_be_used_is_counted_whole(tmp_path, row, reason):
    good = {"prompt": "x", "responses": ["a", "b", "c"]}
    rows = [{**good, "ranks": [1, 2, 3], "annotator": 1}, {**good, "annotator": 2, **row}]
    kind = "pairs" if "chosen" in row else "rankings"
    if kind == "pairs":
        rows[0] |= {"chosen": "a", "rejected": "b"}
    said = account(tmp_path, rows, "--kind", kind)
    assert said["used"] == 1 and said["dropped"][0]["reason"].startswith(reason)


def test_without_annotators_it_says_how_to_name_their_column(tmp_path):
    rows = [{**FILM, "rating": 1, "rater": 7}, {**FILM, "rating": 2, "rater": 8.0}]
    file = write_jsonl(tmp_path / "r.jsonl", rows)
    with pytest.raises(UserError, match="no row has a column 'annotator'.*=THEIRS"):
        run(file)
    said = json.loads(run(file, "--column", "annotator=rater", "--json"))
    assert [one["annotator"] for one in said["annotators"]] == ["7", "8"]
    with pytest.raises(
        UserError, match="(?s)none of its 2 rows.*no column 'who', which data.columns"
    ):
        run(file, "--column", "annotator=who")
    with pytest.raises(UserError, match="ratings have no column 'anotator'. Did you mean 'annot"):
        run(file, "--column", "anotator=rater")


def test_what_is_no_judgement_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"hold no judgement \(rating, responses, chosen, label"):
        run(write_jsonl(tmp_path / "t.jsonl", [{"text": "a"}]))
    with pytest.raises(UserError, match="no readable rows"):
        run(write_jsonl(tmp_path / "e.jsonl", []))
    with pytest.raises(UserError, match="no feedback 'rating'. Did you mean 'ratings'"):
        run(write_jsonl(tmp_path / "t.jsonl", [{"text": "a"}]), "--kind", "rating")
    many = ratings([[float(n) for n in range(2100)]] * 2)
    with pytest.raises(
        UserError, match="2100 different values are too many for the level 'ratio'"
    ):
        account(tmp_path, many, "--level", "ratio")
    with pytest.raises(UserError, match="'ratio' has no negative values"):
        account(tmp_path, ratings([[-1, 1], [1, 1]]), "--level", "ratio")


@pytest.mark.parametrize(
    ("matrix", "why"),
    [([[1, 1], [1, 1]], "all judgements are the same"), ([[1, 2]], "no unit has two judgements")],
)
def test_where_alpha_means_nothing_there_is_none(tmp_path, matrix, why):
    rows = ratings(matrix)
    assert account(tmp_path, rows)["alpha"] == {"value": None, "low": None, "high": None}
    assert f"none, for {why}" in run(tmp_path / "rows.jsonl")


def test_the_page_is_short_and_says_what_it_leaves_out(tmp_path):
    generator = np.random.default_rng(0)
    rows = ratings(generator.integers(1, 9, (25, 40)).tolist())
    page = run(write_jsonl(tmp_path / "r.jsonl", [*rows, {"completion": "a"}])).splitlines()
    assert page[0].endswith("ratings, 1001 rows read, 1000 used, 1 dropped")
    assert page[1].split() == ["1", "no", "column", "'annotator'", "(first:", "row", "1001)"]
    assert "pairs of annotators, the worst first (20 of 300):" in page
    assert "units with most disagreement (10 of 40):" in page
    assert len(page) < 100


def test_a_run_file_names_its_rows_and_columns(tmp_path):
    rows = [{**PAIR, "who": name} for name in ("ann", "bob")]
    data = write_jsonl(tmp_path / "p.jsonl", rows)
    file = tmp_path / "run.yaml"
    section = f"{{train: {data}, columns: {{annotator: who}}}}"
    file.write_text(f"data: {section}\nobjective: {{name: dpo}}\n")
    said = json.loads(run(file, "--json"))
    assert (said["name"], said["used"], len(said["annotators"])) == (data, 2, 2)


def test_ratings_by_independent_chance_agree_by_chance_at_every_level():
    generator = np.random.default_rng(0)
    unit_J = np.repeat(np.arange(20_000), 10)
    value_J = generator.integers(1, 10, len(unit_J)).astype(float)
    for level in LEVELS:
        assert abs(alpha(unit_J, value_J, level, resamples=50).value) < 0.05


def test_data_check_converts_and_says_what_came_of_each_row(tmp_path):
    rows = [*ratings([[1, 2], [2, 4]]), {"prompt": "Alone.", "completion": "x", "rating": 1}]
    rows = [{**row, "prompt": f"{row['prompt']}\n"} for row in rows]
    file = write_jsonl(tmp_path / "r.jsonl", rows)

    def check(*options):
        result = CliRunner().invoke(app, ["check", file, *options])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.stdout

    lines = check("--convert", "ratings-to-pairs").splitlines()
    assert lines[:3] == [
        f"{file}: ratings-to-pairs, 5 rows read, 4 used, 1 dropped; 1 rows made, 0 ties",
        "       1  the only completion of its prompt",
        f"{file}: pairs, 1 rows read, 1 kept, 0 dropped",
    ]
    with pytest.raises(UserError, match="no conversion 'rating-to-pairs'. Did you mean 'ratings"):
        check("--convert", "rating-to-pairs")

"""Conversions between kinds of feedback: each row is used or dropped with its reason."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import get_args

import pytest
from data_fixtures import answer, opened, turns, write_jsonl
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from trl import unpair_preference_dataset

from trimtab import Demonstrations, Labelled, Pairs, Ranked
from trimtab.core.config import DataConfig
from trimtab.core.errors import UserError
from trimtab.plugins.sources.annotators import preferred
from trimtab.plugins.sources.convert import CONVERSIONS, conversion_for
from trimtab.plugins.sources.kinds import named
from trimtab.plugins.sources.making import Account
from trimtab.plugins.sources.rows import Dropped, Row

PAIR = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}


def converted(name, rows, **names):
    """The columns of the made rows, their places, and the account."""
    account = Account(name)
    read = [
        row if isinstance(row, Dropped) else Row(number, row) for number, row in enumerate(rows, 1)
    ]
    made = list(CONVERSIONS[name].made(read, names, account))
    assert [row.number for row in made] == list(range(1, account.made + 1))
    assert account.read == account.used + len(account.dropped) == len(rows)
    assert [row.row for row in account.dropped] == sorted(row.row for row in account.dropped)
    return [dict(row.columns) for row in made], [row.place for row in made], account


def dropped(account):
    return {row.row: row.reason for row in account.dropped}


def test_the_run_file_knows_every_conversion_and_each_makes_what_its_kinds_read():
    names, _ = get_args(DataConfig.model_fields["convert"].annotation)
    assert set(get_args(names)) == set(CONVERSIONS)
    for conversion in CONVERSIONS.values():
        named(conversion.reads)
        for kind in conversion.makes:
            assert conversion_for(named(kind), conversion.name) is conversion


def test_a_pair_is_a_desirable_and_an_undesirable_completion():
    made, places, _ = converted("pairs-to-labels", [PAIR, {**PAIR, "preference": 0}])
    assert made == [
        {"prompt": "The sky is", "completion": " blue.", "label": True},
        {"prompt": "The sky is", "completion": " green.", "label": False},
        {"prompt": "The sky is", "completion": " green.", "label": True},
        {"prompt": "The sky is", "completion": " blue.", "label": False},
    ]
    assert places == ["row 1", "row 1", "row 2", "row 2"]


@pytest.mark.parametrize(
    "rows",
    [
        [{**PAIR, "prompt": f"{n} is"} for n in range(3)],
        [
            {"prompt": turns(f"Hi {n}"), "chosen": answer("Yes"), "rejected": answer("No")}
            for n in range(3)
        ],
    ],
    ids=["standard", "conversational"],
)
def test_pairs_become_the_labels_that_trl_makes_of_them(rows):
    ours, _, _ = converted("pairs-to-labels", rows)
    theirs = list(unpair_preference_dataset(Dataset.from_list(rows)))
    assert Counter(map(str, map(sorted, map(dict.items, ours)))) == Counter(
        map(str, map(sorted, map(dict.items, theirs)))
    )


def test_an_uncertain_pair_has_no_label():
    rows = [PAIR, {**PAIR, "preference": 0.9}, {**PAIR, "chosen": ""}, Dropped(4, "not UTF-8")]
    made, _, account = converted("pairs-to-labels", rows)
    assert len(made) == 2
    assert dropped(account) == {
        2: "an uncertain pair has no honest binary label",
        3: "chosen is empty",
        4: "not UTF-8",
    }


def test_every_comparison_of_a_ranking_that_is_no_tie_is_a_pair():
    ranks = {"prompt": "Say", "responses": [" a", " b", " c"], "ranks": [2, 1, 2], "annotator": 7}
    tied = {"prompt": "Say", "responses": [" a", " b"], "scores": [1, 1]}
    pair = {**PAIR, "margin": 2}
    made, places, account = converted("rankings-to-pairs", [ranks, tied, pair])
    assert made == [
        {"prompt": "Say", "chosen": " b", "rejected": " a", "annotator": 7},
        {"prompt": "Say", "chosen": " b", "rejected": " c", "annotator": 7},
        {**PAIR, "margin": 2.0},
    ]
    assert places == ["row 1", "row 1", "row 3"]
    assert (account.used, account.ties) == (2, 2)
    assert dropped(account) == {2: "nothing in it was preferred to anything"}


def test_soft_comparisons_become_soft_pairs():
    better = [[None, 0.25, 1], [None, None, None], [None, 0.5, None]]
    row = {"prompt": "Say", "responses": [" a", " b", " c"], "ranks": [1, 2, 3], "better": better}
    made, _, account = converted("rankings-to-pairs", [row])
    assert made == [
        {"prompt": "Say", "chosen": " b", "rejected": " a", "preference": 0.75},
        {"prompt": "Say", "chosen": " a", "rejected": " c"},
    ]
    assert account.ties == 1


def rated(completion, rating, annotator=None, prompt="Say"):
    row = {"prompt": prompt, "completion": completion, "rating": rating}
    return row if annotator is None else {**row, "annotator": annotator}


def test_ratings_of_the_same_annotators_are_compared_with_each_other():
    rows = [
        *(rated(" a", 3, "ann"), rated(" b", 1, "ann")),
        *(rated(" b", 9, "bob"), rated(" a", 2, "cem"), rated(" b", 2, "cem")),
    ]
    made, places, account = converted("ratings-to-pairs", rows)
    assert made == [{"prompt": "Say", "chosen": " a", "rejected": " b", "preference": 0.75}]
    assert places == ["rows 1, 2, 3, 4, 5"]
    assert account.used == 5


def test_ratings_of_other_annotators_are_all_compared():
    rows = [rated(" a", 1), rated(" a", 2), rated(" b", 2), rated(" b", "3")]
    made, _, _ = converted("ratings-to-pairs", rows)
    assert made == [{"prompt": "Say", "chosen": " b", "rejected": " a", "preference": 0.875}]


def test_a_list_of_ratings_is_by_annotators_in_their_positions():
    rows = [
        {"prompt": "Say", "completion": " a", "ratings": [1, None, 5]},
        {"prompt": "Say", "completion": " b", "ratings": [2, 9, 4]},
        {"prompt": "Say", "completion": " c", "ratings": [0, 0, 0]},
    ]
    made, _, account = converted("ratings-to-pairs", rows)
    assert [(row["chosen"], row["rejected"]) for row in made] == [(" a", " c"), (" b", " c")]
    assert all("preference" not in row for row in made), "certain"
    assert account.ties == 1


BAD_RATINGS = [
    (rated(" a", 3, "ann"), "its annotator has rated this completion before"),
    (rated(" a", 3, prompt="Alone"), "the only completion of its prompt"),
    (rated(" a", None), "no rating"),
    ({"prompt": "Say", "completion": " a"}, "no column 'rating'"),
    (rated(" a", True), "rating is not a number"),
    (rated(" a", "good"), "rating is not a number"),
    ({**rated(" a", 1), "ratings": [1]}, "both rating and ratings: one of them has to go"),
    ({"prompt": "Say", "completion": " a", "ratings": 3}, "ratings is a number, not a list"),
    ({"prompt": "Say", "completion": " a", "ratings": [None]}, "no rating"),
    ({"prompt": "Say", "completion": " a", "ratings": ["x"]}, "ratings holds no numbers"),
    ({"prompt": "Say", "rating": 1}, "no column 'completion'"),
    (rated("", 1), "completion is empty"),
    (rated(" a", 1, prompt=None), "prompt is null"),
]


def test_ratings_that_cannot_be_used_are_dropped_with_their_reasons():
    good = [rated(" a", 1, "ann"), rated(" b", 2, "ann")]
    made, _, account = converted("ratings-to-pairs", [*good, *(row for row, _ in BAD_RATINGS)])
    assert dropped(account) == {number: why for number, (_, why) in enumerate(BAD_RATINGS, 3)}
    assert [row["chosen"] for row in made] == [" b"]


RATINGS = st.lists(st.integers(0, 3), min_size=1, max_size=9)


@given(RATINGS, RATINGS)
def test_the_share_is_that_of_mann_and_whitney(one, other):
    ours = preferred([(None, n) for n in one], [(None, n) for n in other])
    assert float(ours) == mannwhitneyu(one, other).statistic / (len(one) * len(other))
    assert ours + preferred([(None, n) for n in other], [(None, n) for n in one]) == 1


def test_the_share_of_common_annotators_leaves_out_the_others():
    assert preferred([("a", 1), ("b", 9)], [("a", 2), ("c", 0)]) == Fraction(0)


def test_votes_on_one_pair_in_either_order_are_one_pair():
    rows = [
        {**PAIR, "annotator": "ann"},
        {**PAIR, "chosen": PAIR["rejected"], "rejected": PAIR["chosen"], "annotator": 2},
        {**PAIR, "preference": 0.2, "annotator": "cem"},
        {**PAIR, "chosen": PAIR["rejected"], "rejected": PAIR["chosen"], "preference": 0.5},
        {**PAIR, "annotator": "ann"},
        {**PAIR, "prompt": "Another"},
    ]
    made, places, account = converted("votes-to-pairs", rows)
    assert made == [
        {
            "prompt": "The sky is",
            "chosen": " green.",
            "rejected": " blue.",
            "preference": pytest.approx(1 - (1 + 0 + 0.2 + 0.5) / 4),
            "votes": 4,
        },
        {**PAIR, "prompt": "Another", "preference": 1.0, "votes": 1},
    ]
    assert places == ["rows 1, 2, 3, 4", "row 6"]
    assert dropped(account) == {5: "its annotator has judged this pair before"}


def test_votes_without_a_winner_make_no_pair():
    rows = [PAIR, {**PAIR, "preference": 0}, {**PAIR, "preference": 0.5}]
    made, _, account = converted("votes-to-pairs", rows)
    assert (made, account.ties, account.used) == ([], 1, 3)


def test_a_conversion_reads_columns_under_our_names():
    rows = [{"q": "Say", "a": f" {n}", "stars": n} for n in range(2)]
    names = {"prompt": "q", "completion": "a", "rating": "stars"}
    made, _, _ = converted("ratings-to-pairs", [*rows, {"q": "Say"}], **names)
    assert [row["chosen"] for row in made] == [" 1"]
    with pytest.raises(
        UserError, match="rows for ratings-to-pairs have no column 'ratng'. Did you"
    ):
        converted("ratings-to-pairs", rows, ratng="stars")


def write(folder, rows, **options):
    return DataConfig(train=write_jsonl(folder / "rows.jsonl", rows), holdout=0.0, **options)


def test_a_run_tells_the_account_of_its_conversion(tmp_path):
    rows = [{**PAIR, "prompt": f"{n} is"} for n in range(10)]
    data = write(tmp_path, [*rows, {**PAIR, "preference": 0.6}], convert="pairs-to-labels")
    said = opened(data, Labelled).describe()
    assert said["conversion"] == {
        "name": "pairs-to-labels",
        "read": 11,
        "used": 10,
        "dropped": [{"row": 11, "reason": "an uncertain pair has no honest binary label"}],
        "made": 20,
        "ties": 0,
    }
    assert (said["read"], said["kept"]) == (20, 20)
    assert said["labels"] == {"desirable": 10, "undesirable": 10}
    assert said["warnings"][0].endswith(
        "rows that pairs-to-labels cannot use (an uncertain pair has no honest binary label): 1"
    )


def test_what_the_kind_drops_of_the_made_rows_names_the_rows_they_come_from(tmp_path):
    long = {**PAIR, "chosen": " far" * 99}
    rows = [{**PAIR, "prompt": f"{n} is"} for n in range(10)]
    options = {"convert": "pairs-to-labels", "max_completion_tokens": 50}
    said = opened(write(tmp_path, [*rows, long], **options), Labelled).describe()
    assert said["dropped"] == [
        {
            "row": 21,
            "reason": "completion longer than data.max_completion_tokens (50)",
            "place": "row 11",
        }
    ]


def test_too_many_rows_that_cannot_be_converted_stop_the_run(tmp_path):
    rows = [{**PAIR, "prompt": f"{n} is"} for n in range(5)] + [{**PAIR, "preference": 0.6}]
    with pytest.raises(UserError) as caught:
        opened(write(tmp_path, rows, convert="pairs-to-labels"), Labelled)
    assert str(caught.value).endswith(
        "1 of 6 rows cannot be used for pairs-to-labels, and data.max_dropped is 0.1:\n"
        "       1  an uncertain pair has no honest binary label (row 6)"
    )
    tied = [rated(" a", 1), rated(" b", 1)]
    with pytest.raises(UserError, match="rows.jsonl: ratings-to-pairs makes no rows of its 2"):
        opened(write(tmp_path, tied, convert="ratings-to-pairs"))


CELL = st.none() | st.integers(0, 2) | st.sampled_from([" a", " b", "", "x"])
CELLS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("prompt", "completion", "chosen", "rejected", "rating"), CELL),
        **dict.fromkeys(("annotator", "preference", "margin"), CELL),
        **dict.fromkeys(("responses", "ranks", "scores", "ratings"), st.lists(CELL, max_size=3)),
        "better": st.none() | st.lists(st.lists(CELL, max_size=2), max_size=2),
    },
)


@pytest.mark.parametrize("name", CONVERSIONS)
@given(rows=st.lists(CELLS, max_size=12))
def test_whatever_the_rows_hold_each_is_used_or_dropped(name, rows):
    made, _, account = converted(name, rows)
    kind = named(CONVERSIONS[name].makes[0])
    for columns in made:
        kind.example(columns)
    for row in account.dropped:
        assert row.reason


@given(
    ratings=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.sampled_from("xyz")),
        max_size=12,
        unique_by=lambda one: (one[0], one[2]),
    ),
    random=st.randoms(),
)
def test_the_order_of_the_ratings_does_not_matter(ratings, random):
    def pairs(given):
        rows = [rated(f" {completion}", n, who) for completion, n, who in given]
        made, _, _ = converted("ratings-to-pairs", rows)
        return {(row["chosen"], row["rejected"], row.get("preference")) for row in made}

    shuffled = list(ratings)
    random.shuffle(shuffled)
    assert pairs(ratings) == pairs(shuffled)


@pytest.mark.parametrize("batch", [Pairs, Ranked])
def test_ratings_train_pairs_and_rankings(tmp_path, batch):
    rows = [
        rated(f" {k}", k, who, prompt=f"{n} is")
        for n in range(2)
        for k in range(3)
        for who in "ab"
    ]
    said = opened(write(tmp_path, rows, convert="ratings-to-pairs"), batch).describe()
    assert (said["conversion"]["made"], said["kept"]) == (6, 6)


def test_a_conversion_that_makes_another_kind_is_refused(tmp_path):
    for batch, kind in ((Pairs, "pairs"), (Demonstrations, "demonstrations")):
        with pytest.raises(UserError, match=f"pairs-to-labels makes labels, and .* as {kind}:"):
            opened(write(tmp_path, [PAIR], convert="pairs-to-labels"), batch)


@pytest.mark.parametrize(
    ("row", "batch", "name"),
    [
        (PAIR, Labelled, "pairs-to-labels"),
        ({"prompt": "a", "responses": [" b", " c"], "ranks": [1, 2]}, Pairs, "rankings-to-pairs"),
        (rated(" a", 1), Pairs, "ratings-to-pairs"),
        (rated(" a", 1), Ranked, "ratings-to-pairs"),
    ],
)
def test_rows_that_could_be_converted_say_how(tmp_path, row, batch, name):
    with pytest.raises(UserError, match=f"data.convert: {name}"):
        opened(write(tmp_path, [row]), batch)


@pytest.mark.slow
def test_embedded_pairs_can_be_read_as_labels():
    data = DataConfig(train="rotten-tomatoes", convert="pairs-to-labels", limit=8, eval_limit=8)
    assert opened(data, Labelled).describe()["conversion"]["made"] == 2 * 2553

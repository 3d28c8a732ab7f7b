"""The source ``labels`` by a judge: against gold, by principles, clamped, and by ratings."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import yaml
from judged_fixtures import GIVEN, Letters, Rater, Shorter, figures, labelled, made_by
from maker_fixtures import ANSWERED, assert_all_accounted_for
from pydantic import ValidationError
from test_rollouts import Count

from trimtab import Config
from trimtab.core.errors import UserError
from trimtab.plugins.makers.judged import share
from trimtab.plugins.makers.labellers import sigmoid
from trimtab.plugins.makers.labels import LabelsConfig
from trimtab.plugins.makers.principled import drawn


def test_agreement_with_the_given_labels_counts_ties_half_and_no_abstentions(tmp_path):
    made, rows, steps = made_by(tmp_path, Letters(Config()), rows=GIVEN, soft=True)
    assert_all_accounted_for(steps, 6)
    assert figures(made, steps)["gold_agreement"] == {
        "given": {**share(2.5, 4), "tied": 1, "gold_ties": 1, "abstained": 1}
    }
    before = {row["prompt"]: row["given_preference"] for row in rows}
    assert before == {"One:": 1.0, "Two:": 0.0, "Five:": 0.75, "Six:": 0.5}
    assert {row["prompt"]: row["chosen"] for row in rows}["Two:"] == " aaa"
    assert all("given_chosen" not in row for row in rows)


def test_rows_that_say_nothing_of_their_responses_are_no_gold(tmp_path):
    made, rows, steps = made_by(tmp_path, Shorter(Config()), pairs="all")
    assert "gold_agreement" not in figures(made, steps)
    assert rows and all("given_preference" not in row for row in rows)
    scored = [{**row, "scores": [3, 2, 1]} for row in ANSWERED]
    made, rows, steps = made_by(tmp_path, Shorter(Config()), rows=scored, pairs="all")
    assert figures(made, steps)["gold_agreement"]["given"]["value"] == 1
    assert {row["given_preference"] for row in rows} == {1.0}


def test_where_a_reward_scores_both_alike_it_is_a_tie_of_gold(tmp_path):
    rows = [{"prompt": f"Question {n}:", "responses": [" aa", " bb"]} for n in range(2)]
    made, _, steps = made_by(tmp_path, Letters(Config()), Count, rows=rows)
    counts = sum((Counter(step.counts) for step in steps), Counter())
    assert counts["judge/gold/count/gold_ties"] == 2
    assert "gold_agreement" not in figures(made, steps)


class Asks(Count):
    """A reward that asks the judge, which would agree with itself."""

    name = "asks"
    judges = True


def test_the_rewards_of_the_run_are_gold_each_by_its_label_and_label_nothing(tmp_path):
    made, rows, steps = made_by(tmp_path, Shorter(Config()), Count, Asks, pairs="all")
    assert rows == labelled(tmp_path, Shorter(Config()), pairs="all")[0]
    (agreement,) = figures(made, steps)["gold_agreement"].items()
    assert agreement[0] == "count" and agreement[1]["value"] == 0
    assert agreement[1]["n"] == len(rows)
    assert all(step.metrics["judge/gold_agreement/count"] == 0 for step in steps)


def test_labels_do_not_depend_on_which_response_is_given_first(tmp_path):
    turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in GIVEN[:4]]
    one, other = (
        labelled(tmp_path, Letters(Config()), rows=rows, soft=True)[0]
        for rows in (GIVEN[:4], turned)
    )
    said = [(row["chosen"], row["rejected"], row["preference"]) for row in one]
    assert [(row["chosen"], row["rejected"], row["preference"]) for row in other] == said
    assert [row["given_preference"] for row in other] == [
        1 - row["given_preference"] for row in one
    ]


def test_an_interval_is_wilsons():
    from scipy.stats import binomtest

    for count, n in ((0, 5), (3, 5), (5, 5), (40, 77)):
        found = binomtest(count, n).proportion_ci(method="wilson")
        mine = share(count, n)
        assert (mine["low"], mine["high"]) == pytest.approx((found.low, found.high), abs=1e-12)


# principles


def constitution(tmp_path, **weights):
    """A principle for each letter."""
    words = {"critique": "Criticize.", "revise": "Revise."}
    principles = [
        {"id": letter, "compare": f"{letter}?", "weight": weight, **words}
        for letter, weight in weights.items()
    ]
    path = tmp_path / "constitution.yaml"
    path.write_text(yaml.safe_dump({"name": "letters", "principles": principles}))
    return str(path)


ABC = [{"prompt": f"Question {n}:", "responses": [" aab", " abb"]} for n in range(40)]


def test_the_label_is_the_mean_over_principles_by_their_weight(tmp_path):
    file = constitution(tmp_path, a=3.0, b=1.0, z=5.0)
    options = {"rows": ABC[:2], "soft": True, "constitution": file}
    made, rows, steps = made_by(tmp_path, Letters(Config()), **options)
    assert [row["chosen"] for row in rows] == [" aab"] * 2
    assert rows[0]["preference"] == pytest.approx((3 * 2 / 3 + 1 / 3) / 4)
    said = figures(made, steps)
    assert said["asked"] == 6 and said["abstained"]["value"] == pytest.approx(1 / 3)
    assert said["principles"]["z"]["abstained"]["value"] == 1
    assert "with_label" not in said["principles"]["z"]
    assert said["principles"]["a"]["with_label"]["value"] == 1
    assert said["principles"]["a"]["p_of_label"] == pytest.approx(2 / 3, abs=1e-6)
    assert said["principles"]["b"]["with_label"]["value"] == 0
    asked = [(one["row"], one["principle"]) for one in steps[0].samples]
    assert sorted(asked) == [(n, letter) for n in (1, 2) for letter in "abz"]
    about = made.describe()
    assert about["constitution"] == "letters" and about["principles"] == ["a", "b", "z"]
    assert len(about["constitution_sha256"]) == 64


def test_what_a_principle_says_is_held_against_the_winner_wherever_it_stands(tmp_path):
    turned = [{**row, "responses": row["responses"][::-1]} for row in ABC[:3]]
    file = constitution(tmp_path, a=3.0, b=1.0)
    made, rows, steps = made_by(tmp_path, Letters(Config()), rows=turned, constitution=file)
    assert {row["chosen"] for row in rows} == {" aab"}
    said = figures(made, steps)["principles"]
    assert said["a"]["p_of_label"] == pytest.approx(2 / 3, abs=1e-6)
    assert said["b"]["p_of_label"] == pytest.approx(1 / 3, abs=1e-6)
    assert [said[name]["with_label"]["value"] for name in "ab"] == [1, 0]


def test_votes_that_balance_are_a_tie_in_either_order(tmp_path):
    file = constitution(tmp_path, a=0.1, b=0.1)
    for responses in ([" aab", " abb"], [" abb", " aab"]):
        rows = [{"prompt": "Question:", "responses": responses}]
        _, steps = labelled(tmp_path, Letters(Config()), rows=rows, constitution=file)
        assert steps[0].dropped == [{"row": 1, "reason": "a tie"}]


def test_principles_are_drawn_by_weight_from_a_stream_of_their_own(tmp_path):
    file = constitution(tmp_path, a=3.0, b=1.0)
    options = {"rows": ABC, "constitution": file, "principles": 1, "soft": True}
    rows, steps = labelled(tmp_path, Letters(Config()), **options)
    again, others = labelled(tmp_path, Letters(Config()), **{**options, "steps_of": 40})
    assert rows == again
    drawn_first = Counter(one["principle"] for step in steps for one in step.samples)
    assert drawn_first == Counter(one["principle"] for one in others[0].samples)
    assert drawn_first.total() == 40
    assert abs(drawn_first["a"] - 30) < 4 * math.sqrt(40 * 3 / 16)
    assert {row["chosen"] for row in rows} == {" aab", " abb"}


def test_as_many_draws_as_principles_of_one_weight_are_each_of_them():
    for start in (0.0, 0.3, 0.999999):
        assert drawn([0.7] * 6, 6, start) == dict.fromkeys(range(6), 1)


def test_draws_are_in_proportion_to_the_weights():
    weights, starts = [1.0, 2.5, 0.25, 4.0], [(n + 0.5) / 4000 for n in range(4000)]
    for count in (1, 3, 9):
        times = sum((Counter(drawn(weights, count, start)) for start in starts), Counter())
        assert times.total() == 4000 * count
        expected = [4000 * count * weight / sum(weights) for weight in weights]
        assert [times[n] for n in range(4)] == pytest.approx(expected, abs=2 * count)


def test_the_constitution_that_comes_with_it_has_a_name(tmp_path):
    made, *_ = made_by(tmp_path, Shorter(Config()), constitution="trimtab")
    assert made.describe()["constitution"] == "trimtab"


def test_a_clamp_bounds_what_is_written_and_not_who_wins(tmp_path):
    plain = labelled(tmp_path, Letters(Config()), rows=GIVEN, soft=True)[0]
    clamped = labelled(tmp_path, Letters(Config()), rows=GIVEN, soft=True, clamp=(0.4, 0.6))[0]
    assert [row["chosen"] for row in plain] == [row["chosen"] for row in clamped]
    expected = [min(row["preference"], 0.6) for row in plain]
    assert [row["preference"] for row in clamped] == expected and 0.6 in expected


@pytest.mark.parametrize(
    "options, said",
    [
        ({"by": "reward", "constitution": "trimtab"}, "constitution is of by: judge"),
        ({"by": "judge", "principles": 2}, "give constitution"),
        ({"by": "judge", "clamp": (0.4, 0.6)}, "give soft: true"),
        ({"by": "judge", "soft": True, "clamp": (0.4, 0.7)}, "not 1/2 in its middle"),
        ({"by": "judge", "soft": True, "clamp": (0.6, 0.4)}, "not 1/2 in its middle"),
    ],
)
def test_options_of_a_judge_that_do_not_fit_are_refused(options, said):
    with pytest.raises(ValidationError, match=said):
        LabelsConfig(**options)


# ratings


def test_by_ratings_p_is_the_sigmoid_of_the_difference(tmp_path):
    judge = Rater(Config())
    made, rows, steps = made_by(tmp_path, judge, pairs="all", soft=True, steps_of=8)
    assert_all_accounted_for(steps, 8)
    assert steps[0].counts["judge/requests"] == 8 * 3 == len(steps[0].samples)
    for row in rows:
        gap = len(row["chosen"]) - len(row["rejected"])
        assert row["preference"] == pytest.approx(sigmoid(float(gap))) and gap > 0
    without = [row for row in ANSWERED if any("7" in each for each in row["responses"])]
    unrated = {one["completion"] for one in steps[0].samples if one["rating"] is None}
    assert unrated == {text for row in without for text in row["responses"] if "7" in text}
    assert figures(made, steps)["abstained"]["n"] == 24
    assert made.describe()["judged_by"]["mode"] == "score"


def test_by_ratings_the_best_is_the_highest(tmp_path):
    rows, _ = labelled(tmp_path, Rater(Config()), rows=ANSWERED[4:6])
    for row in rows:
        texts = ANSWERED[row["answer"] - 1]["responses"]
        assert (row["chosen"], row["rejected"]) == (texts[2], texts[0])


def test_principles_are_not_asked_of_one_response(tmp_path):
    with pytest.raises(UserError, match="judge.mode is score: set it to compare"):
        labelled(tmp_path, Rater(Config()), constitution="trimtab")

"""The source ``labels`` by a judge: pairs, principles, ratings, and what is said of the judge."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace

import opinions
import pytest
import yaml
from data_fixtures import turns
from maker_fixtures import ANSWERED, all_of, assert_all_accounted_for, opened, setting
from pydantic import ValidationError
from test_processes import two
from test_rollouts import Count, OneOf
from worlds import differences, lines

from trimtab import Config, train
from trimtab.api import resume
from trimtab.core.errors import RunError, UserError
from trimtab.core.judge import Judge, Verdict
from trimtab.plugins.makers.judged import share
from trimtab.plugins.makers.labellers import sigmoid
from trimtab.plugins.makers.labels import Labels, LabelsConfig
from trimtab.plugins.makers.principled import drawn


def made_by(tmp_path, judge, *rewards, rows=ANSWERED, steps_of=3, **options):
    """The maker, the data set and the steps."""
    given = setting(tmp_path, rows, *rewards, judge=judge)
    made = opened(Labels, LabelsConfig(by="judge", **options), given)
    return made, *all_of(made, steps_of)


def labelled(tmp_path, judge, *rewards, **options):
    """The data set and the steps."""
    return made_by(tmp_path, judge, *rewards, **options)[1:]


def figures(made, steps):
    """What ``data.json`` says of the judge."""
    counts = sum((Counter(step.counts) for step in steps), Counter())
    found = made.figures(counts)
    json.dumps(found)
    return found["judge"]


class Shorter(Judge):
    """Likes what is shorter; says nothing of what ends in 7."""

    name = "shorter"
    options = Config

    def compare(self, comparisons):
        self.asked = list(comparisons)
        return [
            Verdict(None, ()) if one.first[-1] == "7" else Verdict(self._first(one), ("it is",))
            for one in comparisons
        ]

    def _first(self, one):
        return 0.8 if len(one.first) < len(one.second) else 0.2

    def score(self, ratings):
        raise NotImplementedError


class AlwaysFirst(Shorter):
    """Takes what it is shown first, whatever it is."""

    name = "always_first"

    def compare(self, comparisons):
        return [Verdict(0.5, ("1", "1"), (1.0, 0.0)) for _ in comparisons]


class Letters(Shorter):
    """Asked "a?", P is the share of that letter; of a question it does not know it says nothing.

    Each comparison is two requests.
    """

    name = "letters"
    requests = 0

    def compare(self, comparisons):
        self.requests += 2 * len(comparisons)
        return [self._of(one) for one in comparisons]

    def score(self, ratings):
        self.requests += len(ratings)
        return [
            Verdict(None, ("hm",), why="no number in it")
            if "7" in one.completion
            else Verdict(float(len(one.completion)), ("so long",))
            for one in ratings
        ]

    def counts(self):
        found, self.requests = {"requests": self.requests}, 0
        return found

    def describe(self):
        return {"name": self.name, "model": "none"}

    def _of(self, one):
        letter = "a" if one.question is None else one.question[0]
        counts = [text.count(letter) for text in (one.first, one.second)]
        if not sum(counts):
            return Verdict(None, ("neither",), (None, None), "no such letter")
        first = counts[0] / sum(counts)
        return Verdict(first, ("1", "2"), (first, first))


class Rater(Letters):
    """Rates by length; says nothing of what has a 7 in it."""

    name = "rater"
    mode = "score"


def test_a_judge_labels_and_its_abstentions_are_counted(tmp_path):
    rows = [
        {"prompt": turns(f"Question {n}?"), "responses": [f"a{n}", f"bb{n}"]} for n in range(5, 9)
    ]
    judge = Shorter(Config())
    made, steps = labelled(tmp_path, judge, rows=rows, soft=True, steps_of=9)
    assert {(row["preference"], row["annotator"]) for row in made} == {(0.8, "judge:shorter")}
    assert all(row["chosen"][0]["content"].startswith("a") for row in made) and len(made) == 3
    assert steps[0].dropped == [{"row": 3, "reason": "the judge abstained"}]
    assert steps[0].counts["the judge abstained"] == 1
    assert {one.prompt for one in judge.asked} == {f"Question {n}?" for n in range(5, 9)}


def test_two_processes_share_what_a_judge_is_asked(tmp_path):
    judge = Shorter(Config())
    given = setting(tmp_path, ANSWERED, judge=judge)
    config = LabelsConfig(by="judge", pairs="all", soft=True)
    whole = opened(Labels, config, given).make(None, 0, 5)
    shares, asked = [], []
    for rank in (0, 1):
        one = OneOf(rank)
        with pytest.raises(KeyError):
            opened(Labels, config, replace(given, processes=one)).make(None, 0, 5)
        shares.append(one.given[0])
        asked.append(len(judge.asked))
    assert asked == [3 * 3, 2 * 3]
    both = OneOf(1, [shares])
    assert opened(Labels, config, replace(given, processes=both)).make(None, 0, 5) == whole


def test_by_a_judge_the_best_is_the_one_that_wins_most(tmp_path):
    judge = Shorter(Config())
    rows = [
        {**row, "responses": [row["responses"][place] for place in places]}
        for row, places in zip(ANSWERED, ([0, 1, 2], [1, 2, 0], [2, 1, 0]), strict=False)
    ]
    made, _ = labelled(tmp_path, judge, rows=rows)
    assert [(row["chosen"][:2], row["rejected"][:2]) for row in made] == [(" a", " c")] * 3


def test_what_it_cost_is_added_up_over_processes(tmp_path):
    given = setting(tmp_path, ANSWERED, judge=Letters(Config()))
    config = LabelsConfig(by="judge", pairs="all")
    whole = opened(Labels, config, given).make(None, 0, 5)
    shares = []
    for rank in (0, 1):
        one = OneOf(rank)
        with pytest.raises(KeyError):
            opened(Labels, config, replace(given, processes=one)).make(None, 0, 5)
        shares.append(one.given[0])
    one = opened(Labels, config, replace(given, processes=OneOf(0, [shares])))
    asked = one.make(None, 0, 5)
    assert whole.counts["judge/requests"] == asked.counts["judge/requests"] == 30
    assert asked.metrics["judge/requests"] == 30


class Unreachable(Shorter):
    """Is down."""

    def compare(self, comparisons):
        raise RunError("the judge cannot be reached")


def test_a_judge_that_one_process_cannot_reach_stops_them_all(tmp_path):
    """The others wait for what was said, and would wait for ever."""
    given = setting(tmp_path, ANSWERED, judge=Unreachable(Config()))
    down = OneOf(0)
    with pytest.raises(RunError, match="^the judge cannot be reached$"):
        opened(Labels, LabelsConfig(by="judge"), replace(given, processes=down)).make(None, 0, 5)
    up = replace(given, judge=Shorter(Config()), processes=OneOf(1, [[down.given[0]] * 2]))
    with pytest.raises(RunError, match="^the judge cannot be reached$"):
        opened(Labels, LabelsConfig(by="judge"), up).make(None, 0, 5)


def test_a_judge_that_always_takes_the_first_labels_nothing_and_is_found_out(tmp_path):
    made, rows, steps = made_by(tmp_path, AlwaysFirst(Config()), pairs="all")
    assert rows == []
    assert_all_accounted_for(steps, 8)
    assert {one["reason"] for step in steps for one in step.dropped} == {"a tie"}
    assert all(step.metrics["judge/position_bias"] == 1 for step in steps)
    assert all(step.metrics["judge/agreement"] == 0 for step in steps)
    assert "none of 9 comparisons, with a position bias of 1: it goes by" in steps[0].notes[0]
    said = figures(made, steps)
    assert said["position_bias"]["value"] == said["position_bias"]["high"] == 1
    assert 0.7 < said["position_bias"]["low"] < 1 and said["position_bias"]["n"] == 24
    assert said["agreement"]["value"] == 0 and said["ties"]["value"] == 1
    assert said["asked"] == 24 and said["abstained"]["value"] == 0


# gold

GIVEN = [
    {"prompt": "One:", "chosen": " aab", "rejected": " abb"},
    {"prompt": "Two:", "chosen": " bbb", "rejected": " aaa"},
    {"prompt": "Three:", "chosen": " ab", "rejected": " abc"},
    {"prompt": "Four:", "chosen": " bb", "rejected": " b"},
    {"prompt": "Five:", "chosen": " b", "rejected": " a", "preference": 0.25},
    {"prompt": "Six:", "chosen": " a", "rejected": " aa", "preference": 0.5},
]
"""The judge of the letter a agrees with rows 1 and 5, not with 2, and 3 is a tie; of 4 it says
nothing, and 6 is a tie itself."""


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


# what was said


def test_all_that_was_said_is_kept_row_by_row(tmp_path):
    _, steps = labelled(tmp_path, Letters(Config()), rows=GIVEN, soft=True)
    samples = sorted((one for step in steps for one in step.samples), key=lambda one: one["row"])
    assert [one["row"] for one in samples] == [1, 2, 3, 4, 5, 6]
    assert samples[3] == {
        "row": 4,
        "prompt": "Four:",
        "a": " bb",
        "b": " b",
        "first": None,
        "orders": [None, None],
        "said": ["neither"],
        "why": "no such letter",
        "principle": None,
        "weight": 1.0,
    }
    assert samples[0]["first"] == pytest.approx(2 / 3) and samples[0]["said"] == ["1", "2"]


def test_the_judge_is_described_by_what_it_says_of_itself(tmp_path):
    made, *_ = made_by(tmp_path, Letters(Config()))
    assert made.describe()["judged_by"] == {"name": "letters", "model": "none", "mode": "compare"}


# a constitution


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


# whole runs


def file_of(world, home, **judge):
    """Four preferences a movie, and a reward to compare the judge with."""
    return world.file(
        home / "run.yaml",
        plugins=[opinions.__file__],
        objective=None,
        source={"name": "labels", "by": "judge", "soft": True},
        judge={"name": "toys.opinions", "mode": "compare", "sharp": True, **judge},
        reward=[{"name": "function", "function": "rewarding:variety", "label": "variety"}],
        data={"train": str(world.pairs), "eval": None, "holdout": 0.0},
        train={"rows": 3, "epochs": None},
    )


def test_a_run_writes_down_the_judge_what_it_said_and_how_far_it_agrees(world, tmp_path):
    run = train(file_of(world, tmp_path), run=tmp_path / "run")
    found = json.loads((run / "data.json").read_text())
    rows, said = lines(run / "data/train.jsonl"), lines(run / "samples.jsonl")
    judge = found["judge"]
    assert found["judged_by"] == {"name": "toys.opinions", "model": "none", "mode": "compare"}
    assert judge["asked"] == judge["requests"] / 2 == len(said) == 7
    assert [one["step"] for one in said] == [1, 1, 1, 2, 2, 2, 3]
    assert set(judge["gold_agreement"]) == {"given", "variety"}
    ties = found["made"]["counts"].get("ties", 0)
    right = sum(row["given_preference"] for row in rows) + ties / 2
    assert judge["gold_agreement"]["given"]["value"] == pytest.approx(right / 7)
    metrics = lines(run / "metrics.jsonl")
    assert sum(record["judge/requests"] for record in metrics) == 14
    card = (run / "README.md").read_text()
    assert "- Judge: 7 verdicts, 14 requests" in card and "- Agreement with `given`: " in card
    assert "Sampled from" not in card and "or judged is in `samples.jsonl`" in card


def test_where_the_judge_is_down_the_run_goes_on_with_the_next_step(world, tmp_path):
    file = file_of(world, tmp_path, down_after=7, up=str(tmp_path / "up"))
    with pytest.raises(RunError, match="the judge cannot be reached"):
        train(file, run=tmp_path / "run")
    state = json.loads((tmp_path / "run/run.json").read_text())
    assert (state["state"], state["step"]) == ("failed", 1)
    (tmp_path / "up").touch()
    resume(tmp_path / "run")
    whole = train(file, run=tmp_path / "whole")
    assert differences(tmp_path / "run", whole) == []


@pytest.mark.slow
def test_two_processes_write_the_run_of_one(world, tmp_path):
    file = file_of(world, tmp_path)
    whole = train(file, run=tmp_path / "whole")
    ended = two("train", file, "--run", tmp_path / "run")
    assert [each.status for each in ended] == [0, 0], ended
    assert differences(tmp_path / "run", whole) == []

"""The source ``selection``: on which pairs the members of an ensemble disagree."""

from __future__ import annotations

import math
from collections import Counter
from statistics import stdev

import pytest
from maker_fixtures import (
    ANSWERED,
    all_of,
    assert_all_accounted_for,
    opened,
    setting,
)
from test_rollouts import Count

from trimtab import Score
from trimtab.core.errors import UserError
from trimtab.plugins.makers.selection import Selection, SelectionConfig


class Ensemble(Count):
    """Two members: one counts characters, the other weighs those of the last digit."""

    name = "ensemble"

    def score(self, groups):
        return [[self._two(text) for text in group.completions] for group in groups]

    def _two(self, text):
        parts = members(text)
        return Score(sum(parts.values()) / 2, parts)

    def describe(self):
        return {"members": {"one": 0.0, "two": 0.0}}


def members(text: str) -> dict[str, float]:
    return {"one": float(len(text)), "two": float(ord(text[-1]) % 5)}


def disagreement(pair) -> float:
    one, other = (members(text) for text in pair)
    return stdev([one[name] - other[name] for name in one])


def test_the_pairs_on_which_the_members_disagree_most_are_chosen(tmp_path):
    given = setting(tmp_path, ANSWERED, Ensemble)
    rows, steps = all_of(opened(Selection, SelectionConfig(budget=5), given))
    assert_all_accounted_for(steps, 8)
    assert len(rows) == 5 and len({row["answer"] for row in rows}) == 5
    by_row = {
        row["answer"]: max(
            disagreement((a, b))
            for n, a in enumerate(row["responses"])
            for b in row["responses"][n + 1 :]
        )
        for row in ANSWERED
    }
    for row in rows:
        assert row["disagreement"] == pytest.approx(disagreement(row["responses"]))
        assert row["disagreement"] == pytest.approx(by_row[row["answer"]])
    assert [r["disagreement"] for r in rows] == pytest.approx(sorted(by_row.values())[:-6:-1])


class Third(Ensemble):
    """A third member, which cannot judge what ends in 7."""

    def _two(self, text):
        unknown = None if text[-1] == "7" else 0.5
        return Score(1.0, {**members(text), "three": unknown})

    def describe(self):
        return {"members": dict.fromkeys(("one", "two", "three"), 0.0)}


def test_a_response_that_one_member_cannot_judge_is_in_no_pair(tmp_path):
    config = SelectionConfig(budget=100, per_prompt=3)
    made = opened(Selection, config, setting(tmp_path, ANSWERED, Third))
    rows, steps = all_of(made)
    judged = [[text for text in row["responses"] if text[-1] != "7"] for row in ANSWERED]
    assert len(rows) == sum(math.comb(len(texts), 2) for texts in judged) == 19
    assert not any(text[-1] == "7" for row in rows for text in row["responses"])
    (dropped,) = (one for step in steps for one in step.dropped)
    reason = "fewer than two responses have a score of every member"
    assert dropped == {"row": 7, "reason": reason}


def test_several_pairs_of_a_prompt_may_be_chosen(tmp_path):
    given = setting(tmp_path, ANSWERED, Ensemble)
    config = SelectionConfig(budget=100, per_prompt=3)
    rows, _ = all_of(opened(Selection, config, given))
    assert len(rows) == 24 == len({tuple(row["responses"]) for row in rows})


def test_at_random_the_budget_is_the_same_and_no_reward_is_asked(tmp_path):
    config = SelectionConfig(by="random", budget=5)
    made = opened(Selection, config, setting(tmp_path, ANSWERED))
    assert not made.scores
    rows = all_of(made)[0]
    assert rows == all_of(made, 8)[0] and len(rows) == 5
    other = all_of(opened(Selection, config, setting(tmp_path, ANSWERED, seed=4)))[0]
    assert other != rows and "disagreement" not in rows[0]


def test_at_random_every_pair_of_a_row_is_as_likely(tmp_path):
    rows = [{"prompt": f"Question {n}:", "responses": [" a", " b", " c"]} for n in range(300)]
    config = SelectionConfig(by="random", budget=300)
    made, _ = all_of(opened(Selection, config, setting(tmp_path, rows)), 50)
    counts = Counter("".join(row["responses"]) for row in made)
    assert counts.total() == 300 and counts.keys() == {" a b", " a c", " b c"}
    assert all(abs(count - 100) < 4 * math.sqrt(300 * 2 / 9) for count in counts.values())


def test_what_the_data_says_of_its_responses_is_not_kept(tmp_path):
    scored = [{**row, "scores": [1, 2, 3]} for row in ANSWERED]
    rows, _ = all_of(
        opened(Selection, SelectionConfig(by="random", budget=9), setting(tmp_path, scored))
    )
    assert len(rows) == 8 and all("scores" not in row for row in rows)


def test_without_an_ensemble_the_error_says_how_to_get_one(tmp_path):
    config = SelectionConfig(budget=5)
    with pytest.raises(UserError, match="members: 2 or more; or select by: random"):
        opened(Selection, config, setting(tmp_path, ANSWERED))
    made = opened(Selection, config, setting(tmp_path, ANSWERED, Count))
    with pytest.raises(UserError, match="members: 2 or more; or select by: random"):
        made.make(None, 0, 3)

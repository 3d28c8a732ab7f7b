"""Classifiers of human labels as rewards."""

from __future__ import annotations

import json
import math

import pytest

from trimtab.core.errors import UserError
from trimtab.core.reward import Group
from trimtab.plugins.rewards.classifier import ClassifierConfig, ClassifierReward
from trimtab.plugins.rewards.labels import OURS, half_of, labels
from trimtab.plugins.sources.rotten_tomatoes import is_held_out


def opened(**options):
    reward = ClassifierReward(ClassifierConfig(**options))
    reward.open(None)
    return reward


def values(reward, *texts):
    (scores,) = reward.score([Group("?", texts)])
    return [score.value for score in scores]


@pytest.fixture
def marks(tmp_path):
    """Labels of sixty prompts, two each, and a row that cannot be used."""
    rows = [
        {"prompt": f"Movie {n}?", "completion": f"{word} film {n % 7}", "label": word == "good"}
        for n in range(60)
        for word in ("good", "bad")
    ]
    rows.insert(3, {"prompt": "Movie?", "completion": "fine", "label": "perhaps"})
    path = tmp_path / "marks.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.mark.parametrize("model", ["logistic", "naive_bayes"])
def test_a_classifier_of_a_file_tells_good_from_bad(marks, model):
    reward = opened(data=marks, model=model)
    good, bad, empty = values(reward, "a good film", "a bad film", "")
    assert good > 0 > bad and math.isfinite(empty)
    likely = opened(data=marks, model=model, score="probability")
    expected = [1 / (1 + math.exp(-logit)) for logit in (good, bad)]
    assert values(likely, "a good film", "a bad film") == pytest.approx(expected, rel=1e-9)
    about = reward.describe()
    assert about["accuracy"] == about["auc"] == 1.0
    assert about["dropped"] == [{"row": 4, "reason": "label is neither true nor false"}]
    assert json.loads(json.dumps(about)) == about


def test_two_halves_and_what_is_held_out_share_no_prompt(marks):
    first, second = (labels(marks, half) for half in ("first", "second"))
    parts = [{text.prompt for text in part} for part in (first.fit, second.fit, first.held_out)]
    assert all(parts) and not any(a & b for i, a in enumerate(parts) for b in parts[:i])
    assert len(set().union(*parts)) == 60
    assert first.held_out == second.held_out
    assert len(first.fit) + len(second.fit) + len(first.held_out) == 120


def test_the_same_labels_make_the_same_classifier(marks):
    texts = ("good", "bad film 3", "nothing of it")
    assert values(opened(data=marks), *texts) == values(opened(data=marks), *texts)


def test_labels_that_cannot_be_learned_from_are_refused(tmp_path):
    with pytest.raises(UserError, match=f"no file .*; or give {OURS}"):
        opened(data=str(tmp_path / "none.jsonl"))
    path = tmp_path / "one.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": str(n), "completion": "x", "label": True})
                              for n in range(9)))  # fmt: skip
    with pytest.raises(UserError, match="and 0 bad completions: a classifier needs both"):
        opened(data=str(path))


@pytest.mark.slow
def test_the_gold_reward_and_the_second_judge_are_sound_and_apart():
    gold = opened()
    judge = opened(half="second", model="naive_bayes")
    for reward in (gold, judge):
        about = reward.describe()
        assert about["accuracy"] > 0.7 and about["auc"] > 0.8
        assert about["fitted_on"] > 4000 and about["measured_on"] > 2000 and not about["dropped"]
        fresh, rotten = values(reward, "A moving delight.", "A dull, lazy mess.")
        assert fresh > 0 > rotten
    first, second = labels(OURS, "first"), labels(OURS, "second")
    assert not {t.prompt for t in first.fit} & {t.prompt for t in second.fit}
    assert not any(is_held_out(text.prompt) for text in (*first.fit, *second.fit))
    assert all(is_held_out(text.prompt) for text in first.held_out)
    assert {half_of(text.prompt) for text in first.fit} == {"first"}

"""Rewards that check an answer, a format, mathematics, tasks and instructions."""

from __future__ import annotations

import json
import re
import sys
import threading

import pytest
from pydantic import ValidationError

from trimtab.core.config import RolloutConfig, SelectedReward
from trimtab.core.errors import UserError
from trimtab.core.processes import Processes
from trimtab.core.reward import Group
from trimtab.core.rewards import Member, Rewards
from trimtab.plugins.rewards.answers import Extract
from trimtab.plugins.rewards.verifier import VerifierConfig, VerifierReward


def opened(**options):
    reward = VerifierReward(VerifierConfig.model_validate_json(json.dumps(options)))
    reward.open(None)
    return reward


def scores(reward, texts, **columns):
    (found,) = reward.score([Group("?", texts, columns)])
    return found


def values(reward, texts, **columns):
    return [score.value for score in scores(reward, texts, **columns)]


def test_an_exact_answer_is_all_or_nothing():
    texts = ["Paris", " Paris\n", "paris", "Paris."]
    assert values(opened(kind="exact"), texts, answer="Paris") == [1, 1, 0, 0]


def test_what_is_ignored_is_not_compared():
    loose = opened(kind="exact", column="city", ignore=["case", "space", "punctuation"])
    texts = ["NEW  york!", "new york", "newyork"]
    assert values(loose, texts, city="New York") == [1, 1, 0]
    assert values(opened(kind="exact"), ["4", "four", "5"], answer=["4", "four"]) == [1, 1, 0]
    assert values(opened(kind="exact"), ["4"], answer=4) == [1]


@pytest.mark.parametrize(
    ("how", "text", "answer"),
    [
        ("whole", " a\nb ", "a\nb"),
        ("whole", "  ", None),
        ("last_line", "Let me see.\n\n42 \n", "42"),
        ("last_line", "\n", None),
        ("tag", "<answer>1</answer> or <answer>\n2 </answer>", "2"),
        ("tag", "<answer>1", None),
        ("boxed", r"so \boxed{\frac{1}{2}} holds", r"\frac{1}{2}"),
        (r"= (\d+)", "1 = 2, 3 = 45", "45"),
        (r"\d+", "1 = 2, 3 = 45", "45"),
    ],
)
def test_the_answer_is_found_where_the_option_says(how, text, answer):
    assert Extract(how)(text) == answer


def test_a_completion_without_an_answer_is_wrong_and_told_apart():
    found = scores(opened(kind="exact", extract="tag"), ["<answer>4</answer>", "4"], answer="4")
    assert [(score.value, dict(score.parts)) for score in found] == [
        (1.0, {"answered": 1.0}),
        (0.0, {"answered": 0.0}),
    ]


@pytest.mark.parametrize("columns", [{}, {"answer": None}, {"Answer": "4"}], ids=str)
def test_a_row_without_what_to_compare_with_has_no_score(columns):
    (score,) = scores(opened(kind="exact"), ["4"], **columns)
    assert score.value is None and "the row has nothing in 'answer'" in score.why


def test_a_format_is_matched_whole_or_in_part():
    pattern = r"(?s)<think>.*</think>\n.+"
    texts = ["<think>\n1\n</think>\n4", "So <think>1</think>\n4", "4"]
    assert values(opened(kind="regex", pattern=pattern), texts) == [1, 0, 0]
    assert values(opened(kind="regex", pattern=pattern, match="search"), texts) == [1, 1, 0]


@pytest.mark.slow
def test_a_pattern_that_goes_astray_costs_its_completion_only():
    reward = opened(kind="regex", pattern=r"(?:(?:a|aa)+)+b")
    long, fine = scores(reward, ["a" * 60, "aab"])
    assert fine.value == 1.0
    assert long.value is None and long.why == "it raised TimeoutError: regex timed out"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "regex"}, "kind regex needs 'pattern'"),
        ({"kind": "regex", "pattern": "("}, "is no regular expression"),
        ({"kind": "exact", "extract": "(a"}, "is no regular expression"),
        ({"kind": "exact", "extract": "lastline"}, "Did you mean 'last_line'?"),
        ({"kind": "exact", "task": "chain_sum"}, "'task' is no option of exact"),
        ({"kind": "math_verify", "ignore": ["case"]}, "'ignore' is no option of math_verify"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, said):
    with pytest.raises(ValidationError, match=re.escape(said)):
        VerifierConfig(**options)


def test_a_resolved_run_file_with_the_defaults_of_all_kinds_is_accepted():
    config = VerifierConfig(kind="exact", column="city")
    assert VerifierConfig.model_validate_json(config.model_dump_json()) == config
    assert VerifierReward(config).describe() == {
        "kind": "exact", "column": "city", "extract": "whole", "ignore": []
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["math_verify", "reasoning_gym", "if_verifiable"])
def test_a_package_that_is_missing_is_named_with_its_command(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(UserError, match=f"pip install {kind.replace('_', '-')}"):
        opened(kind=kind)


@pytest.mark.parametrize("thread", [False, True])
def test_equal_expressions_are_equal_however_they_are_written(thread):
    pytest.importorskip("math_verify")
    reward = opened(kind="math_verify", column="solution")
    assert not reward.interruptible
    texts = ["0.5", r"It is $\frac{2}{4}$.", "a half", "", "2/3", r"\boxed{\frac{1}{2"]
    found = []

    def work():
        found.extend(values(reward, texts, solution=r"$\frac{1}{2}$"))

    worker = threading.Thread(target=work)
    (worker.start if thread else work)()
    if thread:
        worker.join(60)
    assert found == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    (score,) = scores(reward, ["1"], solution="no number")
    assert score.value is None and "cannot be read" in score.why


def test_tasks_of_reasoning_gym_are_scored_by_the_task():
    gym = pytest.importorskip("reasoning_gym")
    entries = list(gym.create_dataset("chain_sum", size=3, seed=1))
    reward = opened(kind="reasoning_gym", extract="tag", task="chain_sum")
    unnamed = opened(kind="reasoning_gym", extract="tag")
    for entry in entries:
        texts = [f"<answer>{entry['answer']}</answer>", "<answer>no</answer>", entry["answer"]]
        for columns in (
            {"entry": entry},
            {"entry": json.dumps(entry)},
            {"answer": entry["answer"], "metadata": entry["metadata"]},
        ):
            found = scores(reward, texts, **columns)
            assert [score.value for score in found] == pytest.approx([1.0, 0.0, 0.0], abs=0.02)
            assert dict(found[0].parts) == {"solved": 1.0, "answered": 1.0}
            assert scores(unnamed, texts, **columns) == found
    with pytest.raises(UserError, match="Did you mean 'chain_sum'?"):
        opened(kind="reasoning_gym", task="chainsum")
    (lost,) = scores(reward, ["4"], question="?")
    assert lost.value is None and "no reasoning-gym entry" in lost.why


@pytest.mark.slow  # it is 10 s until langdetect and nltk are imported
def test_instructions_are_checked_as_ifeval_checks_them():
    pytest.importorskip("if_verifiable")
    columns = {
        "instruction_id_list": ["change_case:english_lowercase", "punctuation:no_comma"],
        "kwargs": [{}, {"num_words": None}],
    }
    texts = ["hello there", "hello, there", "Hello, There"]
    assert values(opened(kind="if_verifiable"), texts, **columns) == [1.0, 0.5, 0.0]
    strict = opened(kind="if_verifiable", measure="binary_strict")
    assert values(strict, texts, **columns) == [1.0, 0.0, 0.0]
    assert scores(strict, texts, **columns)[1].parts["partial_strict"] == 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ids", "kwargs", "why"),
    [
        (["punctuation:nocomma"], [{}], "Did you mean 'punctuation:no_comma'?"),
        (["length_constraints:number_words"], [{"relation": "at least"}], "lack 'num_words'"),
        (["punctuation:no_comma"], [], "1 instruction ids and 0 kwargs"),
    ],
)
def test_instructions_that_cannot_be_checked_give_no_score(ids, kwargs, why):
    pytest.importorskip("if_verifiable")
    reward = opened(kind="if_verifiable")
    (score,) = scores(reward, ["hello"], instruction_id_list=ids, kwargs=json.dumps(kwargs))
    assert score.value is None and why in score.why


def test_a_row_that_cannot_be_checked_loses_no_other():
    made = Rewards(
        [Member(opened(kind="exact"), SelectedReward(name="verifier"))],
        RolloutConfig(max_unscored=1.0),
    )
    groups = [Group("?", ["4"], {"answer": "4"}), Group("?", ["4"], {})]
    found = made.score(groups, Processes())
    assert [score.value for (score,) in found] == [1.0, None]
    assert [fault.rows for fault in made.drain_faults()] == [1]

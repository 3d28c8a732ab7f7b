"""Verdicts by log-probs where the endpoint says them of all options, else by its texts."""

from __future__ import annotations

import judge_server
import pytest
from judge_openai.asking import question

from trimtab.core.judge import Comparison, Rating
from trimtab.testing import check_judge


def test_each_question_is_answered_in_its_place_by_the_log_probs(server, opened):
    questions = [question(n) for n in range(20)]
    answers = opened().ask(questions)
    for asked, answer in zip(questions, answers, strict=True):
        text, logps = judge_server.drawn(f"user: {asked.turns[0]['content']}")
        assert (answer.text, answer.logps) == (text, {o: logps[o] for o in ("1", "2")})


def test_an_empty_text_is_an_abstention(server, opened):
    server.answer = judge_server.silent
    judge = opened()
    with pytest.warns(UserWarning, match="gives no log-probs"):
        answer = judge.ask([question()])[0]
    assert answer.text is None and answer.logps is None and "wrote nothing" in answer.why


@pytest.mark.parametrize(("setting", "tops"), [("refused", [20, 5, None]), ("five", [20, 5])])
def test_refused_log_probs_are_asked_for_no_more(server, opened, setting, tops):
    server.logprobs = setting
    judge = opened(concurrency=1)
    if setting == "refused":
        with pytest.warns(UserWarning, match="gives no log-probs of 'small'"):
            answers = judge.ask([question(n) for n in range(4)])
        assert [each.text for each in answers] != [None] * 4
        assert judge.counts()["without_logprobs"] == 4
    else:
        server.answer = lambda text: ("1", {"1": -0.5, "2": -1.0})
        answers = judge.ask([question(n) for n in range(4)])
    assert [body.get("top_logprobs") for body in server.asked] == tops + tops[-1:] * 3
    assert [each.logps is None for each in answers] == [setting == "refused"] * 4


def test_an_endpoint_that_ignores_log_probs_is_read_by_its_text(server, opened):
    server.logprobs = "none"
    judge = opened()
    with pytest.warns(UserWarning, match="verdicts are read from its texts"):
        answers = judge.ask([question(n) for n in range(3)])
    assert all(each.logps is None and each.text in ("1", "2") for each in answers)
    judge.ask([question(5)])  # it is told once


def test_log_probs_that_lack_an_option_are_none(server, opened):
    server.answer, server.logprobs = lambda text: ("1", {"1": -0.1, "2": -3.0}), "lacking"
    answer = opened().ask([question()])[0]
    assert answer.logps is None and answer.text == "1"


def test_a_newer_name_of_the_length_is_tried_where_it_is_asked_for(server, opened, monkeypatch):
    monkeypatch.setattr(
        judge_server._Handler,
        "_answer",
        lambda self, judge, body, fault, answer=judge_server._Handler._answer: (
            self._fails(400, "Use 'max_completion_tokens' instead of 'max_tokens'.")
            if "max_tokens" in body
            else answer(self, judge, body, fault)
        ),
    )
    judge = opened(concurrency=1)
    assert all(each.logps for each in judge.ask([question(n) for n in range(3)]))
    assert [body.get("max_completion_tokens") for body in server.asked] == [None, 8, 8, 8]


def test_an_always_first_judge_wins_half_and_an_echo_abstains(server, opened):
    server.answer = judge_server.always_first
    verdict = opened().compare([Comparison("Say it.", "yes", "no")])[0]
    assert verdict.value == 0.5 and verdict.orders[0] > 0.8 > 0.2 > verdict.orders[1]
    server.answer = judge_server.echo
    judge = opened("other", logprobs="off")
    verdict = judge.compare([Comparison("Say it again.", "answer 1", "answer 2")])[0]
    assert verdict.value is None and verdict.why


def test_it_keeps_what_every_judge_promises(opened):
    check_judge(opened())


def test_the_expected_rating_is_over_all_ten(server, opened):
    server.answer = judge_server.ratings
    verdict = opened().score([Rating("Say it.", "yes")])[0]
    assert verdict.value == pytest.approx(7.0)  # sum of n * n / 55

"""An endpoint that fails in every way: nothing is lost, nothing invented, nothing sent in vain."""

from __future__ import annotations

import threading

import judge_server
import pytest
from judge_openai.asking import ledger, question

from trimtab.core.errors import RunError, UserError

FAULTS = ["429", "429:0.02", "500", "503", "cut", "malformed", "wrapped", "408"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_loses_nothing(server, opened, quick, fault):
    server.fails_first(*[fault] * 3)
    questions = [question(n) for n in range(6)]
    answers = opened(concurrency=2).ask(questions)
    assert [a.text for a in answers] == [
        judge_server.drawn(f"user: Question {n}?")[0] for n in range(6)
    ]
    assert set(server.answered.values()) == {1} and len(server.asked) == 9


def test_a_slow_answer_is_waited_for_no_longer_than_the_timeout(server, opened, quick):
    server.fails_first("slow:0.6")
    judge = opened(timeout=0.2)
    assert judge.ask([question()])[0].logps is not None
    assert len(server.asked) == 2


def test_it_waits_as_long_as_it_is_asked_to(server, opened, monkeypatch):
    waits = []
    monkeypatch.setattr(threading.Event, "wait", lambda self, seconds=None: waits.append(seconds))
    server.fails_first("429:7", "429:date", "429", "429")
    judge = opened(concurrency=1)
    judge._sent("key", question())
    asked = [each for each in waits if each is not None]
    assert asked[0] == 7 and 0 <= asked[1] <= 1
    assert 1 <= asked[2] <= 2 and 2 <= asked[3] <= 4


@pytest.mark.parametrize("fault", ["429", "500", "cut", "malformed", "wrapped", "slow:0.3"])
def test_after_the_retries_the_run_stops_with_what_is_paid_for(
    server, opened, quick, tmp_path, fault
):
    server.faults = lambda n, body: fault if "Question 3" in str(body) else None
    judge = opened(concurrency=1, retries=2, timeout=0.2)
    with pytest.raises(RunError, match=r"was asked 3 times in vain.*trimtab resume goes on"):
        judge.ask([question(n) for n in range(6)])
    assert [len(server.asked), len(server.answered)] == [6, 3] or fault.startswith("slow")
    server.faults = lambda n, body: None
    before = len(server.asked)
    answers = opened(concurrency=1).ask([question(n) for n in range(6)])
    assert len(server.asked) == before + 3 and all(each.logps for each in answers)


def test_what_is_under_way_when_another_fails_is_kept(server, opened, tmp_path):
    server.delay = 0.2
    server.faults = lambda n, body: "403" if "Question 0" in str(body) else None
    with pytest.raises(UserError):
        opened(concurrency=4).ask([question(n) for n in range(30)])
    assert len(server.asked) < 12
    assert len(ledger(tmp_path)) == sum(server.answered.values()) == len(server.asked) - 1


def test_a_quota_that_is_spent_is_not_asked_again(server, opened):
    server.faults = lambda n, body: "quota"
    with pytest.raises(RunError, match="its own quota is spent"):
        opened().ask([question()])
    assert len(server.asked) == 1


def test_who_asks_to_wait_for_very_long_is_not_waited_for(server, opened):
    server.fails_first("429:3600")
    with pytest.raises(RunError, match=r"asked once in vain, and asks to wait 3600 s\. "):
        opened().ask([question()])


def test_a_text_that_is_too_long_is_an_abstention_and_is_not_kept(server, opened, tmp_path):
    server.fails_first("too_long")
    answer = opened().ask([question()])[0]
    assert answer.text is None and "maximum context length is 8 tokens" in answer.why
    assert ledger(tmp_path) == [] and not (tmp_path / "cache").exists()


def test_a_wrong_model_is_named_with_those_that_there_are(server, opened):
    server.faults = lambda n, body: "404"
    with pytest.raises(UserError, match=r"no model 'smal'.*'small'\? It has: large, small"):
        opened(model="smal").ask([question()])
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", ["401", "403"])
def test_a_key_that_is_not_accepted(server, opened, status):
    server.faults = lambda n, body: status
    with pytest.raises(UserError, match=r"does not accept the key in OPENAI_API_KEY"):
        opened().ask([question()])
    assert len(server.asked) == 1


def test_a_request_that_is_refused_whatever_is_left_out(server, opened):
    server.faults = lambda n, body: "400"
    with pytest.raises(UserError, match=r"refuses what the judge asks of 'small' \(status 400"):
        opened().ask([question()])
    assert len(server.asked) == 2  # with log-probs, and without

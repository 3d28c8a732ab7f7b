"""What a run may pay for is never exceeded, and what it has paid for is kept."""

from __future__ import annotations

import pytest
from judge_openai.asking import ledger, question

from trimtab.core.errors import RunError, Waits
from trimtab.plugins.judges.ledger import LEDGER


@pytest.mark.parametrize("concurrency", [1, 8])
def test_requests_never_exceed_their_cap_and_go_on_when_it_is_raised(
    server, opened, tmp_path, concurrency
):
    server.delay = 0.01
    questions = [question(n) for n in range(12)]
    with pytest.raises(Waits, match=r"would exceed judge\.budget\.requests = 5: .* for 5 request"):
        opened(concurrency=concurrency, budget={"requests": 5}).ask(questions)
    assert len(server.asked) == len(ledger(tmp_path)) == 5
    with pytest.raises(Waits, match=r"config\.yaml, then: trimtab resume"):
        opened(concurrency=concurrency, budget={"requests": 5}).ask(questions)
    assert len(server.asked) == 5
    assert len(opened(budget={"requests": 12}).ask(questions)) == 12
    assert len(server.asked) == 12 and set(server.answered.values()) == {1}


def test_a_cached_answer_costs_nothing_of_the_budget(server, opened):
    opened().ask([question(n) for n in range(4)])
    opened("other", budget={"requests": 1}).ask([question(n) for n in range(5)])
    assert len(server.asked) == 5


def test_a_failed_attempt_costs_nothing_and_an_unreadable_answer_does(server, opened, quick):
    server.fails_first("500", "429", "malformed", "cut")
    judge = opened(concurrency=1, budget={"requests": 2})
    assert judge.ask([question()])[0].logps is not None
    with pytest.raises(Waits, match="has paid for 2 requests"):
        judge.ask([question(1)])
    assert judge.counts()["requests"] == 2


@pytest.mark.parametrize("concurrency", [1, 8])
def test_tokens_never_exceed_their_cap(server, opened, tmp_path, concurrency):
    server.delay = 0.01
    with pytest.raises(Waits, match=r"would exceed judge\.budget\.tokens = 150"):
        opened(concurrency=concurrency, budget={"tokens": 150}).ask(
            [question(n) for n in range(99)]
        )
    paid = sum(line["tokens"] for line in ledger(tmp_path))
    assert paid == 4 * len(server.asked) and 40 < paid <= 150


def test_where_no_tokens_are_said_as_many_count_as_there_can_have_been(server, opened, tmp_path):
    server.usage = False
    judge = opened(concurrency=1, budget={"tokens": 250})
    with pytest.raises(Waits):
        judge.ask([question(n) for n in range(9)])
    assert [line["tokens"] for line in ledger(tmp_path)] == [len("Question 0?") + 16 + 64 + 8] * 2
    assert judge.counts() == {"requests": 2}


def test_a_line_that_was_cut_is_asked_again_and_one_that_is_damaged_is_told(
    server, opened, tmp_path
):
    opened(cache=False).ask([question(n) for n in range(3)])
    file = tmp_path / "run" / LEDGER
    file.write_bytes(file.read_bytes()[:-30])
    opened(cache=False).ask([question(n) for n in range(3)])
    assert len(server.asked) == 4 and len(ledger(tmp_path)) == 3
    file.write_text(file.read_text().replace('"tokens"', '"tok', 1))
    with pytest.raises(RunError, match=r"judge_requests\.jsonl is damaged"):
        opened(cache=False)

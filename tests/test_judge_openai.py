"""The judge openai against a server on loopback: nothing lost, nothing invented, paid once."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import traceback

import judge_server
import pytest
from judge_server import JudgeServer

from trimtab import load_run_file
from trimtab.core.caches import cache_dir
from trimtab.core.config import ModelConfig
from trimtab.core.errors import RunError, UserError, Waits
from trimtab.core.judge import Comparison, JudgeSetting, Rating
from trimtab.plugins.judges.ledger import LEDGER
from trimtab.plugins.judges.openai import OpenAIJudge
from trimtab.plugins.judges.openai_options import OpenAIConfig
from trimtab.plugins.judges.question import Question
from trimtab.testing import check_judge

KEY = "sk-very-secret-4711"


@pytest.fixture
def server():
    with JudgeServer().serving() as server:
        yield server


@pytest.fixture
def quick(monkeypatch):
    """Between attempts it waits as long as it is asked, else not at all."""
    monkeypatch.setattr("random.Random.uniform", lambda self, low, high: 0.0)


@pytest.fixture
def opened(server, tmp_path):
    """Opens judges of one run, or of another in ``home``."""

    def opened(home="run", **options):
        folder = tmp_path / home
        folder.mkdir(exist_ok=True)
        given = {"model": "small", "base_url": server.url, "cache": str(tmp_path / "cache")}
        judge = OpenAIJudge(OpenAIConfig(**(given | options)))
        judge.open(JudgeSetting(ModelConfig(name="any"), None, 0, None, folder))
        return judge

    return opened


def question(number=0, options=("1", "2"), **more):
    """A question of its own; its answer follows from it."""
    return Question(({"role": "user", "content": f"Question {number}?"},), options, **more)


def ledger(tmp_path, home="run"):
    file = tmp_path / home / LEDGER
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_each_question_is_answered_in_its_place_by_the_log_probs(server, opened):
    questions = [question(n) for n in range(20)]
    answers = opened().ask(questions)
    for asked, answer in zip(questions, answers, strict=True):
        text, logps = judge_server.drawn(f"user: {asked.turns[0]['content']}")
        assert (answer.text, answer.logps) == (text, {o: logps[o] for o in ("1", "2")})


def test_no_more_requests_are_under_way_than_it_may_have(server, opened):
    server.delay = 0.02
    opened(concurrency=3).ask([question(n) for n in range(12)])
    assert server.most == 3


def test_a_question_is_asked_once_within_a_call_a_run_and_a_cache(server, opened):
    judge = opened()
    first = judge.ask([question(1), question(2), question(1)])
    assert first[0] == first[2] and len(server.asked) == 2
    assert judge.counts() == {
        "requests": 2,
        "cached": 1,
        "prompt_tokens": 6,
        "completion_tokens": 2,
    }
    assert opened("other").ask([question(2), question(1)]) == [first[1], first[0]]
    assert judge.ask([question(1)]) == first[:1] and judge.counts() == {"cached": 1}
    assert judge.counts() == {} and len(server.asked) == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"options": ("1", "3")},
        {"max_tokens": 9},
        {"temperature": 0.5},
        {"model": "large"},
        {"logprobs": "off"},
        {"extra": {"seed": 1}},
    ],
)
def test_what_an_answer_depends_on_is_asked_anew(server, opened, changed):
    opened().ask([question()])
    own = {
        key: changed.pop(key)
        for key in list(changed)
        if key in OpenAIConfig.model_fields and key != "temperature"
    }
    opened("other", **own).ask([question(**changed)])
    assert len(server.asked) == 2


def test_without_a_cache_the_run_still_remembers(server, opened, tmp_path):
    answers = opened(cache=False).ask([question(1)])
    assert opened(cache=False).ask([question(1)]) == answers and len(server.asked) == 1
    opened("other", cache=False).ask([question(1)])
    assert len(server.asked) == 2 and not (tmp_path / "cache").exists()


def test_the_cache_is_with_the_other_caches_where_nothing_else_is_said(server, opened):
    opened(cache=None).ask([question("of the common cache")])
    assert len(list((cache_dir() / "judges").glob("*/*.json"))) == 1


@pytest.mark.parametrize("damage", ["cut", "flipped", "other"])
def test_a_damaged_answer_is_told_and_asked_again(server, opened, tmp_path, damage):
    answers = opened().ask([question(1), question(2)])
    one, other = sorted((tmp_path / "cache").glob("*/*.json"))
    spoilt = {
        "cut": one.read_text()[:20],
        "flipped": one.read_text().replace("-", "-9", 1),
        "other": other.read_text(),
    }
    one.write_text(spoilt[damage])
    with pytest.warns(UserWarning, match="is damaged, and its question is asked again"):
        assert opened("other").ask([question(1), question(2)]) == answers
    assert len(server.asked) == 3
    assert opened("third").ask([question(1), question(2)]) == answers


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


def test_an_empty_text_is_an_abstention(server, opened):
    server.answer = judge_server.silent
    judge = opened()
    with pytest.warns(UserWarning, match="gives no log-probs"):
        answer = judge.ask([question()])[0]
    assert answer.text is None and answer.logps is None and "wrote nothing" in answer.why


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


def test_the_key_is_sent_and_is_in_no_file_error_or_description(
    server, opened, tmp_path, monkeypatch
):
    monkeypatch.setenv("MY_KEY", KEY)
    judge = opened(api_key_env="MY_KEY")
    judge.ask([question()])
    assert server.keys == {f"Bearer {KEY}"}
    server.faults = lambda n, body: "400"  # it repeats the key
    with pytest.raises(UserError, match=r"Bearer \[the key\]") as caught:
        judge.ask([question(1)])
    told = "".join(traceback.format_exception(caught.value)) + json.dumps(judge.describe())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 2 and KEY not in told
    assert not any(KEY.encode() in path.read_bytes() for path in files)


def test_an_endpoint_elsewhere_wants_a_key(opened, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match="the environment variable OPENAI_API_KEY is not set"):
        opened(base_url="http://example.invalid/v1")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"base_url": "http://me:secret@localhost/v1"}, "a name or a password in it"),
        ({"base_url": "localhost:80"}, "begins with http:// or https://"),
        ({"api_key_env": "sk-secret"}, "the name of an environment variable"),
        ({"cache": "answers"}, "wants an absolute path"),
    ],
)
def test_options_that_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        OpenAIConfig(model="small", **options)


def test_a_password_in_a_run_file_is_refused_without_being_repeated(world, tmp_path):
    judge = {"name": "openai", "model": "m", "base_url": "http://me:hunter2@localhost/v1"}
    with pytest.raises(UserError, match="a name or a password in it") as caught:
        load_run_file(world.file(tmp_path / "run.yaml", judge=judge))
    assert "hunter2" not in str(caught.value)


def test_the_package_that_it_wants_is_named(opened, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=r"pip install 'trimtab\[judges\]'"):
        opened()


def test_the_client_is_not_imported_before_it_is_wanted():
    said = "import sys, trimtab.plugins.judges.openai; print('openai' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"

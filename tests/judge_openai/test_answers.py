"""Each question is answered in its place, and asked once: within a call, a run and a cache."""

from __future__ import annotations

import pytest
from judge_openai.asking import question

from trimtab.core.caches import cache_dir
from trimtab.plugins.judges.openai_options import OpenAIConfig


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

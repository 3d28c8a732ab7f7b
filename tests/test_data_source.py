"""The data set's source: every row once an epoch, splits by prompt, resuming."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import pytest
import torch
from data_fixtures import opened, smollm, turns, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab import Demonstrations, Labelled, Pairs, Ranked, Rollouts
from trimtab.core.config import DataConfig, RolloutConfig
from trimtab.core.errors import UserError
from trimtab.core.examples import tensors
from trimtab.core.source import Setting
from trimtab.plugins.sources.corpus import read_corpus
from trimtab.plugins.sources.dataset import DatasetConfig, DatasetSource, provide_sources
from trimtab.plugins.sources.kinds import PROMPTS
from trimtab.plugins.sources.split import by_prompt


def rows(prompts, each=2):
    return [
        {"prompt": f"Number {n} is", "chosen": f" good {k}", "rejected": f" bad {k}"}
        for n in range(prompts)
        for k in range(each)
    ]


ELEVEN = {
    Demonstrations: {"completion": " good"},
    Labelled: {"completion": " good", "label": True},
    Pairs: {"chosen": " good", "rejected": " bad"},
    Ranked: {"responses": [" good", " fair", " bad"], "ranks": [1, 2, 3]},
}


@pytest.fixture(scope="module")
def eleven(tmp_path_factory):
    """Eleven rows of each kind, every second of them undesirable or a ranking of two."""
    folder = tmp_path_factory.mktemp("data")
    made = {}
    for batch, columns in ELEVEN.items():
        rows = [{"prompt": f"Number {n} is", **columns} for n in range(11)]
        for row in rows[1::2]:
            row |= {"label": False} if batch is Labelled else {}
            row |= {"responses": [" a", " b"], "ranks": [2, 1]} if batch is Ranked else {}
        file = write_jsonl(folder / f"{batch.__name__}.jsonl", rows)
        made[batch] = DataConfig(train=file, holdout=0.0)
    return made


@pytest.fixture(scope="module")
def data(eleven):
    return eleven[Pairs]


def collected(source, size):
    return source.collect(None, size).row_N.tolist()


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(list(ELEVEN)),
    seed=st.integers(0, 9),
    steps=st.lists(st.tuples(st.integers(1, 12), st.booleans()), max_size=12),
)
def test_every_row_comes_once_an_epoch_over_any_interruptions(eleven, kind, seed, steps):
    whole, source = (opened(eleven[kind], kind, seed) for _ in range(2))
    seen = []
    for size, interrupted in steps:
        if interrupted:
            state = json.loads(json.dumps(source.state()))
            source = opened(eleven[kind], kind, seed)
            source.restore(state)
        batch, uninterrupted = source.collect(None, size), whole.collect(None, size)
        pairs = zip(tensors(batch), tensors(uninterrupted), strict=True)
        assert all(torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)) for a, b in pairs)
        assert len(batch) == min(size, 11 - len(seen) % 11)
        seen += batch.row_N.tolist()
    for epoch in range(0, len(seen), 11):
        part = seen[epoch : epoch + 11]
        assert len(set(part)) == len(part)
        assert set(part) <= set(range(1, 12))


def test_batches_do_not_cross_an_epoch_and_epochs_differ_in_order(data):
    source = opened(data)
    assert source.steps_per_epoch(4) == math.ceil(11 / 4) == 3
    first, second = ([collected(source, 4) for _ in range(3)] for _ in range(2))
    assert [len(batch) for batch in first] == [len(batch) for batch in second] == [4, 4, 3]
    assert sorted(sum(first, [])) == sorted(sum(second, [])) == list(range(1, 12))
    assert first != second
    assert collected(opened(data, seed=1), 4) != first[0]


def test_a_batch_names_the_rows_that_it_holds(data):
    batch = opened(data).collect(None, 5)
    for row, number in enumerate(batch.row_N.tolist()):
        prompt = batch.chosen.prompt_NP[row, : batch.chosen.prompt_length_N[row]]
        assert smollm().decode(prompt) == f"Number {number - 1} is"
    assert torch.equal(batch.chosen.prompt_NP, batch.rejected.prompt_NP)


def test_held_out_rows_are_a_share_of_the_prompts_whole(tmp_path):
    mixed = rows(40, each=3)
    random.Random(0).shuffle(mixed)
    source = opened(DataConfig(train=write_jsonl(tmp_path / "p.jsonl", mixed), holdout=0.25))
    train, held_out = source.corpus.train, source.corpus.held_out
    assert (len(train), len(held_out)) == (90, 30)
    assert not {row.prompt for row in train} & {row.prompt for row in held_out}
    assert len({row.prompt for row in held_out}) == 10
    assert len(source.held_out()) == 30
    other = write_jsonl(tmp_path / "q.jsonl", sorted(mixed, key=str))
    again = opened(DataConfig(train=other, holdout=0.25), seed=7)
    assert {row.content for row in again.corpus.held_out} == {row.content for row in held_out}


def test_text_without_prompts_is_split_by_row(tmp_path):
    file = write_jsonl(tmp_path / "t.jsonl", [{"text": f"text {n}"} for n in range(20)])
    source = opened(DataConfig(train=file, holdout=0.1), Demonstrations)
    assert (len(source.corpus.train), len(source.corpus.held_out)) == (18, 2)


def test_one_prompt_alone_cannot_be_split(tmp_path):
    source = opened(DataConfig(train=write_jsonl(tmp_path / "p.jsonl", rows(1, each=9))))
    assert source.held_out() is None
    assert (
        "few rows are held out, so measures on them are vague: 0" in source.describe()["warnings"]
    )
    two = opened(DataConfig(train=write_jsonl(tmp_path / "q.jsonl", rows(2)), holdout=0.9))
    assert len(two.held_out()) == 2
    assert by_prompt([], 0.5) == ([], [])


def test_limits_choose_the_same_rows_whatever_the_seed(tmp_path):
    file = write_jsonl(tmp_path / "p.jsonl", rows(60))
    config = DataConfig(train=file, limit=10, eval_limit=4)
    first, second = (opened(config, seed=seed) for seed in (0, 1))
    for source in (first, second):
        assert len(source.corpus.train) == source.steps_per_epoch(1) == 10
        assert len(source.held_out()) == 4
    assert first.corpus.train == second.corpus.train
    assert max(row.row for row in first.corpus.train) > 20, "spread over the file"


def test_an_eval_file_is_what_is_held_out(tmp_path):
    train = write_jsonl(tmp_path / "p.jsonl", rows(20))
    other = write_jsonl(tmp_path / "e.jsonl", [*rows(3), {"prompt": "a"}])
    source = opened(DataConfig(train=train, eval=other, max_dropped=0.2))
    said = source.describe()
    assert (said["train_rows"], said["held_out_rows"]) == (40, 6)
    assert said["eval"]["dropped"] == [
        {"row": 7, "reason": "prompt only: there is no chosen and no rejected"}
    ]
    assert "prompts both in the training rows and held out: 3" in said["warnings"]


def test_faults_of_both_files_are_said_at_once(tmp_path):
    bad = write_jsonl(tmp_path / "bad.jsonl", [{"prompt": "a"}])
    worse = write_jsonl(tmp_path / "worse.jsonl", [])
    with pytest.raises(UserError, match=r"(?s)bad.jsonl: 1 of 1 rows.*worse.jsonl holds no rows"):
        opened(DataConfig(train=bad, eval=worse))


def test_what_looks_wrong_is_said(tmp_path):
    pair = {"prompt": "It is", "chosen": " good", "rejected": " bad"}
    opposite = {"prompt": "It is", "chosen": " bad", "rejected": " good"}
    file = write_jsonl(tmp_path / "p.jsonl", [pair, pair, opposite, {**pair, "preference": 0.2}])
    source = opened(DataConfig(train=file, holdout=0.0))
    warnings = source.describe()["warnings"]
    assert [warning.removeprefix(f"{file}: ") for warning in warnings] == [
        "pairs exchanged, for their preference was below 0.5: 1",
        "rows that repeat an earlier one, and are kept: 1",
        "pairs that say the opposite of another pair: 2",
        "rows of plain text, to which the model's chat template is not applied "
        "(it is to turns with role and content): 4",
    ]


def test_hard_labels_are_certain_beside_soft_ones(tmp_path):
    made = rows(3, each=1)
    made[1]["preference"] = 0.75
    source = opened(DataConfig(train=write_jsonl(tmp_path / "p.jsonl", made), holdout=0.0))
    assert sorted(source.collect(None, 3).preference_N.tolist()) == [0.75, 1.0, 1.0]


def test_votes_that_contradict_each_other_name_the_conversion(tmp_path):
    pair = {"prompt": "It is", "chosen": " good", "rejected": " bad", "annotator": 1}
    opposite = {"prompt": "It is", "chosen": " bad", "rejected": " good", "annotator": 2}
    file = write_jsonl(tmp_path / "p.jsonl", [pair, opposite, {**pair, "annotator": 3}])
    warnings = opened(DataConfig(train=file, holdout=0.0)).describe()["warnings"]
    assert any("all votes): 2" in warning for warning in warnings)
    assert not any("repeat" in warning for warning in warnings), "three people said it"


def test_a_run_does_not_go_on_with_other_data(data, tmp_path):
    changed = DataConfig(train=write_jsonl(tmp_path / "p.jsonl", rows(12, each=1)), holdout=0.0)
    with pytest.raises(UserError, match="the data is not what this run was trained on so far"):
        opened(changed).restore(opened(data).state())


def test_what_it_serves():
    assert DatasetSource.serves(Pairs) and DatasetSource.serves(Demonstrations)
    assert DatasetSource.serves(Labelled) and DatasetSource.serves(Ranked)
    assert not DatasetSource.serves(Rollouts)
    assert provide_sources() == [DatasetSource]


def test_conversations_of_several_turns_make_a_batch(tmp_path):
    file = write_jsonl(
        tmp_path / "m.jsonl",
        [{"messages": turns("a", "b", "c", "d")}, {"messages": turns("e", "f")}],
    )
    batch = opened(DataConfig(train=file, holdout=0.0), Demonstrations).collect(None, 2)
    assert sorted(batch.responses.count_N.tolist()) == [2, 4]


def test_sources_of_one_run_read_the_data_once_and_order_it_each_for_itself(data):
    setting = Setting(Pairs, data, smollm(), 0, RolloutConfig())
    first, second, alone = (DatasetSource(DatasetConfig()) for _ in range(3))
    first.open(setting)
    second.open(replace(setting, seed=1))
    alone.open(Setting(Pairs, data, smollm(), 1, RolloutConfig()))
    assert second.corpus is first.corpus is not alone.corpus
    rows = [source.collect(None, 100).row_N.tolist() for source in (first, second, alone)]
    assert rows[1] == rows[2] != rows[0]


def test_prompts_of_another_data_set_are_answered_that_it_holds_out(tmp_path):
    """The same that are held out where that data set itself is trained on."""
    asked = [{"prompt": f"Question {n}?", "topic": n} for n in range(40)]
    prompts = DataConfig(train=write_jsonl(tmp_path / "prompts.jsonl", asked), holdout=0.25)
    made = DataConfig(
        train=write_jsonl(tmp_path / "made.jsonl", rows(30)),
        holdout=0.25,
        columns={"rejected": "rejected"},
        limit=9,
        eval_prompts=prompts.train,
    )
    held_out = read_corpus(prompts, PROMPTS, smollm()).held_out
    found = opened(made).prompts()
    assert 0 < len(found) < 40
    assert [prompt.ids for prompt in found] == [tuple(row.tokens.prompt) for row in held_out]
    assert all(prompt.content == f"Question {prompt.columns['topic']}?" for prompt in found)
    assert opened(made.model_copy(update={"eval_limit": 3})).prompts() == found[:3]
    assert opened(made.model_copy(update={"eval_prompts": None})).prompts() == []


def test_a_data_set_that_holds_no_prompts_out_is_refused(tmp_path):
    one = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "Only?"}])
    table = write_jsonl(tmp_path / "made.jsonl", rows(30))
    with pytest.raises(UserError, match="data.eval_prompts: .*prompts.jsonl holds no prompts out"):
        opened(DataConfig(train=table, eval_prompts=one))

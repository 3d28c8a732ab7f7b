"""``data.train`` as a list: the rows of several tables as one, and an account of each."""

from __future__ import annotations

import json

import pytest
from data_fixtures import opened, smollm, write_jsonl
from pydantic import ValidationError

from trimtab import Demonstrations, Pairs
from trimtab.core.config import DataConfig, RolloutConfig
from trimtab.core.errors import UserError
from trimtab.core.source import Setting
from trimtab.plugins.sources.corpus import read_corpus
from trimtab.plugins.sources.kinds import DEMONSTRATIONS, PAIRS
from trimtab.plugins.sources.stream import StreamConfig, StreamSource


def told(count, first=1):
    """Demonstrations, each with a prompt of its own."""
    return [
        {"prompt": f"Question {n}:", "completion": f" answer {n}"}
        for n in range(first, first + count)
    ]


def pairs(count, first=1, **more):
    return [
        {"prompt": f"Question {n}:", "chosen": f" yes {n}", "rejected": f" no {n}", **more}
        for n in range(first, first + count)
    ]


def two(tmp_path, one, other):
    return [write_jsonl(tmp_path / "one.jsonl", one), write_jsonl(tmp_path / "two.jsonl", other)]


def corpus(tables, kind=DEMONSTRATIONS, **data):
    return read_corpus(DataConfig(train=tables, **{"holdout": 0.0, **data}), kind, smollm())


def numbers(rows):
    return sorted(row.row for row in rows)


def test_the_rows_of_all_tables_are_read_in_order_and_numbered_on(tmp_path):
    read = corpus(two(tmp_path, told(3), told(4, first=4)))
    assert numbers(read.train) == [1, 2, 3, 4, 5, 6, 7]
    ordered = sorted(read.train, key=lambda row: row.row)
    texts = [smollm().decode(row.tokens.prompt) for row in ordered]
    assert texts == [f"Question {n}:" for n in range(1, 8)]


def test_each_row_is_seen_once_an_epoch(tmp_path):
    source = opened(
        DataConfig(train=two(tmp_path, told(3), told(4, 4)), holdout=0.0), Demonstrations
    )
    seen = [n for _ in range(4) for n in source.collect(None, 2).row_N.tolist()]
    assert sorted(seen) == [1, 2, 3, 4, 5, 6, 7]


def test_one_report_a_table_and_dropped_rows_say_which(tmp_path):
    bad = [{"prompt": "no completion"}]
    tables = two(tmp_path, [*told(2), *bad], [*bad, *told(2, 4)])
    read = corpus(tables, max_dropped=0.5)
    account = read.account()
    assert [(t["name"], t["read"], t["kept"]) for t in account["tables"]] == [
        (name, 3, 2) for name in tables
    ]
    assert account["read"] == account["kept"] + len(account["dropped"]) == 6
    assert [(row["row"], row["place"]) for row in account["dropped"]] == [
        (3, f"{tables[0]}, row 3"),
        (4, f"{tables[1]}, row 1"),
    ]
    json.dumps(account)


def test_a_table_that_lost_too_many_rows_stops_the_run_and_is_named(tmp_path):
    tables = two(tmp_path, told(8), [{"prompt": "alone"}, *told(1, 20)])
    with pytest.raises(UserError) as raised:
        corpus(tables).check()
    assert str(raised.value).startswith(f"{tables[1]}: 1 of 2 rows cannot be used")
    assert f"(row {tables[1]}, row 1)" in str(raised.value)


def folder(path, train, validation=None):
    path.mkdir()
    write_jsonl(path / "train.jsonl", train)
    if validation:
        write_jsonl(path / "validation.jsonl", validation)
    return str(path)


def test_held_out_is_what_every_table_holds_out(tmp_path):
    one = folder(tmp_path / "one", told(3), told(2, 50))
    other = folder(tmp_path / "two", told(2, 10), told(1, 60))
    read = corpus([one, other], holdout=0.5)
    assert len(read.train) == 5 and numbers(read.held_out) == [1, 2, 3]
    assert [report.name for report in read.evaluated] == [f"{n} (held out)" for n in (one, other)]
    assert read.account()["eval"]["read"] == 3


def test_where_one_table_holds_nothing_out_a_share_of_the_prompts_of_all_is(tmp_path):
    one = folder(tmp_path / "one", told(6), told(2, 50))
    other = write_jsonl(tmp_path / "two.jsonl", told(4, 10))
    read = corpus([one, other], holdout=0.3)
    assert (len(read.train), len(read.held_out)) == (7, 3)
    assert {row.prompt for row in read.train}.isdisjoint(row.prompt for row in read.held_out)
    said = f"{one}: its own held-out rows are not used, for not all have some"
    assert said in list(read.warnings())


def test_pairs_of_a_table_without_soft_labels_are_certain_beside_those_with_some(tmp_path):
    tables = two(tmp_path, pairs(2, preference=0.75), pairs(2, 10))
    read = corpus(tables, PAIRS)
    said = {row.row: row.tokens.said.probability for row in read.train}
    assert said == {1: 0.75, 2: 0.75, 3: 1.0, 4: 1.0}


def test_a_conversion_numbers_the_rows_that_it_makes_on(tmp_path):
    ranked = [
        {"prompt": "Q:", "responses": [" a", " b"], "ranks": [1, 2]},
        {"prompt": "R:", "responses": [" a", " b"], "ranks": [2, 1]},
    ]
    read = corpus(two(tmp_path, ranked, ranked), PAIRS, convert="rankings-to-pairs")
    assert numbers(read.train) == [1, 2, 3, 4]


def test_no_table_at_all_is_refused():
    for none in ([], ""):
        with pytest.raises(ValidationError, match="this is empty: name the tables to train on"):
            DataConfig(train=none)


def test_a_list_of_one_is_that_table(tmp_path):
    table = write_jsonl(tmp_path / "one.jsonl", told(3))
    assert corpus([table]).account() == corpus(table).account()


def test_a_data_set_that_a_stage_made_has_our_names_whatever_those_of_the_others_are(tmp_path):
    theirs = [{"question": f"Q{n}:", "completion": " a"} for n in range(3)]
    other = write_jsonl(tmp_path / "theirs.jsonl", theirs)
    (tmp_path / "stage/data").mkdir(parents=True)
    write_jsonl(tmp_path / "stage/data/train.jsonl", told(2))
    read = corpus([other, str(tmp_path / "stage")], columns={"prompt": "question"})
    assert numbers(read.train) == [1, 2, 3, 4, 5] and not read.faults()


def streamed(tables, **data):
    source = StreamSource(StreamConfig(buffer=4))
    source.open(Setting(Pairs, DataConfig(train=tables, **data), smollm(), 0, RolloutConfig()))
    return source


def test_a_stream_goes_through_all_tables_and_goes_on_in_the_second(tmp_path):
    tables = two(tmp_path, [*pairs(5), {"prompt": "alone"}], pairs(6, 20))
    source = streamed(tables, max_dropped=0.5)
    first = source.collect(None, 7).row_N.tolist()
    state = json.loads(json.dumps(source.state()))
    rest = source.collect(None, 7).row_N.tolist()
    assert sorted(first + rest) == [1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12]
    again = streamed(tables, max_dropped=0.5)
    again.restore(state)
    assert again.collect(None, 7).row_N.tolist() == rest
    assert source.describe()["dropped"][0]["place"] == f"{tables[0]}, row 6"

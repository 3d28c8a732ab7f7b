"""Reading: every row is kept or dropped with its number and a reason, in every format."""

from __future__ import annotations

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_fixtures import answer, opened, turns, write_jsonl
from datasets import Dataset, DatasetDict

from trimtab import Demonstrations, Pairs
from trimtab.core.config import DataConfig
from trimtab.core.errors import UserError
from trimtab.plugins.sources.files import read_file
from trimtab.plugins.sources.rows import Dropped, Row
from trimtab.plugins.sources.tables import kind_in, open_table

GOOD = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}
BAD_PAIRS = [
    ({"prompt": "The sky is", "chosen": " blue."}, "no column 'rejected'"),
    ({**GOOD, "prompt": 3}, "prompt is a number, neither text nor turns"),
    ({**GOOD, "chosen": {"content": "x"}}, "chosen is an object, neither text nor turns"),
    ({**GOOD, "prompt": None}, "prompt is null"),
    ({**GOOD, "chosen": " \n"}, "chosen is empty"),
    ({**GOOD, "chosen": []}, "chosen is empty"),
    ({**GOOD, "chosen": GOOD["rejected"]}, "chosen and rejected are the same"),
    ({"prompt": "The sky is"}, "prompt only: there is no chosen and no rejected"),
    ({**GOOD, "prompt": "far " * 99}, "prompt longer than data.max_prompt_tokens (50)"),
    ({**GOOD, "chosen": " far" * 99}, "completion longer than data.max_completion_tokens (50)"),
    (b'{"prompt": "\xff\xfe", "chosen": "a", "rejected": "b"}', "not UTF-8"),
    (b'{"prompt": "\\ud800", "chosen": "a", "rejected": "b"}', "prompt is not UTF-8"),
    (b'{"prompt": "The sky is", "chosen": " bl', "not JSON: Unterminated string starting at"),
    (b'["The sky is"]', "not an object with columns, but a list"),
    (
        {
            "prompt": [{"role": "usr", "content": "hi"}],
            "chosen": answer("a"),
            "rejected": answer("b"),
        },
        "unknown role 'usr'. Did you mean 'user'?",
    ),
    (
        {"prompt": turns("hi"), "chosen": [{"content": "a"}], "rejected": answer("b")},
        "chosen holds a turn without a role",
    ),
    (
        {"prompt": turns("hi"), "chosen": [{"role": "assistant"}], "rejected": answer("b")},
        "chosen holds a turn of 'assistant' without content",
    ),
    (
        {"prompt": turns("hi"), "chosen": turns("a"), "rejected": answer("b")},
        "chosen begins with a turn of 'user'",
    ),
    (
        {"prompt": turns("hi", "oh"), "chosen": answer("a"), "rejected": answer("b")},
        "the prompt ends with a turn of the assistant",
    ),
    (
        {"chosen": "blue", "rejected": "green"},
        "no prompt, and chosen and rejected do not begin alike",
    ),
    (
        {"chosen": "The sky is blue", "rejected": answer("b")},
        "one of chosen and rejected is text and the other is turns",
    ),
    ({**GOOD, "preference": 1.5}, "preference is not a probability"),
    ({**GOOD, "preference": True}, "preference is not a probability"),
    ({**GOOD, "tools": "[{"}, "tools is not JSON"),
    (
        {"prompt": "Hi ", "chosen": "there", "rejected": "you"},
        "the tokens of the prompt change when the completion follows: "
        "end the prompt before a space or a line break",
    ),
]


def test_every_bad_row_of_a_jsonl_file_is_dropped_with_its_line_and_reason(tmp_path):
    rows = [GOOD, *(row for row, _ in BAD_PAIRS), b"", GOOD]
    file = write_jsonl(tmp_path / "pairs.jsonl", rows)
    source = opened(
        DataConfig(train=file, max_dropped=1, max_prompt_tokens=50, max_completion_tokens=50)
    )
    said = source.describe()
    assert said["dropped"] == [
        {"row": line, "reason": reason} for line, (_, reason) in enumerate(BAD_PAIRS, 2)
    ]
    assert said["read"] == said["kept"] + len(said["dropped"]) == len(rows) - 1
    assert said["kept"] == 2
    assert any("rows that repeat an earlier one, and are kept: 1" in w for w in said["warnings"])
    assert source.collect(None, 9).row_N.sort().values.tolist() == [1, len(rows)]


BAD_DEMONSTRATIONS = [
    ({"prompt": "a"}, "prompt only: there is no completion"),
    ({"messages": turns("hi")}, "prompt only: messages holds no turn of the assistant"),
    ({"messages": turns("hi", " ")}, "completion is empty"),
    ({"messages": "hi"}, "messages is text, not turns"),
    ({"text": 5}, "text is a number, not text"),
    ({"text": ""}, "completion is empty"),
    ({"completion": "a"}, "no column 'prompt'"),
    ({"question": "a"}, "no column 'completion', 'messages' or 'text'"),
    (
        {"messages": [{"role": "user", "content": ["hi"]}]},
        "messages holds a turn whose content is a list, not text",
    ),
]


def test_every_bad_demonstration_is_dropped_with_its_line_and_reason(tmp_path):
    file = write_jsonl(
        tmp_path / "d.jsonl", [{"text": "good"}, *(row for row, _ in BAD_DEMONSTRATIONS)]
    )
    said = opened(DataConfig(train=file, max_dropped=1, holdout=0.0), Demonstrations).describe()
    assert [row["reason"] for row in said["dropped"]] == [
        reason for _, reason in BAD_DEMONSTRATIONS
    ]
    assert (said["read"], said["kept"]) == (len(BAD_DEMONSTRATIONS) + 1, 1)


def test_too_many_dropped_rows_stop_the_run_and_say_why(tmp_path):
    file = write_jsonl(tmp_path / "p.jsonl", [GOOD] * 8 + [{**GOOD, "chosen": ""}] * 2)
    with pytest.raises(UserError) as caught:
        opened(DataConfig(train=file))
    assert str(caught.value) == (
        f"{file}: 2 of 10 rows cannot be used as pairs, and data.max_dropped is 0.1:\n"
        "       2  chosen is empty (row 9, 10)"
    )


def test_wrong_column_names_get_the_mapping_as_advice_and_the_mapping_works(tmp_path):
    rows = [{"question": f"{n} is", "prefered": " a", "rejected": " b"} for n in range(9)]
    file = write_jsonl(tmp_path / "p.jsonl", rows)
    with pytest.raises(
        UserError, match="Its columns are question, prefered, rejected; pairs are made"
    ):
        opened(DataConfig(train=file))
    columns = {"prompt": "question", "chosen": "prefered"}
    assert opened(DataConfig(train=file, columns=columns)).describe()["kept"] == 9
    with pytest.raises(UserError, match="no column 'prmpt'. Did you mean 'prompt'"):
        opened(DataConfig(train=file, columns={"prmpt": "question"}))
    with pytest.raises(UserError, match="no column 'q', which data.columns gives for prompt"):
        opened(DataConfig(train=file, columns={"prompt": "q"}))


def test_the_same_rows_come_from_every_format(tmp_path):
    rows = [{**GOOD, "prompt": f'Line one,\n"line" {n} is'} for n in range(12)]
    write_jsonl(tmp_path / "a.jsonl", rows)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    write_jsonl(tmp_path / "lines.json", rows)
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8-sig") as out:
        writer = csv.DictWriter(out, list(GOOD))
        writer.writeheader()
        writer.writerows(rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.json", "lines.json", "a.csv", "a.parquet"):
        read = list(read_file(tmp_path / name))
        assert read == [Row(number, row) for number, row in enumerate(rows, 1)], name


def test_damaged_csv_rows_cost_themselves_only(tmp_path):
    file = tmp_path / "a.csv"
    file.write_bytes(
        b'prompt,completion\na,b\na\n\n\xff,b\n"a"x,b\n"two\nlines",b\n"never closed,b\nc,d\n'
    )
    assert list(read_file(file)) == [
        Row(1, {"prompt": "a", "completion": "b"}),
        Dropped(2, "1 fields where the header has 2"),
        Dropped(3, "not UTF-8"),
        Dropped(4, "not CSV: ',' expected after '\"'"),
        Row(5, {"prompt": "two\nlines", "completion": "b"}),
        Dropped(6, "not CSV: unexpected end of data"),
        Row(7, {"prompt": "c", "completion": "d"}),
    ]


def test_a_parquet_row_that_is_not_utf8_costs_itself_only(tmp_path):
    column = pa.array([b"good", b"\xff", b"fine"]).view(pa.string())
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    assert list(read_file(tmp_path / "a.parquet")) == [
        Row(1, {"text": "good"}),
        Dropped(2, "not UTF-8"),
        Row(3, {"text": "fine"}),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'[{"text": "a"}, {"te', "Nothing after a fault in an array can be read"),
        ("a.parquet", b"PAR1 nonsense", "not a readable Parquet file"),
        ("a.csv", b"", "the first line should name the columns"),
        ("a.csv", b"a,a\n1,2\n", "two columns are named 'a'"),
        (
            "a.txt",
            b"text",
            "rows are read from .jsonl, .ndjson, .json, .csv, .parquet, not from .txt",
        ),
    ],
)
def test_a_file_that_cannot_be_read_at_all_says_so(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_file(tmp_path / name))


def test_an_empty_file_says_that_it_holds_no_rows(tmp_path):
    with pytest.raises(UserError, match="e.jsonl holds no rows"):
        opened(DataConfig(train=write_jsonl(tmp_path / "e.jsonl", [])))


def test_a_missing_file_names_the_near_ones(tmp_path):
    write_jsonl(tmp_path / "pairs.jsonl", [GOOD])
    with pytest.raises(UserError, match="there is no file .*Did you mean 'pairs.jsonl'"):
        open_table(str(tmp_path / "pair.jsonl"))
    with pytest.raises(UserError, match="Data files in .*: pairs.jsonl"):
        open_table(str(tmp_path / "zzzzzz.parquet"))
    with pytest.raises(UserError, match="There is no folder .*nowhere either"):
        open_table(str(tmp_path / "nowhere" / "a.csv"))


def test_what_is_no_file_is_looked_for_as_a_datasets_id(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="no file nobody/nothing:test.* no dataset of that id"):
        open_table("nobody/nothing:test")


def test_a_folder_is_one_table_and_its_test_file_is_held_out(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"text": "one"}, b"{", {"text": "two"}])
    write_jsonl(tmp_path / "b.jsonl", [{"text": "three"}])
    write_jsonl(tmp_path / "test-00000-of-00001.jsonl", [{"text": "four"}])
    table = open_table(str(tmp_path))
    train = list(table.train)
    assert [row.number for row in train if isinstance(row, Row)] == [1, 3, 4]
    assert [row.place for row in train] == ["a.jsonl:1", "a.jsonl:2", "a.jsonl:3", "b.jsonl:1"]
    assert [row.columns for row in table.held_out] == [{"text": "four"}]
    source = opened(DataConfig(train=str(tmp_path), max_dropped=0.5), Demonstrations)
    assert source.describe()["dropped"][0]["place"] == "a.jsonl:2"
    assert source.held_out().row_N.tolist() == [1]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no data files to train on"):
        open_table(str(tmp_path / "empty"))


def test_a_saved_dataset_is_read_with_its_splits(tmp_path):
    parts = {name: Dataset.from_list([{**GOOD, "prompt": name}]) for name in ("train", "test")}
    DatasetDict(parts).save_to_disk(tmp_path / "both")
    source = opened(DataConfig(train=str(tmp_path / "both")))
    assert (source.describe()["train_rows"], source.describe()["held_out_rows"]) == (1, 1)
    DatasetDict(test=parts["test"]).save_to_disk(tmp_path / "test")
    with pytest.raises(UserError, match="has no split 'train', but test"):
        open_table(str(tmp_path / "test"))


def test_the_kind_is_guessed_from_columns(tmp_path):
    pairs = write_jsonl(tmp_path / "p.jsonl", [b"{", {"prompt": "only"}, GOOD])
    text = write_jsonl(tmp_path / "t.jsonl", [{"text": "a"}])
    assert kind_in(pairs, {}).batch is Pairs
    assert kind_in(text, {}).batch is Demonstrations
    assert kind_in(text, {"chosen": "text"}).batch is Pairs

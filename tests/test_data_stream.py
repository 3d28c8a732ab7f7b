"""The stream: rows read as they are used, each once an epoch, counted, and resumed to the bit."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest
import torch
from data_fixtures import smollm, turns, write_jsonl
from faults.commands import file_of, learned, resume, state_of, train
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import differences

from trimtab import Batch, Demonstrations, Labelled, Pairs
from trimtab.core.batches import Ranked
from trimtab.core.build import _source
from trimtab.core.config import DataConfig, RolloutConfig, RunFile
from trimtab.core.errors import UserError
from trimtab.core.source import Setting
from trimtab.plugins.registry import Plugins
from trimtab.plugins.sources import stream, tables
from trimtab.plugins.sources.stream import StreamConfig, StreamSource, provide_sources

BAD = {"prompt": "a"}
NO_COMPLETION = "prompt only: there is no chosen and no rejected"


def pair(number):
    return {"prompt": f"Number {number} is", "chosen": f" good {number}", "rejected": " bad"}


def label(number):
    return {"prompt": f"Number {number} is", "completion": " odd", "label": number % 2 == 1}


@pytest.fixture(scope="module", autouse=True)
def small_chunks():
    """Chunks of four rows, so that small files have several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "CHUNK", 4)
        yield


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Twelve rows, of which the 3rd, the 7th and the 12th cannot be used."""
    rows = [BAD if number in (3, 7, 12) else pair(number) for number in range(1, 13)]
    return write_jsonl(tmp_path_factory.mktemp("data") / "p.jsonl", rows)


KEPT = [1, 2, 4, 5, 6, 8, 9, 10, 11]


def opened(file, buffer=5, seed=0, batch=Pairs, **data):
    source = StreamSource(StreamConfig(buffer=buffer))
    config = DataConfig(train=str(file), **{"max_dropped": 0.5, **data})
    source.open(Setting(batch, config, smollm(), seed, RolloutConfig()))
    return source


def again(source, file, **options):
    """Another source at the position of this one, which went through JSON."""
    fresh = opened(file, buffer=source.config.buffer, **options)
    fresh.restore(json.loads(json.dumps(source.state())))
    return fresh


def epoch_of(source, size):
    """The rows of the epoch that begins."""
    epoch, rows = [], []
    for _ in range(100):
        epoch.append(source.collect(None, size).row_N.tolist())
        rows += epoch[-1]
        if len(rows) >= len(KEPT):
            return epoch
    raise AssertionError("the epoch does not end")


def equal(one: Batch, other: Batch) -> bool:
    """To the bit."""
    for name in one.sequences:
        for f in fields(one.sequences[name]):
            a, b = (getattr(batch.sequences[name], f.name) for batch in (one, other))
            if isinstance(a, torch.Tensor) and not torch.equal(a, b):
                return False
    return torch.equal(one.row_N, other.row_N)


@settings(max_examples=40, deadline=None)
@given(
    buffer=st.integers(1, 20),
    seed=st.integers(0, 9),
    steps=st.lists(st.tuples(st.integers(1, 12), st.booleans()), max_size=12),
)
def test_each_kept_row_is_seen_once_an_epoch_over_any_interruptions(file, buffer, seed, steps):
    whole, source = (opened(file, buffer, seed) for _ in range(2))
    seen = []
    for size, interrupted in steps:
        if interrupted:
            source = again(source, file, seed=seed)
        batch = source.collect(None, size)
        assert equal(batch, whole.collect(None, size))
        assert len(batch) == min(size, len(KEPT) - len(seen) % len(KEPT))
        seen += batch.row_N.tolist()
    for begin in range(0, len(seen), len(KEPT)):
        part = seen[begin : begin + len(KEPT)]
        assert len(set(part)) == len(part) and set(part) <= set(KEPT)


@pytest.mark.parametrize("buffer", [1, 4, 100])
def test_epochs_are_whole_and_differ_in_order(file, buffer):
    source = opened(file, buffer)
    epochs = [sum(epoch_of(source, 4), []) for _ in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [KEPT] * 3
    assert buffer == 1 or epochs[0] != epochs[1]
    assert buffer == 1 or sum(epoch_of(opened(file, buffer, seed=1), 4), []) != epochs[0]


def test_no_more_than_the_buffer_and_a_chunk_are_held(tmp_path):
    file = write_jsonl(tmp_path / "p.jsonl", map(pair, range(200)))
    source = opened(file, buffer=10)
    held = []
    for _ in range(30):
        source.collect(None, 7)
        held.append(len(source.state()["buffer"]))
        assert source.describe()["read"] <= 7 * len(held) + 10 + stream.CHUNK
    assert max(held) < 10 + stream.CHUNK


def test_bad_rows_are_counted_as_they_come(file):
    source = opened(file, buffer=1)
    first = source.describe()
    assert (first["read"], first["kept"], first["complete"]) == (4, 3, False)
    epoch_of(source, 2)
    source.collect(None, 2)
    for said in (source.describe(), again(source, file).describe()):
        assert (said["read"], said["kept"], said["complete"]) == (12, 9, True)
        assert said["dropped"] == [{"row": n, "reason": NO_COMPLETION} for n in (3, 7, 12)]
        assert said["reasons"] == {NO_COMPLETION: 3}
        assert any(": 9 (counted in chunks of 4 rows)" in text for text in said["warnings"])


def test_too_many_bad_rows_stop_it_at_the_end_of_the_epoch(file, tmp_path):
    source = opened(file, buffer=1, max_dropped=0.2)
    with pytest.raises(UserError, match=r"(?s)3 of the 12 rows read so far .*first: row 3"):
        epoch_of(source, 2)
    bad = write_jsonl(tmp_path / "bad.jsonl", [BAD] * 3)
    with pytest.raises(UserError, match="3 of the 3 rows read so far cannot be used as pairs"):
        opened(bad)
    with pytest.raises(UserError, match="holds no rows"):
        opened(write_jsonl(tmp_path / "none.jsonl", []))


def test_too_many_bad_rows_stop_it_once_a_thousand_were_read(tmp_path):
    rows = [pair(n) if n % 5 else BAD for n in range(5000)]
    source = opened(write_jsonl(tmp_path / "p.jsonl", rows), buffer=1, max_dropped=0.1)
    with pytest.raises(UserError, match="200 of the 1000 rows read so far.*max_dropped is 0.1"):
        for _ in range(100):
            source.collect(None, 50)
    assert source.describe()["read"] == 1000


def test_only_so_many_dropped_rows_are_listed_and_all_are_counted(tmp_path):
    rows = [BAD if n % 2 else pair(n) for n in range(2400)]
    source = opened(write_jsonl(tmp_path / "p.jsonl", rows), buffer=2400, max_dropped=0.5)
    source.collect(None, 1)
    said = source.describe()
    assert said["read"] == said["kept"] + sum(said["reasons"].values()) == 2400
    assert len(said["dropped"]) == 1000


def test_limit_takes_the_first_rows(file):
    source = opened(file, limit=4)
    for _ in range(2):
        assert sorted(source.collect(None, 10).row_N.tolist()) == [1, 2, 4, 5]
    assert sorted(again(source, file, limit=4).collect(None, 10).row_N.tolist()) == [1, 2, 4, 5]


def test_only_an_eval_file_is_held_out(file, tmp_path):
    source = opened(file)
    assert source.held_out() is None
    assert "no rows are held out, so nothing is evaluated" in source.describe()["warnings"][-1]
    other = write_jsonl(tmp_path / "e.jsonl", [*map(pair, range(50, 56)), BAD])
    source = opened(file, eval=other, eval_limit=4)
    assert len(source.held_out()) == 4
    said = source.describe()
    assert said["eval"]["dropped"] == [{"row": 7, "reason": NO_COMPLETION}]
    with pytest.raises(UserError, match="1 of 7 rows cannot be used"):
        opened(file, eval=other, max_dropped=0.1)


def test_other_data_is_refused(file, tmp_path):
    source = opened(file)
    source.collect(None, 3)
    other = write_jsonl(tmp_path / "p.jsonl", map(pair, range(50, 60)))
    with pytest.raises(UserError, match="not what this run was trained on so far"):
        again(source, other)
    later = [BAD if n in (3, 7, 12) else pair(n) for n in range(1, 13)]
    later[5] = pair(99)
    with pytest.raises(UserError, match="not what this run was trained on so far"):
        again(source, write_jsonl(tmp_path / "q.jsonl", later))
    with pytest.raises(UserError, match="not what this run was trained on so far"):
        again(source, write_jsonl(tmp_path / "r.jsonl", later[:4]))


def test_a_file_that_changes_between_epochs_is_refused(tmp_path):
    file = write_jsonl(tmp_path / "p.jsonl", map(pair, range(6)))
    source = opened(file)
    source.collect(None, 6)
    write_jsonl(tmp_path / "p.jsonl", map(pair, range(1, 7)))
    with pytest.raises(UserError, match="not what this run was trained on so far"):
        source.collect(None, 6)


def test_a_folder_is_one_table_and_its_places_are_said(tmp_path):
    write_jsonl(tmp_path / "train-1.jsonl", map(pair, range(3)))
    write_jsonl(tmp_path / "train-2.jsonl", [BAD, *map(pair, range(3, 6))])
    source = opened(tmp_path)
    assert sorted(source.collect(None, 9).row_N.tolist()) == [1, 2, 3, 5, 6, 7]
    assert source.describe()["dropped"][0]["place"] == "train-2.jsonl:1"


def test_a_datasets_id_is_read_row_by_row(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", map(pair, range(5)))
    table = tables._hub("some/name", str(tmp_path), None, None, streaming=True)
    assert table.held_out is None
    assert [row.columns for row in table.train] == [pair(number) for number in range(5)]


def test_labels_find_a_mismatched_completion_also_alone(tmp_path):
    file = write_jsonl(tmp_path / "l.jsonl", map(label, range(1, 8)))
    whole, source = (opened(file, batch=Labelled, buffer=3) for _ in range(2))
    for _ in range(6):
        batch = whole.collect(None, 3)
        source = again(source, file, batch=Labelled)
        assert equal(batch, source.collect(None, 3))
        assert len(batch.mismatched) == len(batch) in (3, 1)
        assert [int(n) % 2 == 1 for n in batch.row_N] == batch.desirable_N.tolist()
    same = write_jsonl(tmp_path / "m.jsonl", [{**label(1), "prompt": "One is"}] * 3)
    with pytest.raises(UserError, match="no row has another prompt.*add rows with other prompts"):
        opened(same, batch=Labelled).collect(None, 2)


def test_hard_labels_are_certain_beside_soft_ones(tmp_path):
    rows = [{**pair(n), **({"preference": 0.75} if n == 5 else {})} for n in range(6)]
    source = opened(write_jsonl(tmp_path / "p.jsonl", rows))
    assert sorted(source.collect(None, 6).preference_N.tolist()) == [0.75, *[1.0] * 5]


def test_every_kind_of_batch_is_served_but_never_by_default(file):
    plugins = Plugins()
    data = {"train": file, "max_dropped": 0.5}
    for batch in (Pairs, Demonstrations, Labelled, Ranked):
        assert StreamSource.serves(batch)
    assert not StreamSource.serves(Batch)
    assert provide_sources() == [StreamSource]
    plain = {"data": data, "objective": {"name": "dpo"}, "model": {"name": "m"}}
    for source, name in ((None, "dataset"), ({"name": "stream"}, "stream")):
        run = RunFile.model_validate({**plain, "source": source})
        setting = Setting(Pairs, run.data, smollm(), 0, run.rollout)
        assert _source(run, plugins, setting, run.source).name == name


def test_it_has_no_epochs_to_count_and_knows_no_longest_row(file):
    source = opened(file)
    assert source.steps_per_epoch(4) is None and source.longest() is None
    assert StreamConfig().buffer == 10_000


def test_conversations_stream_too(tmp_path):
    rows = [{"messages": turns("a", "b", "c", "d")}, {"messages": turns("e", "f")}]
    source = opened(write_jsonl(tmp_path / "m.jsonl", rows), batch=Demonstrations)
    assert sorted(source.collect(None, 2).responses.count_N.tolist()) == [2, 4]


def test_what_needs_all_rows_at_once_is_refused(file):
    with pytest.raises(UserError, match="name the source 'dataset', not 'stream'"):
        opened(file, batch=Labelled, convert="pairs-to-labels")


@pytest.mark.slow
def test_a_run_on_a_stream_ends_with_the_same_bits_when_it_is_interrupted(world, tmp_path):
    changes = {"source": {"name": "stream", "buffer": 3}, "train": {"epochs": None, "steps": 4}}
    whole = learned(world, tmp_path, **changes)
    run = train(file_of(whole), tmp_path / "again", "1:SIGTERM")
    assert state_of(run) == ("stopped", 1)
    resume(run, "3:SIGTERM")
    resume(run)
    assert differences(run, whole) == []
    said = json.loads((run / "data.json").read_text())
    assert (said["read"], said["kept"], said["complete"]) == (7, 7, True)

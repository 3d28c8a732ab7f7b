"""A file is whole or absent, and what cannot be read back says so."""

from __future__ import annotations

import hashlib
import json
import math
import os
import resource
from pathlib import Path

import pytest
from deaths import dies_at, fork, recorded

from trimtab.core.files import (
    DamagedFile,
    read_json,
    remove,
    remove_leftovers,
    sha256_of,
    to_json,
    write_atomically,
    write_json,
)


def test_writing_replaces_the_content_and_leaves_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_atomically(file, "first")
    write_atomically(file, b"second \xff")
    assert file.read_bytes() == b"second \xff"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_death_at_any_event_leaves_the_old_content_or_the_new(tmp_path: Path) -> None:
    seen = set()
    file = tmp_path / "a.txt"
    event = 1
    file.write_text("old")
    while dies_at(event, lambda: write_atomically(file, "the new content")):
        seen.add(file.read_text())
        assert seen <= {"old", "the new content"}
        remove_leftovers(tmp_path)
        assert os.listdir(tmp_path) == ["a.txt"]
        file.write_text("old")
        event += 1
    assert file.read_text() == "the new content"
    assert seen == {"old", "the new content"}
    assert event > 4, "open, fsync, rename and the fsync of the folder are events"


def test_content_is_on_the_disk_before_it_has_its_name(tmp_path: Path) -> None:
    with recorded() as events:
        write_atomically(tmp_path / "a.txt", "content")
    kinds = [(kind, Path(path).name.startswith(".staging-a.txt")) for kind, path in events[:1]]
    assert kinds == [("sync", True)]
    assert events[1:] == [("name", str(tmp_path / "a.txt")), ("sync", str(tmp_path))]


def test_a_write_that_fails_keeps_the_old_content(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")

    def write_too_much() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        with pytest.raises(OSError, match="File too large"):
            write_atomically(file, "x" * 1000)

    assert fork(write_too_much) == 0
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_death_while_removing_leaves_all_or_nothing_under_the_name(tmp_path: Path) -> None:
    event = 1
    folder = tmp_path / "folder"
    while True:
        (folder / "inner").mkdir(parents=True, exist_ok=True)
        (folder / "a").write_text("a")
        (folder / "inner" / "b").write_text("b")
        if not dies_at(event, lambda: remove(folder)):
            break
        assert not folder.exists() or {p.name for p in folder.rglob("*")} == {"a", "b", "inner"}
        remove_leftovers(tmp_path)
        assert os.listdir(tmp_path) in ([], ["folder"])
        event += 1
    assert os.listdir(tmp_path) == []


def test_leftovers_are_told_from_other_hidden_files(tmp_path: Path) -> None:
    (tmp_path / ".staging-step-1-ab").mkdir()
    (tmp_path / ".staging-step-1-ab" / "x").write_text("x")
    (tmp_path / ".removing-run.json-ab").write_text("x")
    (tmp_path / ".mine").write_text("x")
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == [".mine"]


def test_the_hash_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_json_comes_back(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, True, -0.0, 1e-45, 2**70], "u": "\u2028 \udc80 \x85 é"}
    write_json(tmp_path / "a.json", value)
    back = read_json(tmp_path / "a.json")
    assert back == value
    assert math.copysign(1, back["a"][4]) == -1
    assert (tmp_path / "a.json").read_text() == json.dumps(value, indent=2) + "\n"


def test_one_json_value_is_one_line_to_every_reader() -> None:
    assert len(to_json({"text": "a\nb\u2028c\x85d\x0be"}).splitlines()) == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, {"a": {1, 2}}])
def test_what_is_not_json_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        write_json(tmp_path / "a.json", value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is empty"),
        (b'{"a": 1', "is not JSON"),
        (b'{"a": "\xff"}', "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
    ],
)
def test_a_damaged_json_file_says_what_is_wrong(
    tmp_path: Path, content: bytes, fault: str
) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DamagedFile, match=f"a.json {fault}"):
        read_json(tmp_path / "a.json")


def test_a_json_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(DamagedFile, match="a.json is missing"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").mkdir()
    with pytest.raises(DamagedFile, match="a.json cannot be read: Is a directory"):
        read_json(tmp_path / "a.json")

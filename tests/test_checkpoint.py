"""A checkpoint is what was saved, to the bit, or it is refused by name."""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from deaths import dies_at, fork, recorded
from torch import Tensor

from trimtab.core.checkpoint import (
    MANIFEST,
    Checkpoint,
    DamagedCheckpoint,
    newest,
    save_checkpoint,
    verify,
)
from trimtab.core.errors import RunError

FILES = ("roles/policy.safetensors", "optimizer.safetensors", "optimizer.json", "run.json")


def save(folder: Path, step: int, keep: int = 3, mark: int = 0) -> Path:
    """A small checkpoint whose every file tells the step and the mark, all of one size a step."""
    tensors = {
        "roles/policy": {"a": torch.tensor([step, mark]), "b": torch.full((2, 2), step / 3)},
        "optimizer": {"0.exp_avg": torch.full((3,), step / 7)},
    }
    documents = {"optimizer": {"step": step, "mark": mark}, "run": {"rows": [step, mark]}}
    return save_checkpoint(folder, step, tensors, documents, keep)


def mark_of(checkpoint: Checkpoint | None) -> tuple[int, int]:
    """The step and mark that all files of a checkpoint agree on."""
    assert checkpoint is not None
    step, mark = checkpoint.tensors("roles/policy")["a"].tolist()
    assert step == checkpoint.step
    assert checkpoint.document("run") == {"rows": [step, mark]}
    assert checkpoint.document("optimizer") == {"step": step, "mark": mark}
    assert torch.equal(checkpoint.tensors("optimizer")["0.exp_avg"], torch.full((3,), step / 7))
    return step, mark


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def tensors_of_every_kind() -> Iterator[tuple[str, Tensor]]:
    base = torch.arange(24, dtype=torch.float32)
    yield from [("whole", base), ("alias", base), ("view", base[3:9]), ("overlap", base[5:20])]
    yield "transposed", base.view(4, 6).t()
    yield "expanded", torch.tensor([1.5]).expand(5)
    yield "scalar", torch.tensor(3.25)
    yield "step", torch.tensor(7.0, dtype=torch.float64)
    yield "empty", torch.empty(0, 3)
    yield "empty too", torch.empty(0)
    yield "quantized", torch.arange(256, dtype=torch.uint8)
    yield "count", torch.tensor([2**62, -1])
    yield "bool", torch.tensor([True, False])
    yield "bfloat16", torch.randn(7, generator=torch.Generator().manual_seed(0)).bfloat16()
    yield "half", torch.tensor([6e-8, 65504.0]).half()
    yield "special", torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])
    yield "parameter", torch.nn.Parameter(torch.ones(2))
    yield "generator", torch.Generator().manual_seed(5).get_state()


def bits(tensor: Tensor) -> tuple[torch.dtype, list[int], bytes]:
    whole = tensor.detach().contiguous()
    return whole.dtype, list(whole.shape), whole.view(-1).view(torch.uint8).numpy().tobytes()


def test_tensors_of_every_kind_come_back_to_the_bit(tmp_path: Path) -> None:
    saved = dict(tensors_of_every_kind())
    path = save_checkpoint(tmp_path, 0, {"deep/er/x": saved, "none": {}}, {"d": {"k": None}}, 1)
    checkpoint, passed_over = newest(tmp_path)
    assert checkpoint == Checkpoint(0, path)
    assert passed_over == []
    back = checkpoint.tensors("deep/er/x")
    assert back.keys() == saved.keys()
    for name in saved:
        assert bits(back[name]) == bits(saved[name]), name
    assert checkpoint.tensors("none") == {}
    assert checkpoint.document("d") == {"k": None}


def test_writing_to_loaded_tensors_does_not_change_the_checkpoint(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    Checkpoint(1, path).tensors("roles/policy")["a"].zero_()
    verify(path)


def test_the_manifest_names_every_file_with_its_hash_and_size(tmp_path: Path) -> None:
    path = save(tmp_path, 12)
    manifest = json.loads((path / MANIFEST).read_text())
    assert manifest["step"] == 12
    assert set(manifest["files"]) == set(FILES)
    for name, entry in manifest["files"].items():
        assert entry["bytes"] == (path / name).stat().st_size
        assert len(entry["sha256"]) == 64


def missing(path: Path, name: str, other: Path) -> str:
    (path / name).unlink()
    return f"{name} is missing"


def empty(path: Path, name: str, other: Path) -> str:
    (path / name).write_bytes(b"")
    return f"{name} is empty"


def halved(path: Path, name: str, other: Path) -> str:
    size = (path / name).stat().st_size
    os.truncate(path / name, size // 2)
    return "is not JSON" if name == MANIFEST else f"{name} has {size // 2} bytes, not {size}"


def flipped(path: Path, name: str, other: Path) -> str:
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (path / name).write_bytes(content)
    return "" if name == MANIFEST else f"{name} has changed"


def swapped(path: Path, name: str, other: Path) -> str:
    shutil.copy(other / name, path / name)
    return f"{MANIFEST} is of step 1" if name == MANIFEST else f"{name} has changed"


def pickled(path: Path, name: str, other: Path) -> str:
    (path / name).write_bytes(pickle.dumps(print))
    return "is not JSON" if name == MANIFEST else f"{name} has "


def linked(path: Path, name: str, other: Path) -> str:
    (path / name).unlink()
    (path / name).symlink_to(other / name)
    return f"{MANIFEST} is of step 1" if name == MANIFEST else f"{name} is not a plain file"


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
@pytest.mark.parametrize("damage", [missing, empty, halved, flipped, swapped, pickled, linked])
def test_damage_is_named_and_the_checkpoint_before_is_used(
    tmp_path: Path, damage: Callable[[Path, str, Path], str], name: str
) -> None:
    before, last = save(tmp_path, 1), save(tmp_path, 2)
    fault = damage(last, name, before)
    with pytest.raises(DamagedCheckpoint) as refusal:
        verify(last)
    assert f"checkpoint {last} is damaged: " in str(refusal.value)
    assert fault in str(refusal.value)
    checkpoint, passed_over = newest(tmp_path)
    assert passed_over == [str(refusal.value)]
    assert checkpoint == Checkpoint(1, before)
    assert mark_of(checkpoint) == (1, 0)


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_every_bit_of_every_file_counts(tmp_path: Path, stride: int) -> None:
    path = save_checkpoint(tmp_path, 3, {"t": {"a": torch.ones(2)}}, {"d": {"x": 1}}, 1)
    for name in ("t.safetensors", "d.json", MANIFEST):
        content = (path / name).read_bytes()
        for position in range(0, len(content) * 8, stride):
            flip = bytearray(content)
            flip[position // 8] ^= 1 << position % 8
            (path / name).write_bytes(flip)
            with pytest.raises(DamagedCheckpoint):
                verify(path)
        (path / name).write_bytes(content)
    verify(path)


def test_a_file_too_many_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / "roles" / "extra.bin").write_bytes(b"x")
    with pytest.raises(DamagedCheckpoint, match="roles/extra.bin is not in its MANIFEST.json"):
        verify(path)


def test_a_renamed_checkpoint_is_refused(tmp_path: Path) -> None:
    os.rename(save(tmp_path, 1), tmp_path / "step-9")
    with pytest.raises(DamagedCheckpoint, match="MANIFEST.json is of step 1"):
        verify(tmp_path / "step-9")
    assert newest(tmp_path)[0] is None


@pytest.mark.parametrize(
    ("manifest", "fault"),
    [
        ([], "keys step and files alone"),
        ({"step": 1}, "keys step and files alone"),
        ({"step": True, "files": {}}, "is of step True"),
        ({"step": 1, "files": []}, "lacks the sha256 or bytes"),
        ({"step": 1, "files": {"run.json": {"sha256": "0"}}}, "lacks the sha256 or bytes"),
        ({"step": 1, "files": {"../run.json": {"sha256": "0", "bytes": 1}}}, "is missing"),
    ],
)
def test_a_manifest_of_another_form_is_refused(tmp_path: Path, manifest: Any, fault: str) -> None:
    path = save(tmp_path, 1)
    (path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DamagedCheckpoint, match=fault):
        verify(path)


def test_only_folders_named_step_n_are_checkpoints(tmp_path: Path) -> None:
    good = save(tmp_path, 1)
    for name in ("step-x", "step-02", ".staging-step-5-ab", ".removing-step-5-ab", "other"):
        shutil.copytree(good, tmp_path / name)
    (tmp_path / "step-7").write_text("a file")
    checkpoint, passed_over = newest(tmp_path)
    assert checkpoint == Checkpoint(1, good)
    assert passed_over == [
        f"checkpoint {tmp_path / 'step-7'} is damaged: a checkpoint is a folder named step-N"
    ]


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    assert newest(tmp_path / "absent") == (None, [])
    assert newest(tmp_path) == (None, [])


def test_reading_what_is_not_there_says_so(tmp_path: Path) -> None:
    checkpoint = Checkpoint(1, save(tmp_path, 1))
    with pytest.raises(DamagedCheckpoint, match="roles/critic.safetensors is missing"):
        checkpoint.tensors("roles/critic")
    with pytest.raises(DamagedCheckpoint, match="critic.json is missing"):
        checkpoint.document("critic")


def test_a_pickle_under_a_forged_manifest_is_not_loaded(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / "optimizer.safetensors").write_bytes(pickle.dumps(print))
    with pytest.raises(DamagedCheckpoint, match=r"optimizer.safetensors cannot be read"):
        Checkpoint(1, path).tensors("optimizer")


def test_rotation_keeps_the_newest(tmp_path: Path) -> None:
    for step in (1, 2, 9, 10, 11):
        save(tmp_path, step, keep=2)
    assert names(tmp_path) == ["step-10", "step-11"]
    save(tmp_path, 12, keep=1)
    assert names(tmp_path) == ["step-12"]


def test_rotation_never_counts_a_later_damaged_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 5)
    (save(tmp_path, 10) / "run.json").unlink()
    save(tmp_path, 8, keep=1)
    assert names(tmp_path) == ["step-8"]
    assert mark_of(newest(tmp_path)[0]) == (8, 0)


def test_keeping_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the last checkpoint always stays"):
        save(tmp_path, 1, keep=0)


@pytest.mark.parametrize("damaged", [False, True])
def test_saving_a_step_again_replaces_it(tmp_path: Path, damaged: bool) -> None:
    path = save(tmp_path, 5, mark=1)
    if damaged:
        (path / "run.json").write_text("")
    save(tmp_path, 5, mark=2)
    assert names(tmp_path) == ["step-5"]
    assert mark_of(newest(tmp_path)[0]) == (5, 2)


@pytest.mark.parametrize(
    ("there", "step", "keep"),
    [
        pytest.param([1, 2], 3, 2, id="rotates"),
        pytest.param([2], 3, 1, id="rotates the only other one"),
        pytest.param([3], 3, 1, id="replaces the only one"),
        pytest.param([], 3, 2, id="first"),
    ],
)
def test_a_death_at_every_event_of_a_save(
    tmp_path: Path, there: list[int], step: int, keep: int
) -> None:
    """The new checkpoint or the newest old one is found and verified; the next save works."""
    new = (step, 1)
    old = (max(there), 0) if there else None
    seen = []
    event = 1
    while True:
        folder = tmp_path / str(event)
        for each in there:
            save(folder, each, keep=9)
        died = dies_at(event, lambda folder=folder: save(folder, step, keep, mark=1))
        checkpoint, passed_over = newest(folder)
        assert passed_over == []
        seen.append(mark_of(checkpoint) if checkpoint else None)
        assert seen[-1] in (old, new)

        save(folder, step, keep, mark=2)
        assert mark_of(newest(folder)[0]) == (step, 2)
        left = sorted({*there, step})[-keep:]
        assert names(folder) == [f"step-{each}" for each in left]
        if not died:
            break
        event += 1
    assert seen[-1] == new
    assert seen == sorted(seen, key=lambda mark: mark == new), "never the old one after the new"
    assert {old, new} == set(seen)
    assert event > 15


def test_all_of_it_is_on_the_disk_before_it_has_its_name(tmp_path: Path) -> None:
    with recorded() as events:
        path = save(tmp_path, 1)
    named = events.index(("name", str(path)))
    staging = Path(events[named - 1][1])
    while staging.parent != tmp_path:
        staging = staging.parent
    inside = {staging / file.relative_to(path) for file in path.rglob("*")} | {staging}
    assert {Path(synced) for _, synced in events[:named]} == inside
    assert events[named + 1 :] == [("sync", str(tmp_path))]


@pytest.mark.parametrize("stride", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_two_deaths_in_a_row_lose_nothing(tmp_path: Path, stride: int) -> None:
    """A save that replaces the only checkpoint dies, and so does the next one."""
    first, died_first = 1, True
    while died_first:
        second, died_second = 1, True
        while died_second:
            folder = tmp_path / f"{first}-{second}"
            save(folder, 3)
            died_first = dies_at(first, lambda folder=folder: save(folder, 3, 1, mark=1))
            died_second = dies_at(second, lambda folder=folder: save(folder, 3, 1, mark=2))
            assert mark_of(newest(folder)[0])[0] == 3
            second += stride
        first += stride


@pytest.mark.parametrize("limit", [64, 200, 3000])
def test_a_disk_that_takes_no_more_leaves_what_was_there(tmp_path: Path, limit: int) -> None:
    save(tmp_path, 1)

    def save_too_much() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        large = {"small": {"a": torch.ones(1)}, "large": {"a": torch.ones(10_000)}}
        with pytest.raises(RunError, match="step 2 could not be saved in .* too large.*resume"):
            save_checkpoint(tmp_path, 2, large, {"d": "x" * 1000}, 1)

    assert fork(save_too_much) == 0
    assert names(tmp_path) == ["step-1"]
    assert mark_of(newest(tmp_path)[0]) == (1, 0)


def test_a_folder_that_cannot_be_written_is_an_error_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(RunError, match="step 1 could not be saved in .*checkpoints"):
        save(tmp_path / "checkpoints", 1)


@pytest.mark.parametrize("document", [{"x": float("nan")}, {"x": torch.ones(1)}])
def test_a_document_that_is_not_json_is_refused(tmp_path: Path, document: Any) -> None:
    save(tmp_path, 1)
    with pytest.raises(RunError, match="'objective' of the checkpoint of step 2 is not JSON"):
        save_checkpoint(tmp_path, 2, {}, {"objective": document}, 1)
    assert names(tmp_path) == ["step-1"]


@pytest.mark.parametrize(
    "name", ["", "/a", "../a", "a/../b", "a//b", ".hidden", "a b", "MANIFEST"]
)
def test_names_stay_inside_the_checkpoint(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a part of a checkpoint"):
        save_checkpoint(tmp_path, 1, {}, {name: 1}, 1)
    assert names(tmp_path) == []

"""The cache gives back what was put, reacts to all that matters, and never depends on timing."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

import pytest
import torch
from deaths import dies_at, fork
from torch import Tensor

from trimtab.core.errors import RunError
from trimtab.core.reference_cache import ReferenceCache, fingerprint

PRINT = fingerprint(base="b", adapter=None, temperature=1.0, dtype="float32", quantization="nf4")


def open_cache(
    folder: Path, run: str = "run-a", visible: list[str] | None = None, of: str = PRINT
) -> ReferenceCache:
    return ReferenceCache(folder, of, run, visible)


def row(cache: ReferenceCache, number: int) -> str:
    return cache.key([1, 2, number], [number, 4], [True, True])


def logps(number: float, length: int = 2) -> Tensor:
    return torch.full((length,), -number / 3)


def put(cache: ReferenceCache, *numbers: int, shift: float = 0) -> None:
    for number in numbers:
        cache.put(row(cache, number), logps(number + shift))


def known(cache: ReferenceCache, *numbers: int) -> dict[int, float]:
    """The value of the rows that the cache has, by number."""
    keys = {row(cache, number): number for number in numbers}
    return {keys[key]: value[0].item() * -3 for key, value in cache.get(keys).items()}


def shards(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_values_come_back_to_the_bit_at_once_and_from_disk(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    values = {
        cache.key([1], [2] * length, [True] * length): torch.randn(
            length, generator=torch.Generator().manual_seed(length)
        )
        for length in (0, 1, 2, 77)
    }
    values[cache.key([9], [9], [False])] = torch.tensor([float("nan")])
    for key, value in values.items():
        cache.put(key, value)
    cache.flush()
    for reader in (cache, open_cache(tmp_path), open_cache(tmp_path, "run-b")):
        back = reader.get([*values, "0" * 64])
        assert back.keys() == values.keys()
        for key, value in values.items():
            assert back[key].dtype == torch.float32
            assert back[key].numpy().tobytes() == value.numpy().tobytes()
        assert reader.warnings == []


def test_what_is_put_is_known_before_it_is_written(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    source = logps(3)
    cache.put(row(cache, 3), source)
    source.zero_()
    assert known(cache, 3, 4) == pytest.approx({3: 3})
    assert shards(tmp_path) == []


def test_a_known_row_keeps_its_first_value(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    put(cache, 1)
    cache.flush()
    put(cache, 1, shift=5)
    cache.flush()
    assert known(cache, 1) == known(open_cache(tmp_path), 1) == pytest.approx({1: 1})
    assert len(shards(tmp_path)) == 1, "there was nothing new to write"


@pytest.mark.parametrize(
    "value", [torch.zeros(2, 2), torch.zeros(2, dtype=torch.float64), torch.tensor(1.0)]
)
def test_only_one_float32_a_token_is_kept(tmp_path: Path, value: Tensor) -> None:
    cache = open_cache(tmp_path)
    with pytest.raises(ValueError, match=r"expected float32 \[T\]"):
        cache.put(row(cache, 1), value)


def test_the_key_reacts_to_tokens_and_mask_and_where_one_ends(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    rows = [
        ([1, 2], [3, 4], [True, True]),
        ([1, 2], [3, 4], [True, False]),
        ([1, 2], [3, 5], [True, True]),
        ([1, 0], [3, 4], [True, True]),
        ([1], [2, 3, 4], [True, True]),
        ([1, 2, 3], [4], [True, True]),
        ([1, 2], [3], [True]),
        ([1, 2], [3, 4, 1], [True]),
    ]
    assert len({cache.key(*each) for each in rows}) == len(rows)
    other = open_cache(tmp_path, of=fingerprint(base="other"))
    assert cache.key(*rows[0]) != other.key(*rows[0])


def test_the_key_does_not_react_to_how_tokens_are_held(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    prompt, completion = torch.tensor([1, 2, 0]), torch.tensor([3, 4], dtype=torch.int32)
    assert cache.key([1, 2], [3, 4], [True, False]) == cache.key(
        prompt[:2], completion, torch.tensor([True, False])
    )


def test_every_part_of_the_fingerprint_changes_it_and_its_order_does_not() -> None:
    parts = {
        "base": "sha",
        "adapter": None,
        "temperature": 1.0,
        "dtype": "float32",
        "quantization": "nf4",
    }
    seen = {fingerprint(**parts)}
    for name in parts:
        seen.add(fingerprint(**{**parts, name: "changed"}))
        seen.add(fingerprint(**{key: value for key, value in parts.items() if key != name}))
        seen.add(fingerprint(**{**parts, name + "2": parts[name]}))
    assert len(seen) == 1 + 3 * len(parts)
    assert fingerprint(**dict(reversed(parts.items()))) == fingerprint(**parts)
    with pytest.raises(ValueError):
        fingerprint(temperature=float("nan"))


def test_another_fingerprint_sees_nothing(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    put(cache, 1)
    cache.flush()
    other = open_cache(tmp_path, of=fingerprint(base="other"))
    assert other.visible == []
    assert other.get([row(cache, 1)]) == {}


def test_shards_that_others_write_later_are_not_read(tmp_path: Path) -> None:
    early, late = open_cache(tmp_path, "early"), open_cache(tmp_path, "late")
    put(early, 1)
    early.flush()
    run = open_cache(tmp_path, "run")
    assert run.visible == ["early-0.safetensors"]
    put(late, 2)
    late.flush()
    put(run, 3)
    run.flush()
    assert run.visible == ["early-0.safetensors", "run-0.safetensors"]

    resumed = open_cache(tmp_path, "run", run.visible)
    assert known(resumed, 1, 2, 3) == known(run, 1, 2, 3) == pytest.approx({1: 1, 3: 3})
    assert sorted(resumed.visible) == sorted(run.visible)
    assert resumed.warnings == []
    assert known(open_cache(tmp_path, "new"), 1, 2, 3) == pytest.approx({1: 1, 2: 2, 3: 3})


def test_a_run_prefers_its_own_values_and_its_first_ones(tmp_path: Path) -> None:
    writers = [open_cache(tmp_path, name) for name in ("aaa", "run", "zzz")]
    for shift, writer in enumerate(writers):
        put(writer, 1, shift=shift)
        writer.flush()
    assert known(open_cache(tmp_path, "run"), 1) == pytest.approx({1: 2})
    assert known(open_cache(tmp_path, "zzz"), 1) == pytest.approx({1: 3})
    assert known(open_cache(tmp_path, "new"), 1) == pytest.approx({1: 1})


def test_a_run_whose_name_begins_another_does_not_own_its_shards(tmp_path: Path) -> None:
    longer = open_cache(tmp_path, "run-1")
    put(longer, 1)
    longer.flush()
    shorter = open_cache(tmp_path, "run", visible=[])
    assert known(shorter, 1) == {}
    put(shorter, 2)
    shorter.flush()
    assert [path.name for path in shards(tmp_path)] == [
        "run-0.safetensors",
        "run-1-0.safetensors",
    ]


def test_own_shards_from_after_the_checkpoint_do_no_harm(tmp_path: Path) -> None:
    killed = open_cache(tmp_path)
    put(killed, 1)
    killed.flush()
    checkpoint = list(killed.visible)
    put(killed, 2)
    killed.flush()

    resumed = open_cache(tmp_path, visible=checkpoint)
    assert known(resumed, 1, 2) == pytest.approx({1: 1, 2: 2})
    put(resumed, 2, 3)
    resumed.flush()
    assert [path.name for path in shards(tmp_path)] == [f"run-a-{n}.safetensors" for n in range(3)]
    assert known(open_cache(tmp_path, visible=checkpoint), 1, 2, 3) == pytest.approx(
        {1: 1, 2: 2, 3: 3}
    )


def test_shards_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    for number in range(12):
        put(cache, number)
        cache.flush()
    visible = open_cache(tmp_path).visible
    assert visible == cache.visible == [f"run-a-{number}.safetensors" for number in range(12)]


@pytest.mark.parametrize("how", ["empty", "halved", "flipped", "foreign", "gone"])
def test_a_damaged_shard_is_ignored_reported_and_made_good(tmp_path: Path, how: str) -> None:
    cache = open_cache(tmp_path)
    put(cache, 1, 2)
    cache.flush()
    put(cache, 3)
    cache.flush()
    first, second = shards(tmp_path)
    content = bytearray(first.read_bytes())
    if how == "gone":
        first.unlink()
    elif how == "foreign":
        shutil.copy(Path(__file__), first)
    elif how == "flipped":
        content[-1] ^= 1
        first.write_bytes(content)
    else:
        first.write_bytes(content[: len(content) // 2 if how == "halved" else 0])

    again = open_cache(tmp_path, visible=cache.visible)
    assert known(again, 1, 2, 3) == pytest.approx({3: 3})
    (warning,) = again.warnings
    expected = "is gone" if how == "gone" else "is damaged"
    assert warning.startswith(f"{first} {expected}")
    assert "reference log-probs are computed again" in warning

    put(again, 1, 2)
    again.flush()
    healed = open_cache(tmp_path, visible=again.visible)
    assert known(healed, 1, 2, 3) == pytest.approx({1: 1, 2: 2, 3: 3})
    assert second in shards(tmp_path)


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_every_bit_of_a_shard_counts(tmp_path: Path, stride: int) -> None:
    cache = open_cache(tmp_path)
    put(cache, 1, 2)
    cache.flush()
    (shard,) = shards(tmp_path)
    content = shard.read_bytes()
    expected = cache.get([row(cache, 1), row(cache, 2)])
    for position in range(0, len(content) * 8, stride):
        flip = bytearray(content)
        flip[position // 8] ^= 1 << position % 8
        shard.write_bytes(flip)
        damaged = open_cache(tmp_path)
        found = damaged.get(expected)
        assert damaged.warnings or all(torch.equal(found[key], expected[key]) for key in expected)
        assert not damaged.warnings or found == {}


def test_a_death_at_every_event_of_a_flush_loses_no_older_row(tmp_path: Path) -> None:
    event, died, seen = 1, True, set()
    while died:
        folder = tmp_path / str(event)
        cache = open_cache(folder)
        put(cache, 1)
        cache.flush()
        put(cache, 2)
        died = dies_at(event, cache.flush)
        resumed = open_cache(folder, visible=["run-a-0.safetensors"])
        assert resumed.warnings == []
        seen.add(tuple(known(resumed, 1, 2)))
        put(resumed, 2)
        resumed.flush()
        assert known(open_cache(folder), 1, 2) == pytest.approx({1: 1, 2: 2})
        assert [path.name for path in shards(folder)] == [
            "run-a-0.safetensors",
            "run-a-1.safetensors",
        ]
        event += 1
    assert seen == {(1,), (1, 2)}


def test_leftovers_of_other_runs_are_theirs(tmp_path: Path) -> None:
    put(cache := open_cache(tmp_path), 1)
    cache.flush()
    folder = shards(tmp_path)[0].parent
    for name in ("run-a-1", "run-b-1", "run-a-1-1"):
        (folder / f".staging-{name}.safetensors-0123abcd").write_text("half")
    again = open_cache(tmp_path)
    assert known(again, 1) == pytest.approx({1: 1})
    assert sorted(os.listdir(folder)) == [
        ".staging-run-a-1-1.safetensors-0123abcd",
        ".staging-run-b-1.safetensors-0123abcd",
        "run-a-0.safetensors",
    ]


def test_a_full_disk_is_an_error_of_the_run(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    put(cache, *range(100))

    def flush() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        with pytest.raises(RunError, match=r"cannot write reference log-probs into .*too large"):
            cache.flush()

    assert fork(flush) == 0
    assert shards(tmp_path) == []
    cache.flush()
    assert len(known(open_cache(tmp_path), *range(100))) == 100


@pytest.mark.parametrize("name", ["", "../a", "a/b", ".a", "a b"])
def test_a_run_id_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot begin a file name"):
        open_cache(tmp_path, name)

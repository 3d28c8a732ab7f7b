"""Reference log-probs of fixed rows, on disk, shared by every run that would compute the same.

A shard is one safetensors file of ``keys_R32`` (uint8), ``lengths_R`` (int64) and ``values``
(float32, the R rows one after another), with a SHA-256 of all three in its metadata. Shards are
written once and never changed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from trimtab.core.errors import RunError
from trimtab.core.files import STAGING, to_json, write_atomically

_RUN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*-[0-9]+\.safetensors")


def fingerprint(**parts: Any) -> str:
    """A hash of everything that determines the values beside the tokens. Parts are JSON.

    >>> fingerprint(base="b1", dtype="float32") == fingerprint(dtype="float32", base="b1")
    True
    """
    text = json.dumps(parts, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class ReferenceCache:
    """Rows of one fingerprint, in ``folder/<hash of the fingerprint>/<run>-<n>.safetensors``.

    What a run reads must not depend on when other runs write, or it could not be repeated to the
    bit. So it reads its own shards and those that it found when it first started: the
    checkpoint keeps ``visible``, and a resumed run passes it back.
    """

    def __init__(
        self, folder: Path, fingerprint: str, run_id: str, visible: Sequence[str] | None = None
    ) -> None:
        if not _RUN.fullmatch(run_id):
            raise ValueError(f"{run_id!r} cannot begin a file name: use letters, digits and _ - .")
        for name in visible or ():
            if not _SHARD.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a shard")
        self.warnings: list[str] = []
        self._fingerprint = fingerprint.encode()
        self._folder = folder / hashlib.sha256(self._fingerprint).hexdigest()[:32]
        self.run_id = run_id
        self._own = re.compile(re.escape(run_id) + r"-([0-9]+)\.safetensors")
        self._values: dict[str, Tensor] = {}
        self._unwritten: dict[str, Tensor] = {}
        self._remove_leftovers()

        there = self._shards()
        own = sorted((name for name in there if self._own.fullmatch(name)), key=self._number)
        others = sorted(set(there if visible is None else visible) - set(own))
        self.visible = own + others
        """Names of the shards that this run reads."""
        for name in self.visible:
            self._read(name)

    def key(
        self,
        prompt_ids: Sequence[int] | Tensor,
        completion_ids: Sequence[int] | Tensor,
        mask: Sequence[bool] | Tensor,
    ) -> str:
        """What one row is found by. Give real tokens only, without padding."""
        digest = hashlib.sha256(hashlib.sha256(self._fingerprint).digest())
        for part in (prompt_ids, completion_ids, mask):
            values = np.asarray(part, dtype="<i8")
            digest.update(len(values).to_bytes(8, "little"))
            digest.update(values.tobytes())
        return digest.hexdigest()

    def get(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """The values of those rows that are known, float32 [T] each. Do not write to them."""
        return {key: self._values[key] for key in keys if key in self._values}

    def put(self, key: str, logps_T: Tensor) -> None:
        """Keep a row's values, until ``flush`` in memory only. A known row stays as it is."""
        if logps_T.ndim != 1 or logps_T.dtype != torch.float32:
            raise ValueError(f"expected float32 [T], not {logps_T.dtype} {list(logps_T.shape)}")
        if key not in self._values:
            self._values[key] = self._unwritten[key] = logps_T.detach().cpu().clone()

    def flush(self) -> None:
        """Write what was put since the last time as one shard. Call it before each checkpoint."""
        if not self._unwritten:
            return
        last = max(map(self._number, self._shards()), default=-1)
        name = f"{self.run_id}-{last + 1}.safetensors"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._folder / name, _pack(self._unwritten))
        except OSError as error:
            raise RunError(
                f"cannot write reference log-probs into {self._folder}: {error.strerror}. "
                "See to the disk, then resume the run"
            ) from error
        self._unwritten.clear()
        self.visible.append(name)

    def _shards(self) -> list[str]:
        entries = self._folder.iterdir() if self._folder.is_dir() else ()
        return [entry.name for entry in entries if _SHARD.fullmatch(entry.name)]

    def _number(self, name: str) -> int:
        """The number of a shard of this run; -1 for another run's."""
        match = self._own.fullmatch(name)
        return int(match[1]) if match else -1

    def _remove_leftovers(self) -> None:
        """Delete what this run was writing when it was killed. Other runs may be alive."""
        own = re.compile(re.escape(STAGING) + self._own.pattern + "-[0-9a-f]+")
        for entry in self._folder.iterdir() if self._folder.is_dir() else ():
            if own.fullmatch(entry.name):
                entry.unlink()

    def _read(self, name: str) -> None:
        file = self._folder / name
        try:
            for key, value in _unpack(file).items():
                self._values.setdefault(key, value)
        except FileNotFoundError:
            self.warnings.append(f"{file} is gone: its reference log-probs are computed again")
        except (OSError, SafetensorError, ValueError) as error:
            self.warnings.append(
                f"{file} is damaged ({error}): its reference log-probs are computed again. "
                "Delete it once no run that read it will be resumed"
            )


def _pack(rows: dict[str, Tensor]) -> bytes:
    keys = b"".join(bytes.fromhex(key) for key in rows)
    tensors = {
        "keys_R32": torch.frombuffer(bytearray(keys), dtype=torch.uint8).view(-1, 32),
        "lengths_R": torch.tensor([len(value) for value in rows.values()]),
        "values": torch.cat(list(rows.values())),
    }
    return save(tensors, metadata={"sha256": _checksum(tensors)})


def _unpack(file: Path) -> dict[str, Tensor]:
    """The rows of a shard. Raises ``ValueError`` when its content is not what was written."""
    with safe_open(file, framework="pt") as shard:
        metadata = shard.metadata() or {}
        tensors = {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118
    if tensors.keys() != {"keys_R32", "lengths_R", "values"}:
        raise ValueError("it does not hold the three tensors of a shard")
    if metadata.get("sha256") != _checksum(tensors):
        raise ValueError("its content does not have the hash that was saved with it")
    keys = (row.tobytes().hex() for row in tensors["keys_R32"].numpy())
    return dict(zip(keys, tensors["values"].split(tensors["lengths_R"].tolist()), strict=True))


def _checksum(tensors: dict[str, Tensor]) -> str:
    """Over the names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(to_json([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()

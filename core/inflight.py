"""A step between its updates, as tensors and JSON: a run can be stopped there, and go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

from trimtab.core.batches import Batch, Sequences
from trimtab.core.gradient import Streams
from trimtab.core.statedict import flatten_state, unflatten_state


@dataclass
class InFlight:
    """A step that has collected its rows and may have made some of its updates."""

    number: int
    """Of the step; the first is 0."""

    streams: Streams | None
    """Every stream's rows, annotated and prepared; None where there is no row to train on."""

    collected: dict[str, float] = field(default_factory=dict)
    """Metrics of the collection."""

    history: list[dict[str, float]] = field(default_factory=list)
    """Metrics of each update that is done."""

    stopped: bool = False
    """The objective leaves out the updates that are left."""

    seconds: float = 0.0
    """That it has taken so far."""

    def save(self) -> tuple[dict[str, Tensor], Any]:
        """It, as named tensors and JSON. Raises ``TypeError`` for what neither can hold."""
        streams = self.streams or {}
        whole = {f.name: getattr(self, f.name) for f in fields(self)}
        named = {name: _plain(batch) for name, batch in streams.items()}
        return flatten_state({**whole, "streams": named})

    @classmethod
    def load(
        cls, tensors: dict[str, Tensor], document: Any, kinds: Mapping[str, type[Batch]]
    ) -> InFlight:
        """What ``save`` was given; ``kinds`` are the batch types of the streams."""
        whole = unflatten_state(tensors, document)
        streams = {name: _batch(plain, kinds[name]) for name, plain in whole["streams"].items()}
        return cls(**{**whole, "streams": streams or None})


def settled(batch: Batch) -> Batch:
    """The same rows, laid out as a checkpoint gives them back: contiguous, on the CPU."""
    return batch.map(lambda tensor: tensor.detach().cpu().contiguous())


def _plain(value: Any) -> Any:
    """Batches and their parts as dicts; a word says what a dict was."""
    if isinstance(value, (Batch, Sequences)):
        word = "batch" if isinstance(value, Batch) else "sequences"
        return {word: {f.name: _plain(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, Mapping):
        return {"mapping": {key: _plain(each) for key, each in value.items()}}
    if isinstance(value, tuple):
        return tuple(_plain(each) for each in value)
    return value


def _batch(plain: Any, kind: type[Batch]) -> Batch:
    return kind(**{name: _made(each) for name, each in plain["batch"].items()})


def _made(plain: Any) -> Any:
    match plain:
        case {"sequences": parts}:
            return Sequences(**{name: _made(each) for name, each in parts.items()})
        case {"mapping": pairs}:
            return {key: _made(each) for key, each in pairs.items()}
        case tuple():
            return tuple(_made(each) for each in plain)
    return plain

"""The cache of keys and values that sampling fills: transformers' own, with room to grow."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer


class RoomyLayer(DynamicLayer):
    """Full attention whose tensors have room for every token to come.

    ``DynamicLayer`` copies all that it holds for each new token.
    """

    def __init__(self, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.room = room
        self.held: list[Tensor] = []
        """Keys and values, [N, heads, room, D] each; ``keys`` and ``values`` are their start."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append, and return all."""
        begin = self.get_seq_length()
        end = begin + key_states.shape[-2]
        if not self.held:
            self.lazy_initialization(key_states, value_states)
            self.held = [
                states.new_empty(*states.shape[:2], self.room, states.shape[-1])
                for states in (key_states, value_states)
            ]
        assert end <= self.room
        for whole, states in zip(self.held, (key_states, value_states), strict=True):
            whole[:, :, begin:end] = states
        self.keys, self.values = (whole[:, :, :end] for whole in self.held)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep these rows, in this order; a row may come more than once."""
        if self.held:
            end = self.get_seq_length()
            self.held = [whole.index_select(0, beam_idx) for whole in self.held]
            self.keys, self.values = (whole[:, :, :end] for whole in self.held)


def cache_for(config: Any, room: int) -> Cache:
    """An empty cache with the kinds of layers that the model has.

    Layers with a sliding window, or of linear attention, stay transformers' own.
    """
    layers = DynamicCache(config=config).layers
    return Cache(layers=[RoomyLayer(room) if type(one) is DynamicLayer else one for one in layers])

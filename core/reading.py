"""What a model has read of several sequences, with the keys and values to read on from.

N sequences · V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trimtab.core.model import checkpoints, set_checkpointing

if TYPE_CHECKING:
    from trimtab.core.lm import LanguageModel


class Reading:
    """N prompts, padded on the left, and the tokens that follow them, one at a time."""

    def __init__(self, model: LanguageModel, prompts: Sequence[Sequence[int]], most: int) -> None:
        """Read the prompts under the active role; ``most`` tokens may follow."""
        from trimtab.core.kvcache import cache_for

        self.model = model
        width = max(map(len, prompts))
        pads = [width - len(prompt) for prompt in prompts]
        inputs = torch.tensor([[0] * pad + list(p) for pad, p in zip(pads, prompts, strict=True)])
        seen = torch.arange(width) >= torch.tensor(pads)[:, None]
        inputs, self.seen = inputs.to(model.device), seen.to(model.device)
        position = (self.seen.cumsum(-1) - 1).clamp(min=0)
        self.cache: Any = cache_for(model.base.config, width + most)
        self.logits_NV = model.next_logits(inputs, self.seen, position, self.cache)
        """Of the token that follows."""
        self.position = position[:, -1:]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these sequences, in this order; one may come more than once."""
        if list(rows) == list(range(len(self.seen))):
            return
        keep = torch.tensor(rows, device=self.model.device)
        self.cache.reorder_cache(keep)
        self.seen, self.position = self.seen[keep], self.position[keep]
        self.logits_NV = self.logits_NV[keep]

    def read(self, token_N: Tensor) -> None:
        """One more token of each sequence."""
        self.seen = torch.cat([self.seen, self.seen.new_ones(len(token_N), 1)], 1)
        self.position = self.position + 1
        self.logits_NV = self.model.next_logits(
            token_N[:, None], self.seen, self.position, self.cache
        )


@contextmanager
def caching(base: Any) -> Iterator[None]:
    """Without recomputation of activations, which drops the cache of keys and values."""
    recomputing = checkpoints(base)
    set_checkpointing(base, False)
    try:
        yield
    finally:
        if recomputing:
            set_checkpointing(base, True)

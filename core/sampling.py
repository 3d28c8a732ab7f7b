"""Completions sampled from the active role, each row from a random stream of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trimtab.core.batches import Sequences, sequences
from trimtab.core.engine import Completion
from trimtab.core.lm import LanguageModel
from trimtab.core.model import checkpoints, set_checkpointing
from trimtab.core.seeds import mixed


def stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every id that ends a completion: the generation config's, and the tokenizer's."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = [configured] if isinstance(configured, int) else list(configured or [])
    if tokenizer.eos_token_id is not None:
        ids.append(tokenizer.eos_token_id)
    return frozenset(ids)


def prompt_ids(tokenizer: Any, text: str, *, chat: bool) -> list[int]:
    """The tokens of a prompt, as the user's turn of the model's chat template where it has one."""
    if chat and tokenizer.chat_template:
        turns = [{"role": "user", "content": text}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return list(tokenizer(text, add_special_tokens=False).input_ids)
    return list(tokenizer(text).input_ids)


def uniforms(seed: int, step: int, rows: Sequence[int], width: int) -> Tensor:
    """[N, T] numbers in [0, 1): row n's depend on (seed, step, rows[n]) and on nothing else."""
    streams = [torch.Generator().manual_seed(mixed(seed, step, row)) for row in rows]
    return torch.stack(
        [torch.rand(width, generator=stream, dtype=torch.float64) for stream in streams]
    )


@torch.no_grad()
def sample(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    uniform_NT: Tensor,
    *,
    stops: frozenset[int],
    temperature: float = 1.0,
) -> list[Completion]:
    """One completion a prompt, under the role that is active.

    A row's t-th token is where the cumulated probabilities pass its t-th uniform number, so in
    float32 a row gets the same tokens alone or in any batch. Finished rows leave the batch.

    Args:
        model: the policy.
        prompts: token ids of each of N prompts.
        uniform_NT: see ``uniforms``; T is the most tokens sampled.
        stops: ids that end a completion.
        temperature: divides the logits.
    """
    made: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    longest = max((len(prompt) for prompt in prompts), default=0) + uniform_NT.shape[1]
    size = max(1, 8 * model.micro_tokens // longest)  # without gradient, far more fit
    for begin in range(0, len(order), size):
        rows = order[begin : begin + size]
        for i, token in _decode(model, prompts, rows, uniform_NT, stops, temperature):
            made[i].append(token)
    return [
        Completion(tuple(prompt), tuple(ids), truncated=not ids or ids[-1] not in stops)
        for prompt, ids in zip(prompts, made, strict=True)
    ]


def as_sequences(completions: Sequence[Completion], *, temperature: float = 1.0) -> Sequences:
    """Completions as the rows of a batch; ``temperature`` is the one that they were drawn at."""
    made = sequences([c.prompt for c in completions], [c.tokens for c in completions])
    logps = [c.logps for c in completions if c.logps is not None]
    sampled_NT = None
    if len(logps) == len(completions) and logps:
        sampled_NT = torch.zeros(made.tokens_NT.shape)
        for n, row in enumerate(logps):
            sampled_NT[n, : len(row)] = torch.tensor(row)
    return replace(made, maybe_sampled_NT=sampled_NT, temperature=temperature)


def _decode(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    rows: list[int],
    uniform_NT: Tensor,
    stops: frozenset[int],
    temperature: float,
) -> Iterator[tuple[int, int]]:
    """(row, token) in the order of sampling."""
    from transformers import DynamicCache

    width = max(len(prompts[i]) for i in rows)
    inputs = torch.tensor([[0] * (width - len(prompts[i])) + list(prompts[i]) for i in rows])
    pad = torch.tensor([width - len(prompts[i]) for i in rows])
    seen = torch.arange(width) >= pad[:, None]
    cache = DynamicCache(config=model.base.config)
    inputs, seen = inputs.to(model.device), seen.to(model.device)
    position = (seen.cumsum(-1) - 1).clamp(min=0)
    with _caching(model.base):
        for t in range(uniform_NT.shape[1]):
            logits_NV = model.next_logits(inputs, seen, position, cache)
            token_N = _draw(logits_NV / temperature, uniform_NT[rows, t])
            yield from zip(rows, token_N.tolist(), strict=True)
            going = [n for n, token in enumerate(token_N.tolist()) if token not in stops]
            if not going:
                return
            if len(going) < len(rows):
                keep = torch.tensor(going, device=model.device)
                cache.batch_select_indices(keep)
                rows = [rows[n] for n in going]
                token_N, seen, position = token_N[keep], seen[keep], position[keep]
            inputs = token_N[:, None]
            seen = torch.cat([seen, seen.new_ones(len(rows), 1)], 1)
            position = position[:, -1:] + 1


def _draw(logits_NV: Tensor, uniform_N: Tensor) -> Tensor:
    """Where the cumulated probabilities first exceed the uniform number."""
    cumulated_NV = logits_NV.double().softmax(-1).cumsum(-1)
    wanted_N1 = uniform_N.to(cumulated_NV)[:, None] * cumulated_NV[:, -1:]
    token_N = torch.searchsorted(cumulated_NV, wanted_N1, right=True)[:, 0]
    return token_N.clamp(max=logits_NV.shape[-1] - 1)


@contextmanager
def _caching(base: Any) -> Iterator[None]:
    """Without recomputation of activations, which drops the cache of keys and values."""
    recomputing = checkpoints(base)
    set_checkpointing(base, False)
    try:
        yield
    finally:
        if recomputing:
            set_checkpointing(base, True)

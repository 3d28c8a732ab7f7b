"""Completions sampled from the active role, each row from a random stream of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.core.batches import Sequences, sequences
from trimtab.core.engine import Completion
from trimtab.core.errors import RunError
from trimtab.core.lm import LanguageModel
from trimtab.core.reading import Reading, caching
from trimtab.core.seeds import mixed

LEAST = -1e4
"""A logit so far below the greatest has no mass; -inf would have no product with it either."""

BLOCK = 64
"""Tokens whose masses are added up first."""


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


@dataclass
class _Drawn:
    """What was drawn for one row so far."""

    tokens: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)


@torch.no_grad()
def sample(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    uniform_NT: Tensor,
    *,
    stops: frozenset[int],
    temperature: float = 1.0,
    record: bool = False,
) -> list[Completion]:
    """One completion a prompt, under the role that is active.

    A row's t-th token is where the cumulated probabilities pass its t-th uniform number, so in
    float32 a row gets the same tokens alone or in any batch. Equal prompts are read once, and
    finished rows leave the batch.

    Args:
        model: the policy.
        prompts: token ids of each of N prompts.
        uniform_NT: see ``uniforms``; T is the most tokens sampled.
        stops: ids that end a completion.
        temperature: divides the logits; 0 takes the likeliest token, whatever the uniform number.
        record: note each token's log-prob, and the entropy that it was drawn with.
    """
    made = [_Drawn() for _ in prompts]
    longest = max((len(prompt) for prompt in prompts), default=0) + uniform_NT.shape[1]
    size = max(1, 8 * model.micro_tokens // longest)  # without gradient, far more fit
    with caching(model.base):
        for rows in portions(prompts, size):
            for step in _decode(model, prompts, rows, uniform_NT, stops, temperature, record):
                for row, *drawn in step:
                    made[row].tokens.append(int(drawn[0]))
                    if record:
                        made[row].logps.append(drawn[1])
                        made[row].entropy.append(drawn[2])
    return [
        Completion(
            tuple(prompt),
            tuple(drawn.tokens),
            truncated=not drawn.tokens or drawn.tokens[-1] not in stops,
            logps=tuple(drawn.logps) if record else None,
            entropy=tuple(drawn.entropy) if record else None,
        )
        for prompt, drawn in zip(prompts, made, strict=True)
    ]


@torch.no_grad()
def stream(
    model: LanguageModel,
    prompt: Sequence[int],
    uniform_1T: Tensor,
    *,
    stops: frozenset[int],
    temperature: float = 1.0,
) -> Iterator[int]:
    """The tokens of one completion as they are drawn: the same that ``sample`` gives."""
    with caching(model.base):
        for step in _decode(model, [prompt], [0], uniform_1T, stops, temperature, False):
            yield int(step[0][1])


def portions(prompts: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """Row numbers of at most ``size`` rows each: longest prompts first, equal ones together.

    A group is cut only where it alone is larger.

    >>> portions([[1], [2, 3], [1], [2, 3], [4]], 3)
    [[1, 3], [0, 2, 4]]
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, prompt in enumerate(prompts):
        groups.setdefault(tuple(prompt), []).append(row)
    cuts: list[list[int]] = []
    for prompt in sorted(groups, key=len, reverse=True):
        rows = groups[prompt]
        if cuts and len(cuts[-1]) + len(rows) <= size:
            cuts[-1] += rows
        else:
            cuts += [rows[begin : begin + size] for begin in range(0, len(rows), size)]
    return cuts


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
    record: bool,
) -> Iterator[list[tuple[Any, ...]]]:
    """The rows that go on with what was drawn for each, token by token."""
    distinct = dict.fromkeys(tuple(prompts[i]) for i in rows)
    numbers = {prompt: number for number, prompt in enumerate(distinct)}
    most = uniform_NT.shape[1]
    reading = Reading(model, list(numbers), most)
    reading.keep([numbers[tuple(prompts[i])] for i in rows])
    uniform_NT = uniform_NT[rows].to(model.device)
    for t in range(most):
        token_N, *more = _draw(reading.logits_NV, uniform_NT[:, t], temperature, record)
        tokens = token_N.tolist()
        yield list(zip(rows, tokens, *(column.tolist() for column in more), strict=True))
        going = [n for n, token in enumerate(tokens) if token not in stops]
        if not going or t + 1 == most:
            return
        if len(going) < len(rows):
            reading.keep(going)
            rows = [rows[n] for n in going]
            token_N, uniform_NT = token_N[going], uniform_NT[going]
        reading.read(token_N)


def _draw(
    logits_NV: Tensor, uniform_N: Tensor, temperature: float, record: bool
) -> tuple[Tensor, ...]:
    """Where the cumulated probabilities first exceed the uniform number. Changes the logits.

    Masses are cumulated in float64, by blocks and then within one: a sum in float32 over the whole
    vocabulary would move tokens. With ``record``, also the token's log-prob and the distribution's
    entropy, in nats.
    """
    if temperature == 0.0:
        return _likeliest(logits_NV, record)
    if temperature != 1.0:
        logits_NV.div_(temperature)
    below_NV = logits_NV.sub_(logits_NV.amax(-1, keepdim=True)).clamp_(min=LEAST)
    mass_NV = below_NV.exp()
    gap = -mass_NV.shape[-1] % BLOCK
    whole_NV = nn.functional.pad(mass_NV, (0, gap)) if gap else mass_NV
    blocks_NKL = whole_NV.unflatten(-1, (-1, BLOCK))
    before_NK = blocks_NKL.sum(-1).double().cumsum(-1)
    total_N1 = before_NK[:, -1:]
    _check_finite(total_N1)
    wanted_N1 = uniform_N[:, None] * total_N1
    block_N1 = _passed(before_NK, wanted_N1)
    within_NL = blocks_NKL.gather(1, block_N1[:, :, None].expand(-1, -1, BLOCK))[:, 0].double()
    begin_N1 = nn.functional.pad(before_NK, (1, 0)).gather(1, block_N1)
    token_N1 = BLOCK * block_N1 + _passed(within_NL.cumsum(-1), wanted_N1 - begin_N1)
    if not record:
        return (token_N1[:, 0],)
    logp_N = (below_NV.gather(-1, token_N1) - total_N1.log())[:, 0]
    mean_N = torch.linalg.vecdot(mass_NV, below_NV) / total_N1[:, 0]
    return token_N1[:, 0], logp_N, total_N1[:, 0].log() - mean_N


def _likeliest(logits_NV: Tensor, record: bool) -> tuple[Tensor, ...]:
    """The distribution at temperature 0 has one token, the first of the likeliest; log 1 = 0."""
    _check_finite(logits_NV.amax(-1))
    token_N = logits_NV.argmax(-1)
    nothing_N = logits_NV.new_zeros(len(token_N))
    return (token_N, nothing_N, nothing_N) if record else (token_N,)


def _check_finite(numbers: Tensor) -> None:
    if not bool(numbers.isfinite().all()):
        raise RunError("the policy's logits are not finite: no token can be sampled from them")


def _passed(cumulated_NK: Tensor, wanted_N1: Tensor) -> Tensor:
    """[N, 1]: the first place that holds more than is wanted; never one past the last mass."""
    total_N1 = cumulated_NK[:, -1:]
    most_N1 = total_N1.nextafter(total_N1.new_zeros(()))
    return torch.searchsorted(cumulated_NK, wanted_N1.minimum(most_N1), right=True)

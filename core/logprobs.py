"""Token log-probs from hidden states, a chunk at a time: [N, T, V] is never held."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trimtab.core.objective import Tokenwise

CHUNK_BYTES = 16 * 2**20
"""Of float32 logits at a time."""

Head = Callable[[Tensor], Tensor]
"""Hidden states [c, H] -> logits [c, V]."""


def token_logps(
    hidden_MH: Tensor,
    target_M: Tensor,
    head: Head,
    vocabulary: int,
    *,
    frozen_VH: Tensor | None = None,
    temperature: float = 1.0,
    tokenwise: Mapping[str, Tokenwise] | None = None,
    reference_MH: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """log pi(target) at each of M positions, and what the ``tokenwise`` functions return there.

        log pi = log_softmax(head(hidden) / temperature)[target]

    Logits are float32 before the softmax, and a chunk's live only while it is computed.

    Args:
        hidden_MH: the states that predict the targets.
        target_M: token ids.
        head: the language model's head.
        vocabulary: V, which sets the size of a chunk.
        frozen_VH: the head's weight, where the head is nothing but this matrix and is not trained:
            then nothing has to be computed again in the backward pass.
        temperature: divides the logits.
        tokenwise: name -> f(logps_cV, reference_cV or None) -> [c].
        reference_MH: the reference's states, for functions that compare distributions.

    Returns:
        float32 [M], and [M] for each function.
    """
    size = max(1, CHUNK_BYTES // (4 * vocabulary))
    if frozen_VH is not None and not tokenwise:
        apply: Callable[..., Tensor] = _FrozenHead.apply
        return apply(hidden_MH, target_M, frozen_VH, temperature, size), {}
    functions = dict(tokenwise or {})

    def chunk(hidden_cH: Tensor, target_c: Tensor, reference_cH: Tensor | None) -> Tensor:
        logps_cV = distribution(hidden_cH)
        columns = [logps_cV.gather(-1, target_c[:, None])[:, 0]]
        if functions:
            with torch.no_grad():
                reference_cV = None if reference_cH is None else distribution(reference_cH)
            columns += [function(logps_cV, reference_cV) for function in functions.values()]
        return torch.stack(columns)

    def distribution(hidden_cH: Tensor) -> Tensor:
        logits_cV = head(hidden_cH).float()
        return (logits_cV if temperature == 1 else logits_cV / temperature).log_softmax(-1)

    parts = [hidden_MH.new_zeros(1 + len(functions), 0, dtype=torch.float32)]
    for start in range(0, len(target_M), size):
        cut = slice(start, start + size)
        reference_cH = None if reference_MH is None else reference_MH[cut]
        parts.append(
            checkpoint(
                chunk,
                hidden_MH[cut],
                target_M[cut],
                reference_cH,
                use_reentrant=False,
                preserve_rng_state=False,
            )
        )
    first_M, *others = torch.cat(parts, dim=1)
    return first_M, dict(zip(functions, others, strict=True))


class _FrozenHead(torch.autograd.Function):
    """log_softmax(hidden W^T / temperature)[target], with its gradient by the hidden states.

        d log pi / d hidden = (W[target] - softmax W) / temperature

    One vector a token, whatever the loss does with the log-prob: it is made while the chunk's
    softmax is at hand, and the backward pass only scales it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_MH: Tensor,
        target_M: Tensor,
        weight_VH: Tensor,
        temperature: float,
        size: int,
    ) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        logps_M = hidden_MH.new_empty(len(target_M), dtype=torch.float32)
        slope_MH = torch.empty_like(hidden_MH) if wanted else None
        for start in range(0, len(target_M), size):
            cut = slice(start, start + size)
            logits_cV = (hidden_MH[cut] @ weight_VH.T).float()
            logps_cV = (logits_cV if temperature == 1 else logits_cV / temperature).log_softmax(-1)
            logps_M[cut] = logps_cV.gather(-1, target_M[cut, None])[:, 0]
            if slope_MH is not None:
                expected_cH = logps_cV.exp_().to(weight_VH.dtype) @ weight_VH
                slope_MH[cut] = (weight_VH[target_M[cut]] - expected_cH) / temperature
        if slope_MH is not None:
            ctx.save_for_backward(slope_MH)
        return logps_M

    @staticmethod
    def backward(ctx: Any, grad_M: Tensor) -> Any:
        (slope_MH,) = ctx.saved_tensors
        return (grad_M[:, None] * slope_MH).to(slope_MH.dtype), None, None, None, None

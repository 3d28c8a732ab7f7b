"""Token log-probs from hidden states, a chunk at a time: [N, T, V] is never held."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trimtab.core.objective import Tokenwise

CHUNK_BYTES = 64 * 2**20
"""Of float32 logits at a time."""

Head = Callable[[Tensor], Tensor]
"""Hidden states [c, H] -> logits [c, V]."""


def token_logps(
    hidden_MH: Tensor,
    target_M: Tensor,
    head: Head,
    vocabulary: int,
    *,
    temperature: float = 1.0,
    tokenwise: Mapping[str, Tokenwise] | None = None,
    reference_MH: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """log pi(target) at each of M positions, and what the ``tokenwise`` functions return there.

        log pi = log_softmax(head(hidden) / temperature)[target]

    Logits are float32 before the softmax. Each chunk's logits live only while it is computed; the
    backward pass computes them again.

    Args:
        hidden_MH: the states that predict the targets.
        target_M: token ids.
        head: the language model's head.
        vocabulary: V, which sets the size of a chunk.
        temperature: divides the logits.
        tokenwise: name -> f(logps_cV, reference_cV or None) -> [c].
        reference_MH: the reference's states, for functions that compare distributions.

    Returns:
        float32 [M], and [M] for each function.
    """
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

    size = max(1, CHUNK_BYTES // (4 * vocabulary))
    parts = []
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
    if not parts:
        parts.append(hidden_MH.new_zeros(1 + len(functions), 0, dtype=torch.float32))
    logps_M, *others = torch.cat(parts, dim=1)
    return logps_M, dict(zip(functions, others, strict=True))

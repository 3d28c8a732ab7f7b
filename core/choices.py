"""log P(option | prompt) of answers that are given: what a model thinks of each.

N prompts · V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trimtab.core.lm import LanguageModel
from trimtab.core.reading import Reading, caching
from trimtab.core.sampling import portions

Ids = Sequence[int]


@torch.no_grad()
def option_logps(
    model: LanguageModel, prompts: Sequence[Ids], options: Sequence[Sequence[Ids]]
) -> list[list[float]]:
    """log P of every option of every prompt, in nats, under the role that is active.

        log P(option | prompt) = sum over its tokens of log pi(token | prompt, the tokens before)

    Not normalized over the options. Each prompt is read once, and what options have in common is
    read once after it. In float32 a prompt gets the same numbers alone or in any batch, to 1e-5.
    """
    longest = max(map(len, prompts), default=1)
    branches = max((_branches(each) for each in options), default=1)
    size = max(1, 8 * model.micro_tokens // (longest * branches))  # without gradient, more fit
    found: dict[int, list[float]] = {}
    with caching(model.base):
        for rows in portions(prompts, size):
            some = _portion(model, [prompts[n] for n in rows], [options[n] for n in rows])
            found |= dict(zip(rows, some, strict=True))
    return [found[n] for n in range(len(prompts))]


def _branches(options: Sequence[Ids]) -> int:
    """How often a prompt's keys and values are held while its options are read."""
    return max(1, len({tuple(option[:-1]) for option in options}))


def _portion(
    model: LanguageModel, prompts: Sequence[Ids], options: Sequence[Sequence[Ids]]
) -> list[list[float]]:
    most = max(len(option) for each in options for option in each)
    reading = Reading(model, prompts, most - 1)
    rows: list[tuple[int, Ids]] = [(n, ()) for n in range(len(prompts))]
    """The prompt's number, and the tokens read after it, of each sequence of the reading."""
    found = [[0.0] * len(each) for each in options]
    for depth in range(most):
        wanted: list[tuple[int, int, int, int]] = []
        after: dict[tuple[int, Ids], int] = {}
        for row, (n, read) in enumerate(rows):
            for place, option in enumerate(options[n]):
                if len(option) > depth and tuple(option[:depth]) == read:
                    wanted.append((n, place, row, option[depth]))
                    if len(option) > depth + 1:
                        after[n, tuple(option[: depth + 1])] = row
        numbers, places, row_K, token_K = zip(*wanted, strict=True)
        logps_NV = reading.logits_NV.log_softmax(-1)
        logps_K = logps_NV[list(row_K), list(token_K)].tolist()
        for n, place, logp in zip(numbers, places, logps_K, strict=True):
            found[n][place] += logp
        if not after:
            break
        reading.keep(list(after.values()))
        rows = list(after)
        reading.read(torch.tensor([read[-1] for _, read in rows], device=model.device))
    return found

"""A tiny real model with the real tokenizer, in a folder as transformers saves it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from trimtab.core.batches import Labelled, Pairs, Ranked, sequences
from trimtab.core.config import AdapterConfig, ModelConfig
from trimtab.core.embedded import NAME
from trimtab.core.lm import LanguageModel
from trimtab.core.model import compute_dtype, load_base, load_tokenizer
from trimtab.core.roles import Roles

DEVICE = torch.device(os.environ.get("TRIMTAB_TEST_DEVICE", "cpu"))
"""Where the tests of the model run: `TRIMTAB_TEST_DEVICE=cuda` puts them on a GPU."""


def save_tiny(folder: Path, **changes: int) -> Path:
    """Two layers of width 64: NF4 on a CPU wants a multiple of 64."""
    torch.manual_seed(0)
    settings = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 49152,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "tie_word_embeddings": True,
        "initializer_range": 0.1,
    }
    LlamaForCausalLM(LlamaConfig(**(settings | changes))).save_pretrained(folder)
    load_tokenizer(NAME).save_pretrained(folder)
    return folder


def policy(
    folder: Path,
    *,
    quantization: str = "none",
    checkpointing: bool = False,
    dtype: str = "float32",
    micro_tokens: int = 4096,
    share: bool = False,
    spread: float = 0.3,
    scalar: tuple[str, ...] = (),
    language: bool = True,
    perturbed: bool = True,
    seed: int = 0,
    rank: int = 4,
    targets: Literal["all-linear"] | list[str] = "all-linear",
    **more: Any,
) -> LanguageModel:
    """A policy whose LoRA B is random, so that it differs from its reference.

    Without ``language``, scalar roles alone, as a reward model has them. ``more``: for Roles.
    """
    config = ModelConfig(
        name=str(folder),
        quantization=quantization,
        dtype=dtype,
        adapter=AdapterConfig(rank=rank, targets=targets),
        gradient_checkpointing=checkpointing,
    )
    roles = Roles(
        load_base(config, DEVICE),
        config.adapter,
        scalar=scalar,
        policy=language,
        seed=seed,
        **more,
    )
    if perturbed:
        perturb(roles, spread)
    return LanguageModel(
        roles, dtype=compute_dtype(config, DEVICE), micro_tokens=micro_tokens, share=share
    )


@torch.no_grad()
def perturb(roles: Roles, spread: float, seed: int = 1) -> None:
    """Give every role's B random entries."""
    generator = torch.Generator().manual_seed(seed)
    for role in roles.names:
        for name, parameter in roles.named_parameters(role).items():
            if "lora_B" in name or parameter.shape[0] == 1:
                parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))


def ragged_pairs(rows: int = 6, seed: int = 0, eos: int = 2) -> Pairs:
    """Pairs of all lengths; completions end in the EOS action, which is the padding id too."""
    generator = torch.Generator().manual_seed(seed)

    def ids(length: int) -> list[int]:
        return torch.randint(3, 49000, (length,), generator=generator).tolist()

    prompts = [ids(5 + 3 * i) for i in range(rows)]
    chosen = [[*ids(1 + 2 * i), eos] for i in range(rows)]
    rejected = [[*ids(9 - i), eos] for i in range(rows)]
    made = Pairs(sequences(prompts, chosen), sequences(prompts, rejected))
    return Pairs(made.chosen, made.rejected, row_N=torch.arange(rows) + 1)


def ragged_labels(rows: int = 8, seed: int = 0, eos: int = 2) -> Labelled:
    """Labelled completions of all lengths; the mismatched ones are theirs, moved on by a row."""
    generator = torch.Generator().manual_seed(seed)

    def ids(length: int) -> list[int]:
        return torch.randint(3, 49000, (length,), generator=generator).tolist()

    prompts = [ids(5 + 3 * i) for i in range(rows)]
    completions = [[*ids(1 + 2 * i), eos] for i in range(rows)]
    return Labelled(
        sequences(prompts, completions),
        torch.arange(rows) % 3 != 1,
        sequences(prompts, completions[-1:] + completions[:-1]),
        row_N=torch.arange(rows) + 1,
    )


def ragged_rankings(rows: int = 5, seed: int = 0, eos: int = 2) -> Ranked:
    """Two to four responses of all lengths, with ties, soft labels, margins and gaps."""
    generator = torch.Generator().manual_seed(seed)

    def ids(length: int) -> list[int]:
        return torch.randint(3, 49000, (length,), generator=generator).tolist()

    prompts = [ids(5 + 3 * i) for i in range(rows)]
    counts = [2 + i % 3 for i in range(rows)]
    better_NKK = torch.rand(rows, 4, 4, generator=generator).triu(1)
    better_NKK[:, 0, 1] = 1.0
    better_NKK[3, 0, 1] = 0.5
    better_NKK += (1 - better_NKK).mT.tril(-1)
    better_NKK[:, range(4), range(4)] = torch.nan
    better_NKK[2, 0, 3] = better_NKK[2, 3, 0] = torch.nan
    for row, count in enumerate(counts):
        better_NKK[row, count:] = better_NKK[row, :, count:] = torch.nan
    margin_NKK = torch.rand(rows, 4, 4, generator=generator).triu(1)
    responses = tuple(
        sequences(prompts, [[*ids(1 + 2 * i + k), eos] * (k < counts[i]) for i in range(rows)])
        for k in range(4)
    )
    return Ranked(responses, better_NKK, margin_NKK - margin_NKK.mT, row_N=torch.arange(rows) + 1)


def gradient(model: LanguageModel) -> torch.Tensor:
    """All trained parameters' gradients in one vector, 0 where there is none."""
    return torch.cat(
        [
            (torch.zeros_like(p) if p.grad is None else p.grad).flatten()
            for group in model.trained().values()
            for p in group
        ]
    )


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    """The norm of the difference, by the norm of ``other``."""
    return float((one - other).norm() / other.norm())

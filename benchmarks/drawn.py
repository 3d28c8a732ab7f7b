"""Language models of random weights, made where they will be: nothing is read from a disk."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import nn

from trimtab.core.model import set_checkpointing

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 384,
        "tie_word_embeddings": True,
    },
    "smollm2-135m": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
    "llama-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
    },
}
"""Shapes of Llamas. What the weights say costs nothing."""


@torch.no_grad()
def drawn(size: str, place: torch.device, dtype: torch.dtype, *, checkpointing: bool) -> Any:
    """A Llama of that shape, its decoder's products in nf4, frozen and in train mode."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(**SIZES[size], max_position_embeddings=4096)
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model: Any = LlamaForCausalLM(config)
    for layer in model.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, linear in list(part.named_children()):
                if isinstance(linear, nn.Linear):
                    setattr(part, name, _in_nf4(linear, place, dtype))
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if weight.is_meta:
                setattr(module, name, nn.Parameter(_draw(weight, place, dtype), False))
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config).to(place)
    model.is_loaded_in_4bit = True  # PEFT asks
    model.train()
    model.requires_grad_(False)
    set_checkpointing(model, checkpointing)
    return model


def _in_nf4(linear: nn.Linear, place: torch.device, dtype: torch.dtype) -> nn.Module:
    nn4: Any = import_module("bitsandbytes.nn")
    made: nn.Module = nn4.Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=False,
        compute_dtype=dtype,
        compress_statistics=True,
        quant_type="nf4",
        device="meta",
    )
    weight = torch.randn(linear.weight.shape, device=place, dtype=dtype) * 0.02
    made.weight = nn4.Params4bit(
        weight, requires_grad=False, quant_type="nf4", compress_statistics=True, module=made
    ).to(place)
    return made


def _draw(weight: torch.Tensor, place: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Norms are 1, embeddings small."""
    if weight.ndim == 1:
        return torch.ones(weight.shape, device=place, dtype=dtype)
    return torch.randn(weight.shape, device=place, dtype=dtype) * 0.02

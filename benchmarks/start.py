"""Where both systems start: the same weights, and the same adapter with a random B.

With B at zero, as adapters start, every DPO loss is log 2, whatever a system gets wrong. The head
of a reward model is drawn, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from trimtab.benchmarks.job import Job
from trimtab.core.config import AdapterConfig, ModelConfig
from trimtab.core.model import _quantization, device, held_dtype, load_base, locate

ADAPTER = AdapterConfig()
"""LoRA of rank 16 on all linear layers, scaled by 2."""

LEARNING_RATE = 1e-4
"""Constant, of AdamW without decay; gradients are clipped to norm 1."""


def model_config(job: Job) -> ModelConfig:
    """The embedded model in the job's dtype. TRL turns checkpointing on by itself."""
    ours = job.system == "trimtab"
    return ModelConfig(
        name=job.model,
        quantization="nf4" if job.dtype == "nf4" else "none",
        dtype="auto" if job.dtype == "nf4" else job.dtype,
        adapter=ADAPTER,
        gradient_checkpointing=ours and bool(job.checkpointing),
    )


def base(job: Job) -> Any:
    """The base, every weight of it in memory: files are mapped, and read when touched."""
    scores = job.system == "trl" and job.objective == "reward_model"
    config = model_config(job)
    model = _classifier(config) if scores else load_base(config, device())
    for weight in model.parameters():
        weight.sum()
    return model


def _classifier(config: ModelConfig) -> Any:
    """The base with a head of one number, as TRL's ``RewardTrainer`` wants it."""
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(
        locate(config.name),
        num_labels=1,
        dtype=held_dtype(config, device()),
        quantization_config=_quantization(config, device()),
        device_map={"": device()},
        attn_implementation="sdpa",
    )


@torch.no_grad()
def randomise(adapter: Mapping[str, nn.Parameter]) -> None:
    """Give an adapter its start, by its weights' names."""
    generator = torch.Generator().manual_seed(1)
    for name in sorted(adapter):
        weight = adapter[name]
        spread = 0.02 if "lora_B" in name else weight.shape[1] ** -0.5
        weight.copy_(spread * torch.randn(weight.shape, generator=generator))

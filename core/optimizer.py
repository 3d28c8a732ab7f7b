"""Optimizer, schedule and clipping, from explicit lists of each role's parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from trimtab.core.training import TrainConfig

Roles = Mapping[str, Sequence[nn.Parameter]]


def make_optimizer(roles: Roles, config: TrainConfig) -> torch.optim.Optimizer:
    """One group a role. States are float32, unless the run asks for 8-bit ones."""
    groups = [{"params": list(parameters), "role": role} for role, parameters in roles.items()]
    options: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, **options)
    from bitsandbytes.optim import adamw

    kind = adamw.PagedAdamW8bit if config.optimizer == "paged_adamw_8bit" else adamw.AdamW8bit
    return kind(groups, **options)


def make_schedule(optimizer: torch.optim.Optimizer, config: TrainConfig, steps: int) -> Any:
    """transformers' schedule over the run's steps; ``warmup`` below 1 is a share of them."""
    from transformers import get_scheduler

    warmup = config.warmup * steps if config.warmup < 1 else config.warmup
    return get_scheduler(config.schedule, optimizer, int(warmup), steps)


def clip(roles: Roles, max_norm: float) -> dict[str, float]:
    """Clip each role's gradient to a global norm; return the norms of before."""
    return {
        role: float(
            nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], max_norm)
        )
        for role, parameters in roles.items()
    }

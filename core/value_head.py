"""A critic that shares the policy's trunk: one linear head on the policy's own states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from trimtab.core.files import write_json

VALUE_HEAD = "value_head.safetensors"
SETTINGS = "value_head.json"


def value_head(base: Any) -> nn.Linear:
    """States [..., H] -> values [..., 1], float32, without a bias; 0 at the start."""
    width = base.config.get_text_config().hidden_size
    head = nn.Linear(width, 1, bias=False, device=base.device, dtype=torch.float32)
    nn.init.zeros_(head.weight)
    return head


def save_value_head(head: nn.Linear, folder: Path, base_name: str) -> None:
    """Write the head, and what its states are of."""
    save_file({"weight": head.weight.detach().cpu().contiguous()}, folder / VALUE_HEAD)
    write_json(
        folder / SETTINGS,
        {
            "base_model_name_or_path": base_name,
            "reads": "the last hidden states of the policy, that predict each token",
            "hidden_size": head.in_features,
        },
    )

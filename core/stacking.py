"""Adapters that lie on each other, as one plain adapter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from trimtab.core.adapter_files import ADAPTER_CONFIG, WEIGHTS, adapter_settings
from trimtab.core.errors import UserError
from trimtab.core.files import write_json


def check_plain(model: Any, adapter: str, folder: Path, how: str) -> None:
    """Raise ``UserError`` unless all that this adapter does is to add B A to linear layers."""
    modules = [module for _, module in adapted(model, [adapter])]
    odd = [
        name
        for name, _ in model.named_parameters()
        if f".{adapter}." in name and not name.endswith(f"lora_A.{adapter}.weight")
        if not name.endswith(f"lora_B.{adapter}.weight")
    ]
    variants = any(adapter in getattr(module, "lora_variant", ()) for module in modules)
    flat = all(module.lora_A[adapter].weight.ndim == 2 for module in modules)
    if odd or variants or not modules or not flat:
        what = f": it has {odd[0]}" if odd else ""
        raise UserError(
            f"model.start: {folder} is more than LoRA on linear layers{what}. "
            f"start_as: {how} knows no other adapters; start_as: continue may"
        )


def adapted(model: Any, adapters: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """(path, layer) of every layer that has one of these adapters."""
    for path, module in model.named_modules():
        if any(name in getattr(module, "lora_A", ()) for name in adapters):
            yield path, module


@torch.no_grad()
def write_sum(model: Any, adapters: Sequence[str], folder: Path) -> None:
    """Write the sum of these adapters over the last of them, which is in this folder.

        s1 B1 A1 + s2 B2 A2 = s2 [s1/s2 B1, B2] [A1; A2]

    Ranks add up, and layers that only one of them adapts keep that one's rank. It is exact but for
    the rounding of s1/s2 B1; there is none where both scale alike, or by powers of two.

    Args:
        model: the base with the adapters on it.
        adapters: their names, bottom first.
        folder: where ``adapter_config.json`` of the last one is.
    """
    top = adapters[-1]
    layers = dict(adapted(model, adapters))
    scale = next(layer.scaling[top] for layer in layers.values() if top in layer.lora_A)
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for path, layer in layers.items():
        there = [name for name in adapters if name in layer.lora_A]
        a_RI = torch.cat([layer.lora_A[name].weight for name in there])
        b_OR = torch.cat(
            [layer.lora_B[name].weight * (layer.scaling[name] / scale) for name in there], 1
        )
        ranks[path] = len(a_RI)
        tensors[f"base_model.model.{path}.lora_A.weight"] = a_RI.cpu().contiguous()
        tensors[f"base_model.model.{path}.lora_B.weight"] = b_OR.cpu().contiguous()
    rank = Counter(ranks.values()).most_common(1)[0][0]
    others = {path: own for path, own in ranks.items() if own != rank}
    settings = {
        **adapter_settings(folder),
        "r": rank,
        "lora_alpha": scale * rank,
        "rank_pattern": others,
        "alpha_pattern": {path: scale * own for path, own in others.items()},
        "use_rslora": False,
        "target_modules": _targets(model, layers),
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    write_json(folder / ADAPTER_CONFIG, settings)


def _targets(model: Any, layers: Mapping[str, Any]) -> list[str]:
    """The last names of these layers where no other layer is called so, else their paths."""
    names = {path.rpartition(".")[2] for path in layers}
    called = {
        path
        for path, _ in model.named_modules()
        if path.rpartition(".")[2] in names and not _inside(path, layers)
    }
    return sorted(names) if called == layers.keys() else sorted(layers)


def _inside(path: str, layers: Mapping[str, Any]) -> bool:
    """Is this a part of one of the layers?"""
    above = path.rpartition(".")[0]
    while above:
        if above in layers:
            return True
        above = above.rpartition(".")[0]
    return False

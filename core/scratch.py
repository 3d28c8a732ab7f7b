"""A copy of the policy to sample from: other weights in the same modules, and no adapter."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.core.adapters import HEAD


@torch.no_grad()
def plain_copy(base: Any, adapters: Sequence[str], dtype: torch.dtype) -> Any:
    """The base, dequantized, with these adapters added to its weights, in ``dtype``.

    Nothing of the base is changed. Sums are computed in float32 and rounded once. What has
    ``dtype`` already and no adapter is shared with the base.
    """
    made = copy.deepcopy(base, {id(held): held for held in base.parameters()})
    if hasattr(made, HEAD):
        delattr(made, HEAD)
    for name, module in list(made.named_modules()):
        plain = _plain(module, adapters, dtype)
        if plain is not None:
            made.set_submodule(name, plain)
    cast: dict[int, nn.Parameter] = {}  # by the weight, so that tied ones stay tied
    for module in made.modules():
        for name, held in module.named_parameters(recurse=False):
            if id(held) not in cast:
                cast[id(held)] = nn.Parameter(held.to(dtype), requires_grad=False)
            setattr(module, name, cast[id(held)])
    return made


def _plain(module: Any, adapters: Sequence[str], dtype: torch.dtype) -> nn.Module | None:
    """What takes the place of an adapted or a quantized layer; None for other ones."""
    adapted = hasattr(module, "lora_A")
    layer = module.base_layer if adapted else module
    weight = _dequantized(layer)
    if not adapted and weight is None:
        return None
    total = layer.weight if weight is None else weight
    if adapted:
        for name in adapters:
            if name in module.lora_A:
                total = total + module.get_delta_weight(name)
    if weight is None:
        plain = copy.copy(layer)
        plain._parameters = dict(layer._parameters)
    else:
        plain = nn.Linear(total.shape[1], total.shape[0], bias=False, device="meta")
        plain.bias = layer.bias
    plain.weight = nn.Parameter(total.to(dtype), requires_grad=False)
    return plain  # type: ignore[no-any-return]


def _dequantized(layer: Any) -> Tensor | None:
    """A quantized layer's weight in float32; None where it is not quantized."""
    from peft.utils.integrations import dequantize_module_weight, get_bnb_param_type

    if not isinstance(layer, nn.Linear):
        return None
    held: Any = layer.weight
    if not get_bnb_param_type(held):
        return None
    return dequantize_module_weight(layer).float()

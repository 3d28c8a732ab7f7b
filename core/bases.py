"""The base that a process has in memory, lent to one run after another."""

from __future__ import annotations

import gc
from typing import Any

import torch

from trimtab.core.adapters import take_off
from trimtab.core.config import ModelConfig
from trimtab.core.model import compute_dtype, held_dtype, load_base, locate, set_checkpointing


class Bases:
    """Lends a bare base: frozen, in train mode, without adapter, head or hook.

    The runs of a pipeline share it. Whoever ends a run calls ``take_back``; the next run gets the
    same object where it names the same base, held alike. Before another is loaded this one is let
    go, so that there are never two of them. A base whose own weights are trained is not lent on.
    """

    def __init__(self) -> None:
        self._base: Any = None
        self._named: Any = None
        self._was: Any = None
        self._lent = False

    def lend(self, config: ModelConfig, place: torch.device) -> Any:
        """The base that this section names. Until ``take_back`` it is nobody else's."""
        named = _named(config, place)
        if self._lent or named != self._named:
            self.drop()
        if self._base is None:
            plain = config.model_copy(update={"gradient_checkpointing": False})
            self._base = load_base(plain, place)
            self._was, self._named = _looks(self._base), named
        else:
            gc.collect()  # what the run before has left: its adapters and optimizer
        set_checkpointing(self._base, config.gradient_checkpointing)
        self._lent = True
        return self._base

    def take_back(self) -> None:
        """The run has ended: nothing that was made of the base may be used from here on."""
        if not self._lent:
            return
        self._lent = False
        if self._named is None:
            self.drop()
            return
        take_off(self._base)
        set_checkpointing(self._base, False)
        if _looks(self._base) != self._was:
            self.drop()

    def drop(self) -> None:
        """Let go of the base, so that another fits into memory."""
        self._base = self._named = self._was = None
        self._lent = False
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _named(config: ModelConfig, place: torch.device) -> Any:
    """What makes two bases the same; None where the run trains the weights themselves."""
    if config.adapter is None:
        return None
    dtypes = compute_dtype(config, place), held_dtype(config, place)
    code = config.trust_remote_code
    return locate(config.name), config.quantization, *dtypes, code, str(place)


def _looks(base: Any) -> Any:
    """Whatever a run might leave behind: modules, hooks, settings, weights changed in place."""
    modules = [
        (name, type(module), module.training, _hooks(module), "forward" in vars(module))
        for name, module in base.named_modules()
    ]
    weights = [
        (name, held.dtype, held.shape, held.requires_grad, held._version)
        for name, held in base.named_parameters()
    ]
    return modules, weights, base.config.to_dict()


def _hooks(module: torch.nn.Module) -> tuple[int, ...]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return tuple(len(getattr(module, kind)) for kind in kinds)

"""What is done to one adapter, or to the head beside it: with ``roles`` all that touches PEFT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trimtab.core.adapter_files import ADAPTER_CONFIG, adapter_settings
from trimtab.core.config import AdapterConfig
from trimtab.core.errors import RunError, UserError
from trimtab.core.files import write_json
from trimtab.core.stacking import adapted

HEAD = "score"
"""What scalar roles train, by the name that ``AutoModelForSequenceClassification`` gives it."""


def is_scalar(folder: Path) -> bool:
    """Does this adapter have a head that scores, and so belong to a scalar role?"""
    return HEAD in (adapter_settings(folder).get("modules_to_save") or ())


def take_off(base: Any) -> None:
    """Take adapters, heads and hooks off a base. Roles that were on it must not be used again."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(base.named_modules()):
        if isinstance(module, BaseTunerLayer):
            base.set_submodule(name, module.get_base_layer())
    for name in (HEAD, "peft_config"):
        if hasattr(base, name):
            delattr(base, name)
    base.disable_input_require_grads()
    hooks = base.get_input_embeddings()._forward_hooks
    for key, hook in list(hooks.items()):  # PEFT puts it there again, and forgets the first one
        if getattr(hook, "__name__", "").startswith("make_inputs_require_grad"):
            del hooks[key]
    base.train()
    base.requires_grad_(False)


def put_head(base: Any) -> None:
    """What PEFT makes each scalar role's own head from."""
    width = base.config.get_text_config().hidden_size
    setattr(base, HEAD, nn.Linear(width, 1, bias=False, device=base.device))


def lora(adapter: AdapterConfig, *, scalar: bool, headed: bool) -> Any:
    """PEFT's settings of a new adapter; ``headed`` where its base has a head, its own or not."""
    from peft import LoraConfig, TaskType

    targets = adapter.targets
    return LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha or 2 * adapter.rank,  # type: ignore[arg-type]
        target_modules=targets if isinstance(targets, str) else list(targets),
        lora_dropout=adapter.dropout,
        exclude_modules=[HEAD] if headed else None,
        modules_to_save=[HEAD] if scalar else None,
        task_type=TaskType.SEQ_CLS if scalar else TaskType.CAUSAL_LM,
    )


def parameters_of(peft: Any, name: str) -> dict[str, nn.Parameter]:
    """Those of an adapter, and of the head that is saved with it, without its name in theirs."""
    return {
        path.replace(f".{name}.", ".").removesuffix(f".{name}"): parameter
        for path, parameter in peft.named_parameters()
        if f".{name}." in path or path.endswith(f".{name}")
    }


@torch.no_grad()
def copy_adapter(peft: Any, source: str, target: str) -> None:
    """Give an adapter the values of another of its shape; its head only where that one has one."""
    given = parameters_of(peft, source)
    wanted = {
        name: parameter
        for name, parameter in parameters_of(peft, target).items()
        if "lora_" in name or name in given
    }
    if {k: p.shape for k, p in given.items()} != {k: p.shape for k, p in wanted.items()}:
        start = peft.peft_config[source]
        raise UserError(
            "model.adapter differs from the adapter that model.start names: it has "
            f"rank {start.r} on {sorted(start.target_modules)}"
        )
    for _, layer in adapted(peft, [source]):
        if layer.scaling[source] != layer.scaling[target]:
            raise UserError(
                "model.adapter differs from the adapter that model.start names: that one "
                f"scales its update by {layer.scaling[source]:g}, and alpha / rank is "
                f"{layer.scaling[target]:g} here. Give model.adapter.alpha"
            )
    for path, parameter in wanted.items():
        parameter.copy_(given[path])


@torch.no_grad()
def draw_head(parameters: Mapping[str, nn.Parameter], *, zero: bool) -> None:
    """Normal with variance 1 / (hidden size + 1), as Ouyang et al. 2022 start theirs; or 0."""
    for name, parameter in parameters.items():
        if "lora_" not in name:
            parameter.normal_(std=(parameter.shape[-1] + 1) ** -0.5).mul_(0.0 if zero else 1.0)


def check_precision(parameters: Mapping[str, nn.Parameter], role: str) -> None:
    """bf16 adapters do not learn at small learning rates: an update is below their spacing."""
    for name, parameter in parameters.items():
        if parameter.dtype != torch.float32:
            raise RunError(f"{name} of role {role!r} is {parameter.dtype}, not float32")


def add_adapter(base: Any, peft: Any, name: str, config: Any, *, scalar: bool) -> Any:
    """Put a new adapter on a base, or beside those on it; the model with it."""
    from peft import PeftModel, get_peft_model

    # PEFT's own class for classifiers wants a head of every adapter, that of a start too.
    make: Any = PeftModel if scalar else get_peft_model
    try:
        if peft is None:
            peft = make(base, config, adapter_name=name)
        else:
            peft.add_adapter(name, config)
    except ValueError as error:
        raise UserError(f"model.adapter does not fit this model: {error}") from error
    check_precision(parameters_of(peft, name), name)
    return peft


def load_frozen(peft: Any, folder: Path, name: str) -> None:
    """Put a trained adapter beside those on a base, frozen."""
    adapter_settings(folder)
    try:
        peft.load_adapter(folder, adapter_name=name, is_trainable=False)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"the adapter in {folder} does not fit this model: {error}") from error
    peft.train()  # PEFT has put the model into eval(), which 4-bit weights do not survive
    parameters = parameters_of(peft, name)
    check_precision(parameters, name)
    for path, parameter in parameters.items():
        parameter.requires_grad_(False)
        if not bool(torch.isfinite(parameter).all()):
            raise UserError(f"{path} of the adapter in {folder} is not finite")


def write_adapter(peft: Any, name: str, folder: Path) -> None:
    """Write an adapter flat into a folder, as plain PEFT reads it."""
    peft.save_pretrained(folder, selected_adapters=[name], save_embedding_layers=False)
    for path in (folder / name).iterdir():
        path.replace(folder / path.name)
    (folder / name).rmdir()
    (folder / "README.md").unlink(missing_ok=True)


def name_base(folder: Path, base_name: str, *, headed: bool) -> None:
    """Let a written adapter name the model that it is for, which may have no head."""
    settings = {**adapter_settings(folder), "base_model_name_or_path": base_name}
    if not headed:
        settings["exclude_modules"] = None
        if isinstance(settings["target_modules"], list):
            settings["target_modules"] = sorted({*settings["target_modules"]} - {HEAD})
    write_json(folder / ADAPTER_CONFIG, settings)

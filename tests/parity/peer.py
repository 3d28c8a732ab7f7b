"""TRL's own trainers around the tiny model: same weights, same tokens, a real step of each.

The rows reach TRL tokenized, and then go through its own collator, data loader and
``training_step``; the benchmarks train with the same trainers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tiny import DEVICE, relative
from torch import Tensor

from trimtab.benchmarks.trl_trainer import adapter, trainer
from trimtab.core.batches import Batch, Labelled, Ranked, Sequences
from trimtab.core.columns import annotate, prepare
from trimtab.core.config import ModelConfig
from trimtab.core.gradient import accumulate
from trimtab.core.layout import Row, rows_of
from trimtab.core.lm import LanguageModel
from trimtab.core.model import load_base, load_tokenizer
from trimtab.core.objective import Objective
from trimtab.plugins.references.adapter_off import AdapterOff, AdapterOffConfig

TOLERANCE = 1e-5
"""Relative: of the loss, and of every adapter weight's gradient by its own norm."""

WARNINGS = (
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning",
    "ignore:`(is_)?gradient_checkpointing(_kwargs)?` is deprecated:FutureWarning",
)
"""What TRL 1.16 and its dependencies say of each other under transformers 5.23."""

CUTS = {"all rows": (4096, False), "micro-batches": (60, False), "shared prompts": (110, True)}
"""Ours: micro_tokens, and whether completions of one prompt read one copy of it."""


@dataclass(frozen=True)
class Result:
    """What one update's backward pass gave."""

    loss: float
    gradients: dict[str, Tensor]
    """By PEFT's names without the adapter's own."""


def ours(
    model: LanguageModel, objective: Objective, batch: Batch, micro_tokens: int, share: bool
) -> Result:
    """By the core: annotate, prepare, accumulate."""
    model.micro_tokens, model.share = micro_tokens, share
    reference = AdapterOff(AdapterOffConfig())
    filled = prepare(objective, annotate(model, reference, batch, objective.needs))
    metrics = accumulate(model, objective, {"batch": filled})
    named = model.roles.named_parameters(_role(model))
    return Result(metrics["loss"], {name: _gradient(p) for name, p in named.items()})


def trl(
    kind: str, model: LanguageModel, folder: Path, rows: list[dict[str, Any]], **options: Any
) -> Result:
    """By TRL's ``DPOTrainer`` or its like, on all rows at once unless told otherwise."""
    made = _trainer(kind, model, folder, rows, options)
    steps = made.args.gradient_accumulation_steps
    made.current_gradient_accumulation_steps = steps
    batches, tokens = made.get_batch_samples(iter(made.get_train_dataloader()), steps, DEVICE)
    for one in batches:
        made.training_step(made.model, one, tokens)
    return Result(sum(made.losses), {name: _gradient(p) for name, p in adapter(made).items()})


def assert_equal(one: Result, other: Result) -> None:
    """Loss and every gradient, none of which may be zero."""
    assert one.gradients.keys() == other.gradients.keys()
    errors = {
        name: relative(gradient, other.gradients[name]) for name, gradient in one.gradients.items()
    }
    errors["loss"] = abs(one.loss - other.loss) / abs(other.loss)
    assert all(error < TOLERANCE for error in errors.values()), errors  # NaN where one is zero


def preference_rows(chosen: Sequences, rejected: Sequences) -> list[dict[str, Any]]:
    """As ``DPOTrainer`` holds rows once it has tokenized them."""
    pairs = zip(_rows(chosen), _rows(rejected), strict=True)
    return [
        {
            "prompt_ids": list(one.prompt),
            "chosen_ids": list(one.completion),
            "rejected_ids": list(other.completion),
        }
        for one, other in pairs
    ]


def labelled_rows(batch: Labelled) -> list[dict[str, Any]]:
    """As ``KTOTrainer`` holds rows once it has tokenized them and moved completions on."""
    parts = zip(
        _rows(batch.responses), _rows(batch.mismatched), batch.desirable_N.tolist(), strict=True
    )
    return [
        {
            "prompt_ids": list(one.prompt),
            "completion_ids": list(one.completion),
            "KL_completion_ids": list(other.completion),
            "label": label,
        }
        for one, other, label in parts
    ]


def demonstration_rows(responses: Sequences, mask: str) -> list[dict[str, Any]]:
    """As ``SFTTrainer`` takes tokenized rows; ``mask`` names the column that says what counts."""
    return [
        {
            "input_ids": [*row.prompt, *row.completion],
            mask: [0] * len(row.prompt) + [int(trained) for trained in row.trained],
        }
        for row in _rows(responses)
    ]


def comparison_rows(batch: Ranked) -> list[dict[str, Any]]:
    """As ``RewardTrainer`` holds pairs once it has tokenized them."""
    chosen, rejected = batch.responses
    rows = [
        {
            "chosen_ids": [*one.prompt, *one.completion],
            "rejected_ids": [*other.prompt, *other.completion],
        }
        for one, other in zip(_rows(chosen), _rows(rejected), strict=True)
    ]
    if batch.margin_NKK is None:
        return rows
    margins = batch.margin_NKK[:, 0, 1].tolist()
    return [{**row, "margin": margin} for row, margin in zip(rows, margins, strict=True)]


def _role(model: LanguageModel) -> str:
    """The one that is compared."""
    return model.roles.names[0]


def _rows(sequences: Sequences) -> list[Row]:
    return rows_of({"one": sequences})


def _trainer(
    kind: str,
    model: LanguageModel,
    folder: Path,
    rows: list[dict[str, Any]],
    options: dict[str, Any],
) -> Any:
    settings = {
        "output_dir": str(folder / "trl"),
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "gradient_checkpointing": None,
        "per_device_train_batch_size": len(rows),
        "max_length": None,
        "report_to": [],
        "disable_tqdm": True,
    }
    ours = model.roles.peft.peft_config[_role(model)]
    config = ModelConfig(name=str(folder), quantization="none", dtype="float32")
    made = trainer(
        kind,
        load_base(config, DEVICE, classifier=kind == "Reward"),
        load_tokenizer(str(folder)),
        rows,
        {"r": ours.r, "lora_alpha": ours.lora_alpha, "target_modules": ours.target_modules},
        settings | options,
    )
    with torch.no_grad():
        for name, parameter in model.roles.named_parameters(_role(model)).items():
            adapter(made)[name].copy_(parameter)
    return made


def _gradient(parameter: torch.nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad.clone()

"""A base that has the adapter of a start in its weights: made, measured, and found again.

O, I outputs and inputs of a layer · M trained tokens · H hidden size · V vocabulary.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trimtab.core.adapter_files import ADAPTER_CONFIG, adapter_folder, adapter_settings
from trimtab.core.adapters import is_scalar, take_off
from trimtab.core.bases import Bases
from trimtab.core.batches import Batch, Demonstrations, sequences
from trimtab.core.config import ModelConfig
from trimtab.core.errors import UserError
from trimtab.core.files import read_json, write_json, write_whole
from trimtab.core.lm import LanguageModel
from trimtab.core.model import compute_dtype, device, load_base, load_tokenizer, micro_tokens
from trimtab.core.policy import POLICY, REFERENCE
from trimtab.core.roles import Roles
from trimtab.core.source import Source
from trimtab.core.stacking import adapted, check_plain
from trimtab.core.training import TrainConfig

BASE = "base"
"""Where a run keeps its merged base, not quantized, in its directory; and beside it:"""

REPORT = "merge.json"
"""How far merging has moved the policy. Once it is there, the base is whole."""

ROWS = 64
"""Held-out rows that the policy is read on, before and after."""


def based(model: ModelConfig, home: Path | None) -> ModelConfig:
    """The section, on the base that the run in ``home`` stands on.

    That is its own merged base; or the one that its start was trained on, if that is a merged one.
    Without a directory to keep one in there is no merging: the plain base stands for it.
    """
    if model.start is None:
        return model
    if model.start_as == "merge":
        name = model.name if home is None else str(home.resolve() / BASE)
        return model.model_copy(update={"name": name, "start": None, "start_as": "continue"})
    base = merged_base(adapter_folder(model.start))
    return model if base is None else model.model_copy(update={"name": str(base)})


def merged_base(adapter: Path) -> Path | None:
    """The merged base that this adapter was trained on, though its run was moved; else None.

    Raises ``UserError`` where there was one and it is gone.
    """
    if not (adapter / ADAPTER_CONFIG).is_file():
        return None
    named = Path(str(adapter_settings(adapter).get("base_model_name_or_path")))
    if named.name != BASE:
        return None
    runs = (adapter.parent, adapter.parent.parent)
    beside = [run.parent / named.parent.name for run in runs]
    for run in (named.parent, *runs, *beside):
        if (run / REPORT).is_file() and (run / BASE).is_dir():
            return (run / BASE).resolve()
    if (named / "config.json").is_file():
        return None  # a folder of the user's own, of that name
    raise UserError(
        f"{adapter} was trained on a merged base, {named}, and it is not there any more, nor in "
        f"the run directories around the adapter: put the folder {BASE}/ back, or train anew"
    )


def merge_start(model: ModelConfig, home: Path, bases: Bases, rows: Batch | None) -> None:
    """Write ``base/`` and ``merge.json``, unless they are there.

    The weights are those of the base as it is on the hub, plus the start's B A, in the dtype that
    the run computes in. There is one base in memory at any time: the quantized one with the start
    on it, the one that is merged (on the CPU, layer by layer in place), the merged one quantized.

    Args:
        model: the run's section, with its start.
        home: the run's directory.
        bases: lends the base, and is left without one that is lent.
        rows: what the policy is read on; None measures the weights alone.
    """
    if (home / REPORT).is_file():
        return
    folder = adapter_folder(str(model.start))
    if is_scalar(folder):
        raise UserError(
            f"model.start: {folder} is a reward model. Its head has no place in the weights of a "
            "base: start_as: continue begins a reward model as a copy of it"
        )
    name = str(merged_base(folder) or model.name)
    bare = {"name": name, "start": None, "start_as": "continue", "gradient_checkpointing": False}
    original = model.model_copy(update=bare)
    before = None if rows is None else _before(original, folder, bases, rows)
    bases.drop()
    report: dict[str, Any] = {"base": name, "start": str(folder), **_merge(original, folder, home)}
    gc.collect()
    if before is not None and rows is not None:
        base = bases.lend(based(model, home), device())
        after = _language_model(Roles(base, None, frozen=True), model)
        report |= _distances(after, before, rows)
        del after, base
        bases.take_back()
    write_json(home / REPORT, report)


def rows_to_read(source: Source) -> Batch | None:
    """Held-out rows; else the longest row; else held-out prompts, every token but the first."""
    batch = source.held_out()
    if batch is None:
        batch = source.longest()
    if batch is not None:
        return Demonstrations(batch[torch.arange(min(ROWS, len(batch)))].leading)
    prompts = [prompt.ids for prompt in source.prompts()[:ROWS] if len(prompt.ids) > 1]
    if not prompts:
        return None
    return Demonstrations(sequences([ids[:1] for ids in prompts], [ids[1:] for ids in prompts]))


def merge_said(home: Path) -> str | None:
    """What ``merge.json`` says, in a sentence; None where the run has merged nothing."""
    if not (home / REPORT).is_file():
        return None
    report = read_json(home / REPORT)
    weights = (
        f"the weights are off by {report['weights_off']:.2g} times the size of what was added, "
        f"and have {report['weights_kept']:.0%} of it"
    )
    said = f"model.start is merged into {BASE}/ (quantization: {report['quantization']}): "
    if "tokens" not in report:
        return said + weights
    return (
        f"{said}on {report['tokens']} tokens its log-probs move by "
        f"{report['logp_change']:.2g} nat a token, KL(before || after) {report['kl']:.2g} "
        f"(the start had moved the base by {report['start_logp_change']:.2g}, KL "
        f"{report['start_kl']:.2g}); {weights}"
    )


@dataclass(frozen=True)
class _Before:
    """States [M, H] of the base alone and with the start on it."""

    base_MH: Tensor
    start_MH: Tensor


def _language_model(roles: Roles, model: ModelConfig) -> LanguageModel:
    place = device()
    most = micro_tokens(TrainConfig(), place)
    return LanguageModel(roles, dtype=compute_dtype(model, place), micro_tokens=most)


def _before(model: ModelConfig, folder: Path, bases: Bases, rows: Batch) -> _Before:
    roles = Roles.loaded(bases.lend(model, device()), {POLICY: folder})
    policy = _language_model(roles, model)
    states = {}
    for role in (REFERENCE, POLICY):
        with policy.role(role):
            states[role] = policy.states(rows)[0]
    del policy, roles
    bases.take_back()
    return _Before(states[REFERENCE], states[POLICY])


def _distances(after: LanguageModel, before: _Before, rows: Batch) -> Mapping[str, float]:
    """Nats a token, in the mean over all of them; the head is the same before and after."""
    with after.role(POLICY):
        after_MH, target_M = after.states(rows)
    change_M, kl_M = after.compared(before.start_MH, after_MH, target_M)
    start_change_M, start_kl_M = after.compared(before.start_MH, before.base_MH, target_M)
    return {
        "tokens": len(target_M),
        "logp_change": float(change_M.abs().mean()),
        "kl": float(kl_M.mean()),
        "start_logp_change": float(start_change_M.abs().mean()),
        "start_kl": float(start_kl_M.mean()),
    }


@torch.no_grad()
def _merge(model: ModelConfig, folder: Path, home: Path) -> Mapping[str, Any]:
    """Write the merged base; return how its weights, as they will be held, differ from the sum.

        off = ||Q(W + B A) - (Q(W) + B A)|| / ||B A||
        kept = <Q(W + B A) - Q(W), B A> / ||B A||^2

    Norms and products are over all the adapted weights together.
    """
    place = device()
    dtype = "bfloat16" if compute_dtype(model, place) == torch.bfloat16 else "float32"
    plain = model.model_copy(update={"quantization": "none", "dtype": dtype})
    base = load_base(plain, torch.device("cpu"))
    roles = Roles.loaded(base, {POLICY: folder})
    check_plain(base, POLICY, folder, "merge")
    if hasattr(base.get_output_embeddings(), "lora_A"):
        raise UserError(f"model.start: {folder} adapts the head: stack it, and do not merge it")
    off = kept = size = 0.0
    for _, layer in adapted(base, [POLICY]):
        weight_OI, delta_OI = layer.get_base_layer().weight, layer.get_delta_weight(POLICY).float()
        was_OI = _held(weight_OI, model.quantization, place)
        weight_OI.copy_(weight_OI.float() + delta_OI)
        step_OI = _held(weight_OI, model.quantization, place) - was_OI
        off += float((step_OI - delta_OI).square().sum())
        kept += float((step_OI * delta_OI).sum())
        size += float(delta_OI.square().sum())
    del roles
    take_off(base)
    tokenizer = load_tokenizer(model.name, trust_remote_code=model.trust_remote_code)
    write_whole(home / BASE, partial(_save, base, tokenizer))
    return {
        "quantization": model.quantization,
        "weights_off": (off / size) ** 0.5 if size else 0.0,
        "weights_kept": kept / size if size else 1.0,
    }


def _save(base: Any, tokenizer: Any, folder: Path) -> None:
    base.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _held(weight_OI: Tensor, quantization: str, place: torch.device) -> Tensor:
    """What a layer that holds this weight multiplies with; float32, on the CPU."""
    from bitsandbytes import functional

    if quantization == "none":
        return weight_OI.detach().float().clone()
    there_OI = weight_OI.detach().to(place)
    if quantization == "int8":
        codes_OI, scale_O, _ = functional.int8_vectorwise_quant(there_OI.half())
        held_OI: Tensor = functional.int8_vectorwise_dequant(codes_OI, scale_O)
    else:
        codes, state = functional.quantize_4bit(
            there_OI, compress_statistics=True, quant_type="nf4"
        )
        held_OI = functional.dequantize_4bit(codes, state)
    return held_OI.float().cpu()

"""A run's result, loaded again: for sampling, evaluation and export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from trimtab.core.build import Parts, adapter_folder, build
from trimtab.core.checkpoint import Checkpoint, newest
from trimtab.core.config import ModelConfig, RunFile
from trimtab.core.errors import UserError
from trimtab.core.finish import ADAPTER, MODEL
from trimtab.core.lm import LanguageModel
from trimtab.core.model import compute_dtype, device, load_base, load_tokenizer
from trimtab.core.processes import Processes
from trimtab.core.roles import Roles, adapter_settings
from trimtab.core.rundir import RunDirectory
from trimtab.core.runfile import Registry as Checked
from trimtab.core.runfile import load
from trimtab.core.saving import restore_roles


def last_stage(path: Path, registry: Checked) -> tuple[RunFile, RunDirectory]:
    """The resolved file and the directory of a run; of the last stage begun, if it has stages."""
    directory = RunDirectory.open(path)
    plan = load(directory.path / "config.yaml", (), registry)
    if plan.stages[0].name is None:
        return plan.stages[0].run, directory
    begun = [
        path / "stages" / str(stage.name)
        for stage in plan.stages
        if (path / "stages" / str(stage.name) / "config.yaml").exists()
    ]
    if not begun:
        raise UserError(f"no stage of {path} has begun: trimtab resume {path}")
    return last_stage(begun[-1], registry)


def is_run(path: Path) -> bool:
    """Is there a run directory?"""
    return (path / "config.yaml").is_file()


def load_run(path: Path, registry: Any) -> tuple[Parts, RunFile, RunDirectory, int]:
    """The parts of a run as its newest checkpoint has them, and that checkpoint's step."""
    file, directory = last_stage(path, registry)
    parts = build(file, registry, Processes())
    checkpoint = _newest(directory)
    restore_roles(parts, checkpoint)
    return parts, file, directory, checkpoint.step


def load_model(where: str, registry: Any) -> tuple[LanguageModel, Any]:
    """A policy to sample from, and its tokenizer: a run's, a PEFT folder's, or a plain model's."""
    path = Path(where).expanduser()
    if is_run(path):
        file, directory = last_stage(path, registry)
        config, folder = file.model, directory.path / ADAPTER
        if config.adapter is None:
            config = config.model_copy(update={"name": str(directory.path / MODEL)})
        elif not folder.is_dir():
            raise UserError(f"{path} has no result yet: trimtab resume {path}")
    elif (path / "adapter_config.json").is_file():
        config, folder = ModelConfig(name=adapter_settings(path)["base_model_name_or_path"]), path
    else:
        config, folder = ModelConfig(name=where, quantization="none", adapter=None), path
    place = device()
    roles = Roles(load_base(config, place), None, frozen=True)
    if config.adapter is not None:
        roles = Roles.loaded(roles.base, adapter_folder(str(folder)))
    model = LanguageModel(roles, dtype=compute_dtype(config, place), micro_tokens=2048)
    tokenizer = load_tokenizer(config.name, trust_remote_code=config.trust_remote_code)
    return model, tokenizer


@torch.no_grad()
def export(path: Path, out: Path, registry: Any) -> None:
    """The policy as one plain model: its adapter merged into the base, which is not quantized."""
    if out.exists():
        raise UserError(f"{out} exists already: name a folder that does not")
    file, directory = last_stage(path, registry)
    config, folder = file.model, directory.path / ADAPTER
    if config.adapter is None:
        config = config.model_copy(update={"name": str(directory.path / MODEL)})
    elif not folder.is_dir():
        raise UserError(f"{path} has no result yet: trimtab resume {path}")
    base = load_base(config.model_copy(update={"quantization": "none"}), torch.device("cpu"))
    merged = base if config.adapter is None else Roles.loaded(base, folder).merged()
    merged.save_pretrained(out)
    load_tokenizer(config.name, trust_remote_code=config.trust_remote_code).save_pretrained(out)


def _newest(directory: RunDirectory) -> Checkpoint:
    checkpoint, messages = newest(directory.checkpoints)
    if checkpoint is None:
        said = "; ".join(messages) or "it has no checkpoint yet"
        raise UserError(f"{directory.path}: {said}: trimtab resume {directory.path}")
    return checkpoint

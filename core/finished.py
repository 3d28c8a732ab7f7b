"""A run's result, loaded again: for sampling, evaluation and export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from trimtab.core.build import Parts, build
from trimtab.core.checkpoint import Checkpoint, newest
from trimtab.core.config import ModelConfig, RunFile, TrainConfig
from trimtab.core.errors import UserError
from trimtab.core.finish import ADAPTER, MODEL, write_whole
from trimtab.core.lm import LanguageModel
from trimtab.core.model import compute_dtype, device, load_base, load_tokenizer, micro_tokens
from trimtab.core.pipeline import handed_over
from trimtab.core.policy import POLICY
from trimtab.core.processes import Processes
from trimtab.core.roles import Roles, adapter_settings
from trimtab.core.rundir import CONFIG, RunDirectory
from trimtab.core.runfile import Registry as Checked
from trimtab.core.runfile import load
from trimtab.core.saving import restore_roles


def last_stage(path: Path, registry: Checked) -> tuple[RunFile, RunDirectory]:
    """The resolved file and the directory of a run; of the last stage begun, if it has stages."""
    home = RunDirectory.open(path)
    plan = load(home.path / CONFIG, (), registry)
    if plan.stages[0].name is None:
        return plan.stages[0].run, home
    for stage in reversed(plan.stages):
        directory = RunDirectory(path / "stages" / str(stage.name))
        if (directory.path / CONFIG).exists():
            settled = load(directory.path / CONFIG, (), registry).stages[0].run
            return handed_over(settled, stage.run, home.path), directory
    raise UserError(f"no stage of {path} has begun: trimtab resume {path}")


def is_run(path: Path) -> bool:
    """Is there a run directory?"""
    return (path / CONFIG).is_file()


def result(path: Path, registry: Checked) -> tuple[ModelConfig, Path]:
    """The model of a run, and the folder of the adapter or of the weights that the run made."""
    file, directory = last_stage(path, registry)
    made = directory.path / (MODEL if file.model.adapter is None else ADAPTER)
    if not made.is_dir():
        raise UserError(f"{path} has no result yet: trimtab resume {path}")
    return file.model, made


def load_run(path: Path, registry: Any) -> tuple[Parts, RunFile, RunDirectory, int]:
    """The parts of a run as its newest checkpoint has them, and that checkpoint's step."""
    file, directory = last_stage(path, registry)
    parts = build(file, registry, Processes())
    checkpoint = _newest(directory)
    restore_roles(parts, checkpoint)
    return parts, file, directory, checkpoint.step


def load_model(where: str, registry: Any) -> tuple[LanguageModel, Any]:
    """A policy to sample from, and its tokenizer: a run's, a PEFT folder's, or a plain model's."""
    config, adapter = _policy(Path(where).expanduser(), registry) or _plain(where)
    place = device()
    most = micro_tokens(TrainConfig(), place)
    base = load_base(config, place)
    roles = Roles.loaded(base, {POLICY: adapter}) if adapter else Roles(base, None, frozen=True)
    model = LanguageModel(roles, dtype=compute_dtype(config, place), micro_tokens=most)
    return model, load_tokenizer(config.name, trust_remote_code=config.trust_remote_code)


@torch.no_grad()
def export(path: Path, out: Path, registry: Any) -> None:
    """The policy as one plain model: its adapter merged into the base, which is not quantized."""
    if out.exists():
        raise UserError(f"{out} exists already: name a folder that does not")
    config, adapter = _policy(path, registry) or _plain(str(path))
    base = load_base(config.model_copy(update={"quantization": "none"}), torch.device("cpu"))
    merged = Roles.loaded(base, {POLICY: adapter}).merged() if adapter else base
    tokenizer = load_tokenizer(config.name, trust_remote_code=config.trust_remote_code)

    def write(folder: Path) -> None:
        merged.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, write)


def _policy(path: Path, registry: Checked) -> tuple[ModelConfig, Path | None] | None:
    """The base of a run's result and the adapter on it, if any; None where there is no run."""
    if path.name == ADAPTER and is_run(path.parent):
        path = path.parent
    if not is_run(path):
        return None
    model, made = result(path, registry)
    if model.adapter is None:
        return model.model_copy(update={"name": str(made)}), None
    return model, made


def _plain(where: str) -> tuple[ModelConfig, Path | None]:
    """A PEFT folder's base and adapter, or a model by its name."""
    path = Path(where).expanduser()
    if not (path / "adapter_config.json").is_file():
        return ModelConfig(name=where, quantization="none", adapter=None), None
    name = adapter_settings(path)["base_model_name_or_path"]
    return ModelConfig(name=name, quantization="none"), path


def _newest(directory: RunDirectory) -> Checkpoint:
    checkpoint, messages = newest(directory.checkpoints)
    if checkpoint is None:
        said = "; ".join(messages) or "it has no checkpoint yet"
        raise UserError(f"{directory.path}: {said}: trimtab resume {directory.path}")
    return checkpoint

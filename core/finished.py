"""A run's result, loaded again: for sampling, evaluation and export."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trimtab.core.adapter_files import ADAPTER_CONFIG, adapter_folder, adapter_settings
from trimtab.core.adapters import is_scalar
from trimtab.core.build import Parts, build
from trimtab.core.checkpoint import Checkpoint, newest
from trimtab.core.config import ModelConfig, RunFile
from trimtab.core.errors import UserError, suggestion
from trimtab.core.files import read_json, write_whole
from trimtab.core.finish import ADAPTER, MODEL, SCORES
from trimtab.core.lm import LanguageModel
from trimtab.core.merging import merged_base
from trimtab.core.model import compute_dtype, device, load_base, load_tokenizer, micro_tokens
from trimtab.core.paths import handed_over
from trimtab.core.policy import POLICY
from trimtab.core.precompute import look_up
from trimtab.core.processes import Processes
from trimtab.core.registry import Registry
from trimtab.core.roles import Roles
from trimtab.core.rundir import CONFIG, RunDirectory
from trimtab.core.runfile import load
from trimtab.core.saving import restore_reference, restore_roles
from trimtab.core.scoring import Scorer
from trimtab.core.stages import STAGES
from trimtab.core.training import TrainConfig
from trimtab.core.value_head import VALUE_HEAD


def last_stage(
    path: Path, registry: Registry, scalar: bool | None = None
) -> tuple[RunFile, RunDirectory]:
    """The resolved file and the directory of a run; where it has stages, of the one that fits.

    That is the last one begun that trains; with ``scalar``, the last whose result is a reward
    model (true) or a policy (false), if any is.
    """
    home = RunDirectory.open(path)
    plan = load(home.path / CONFIG, (), registry)
    stages = [(stage, RunDirectory(path / STAGES / str(stage.name))) for stage in plan.stages]
    if plan.stages[0].name is None:
        stages = [(plan.stages[0], home)]
    begun = [(stage, there) for stage, there in stages if (there.path / CONFIG).exists()]
    if not begun:
        raise UserError(f"no stage of {path} has begun: trimtab resume {path}")
    training = [(stage, there) for stage, there in begun if stage.run.objective is not None]
    if not training:
        made = begun[-1][1].path
        raise UserError(f"{made} makes a data set (data/train.jsonl in it), and trains no model")
    fit = [one for one in training if scalar is None or _gives_scores(one[1].path) == scalar]
    stage, directory = (fit or training)[-1]
    if directory is home:
        return stage.run, home
    settled = load(directory.path / CONFIG, (), registry).stages[0].run
    return handed_over(settled, stage.run, home.path), directory


def _gives_scores(home: Path) -> bool:
    """Is the result of this run a reward model?"""
    adapter = home / ADAPTER
    return (adapter / ADAPTER_CONFIG).is_file() and is_scalar(adapter)


def is_run(path: Path) -> bool:
    """Is there a run directory?"""
    return (path / CONFIG).is_file()


def result(path: Path, registry: Registry, scalar: bool | None = None) -> tuple[ModelConfig, Path]:
    """The model of a run, and the folder of the adapter or of the weights that the run made.

    The model's name is the base that the adapter was trained on, a merged one too. ``scalar`` is
    as in ``last_stage``.
    """
    file, directory = last_stage(path, registry, scalar)
    made = directory.path / (MODEL if file.model.adapter is None else ADAPTER)
    if not made.is_dir():
        raise UserError(f"{directory.path} has no result yet: trimtab resume {path}")
    base = merged_base(made)
    return file.model if base is None else file.model.model_copy(update={"name": str(base)}), made


def load_run(path: Path, registry: Any) -> tuple[Parts, RunFile, RunDirectory, int]:
    """The parts of a run as its newest checkpoint has them, and that checkpoint's step."""
    file, directory = last_stage(path, registry)
    parts = build(file, registry, Processes(), directory=directory.path)
    look_up(parts, directory.path)
    checkpoint = _newest(directory)
    restore_roles(parts, checkpoint)
    restore_reference(parts, checkpoint)
    return parts, file, directory, checkpoint.step


def load_model(where: str, registry: Any) -> tuple[LanguageModel, Any]:
    """A policy to sample from, and its tokenizer: a run's, a PEFT folder's, or a plain model's."""
    config, adapter = policy_of(where, registry)
    return load_together(config, {} if adapter is None else {POLICY: adapter})


def load_scorer(where: str | Path, registry: Any) -> Scorer:
    """A reward model of a run, of one of its folders, or of a PEFT folder; a run's whole ensemble.

    Scores are centred by the ``scores.json`` beside each adapter, and as they are without one.
    """
    config, folders = reward_members(Path(where).expanduser(), registry)
    center = {role: center_of(folder) for role, folder in folders.items()}
    return Scorer(_model(config, folders), _tokenizer(config), center)


@torch.no_grad()
def export(path: Path, out: Path, registry: Any, role: str | None = None) -> None:
    """One plain model: the adapter merged into the base, which is not quantized.

    A policy becomes a causal language model, a reward model a classifier with one label, with its
    ``scores.json``; ``role`` says which member of an ensemble, or which role beside the policy.
    """
    if out.exists():
        raise UserError(f"{out} exists already: name a folder that does not")
    config, adapter = _policy(path, registry, None) or _plain(str(path))
    scalar = adapter is not None and is_scalar(adapter)
    name = POLICY
    if scalar:
        config, folders = reward_members(path, registry)
        name, adapter = _one_of(folders, role)
    elif role not in (None, POLICY):
        name, adapter = str(role), _beside(path, str(role), registry)
        scalar = is_scalar(adapter)
    plain = config.model_copy(update={"quantization": "none"})
    base = load_base(plain, torch.device("cpu"), classifier=scalar)
    merged = Roles.loaded(base, {name: adapter}).merged() if adapter else base

    def write(folder: Path) -> None:
        merged.save_pretrained(folder)
        _tokenizer(config).save_pretrained(folder)
        if scalar and adapter is not None and (adapter / SCORES).is_file():
            shutil.copy(adapter / SCORES, folder)

    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, write)


def _model(config: ModelConfig, folders: Mapping[str, Path]) -> LanguageModel:
    """A base with adapters by their roles, frozen; without any, the base is the policy."""
    place = device()
    base = load_base(config, place)
    roles = Roles.loaded(base, folders) if folders else Roles(base, None, frozen=True)
    most = micro_tokens(TrainConfig(), place)
    return LanguageModel(roles, dtype=compute_dtype(config, place), micro_tokens=most)


def _tokenizer(config: ModelConfig) -> Any:
    return load_tokenizer(config.name, trust_remote_code=config.trust_remote_code)


def reward_members(path: Path, registry: Registry) -> tuple[ModelConfig, dict[str, Path]]:
    """The base of a reward model, and each member's adapter; of one, where its folder is named."""
    home = next((home for home in (path, path.parent, path.parent.parent) if is_run(home)), None)
    if home is None:
        config, adapter = _plain(str(path))
        folders = [] if adapter is None else [adapter]
    else:
        config, first = result(home, registry, True)
        others = (first.parent / "roles").glob("*")
        members = [first, *sorted(others, key=lambda one: (len(one.name), one.name))]
        folders = members if home == path else [one for one in members if one == path]
    if (path / VALUE_HEAD).is_file():
        raise UserError(
            f"{path} is no reward model, but a critic's head on the policy's own states: it gives "
            "values of states, and scores no completions"
        )
    if not folders or not (folders[0] / ADAPTER_CONFIG).is_file() or not is_scalar(folders[0]):
        lacks = " (there is no such folder)" if not path.exists() else ""
        if folders and (folders[0] / ADAPTER_CONFIG).is_file():
            lacks = " (it is a policy's adapter, without a head that scores)"
        raise UserError(
            f"{path} is no reward model{lacks}: it should be the directory of a run that trained "
            "one, a member's folder in it, or a PEFT folder whose adapter saves a head 'score'"
        )
    return config, {_role(folder): folder for folder in folders}


def _role(folder: Path) -> str:
    """The name of the role whose adapter this is."""
    scores = folder / SCORES
    return str(read_json(scores)["role"]) if scores.is_file() else "reward"


def center_of(folder: Path) -> float:
    """The score that counts as 0, as the folder's ``scores.json`` has it."""
    scores = folder / SCORES
    return float(read_json(scores)["center"]) if scores.is_file() else 0.0


def _one_of(folders: Mapping[str, Path], role: str | None) -> tuple[str, Path]:
    """The member of an ensemble that is asked for."""
    if role is None and len(folders) == 1:
        return next(iter(folders.items()))
    listed = ", ".join(f"{name} in {folder}" for name, folder in folders.items())
    if role is None:
        raise UserError(f"an ensemble is not one model: choose a member with --role ({listed})")
    if role not in folders:
        raise UserError(f"no member {role!r}.{suggestion(role, folders)} There is {listed}")
    return role, folders[role]


def _beside(path: Path, role: str, registry: Registry) -> Path:
    """The adapter of a role that a run trained beside its policy."""
    roles = result(path, registry)[1].parent / "roles" if is_run(path) else path / "roles"
    others = sorted(one.name for one in roles.glob("*"))
    if not others:
        raise UserError(f"{path} is no reward model, and has no members: leave out --role")
    if role not in others:
        listed = ", ".join(others)
        raise UserError(f"no role {role!r}.{suggestion(role, others)} There is {listed}")
    if (roles / role / VALUE_HEAD).is_file():
        raise UserError(
            f"{roles / role} is a head on the policy's own states, and no model of its own: "
            f"{VALUE_HEAD} holds its weights. Export the policy without --role"
        )
    return roles / role


def _policy(
    path: Path, registry: Registry, scalar: bool | None = False
) -> tuple[ModelConfig, Path | None] | None:
    """The base of a run's result and the adapter on it, if any; None where there is no run."""
    if path.name == ADAPTER and is_run(path.parent):
        path = path.parent
    if not is_run(path):
        return None
    model, made = result(path, registry, scalar)
    if model.adapter is None:
        return model.model_copy(update={"name": str(made)}), None
    return model, made


def _plain(where: str) -> tuple[ModelConfig, Path | None]:
    """A PEFT folder's base and adapter, or a model by its name."""
    path = Path(where).expanduser()
    if not (path / ADAPTER_CONFIG).is_file():
        return ModelConfig(name=where, quantization="none", adapter=None), None
    name = merged_base(path) or adapter_settings(path)["base_model_name_or_path"]
    return ModelConfig(name=str(name), quantization="none"), path


def _newest(directory: RunDirectory) -> Checkpoint:
    checkpoint, messages = newest(directory.checkpoints)
    if checkpoint is None:
        said = "; ".join(messages) or "it has no checkpoint yet"
        raise UserError(f"{directory.path}: {said}: trimtab resume {directory.path}")
    return checkpoint


def policy_of(where: str, registry: Registry) -> tuple[ModelConfig, Path | None]:
    """The base of a policy, and its adapter: a run's, a PEFT folder's, or a plain model's."""
    config, adapter = _policy(Path(where).expanduser(), registry) or _plain(where)
    if adapter is not None and is_scalar(adapter):
        raise UserError(
            f"{where} is a reward model: it scores completions, and samples none. "
            f"Try: trimtab score {where} FILE"
        )
    return config, adapter


def start_of(where: str, registry: Registry) -> tuple[ModelConfig, Path | None] | None:
    """The base of what a policy started from, and its adapter; None of a plain model."""
    path = Path(where).expanduser()
    home = next((each for each in (path, path.parent) if is_run(each)), None)
    config, adapter = policy_of(where, registry)
    if home is None:
        return None if adapter is None else (config, None)
    model = last_stage(home, registry, False)[0].model
    if model.adapter is None:
        return model, None
    started = model.start is not None and model.start_as != "merge"
    return config, adapter_folder(str(model.start)) if started else None


def load_together(config: ModelConfig, folders: Mapping[str, Path]) -> tuple[LanguageModel, Any]:
    """Policies on one base, by their roles, and the tokenizer."""
    return _model(config, folders), _tokenizer(config)

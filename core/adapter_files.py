"""What a PEFT folder must hold before PEFT reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from trimtab.core.errors import UserError
from trimtab.core.files import DamagedFile, read_json

ADAPTER_CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def adapter_folder(start: str) -> Path:
    """Where the adapter of a run directory, or of a PEFT folder, is."""
    path = Path(start).expanduser()
    if (path / "adapter").is_dir():
        return path / "adapter"
    if (path / "data" / "train.jsonl").is_file():
        raise UserError(
            f"model.start: {path} made a data set, and no adapter to start from. Give it as "
            "data.train, and start from a stage that trained a policy"
        )
    if (path / "model").is_dir():
        raise UserError(
            f"model.start: {path} trained all weights, and no adapter to start from. Give it as "
            "model.name"
        )
    return path


def adapter_settings(folder: Path) -> dict[str, Any]:
    """What ``adapter_config.json`` says.

    Raises ``UserError`` unless the folder holds settings and whole safetensors.

    Without those PEFT would take ``adapter_model.bin``, a pickle, which can run code. It would
    also import the module that ``megatron_core`` names.
    """
    try:
        settings = read_json(folder / ADAPTER_CONFIG)
    except DamagedFile as error:
        raise UserError(f"{folder} holds no PEFT adapter: {error}") from error
    if not isinstance(settings, dict):
        raise UserError(f"{folder} holds no PEFT adapter: {ADAPTER_CONFIG} has no settings")
    if settings.get("megatron_config") is not None:
        raise UserError(f"{folder}: adapters of Megatron are not read, for they name code to run")
    if not (folder / WEIGHTS).is_file():
        raise UserError(
            f"{folder} holds no {WEIGHTS}. Weights are read from safetensors alone: other formats "
            "can run code when they are loaded"
        )
    try:
        with safe_open(folder / WEIGHTS, framework="pt"):
            pass
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder / WEIGHTS} cannot be read: {error}") from error
    return settings
